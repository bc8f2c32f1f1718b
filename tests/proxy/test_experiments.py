from __future__ import annotations

import contextlib
import errno
import math
import socket
import threading
import time

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience import ConfigurationError
from pytest_resilience import Event
from pytest_resilience import FaultInjected
from pytest_resilience import NeverFiredError
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.proxy import ChaosProxy
from tests.clocks import MovableClock
from tests.proxy.conftest import Serve
from tests.proxy.conftest import ask
from tests.proxy.conftest import echo
from tests.proxy.conftest import hears_nothing
from tests.proxy.conftest import read_all
from tests.proxy.conftest import receive
from tests.proxy.conftest import until


Connect = Callable[[], socket.socket]


def test_latency_is_added_to_connecting_and_to_each_answer(
    proxy: ChaosProxy, connect: Connect
) -> None:
    with proxy.inject("network_latency", delay="20ms") as latency:
        started = time.monotonic()
        client = connect()
        assert ask(client) == b"ping"
        assert time.monotonic() - started >= 0.04
        assert ask(client) == b"ping"
    assert (latency.matched, latency.hits) == (3, 3)
    assert latency.delay >= 0.06
    assert ask(client) == b"ping"
    assert latency.matched == 3


def test_an_answer_in_pieces_is_one_answer(serve: Serve) -> None:
    def pieces(connection: socket.socket) -> None:
        while connection.recv(100):
            for piece in (b"a", b"b", b"c"):
                connection.sendall(piece)

    with (
        ChaosProxy(("127.0.0.1", serve(pieces))) as proxy,
        socket.create_connection(proxy.address, timeout=10) as client,
    ):
        client.sendall(b"x")
        assert receive(client, 3) == b"abc"
        with proxy.inject("network_latency", delay="10ms") as latency:
            client.sendall(b"x")
            assert receive(client, 3) == b"abc"
        assert latency.matched == 1


def test_a_server_that_speaks_first_is_late_too(serve: Serve) -> None:
    with (
        ChaosProxy(("127.0.0.1", serve(lambda each: each.sendall(b"welcome")))) as proxy,
        proxy.inject("network_latency", delay="10ms") as latency,
        socket.create_connection(proxy.address, timeout=10) as client,
    ):
        assert read_all(client) == b"welcome"
    assert latency.matched == 2


def test_triggers_choose_among_the_answers(proxy: ChaosProxy, connect: Connect) -> None:
    client = connect()
    assert ask(client) == b"ping"
    with proxy.inject("network_failure", mode="reset", rate=1, nth=3) as failure:
        assert ask(client) == b"ping"
        assert ask(client) == b"ping"
        client.sendall(b"ping")
        with pytest.raises(ConnectionResetError) as caught:
            client.recv(1)
        assert caught.value.errno == errno.ECONNRESET
    assert (failure.matched, failure.hits) == (3, 1)


def test_a_reset_is_met_after_the_server_got_the_request(serve: Serve) -> None:
    done: list[bytes] = []

    def work(connection: socket.socket) -> None:
        while request := connection.recv(100):
            done.append(request)

    with (
        ChaosProxy(("127.0.0.1", serve(work))) as proxy,
        socket.create_connection(proxy.address, timeout=10) as client,
        proxy.inject("network_failure", mode="reset", rate=1),
    ):
        client.sendall(b"order")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        until(lambda: done == [b"order"])
        until(lambda: proxy.connections == 0)


@pytest.mark.parametrize("mode", ["reset", "close"])
def test_who_waits_already_is_struck_when_it_begins(mode: Any, serve: Serve) -> None:
    asked = threading.Event()

    def listen(connection: socket.socket) -> None:
        while connection.recv(100):
            asked.set()

    with (
        ChaosProxy(("127.0.0.1", serve(listen))) as proxy,
        socket.create_connection(proxy.address, timeout=10) as client,
        socket.create_connection(proxy.address, timeout=10) as idle,
    ):
        client.sendall(b"order")
        assert asked.wait(10)
        with proxy.inject("network_failure", mode=mode, rate=1) as outage:
            if mode == "reset":
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
            else:
                assert client.recv(1) == b""
            assert (outage.matched, outage.hits) == (1, 1)
        asked.clear()
        idle.sendall(b"order")  # nobody waited for anything
        assert asked.wait(10)


