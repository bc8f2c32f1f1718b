"""Clients of trio: late, refused, reset and altered, while everything else in the run goes on."""

from __future__ import annotations

import contextlib
import errno
import socket
import time

from collections.abc import Awaitable
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import trio
import trio.lowlevel
import trio.testing

from tests.ahead import runs_python
from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import all_names_are_ours
from tests.interceptors.conftest import closed_port
from tests.interceptors.conftest import serve


Action = Callable[[int], Awaitable[object]]

DELAY = 0.1  # seconds
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789"
PATIENCE = 10


def answer(connection: socket.socket) -> None:
    while connection.recv(65536):
        connection.sendall(ANSWER)


async def ask(port: int) -> bytes:
    stream = await trio.open_tcp_stream(HOST, port)
    async with stream:
        await stream.send_all(b"hello")
        return bytes(await stream.receive_some(100))


async def ask_by_name(port: int) -> None:
    async with await trio.open_tcp_stream("localhost", port):
        pass


@pytest.mark.parametrize(
    ("action", "given", "trips"),
    [
        (ask, {}, 2),  # to connect, and to be answered
        (ask_by_name, {"mode": "slow_dns"}, 1),  # asked for once
    ],
    ids=["round trips", "names"],
)
def test_it_is_late(
    action: Action, given: dict[str, Any], trips: int, echo_port: int, inject: Inject
) -> None:
    with inject("network_latency", delay=DELAY, **given) as latency:
        started = time.monotonic()
        trio.run(action, echo_port)
        assert time.monotonic() - started >= trips * DELAY
    assert (latency.matched, latency.hits) == (trips, trips)
    assert latency.delay >= trips * DELAY * 0.99


@pytest.mark.parametrize(
    ("action", "given"),
    [(ask, {}), (ask, {"from_nth": 2}), (ask_by_name, {"mode": "slow_dns"})],
    ids=["connect", "answer", "names"],
)
def test_others_go_on(
    action: Action, given: dict[str, Any], echo_port: int, inject: Inject
) -> None:
    """What ends the waiting is another task, which would wait with it."""

    async def story() -> bool:
        ended = False

        async def end() -> None:
            nonlocal ended
            while not latency.hits:  # noqa: ASYNC110  # counts have no event to wait for
                await trio.sleep(0.001)
            ending.close()
            ended = True

        with contextlib.ExitStack() as ending:
            latency = ending.enter_context(inject("network_latency", delay=60, **given))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(end)
                await action(echo_port)
                return ended

    assert trio.run(story)


def test_names_that_share_an_address_are_told_apart(
    echo_port: int, inject: Inject, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_names_are_ours(monkeypatch)

    async def connect(name: str, found: dict[str, str]) -> None:
        try:
            async with await trio.open_tcp_stream(f"{name}.internal", echo_port):
                found[name] = "open"
        except OSError:
            found[name] = "refused"

    async def story() -> dict[str, str]:
        found: dict[str, str] = {}
        for name in "aba":
            await connect(name, found)
        async with trio.open_nursery() as nursery:
            for name in "cadaeaf":
                nursery.start_soon(connect, name, found)
        return found

    with inject("network_failure", mode="refuse", rate=1, target="a.internal:*"):
        found = trio.run(story)
    assert found.pop("a") == "refused"
    assert set(found.values()) == {"open"}


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("network_latency", {"delay": DELAY}),
        ("network_latency", {"mode": "dribble", "piece": 20, "delay": 0.01}),
        ("network_failure", {"mode": "refuse"}),
        ("network_failure", {"mode": "reset"}),
        ("network_failure", {"mode": "timeout"}),
        ("network_failure", {"mode": "lose_answer"}),
        ("network_failure", {"mode": "close"}),
        ("network_failure", {"mode": "truncate"}),
        ("network_failure", {"mode": "truncate", "end": "reset"}),
        ("network_failure", {"mode": "status", "status": 503}),
        ("network_failure", {"mode": "malformed_json"}),
    ],
    ids=lambda each: each.get("mode", "latency") if isinstance(each, dict) else "",
)
def test_httpx(
    inject: Inject, trust: Trust, sealed: bool, kind: str, parameters: dict[str, Any]
) -> None:
    """The same on trio as on asyncio."""

    async def story(port: int) -> str:
        timeout = 0.3 if parameters.get("mode") == "timeout" else PATIENCE
        verify = trust.client if sealed else False
        url = f"{'https' if sealed else 'http'}://{HOST}:{port}/"
        async with httpx.AsyncClient(timeout=timeout, verify=verify) as client:
            try:
                return f"{await client.get(url)}"
            except httpx.HTTPError as error:
                return type(error).__name__

    def met(run: Callable[..., Any]) -> tuple[str, int]:
        with serve(trust.over_tls(answer) if sealed else answer) as port:
            trigger = {"rate": 1} if kind == "network_failure" else {}
            with inject(kind, **trigger, **parameters) as active_experiment:
                return run(story, port), active_experiment.hits

    def on_asyncio(story: Callable[[int], Any], port: int) -> Any:
        import asyncio

        return asyncio.run(story(port))

    assert met(trio.run) == met(on_asyncio)