_MET = {"reset": "ConnectionResetError", "close": "EOF", "down": "EOF", "timeout": "TimeoutError"}


def met(client: socket.socket) -> str:
    """How it ends to receive, if it does within 10,000 bytes."""
    left = 10_000
    try:
        while left > 0:
            data = client.recv(100)
            if not data:
                return "EOF"
            left -= len(data)
    except OSError as error:
        return type(error).__name__
    return "it goes on"


def silent_server(connection: socket.socket) -> None:
    while connection.recv(100):
        pass


def streaming_server(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"tick" * 10)
        threading.Event().wait(0.01)


@pytest.mark.parametrize("server", [silent_server, streaming_server])
@pytest.mark.parametrize("mode", _MET)
def test_who_waits_already_is_struck_when_its_window_begins(
    mode: Any, server: Callable[[socket.socket], None], serve: Serve
) -> None:
    with (
        ChaosProxy(("127.0.0.1", serve(server))) as proxy,
        socket.create_connection(proxy.address, timeout=10) as client,
        proxy.inject("network_failure", mode=mode, rate=1, between="100ms..60s") as outage,
    ):
        client.sendall(b"order")
        client.settimeout(0.5 if mode == "timeout" else 10)
        assert met(client) == _MET[mode]
        assert outage.hits


def test_silence_ends_with_the_experiment(proxy: ChaosProxy, connect: Connect) -> None:
    client = connect()
    assert ask(client) == b"ping"
    with proxy.inject("network_failure", mode="timeout", rate=1) as silence:
        hears_nothing(client)
    assert receive(client, 4) == b"ping"
    assert (silence.matched, silence.hits) == (1, 1)
    assert 0.05 <= silence.delay < math.inf


def test_a_stream_that_was_silent_is_reset_when_the_silence_ends(serve: Serve) -> None:
    """All of it has come already, and the server says nothing more."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 44\r\n\r\n"
    events = [b"data: %d\n\n" % number for number in range(4)]

    def stream(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(head + b"".join(events))
        connection.recv(100)

    with (
        ChaosProxy(("127.0.0.1", serve(stream))) as proxy,
        socket.create_connection(proxy.address, timeout=10) as client,
        proxy.inject("network_failure", mode="timeout", after_items=2, rate=1) as silence,
    ):
        kept = head + b"".join(events[:2])
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert receive(client, len(kept)) == kept
        silence.stop()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_silence_holds_a_new_connection_up(proxy: ChaosProxy, connect: Connect) -> None:
    with proxy.inject("network_failure", mode="timeout", rate=1, first=1):
        client = connect()
        hears_nothing(client)
    assert receive(client, 4) == b"ping"


def test_refusing_everybody_is_the_kernels_refusal(proxy: ChaosProxy, connect: Connect) -> None:
    client = connect()
    assert ask(client) == b"ping"
    with proxy.inject("network_failure", mode="refuse", rate=1) as failure:
        with pytest.raises(ConnectionRefusedError) as caught:
            connect()
        assert ask(client) == b"ping"  # a refusal happens to connects alone
    assert caught.value.errno == errno.ECONNREFUSED
    assert (failure.matched, failure.hits) == (1, 1)
    assert ask(connect()) == b"ping"


@pytest.fixture
def movable(serve: Serve) -> Iterator[tuple[ChaosProxy, MovableClock]]:
    """A proxy that goes by a clock of the test's."""
    clock = MovableClock()
    with ChaosProxy(("127.0.0.1", serve(echo)), seed=1, clock=clock) as proxy:
        yield proxy, clock


def test_a_refusal_ends_with_its_duration(movable: tuple[ChaosProxy, MovableClock]) -> None:
    proxy, clock = movable

    def works() -> bool:
        try:
            with socket.create_connection(proxy.address, timeout=10) as client:
                return ask(client) == b"ping"
        except ConnectionRefusedError:
            return False

    with proxy.inject("network_failure", mode="refuse", rate=1, duration=60):
        assert not works()
        clock.advance(60)
        until(works)


def test_refusing_everybody_within_a_window_is_the_kernels_refusal(
    movable: tuple[ChaosProxy, MovableClock],
) -> None:
    proxy, clock = movable

    def is_refused() -> bool:
        try:
            with socket.create_connection(proxy.address, timeout=10) as client:
                return ask(client) != b"ping"
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:  # just when it begins it is too late for that
            return False

    with proxy.inject("network_failure", mode="refuse", rate=1, between="20s..40s") as failure:
        assert not is_refused()
        clock.advance(20)
        until(is_refused)
        clock.advance(20)
        until(lambda: not is_refused())
    assert failure.hits >= 1


def test_refusing_some_is_a_reset_that_counts(proxy: ChaosProxy, connect: Connect) -> None:
    with proxy.inject("network_failure", mode="refuse", rate=1, first=1) as failure:
        with pytest.raises(ConnectionResetError):
            connect().recv(1)
        assert ask(connect()) == b"ping"
    assert (failure.matched, failure.hits) == (2, 1)


def test_who_is_hit_repeats_with_the_seed(proxy: ChaosProxy, serve: Serve) -> None:
    upstream = proxy.upstream

    def delayed(seed: int) -> list[int]:
        numbers: list[int] = []
        with (
            ChaosProxy(upstream, seed=seed) as seeded,
            socket.create_connection(seeded.address, timeout=10) as client,
        ):
            seeded.engine.listeners.add(
                lambda event: (
                    numbers.append(event.number) if isinstance(event, FaultInjected) else None
                )
            )
            with seeded.inject("network_latency", delay="1us", rate=0.5):
                for _ in range(20):
                    assert ask(client) == b"ping"
        return numbers

    assert delayed(1) == delayed(1) != delayed(2)


def test_faults_are_events(proxy: ChaosProxy, connect: Connect) -> None:
    events: list[Event] = []
    proxy.engine.listeners.add(events.append)
    client = connect()
    assert ask(client) == b"ping"
    with proxy.inject("network_latency", delay="1ms", name="far away"):
        assert ask(client) == b"ping"
    (event,) = events
    assert isinstance(event, FaultInjected)
    assert (event.source, event.kind, event.target) == (
        "far away", "network.receive", proxy.upstream,
    )  # fmt: skip
    assert (event.fault, event.number, event.delay) == ("latency 1ms", 1, 0.001)


def test_one_that_never_fires_is_an_error(proxy: ChaosProxy, connect: Connect) -> None:
    with (
        pytest.raises(NeverFiredError, match=r"never fired") as caught,
        proxy.inject("network_latency", delay="1ms", target="elsewhere:1"),
    ):
        assert ask(connect()) == b"ping"
    assert caught.value.seen == (
        f"network.connect {proxy.upstream}", f"network.receive {proxy.upstream}",
    )  # fmt: skip
    with proxy.inject("network_latency", must_fire=False):
        pass


def test_one_whose_trigger_chose_none_is_an_error(proxy: ChaosProxy, connect: Connect) -> None:
    with (
        pytest.raises(NeverFiredError) as caught,
        proxy.inject("network_failure", mode="reset", nth=5),
    ):
        ask(connect())
    assert "its trigger chose none of the operations that matched (number 5)" in str(caught.value)
    assert [line.rpartition(" ")[0] for line in caught.value.seen] == ["1 network.receive"]


def test_a_proxy_that_nobody_was_led_to_says_so(proxy: ChaosProxy) -> None:
    with pytest.raises(NeverFiredError) as caught, proxy.inject("network_failure", rate=0.5):
        pass
    assert caught.value.seen == (f"network.connect {proxy.listen} (nobody, so far)",)
    assert "never fired: no client came to the proxy, so this" in str(caught.value)
    assert (
        f"\n  No client has come to the proxy: lead it to {proxy.listen}, by proxy.dsn(...), "
        "proxy.environment(...) or proxy.listen."
    ) in str(caught.value)