def test_who_has_waited_too_long_for_a_connection(echo_port: int, inject_briefly: Inject) -> None:
    with (
        inject_briefly("network_failure", mode="timeout", rate=1),
        pytest.raises(OSError, match="all attempts to connect") as caught,
    ):
        trio.run(ask, echo_port)
    group = caught.value.__cause__
    assert isinstance(group, ExceptionGroup)
    (error,) = group.exceptions
    assert isinstance(error, TimeoutError)
    assert error.errno == errno.ETIMEDOUT
    assert f"Error connecting to ('{HOST}', {echo_port}): " in str(error)


def test_a_refusal_is_what_it_really_is(echo_port: int, inject: Inject) -> None:
    def met(port: int) -> str:
        with pytest.raises(OSError, match="all attempts to connect") as caught:
            trio.run(ask, port)
        return repr(caught.value.__cause__).replace(str(port), "PORT")

    with closed_port() as port:
        real = met(port)
    with inject("network_failure", mode="refuse", rate=1):
        assert met(echo_port) == real


def test_a_wait_can_be_cancelled(echo_port: int, inject: Inject) -> None:
    async def story() -> bool:
        with trio.move_on_after(DELAY) as scope:
            await ask(echo_port)
        return scope.cancelled_caught

    with inject("network_latency", delay=60):
        assert trio.run(story)


def test_connecting_takes_no_time_where_time_is_virtual(echo_port: int, inject: Inject) -> None:
    async def connect() -> None:
        async with await trio.open_tcp_stream(HOST, echo_port, happy_eyeballs_delay=1000):
            pass

    started = time.monotonic()
    with inject("network_latency", delay=30):
        trio.run(connect, clock=trio.testing.MockClock(autojump_threshold=0.001))
    assert time.monotonic() - started < 30


def test_afterwards_it_is_as_before(echo_port: int, inject: Inject) -> None:
    from trio._socket import _SocketType

    before = dict(vars(_SocketType))
    with inject("network_latency", delay=DELAY):
        assert vars(_SocketType) != before
    assert dict(vars(_SocketType)) == before
    assert trio.run(ask, echo_port) == b"hello"


LOADED_LATE = """
import sys
from pytest_resilience import ChaosExperiment
from pytest_resilience.runtime import Runtime
from tests.interceptors.conftest import echo, serve

assert "trio" not in sys.modules
runtime = Runtime()
latency = runtime.engine.start(ChaosExperiment("slow", "network_latency", delay=0.01), seed=1)
with serve(echo) as port:
    import trio

    async def ask():
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"hello")
            return await stream.receive_some(100)

    assert trio.run(ask) == b"hello"
    latency.stop()
    assert trio.run(ask) == b"hello"
print(latency.hits)
"""


@runs_python(LOADED_LATE)
def test_it_is_reached_when_it_is_loaded_while_something_runs(ran: pytest.RunResult) -> None:
    assert ran.outlines == ["2"]


def test_many_at_once(echo_port: int, inject: Inject) -> None:
    async def story() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(ask, echo_port)

    with inject("network_latency", delay=DELAY) as latency:
        started = time.monotonic()
        trio.run(story)
        took = time.monotonic() - started
    assert latency.hits == 100
    assert took >= 2 * DELAY


@pytest.mark.parametrize("mode", ["timeout", "partition"])
def test_who_only_waits_until_it_can_read_hears_nothing_either(
    mode: str, echo_port: int, inject: Inject
) -> None:
    """As libraries do that wait by trio, or by anyio, and read a socket of Python's."""

    async def hears(sock: socket.socket) -> bool:
        with trio.move_on_after(DELAY):
            await trio.lowlevel.wait_readable(sock)
            return True
        return False

    with socket.create_connection((HOST, echo_port)) as sock:
        sock.setblocking(False)
        with inject("network_failure", mode=mode, rate=1) as silence:
            sock.send(b"tea")
            assert not trio.run(hears, sock)
        assert silence.hits