def test_the_error_in_its_body_is_not_hidden(proxy: ChaosProxy) -> None:
    with pytest.raises(ZeroDivisionError), proxy.inject("network_latency"):
        _ = 1 / 0


def test_it_is_aimed_at_the_server_or_at_the_proxy(proxy: ChaosProxy, connect: Connect) -> None:
    client = connect()
    for target in (proxy.upstream, proxy.listen, "127.0.0.1"):
        with proxy.inject("network_latency", delay="1ms", target=target) as latency:
            assert ask(client) == b"ping"
        assert latency.hits == 1


def test_it_is_aimed_at_one_connection(proxy: ChaosProxy, connect: Connect) -> None:
    with proxy.inject("network_failure", mode="reset", target=f"{proxy.upstream}#2") as reset:
        first, second, third = connect(), connect(), connect()
        assert (ask(first), ask(third)) == (b"ping", b"ping")
        with pytest.raises(ConnectionResetError):
            ask(second)
    assert (reset.matched, reset.hits) == (1, 1)
    with (
        proxy.inject("network_failure", mode="refuse", target="*#2") as refused,
        contextlib.suppress(ConnectionResetError),
    ):
        assert ask(connect()) == b"ping"
        ask(connect())
    assert refused.hits == 1
    with proxy.inject(
        "network_failure", mode="reset", target=f"!{proxy.upstream}", must_fire=False
    ):
        assert ask(connect()) == b"ping"


def test_an_experiment_of_its_own(proxy: ChaosProxy, connect: Connect) -> None:
    experiment = ChaosExperiment("far", "network_latency", delay="5ms")
    client = connect()
    with proxy.inject(experiment) as first:
        assert ask(client) == b"ping"
    assert (first.experiment, first.hits) == (experiment, 1)
    with pytest.raises(ConfigurationError) as caught:
        proxy.inject(experiment, delay="6ms")  # type: ignore[call-overload]
    assert str(caught.value) == "experiment 'far' has its own parameters; leave out delay"
    off = ChaosExperiment("off", "network_latency", delay="5ms", enabled=False)
    with proxy.inject(off) as none:
        assert ask(client) == b"ping"
    assert none.matched == 0


def test_what_a_proxy_cannot_do_is_refused_at_once(proxy: ChaosProxy) -> None:
    with pytest.raises(ConfigurationError) as caught:
        proxy.inject("network_failure", mode="dns")
    assert str(caught.value) == (
        "experiment 'network_failure': name resolution failure cannot happen in a proxy, which "
        "sees connections and bytes; it can do what network_latency, network_failure and "
        "service_failure do to these, but not to names"
    )
    with pytest.raises(ConfigurationError, match="cannot happen in a proxy"):
        proxy.inject("cpu_stress")


def test_experiments_and_toxics_add_up(proxy: ChaosProxy, connect: Connect) -> None:
    client = connect()
    assert ask(client) == b"ping"
    with (
        proxy.having("latency", latency=10),
        proxy.inject("network_latency", delay="10ms"),
        proxy.inject("network_latency", delay="10ms", name="another"),
    ):
        started = time.monotonic()
        assert ask(client) == b"ping"
        assert time.monotonic() - started >= 0.03


def test_an_engine_can_be_shared(serve: Serve, proxy: ChaosProxy) -> None:
    """One experiment then reaches every proxy that asks it."""
    engine = Engine(lambda _: ())
    with (
        ChaosProxy(proxy.upstream, engine=engine) as first,
        ChaosProxy(proxy.upstream, engine=engine) as second,
    ):
        clients = [socket.create_connection(each.address, timeout=10) for each in (first, second)]
        assert [ask(client) for client in clients] == [b"ping"] * 2
        active_experiment = engine.start(
            ChaosExperiment("x", "network_latency", delay="1ms"), seed=1
        )
        assert [ask(client) for client in clients] == [b"ping"] * 2
        active_experiment.stop()
        for client in clients:
            client.close()
    assert active_experiment.hits == 2
