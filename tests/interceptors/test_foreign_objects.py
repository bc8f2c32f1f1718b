"""What is watched may be of any shape: watching raises, touches and uses up nothing.

Everything here is done under an experiment that is aimed elsewhere, and compared with what it
is without.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import os
import socket
import sqlite3
import ssl
import sys
import threading

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import trio

from pytest_resilience import ChaosExperiment
from pytest_resilience import ServiceFailureError
from pytest_resilience.chaos.types.service import Service
from pytest_resilience.chaos.types.service import Services
from pytest_resilience.interceptors.databases.postgres import statement_in
from pytest_resilience.runtime import Runtime
from tests.hostile_objects import ODD
from tests.hostile_objects import Prickly
from tests.hostile_objects import outcome_of
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import echo
from tests.interceptors.conftest import serve


RESOLVERS = ["getaddrinfo", "gethostbyname", "gethostbyname_ex"]

odd_ones = pytest.mark.parametrize("odd", ODD)


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return Runtime()


@pytest.fixture
def elsewhere(runtime: Runtime) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Experiments of everything that can be watched, of which none is aimed at what is here."""

    @contextlib.contextmanager
    def running() -> Iterator[None]:
        experiments = [
            ChaosExperiment("lag", "network_latency", delay=0.001, target="127.0.0.9:9"),
            ChaosExperiment("end", "network_latency", mode="slow_close", target="127.0.0.9:9"),
            ChaosExperiment("no names", "network_failure", mode="dns", target="nobody.example"),
            ChaosExperiment("cut", "network_failure", mode="partition", target="127.0.0.9:9"),
            ChaosExperiment("rows", "database_failure", match="DROP DATABASE nobody"),
            ChaosExperiment("files", "disk_failure", path="/nowhere/**"),
        ]
        started = [runtime.start(each, seed=1) for each in experiments]
        try:
            yield
        finally:
            for each in started:
                each.stop()

    return running


Elsewhere = Callable[[], contextlib.AbstractContextManager[None]]


def same(elsewhere: Elsewhere, action: Callable[[], object]) -> None:
    """It is what it is without."""
    without = outcome_of(action)
    with elsewhere():
        assert outcome_of(action) == without


# --- names ---


@pytest.mark.parametrize("name", RESOLVERS)
@odd_ones
def test_what_a_stub_resolves_to_is_what_the_client_gets(
    name: str, odd: str, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ODD[odd]()
    monkeypatch.setattr(socket, name, lambda *_, **__: found)
    with elsewhere():
        assert getattr(socket, name)("shop.internal", 80) is found
    if isinstance(found, mock.NonCallableMock):
        assert found.mock_calls == []
    if odd == "an iterator":
        assert len(list(found)) == 1


@pytest.mark.parametrize("name", RESOLVERS)
@odd_ones
def test_a_stub_is_asked_what_the_client_asks(
    name: str, odd: str, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port, flags = ODD[odd](), ODD[odd](), ODD[odd]()
    asked: list[Any] = []
    monkeypatch.setattr(socket, name, lambda *given, **named: asked.append((given, named)))
    with elsewhere():
        getattr(socket, name)(host, port, 0, 0, 0, flags)
        getattr(socket, name)(host=host, port=port, flags=flags)
        getattr(socket, name)()
    (first, _), (_, second), third = asked
    assert [first[at] is each for at, each in ((0, host), (1, port), (5, flags))] == [True] * 3
    assert [second[key] is each for key, each in zip(second, (host, port, flags), strict=True)]
    assert third == ((), {})
    for each in (host, port, flags):
        if isinstance(each, mock.NonCallableMock):
            assert each.mock_calls == []


@pytest.mark.parametrize("name", RESOLVERS)
@odd_ones
def test_the_real_ones_refuse_what_they_refuse(name: str, odd: str, elsewhere: Elsewhere) -> None:
    resolve = getattr(socket, name)
    args = (80,) if name == "getaddrinfo" else ()
    same(elsewhere, lambda: getattr(socket, name)(ODD[odd](), *args))
    same(elsewhere, lambda: vars(socket)[name](*args[:0]))
    assert getattr(socket, name) is resolve


def test_a_mock_can_be_asked_what_it_was_asked(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is: a test need not have kept it."""
    entries = [(2, 1, 6, "", ("127.0.0.1", 80))]
    stub = mock.MagicMock(return_value=entries)
    monkeypatch.setattr(socket, "getaddrinfo", stub)
    with elsewhere():
        found: Any = socket.getaddrinfo
        assert found("shop.internal", 80) is entries
        found.assert_called_once_with("shop.internal", 80)
        found.return_value = []
        assert found("shop.internal", 80) == []
    assert socket.getaddrinfo is stub
    assert stub.call_count == 2


@odd_ones
def test_names_in_loops(odd: str, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    from aiohttp.connector import TCPConnector

    found = ODD[odd]()

    async def stub(*_: object, **__: object) -> object:
        return found

    async def asked(resolve: Any) -> bool:
        return await resolve(None, ODD[odd](), ODD[odd]()) is found

    monkeypatch.setattr(TCPConnector, "_resolve_host", stub)
    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", stub)
    monkeypatch.setattr(trio.socket, "getaddrinfo", stub)
    with elsewhere():
        assert asyncio.run(asked(TCPConnector._resolve_host))
        assert asyncio.run(asked(asyncio.BaseEventLoop.getaddrinfo))
        assert trio.run(asked, trio.socket.getaddrinfo)
    if isinstance(found, mock.NonCallableMock):
        assert found.mock_calls == []


# --- sockets ---


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("name", ["connect", "connect_ex"])
@pytest.mark.parametrize(
    ("family", "kind"),
    [
        (socket.AF_INET, socket.SOCK_STREAM),
        (socket.AF_INET6, socket.SOCK_STREAM),
        (socket.AF_INET, socket.SOCK_DGRAM),
        (socket.AF_UNIX, socket.SOCK_STREAM),
    ],
)
def test_odd_addresses(
    family: int, kind: int, name: str, blocking: bool, elsewhere: Elsewhere
) -> None:
    def connected(odd: str) -> object:
        with socket.socket(family, kind) as sock:
            sock.setblocking(blocking)
            return getattr(sock, name)(ODD[odd]())

    without = {odd: outcome_of(lambda odd=odd: connected(odd)) for odd in ODD}  # type: ignore[misc]
    with elsewhere():
        assert {odd: outcome_of(lambda odd=odd: connected(odd)) for odd in ODD} == without  # type: ignore[misc]


@pytest.mark.parametrize("args", [(), (1, 2), ("a", "b", "c")], ids=str)
@pytest.mark.parametrize(
    "name", ["connect", "connect_ex", "shutdown", "detach", "send", "recv", "sendmsg", "recvmsg"]
)
def test_too_much_and_too_little(
    name: str, args: tuple[Any, ...], elsewhere: Elsewhere, echo_port: int
) -> None:
    def action() -> object:
        with socket.create_connection((HOST, echo_port)) as sock:
            sock.setblocking(False)
            found = getattr(sock, name)(*args)
            if name == "detach":
                socket.close(found)
            return found

    same(elsewhere, action)


@pytest.mark.parametrize("target", ["127.0.0.9:9", "*"])
@pytest.mark.parametrize(
    "name",
    [
        "send",
        "sendall",
        "sendmsg",
        "sendto",
        "sendfile",
        "recv",
        "recv_into",
        "recvmsg",
        "recvfrom",
    ],
)
def test_odd_buffers_and_sizes(name: str, target: str, silent_port: int, runtime: Runtime) -> None:
    """Also where something happens to what is sent and received."""

    def done(odd: str) -> object:
        with socket.create_connection((HOST, silent_port)) as sock:
            sock.setblocking(False)
            return getattr(sock, name)(ODD[odd]())

    without = {odd: outcome_of(lambda odd=odd: done(odd)) for odd in ODD}  # type: ignore[misc]
    lag = ChaosExperiment("lag", "network_latency", delay=0.0001, target=target)
    running = runtime.start(lag, seed=1)
    try:
        assert {odd: outcome_of(lambda odd=odd: done(odd)) for odd in ODD} == without  # type: ignore[misc]
    finally:
        running.stop()


class Masked(socket.socket):
    """One of the user's that tells nobody about itself."""

    telling = True

    def _tell(self, name: str, *args: Any) -> Any:
        if not self.telling:
            raise RuntimeError(name)
        return getattr(super(), name)(*args)

    def gettimeout(self) -> Any:
        return self._tell("gettimeout")

    def getsockopt(self, *args: Any) -> Any:
        return self._tell("getsockopt", *args)

    def getsockname(self) -> Any:
        return self._tell("getsockname")

    def getpeername(self) -> Any:
        return self._tell("getpeername")

    def fileno(self) -> Any:
        return self._tell("fileno")

    @property
    def family(self) -> Any:
        return self._tell("family")


def test_a_socket_that_tells_nothing(elsewhere: Elsewhere, echo_port: int) -> None:
    def story() -> bytes:
        sock = Masked()
        sock.telling = False
        sock.connect((HOST, echo_port))
        sock.sendall(b"tea")
        found = sock.recv(3)
        sock.shutdown(socket.SHUT_RDWR)
        sock.telling = True
        sock.close()
        return found

    with elsewhere():
        assert story() == b"tea"


@pytest.mark.parametrize("fake", [object, mock.MagicMock, Prickly])
@pytest.mark.parametrize("name", ["connect", "recv", "send", "shutdown", "detach", "_real_close"])
def test_what_is_no_socket_at_all(fake: Any, name: str, elsewhere: Elsewhere) -> None:
    args = ((HOST, 80),) if name == "connect" else (1,) if name in {"recv", "send"} else ()
    method = f"it is looked up each time: {name}".rpartition(" ")[2]
    same(elsewhere, lambda: getattr(socket.socket, method)(fake(), *args))


def test_a_socket_whose_methods_are_mocked(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mock of a class is given no self, and is not given one by being watched."""
    for name in ("connect", "sendall", "recv"):
        monkeypatch.setattr(socket.socket, name, mock.MagicMock(return_value=b"tea"))
    with elsewhere(), socket.socket() as sock:
        sock.connect(("shop.internal", 80))
        sock.sendall(b"water")
        assert sock.recv(3) == b"tea"
        stubs: Any = socket.socket
        stubs.connect.assert_called_once_with(("shop.internal", 80))
        stubs.sendall.assert_called_once_with(b"water")
        stubs.recv.assert_called_once_with(3)


def test_a_listener_that_accepts_what_it_likes(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    for found in (None, (), (-1, None), ("x", "y")):
        monkeypatch.setattr(socket.socket, "_accept", lambda _, found=found: found)
        with elsewhere(), socket.socket() as sock:
            assert sock._accept() is found  # type: ignore[attr-defined]


# --- databases, files and services ---


@pytest.mark.parametrize("driver", ["sqlite3", "psycopg2", "psycopg"])
def test_a_driver_that_is_mocked(driver: str, elsewhere: Elsewhere) -> None:
    module: Any = pytest.importorskip(driver)
    with mock.patch.object(module, "connect") as stub, elsewhere():
        module.connect("shop").execute("SELECT 1")
        module.connect.assert_called_once_with("shop")
    assert stub.mock_calls == [mock.call("shop"), mock.call().execute("SELECT 1")]


def test_a_client_of_redis_that_is_mocked(elsewhere: Elsewhere) -> None:
    import redis

    with mock.patch.object(redis.Redis, "execute_command", return_value=b"tea") as stub:
        with elsewhere():
            assert redis.Redis().echo("tea") == b"tea"
        stub.assert_called_once_with("ECHO", "tea")


@odd_ones
@pytest.mark.parametrize("name", ["execute", "executemany", "executescript", "cursor"])
def test_odd_statements_and_factories(name: str, odd: str, elsewhere: Elsewhere) -> None:
    def action() -> object:
        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            call: Any = getattr(connection, name)
            return isinstance(call(ODD[odd](), *([[]] if name == "executemany" else [])), object)

    same(elsewhere, action)


def test_a_factory_may_be_any_function(elsewhere: Elsewhere) -> None:
    def connected(*args: Any, **named: Any) -> sqlite3.Connection:
        return sqlite3.Connection(*args, **named)

    def pointed(connection: Any) -> sqlite3.Cursor:
        return sqlite3.Cursor(connection)

    with elsewhere():
        connect: Any = sqlite3.connect
        for named in ({}, {"factory": connected}):
            with contextlib.closing(connect(":memory:", **named)) as connection:
                cursor = connection.cursor(pointed)
                assert cursor.execute("SELECT 1").fetchone() == (1,)


@odd_ones
def test_what_psycopg_is_given(odd: str) -> None:
    query = ODD[odd]()
    assert type(statement_in(query, None)) is str
    if isinstance(query, mock.NonCallableMock):
        assert query.mock_calls == []


@odd_ones
def test_odd_commands_of_redis(
    odd: str, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    import redis

    monkeypatch.setattr(redis.Redis, "execute_command", lambda _, *given: given)
    command, key = ODD[odd](), ODD[odd]()
    with elsewhere():
        client: Any = redis.Redis()
        first, second = client.execute_command(command, key)
    assert first is command
    assert second is key
    for each in (command, key):
        if isinstance(each, mock.NonCallableMock):
            assert each.mock_calls == []


# Without a descriptor, which is of somebody, and one that has a path of its own.
@pytest.mark.parametrize("odd", sorted(ODD.keys() - {"a number", "a mock"}))
@pytest.mark.parametrize("name", ["replace", "unlink", "truncate", "stat"])
def test_odd_paths(name: str, odd: str, elsewhere: Elsewhere) -> None:
    def action() -> object:
        path = ODD[odd]()
        more = {"replace": (path,), "truncate": (0,)}.get(name, ())
        return getattr(os, name)(path, *more)

    same(elsewhere, action)


@pytest.mark.parametrize("name", ["open", "os.open", "os.replace", "os.mkdir"])
def test_files_that_are_mocked(name: str, elsewhere: Elsewhere) -> None:
    stub = mock.mock_open(read_data="tea") if name == "open" else mock.MagicMock()
    owner, call = (os, name[3:]) if name.startswith("os.") else (builtins, name)
    with mock.patch.object(owner, call, stub):
        with elsewhere():
            getattr(owner, call)("/nowhere/tea", "/nowhere/water")
            getattr(owner, call).assert_called_once_with("/nowhere/tea", "/nowhere/water")
        assert stub.mock_calls == [mock.call("/nowhere/tea", "/nowhere/water")]


class Shop:
    def charge(self, amount: int) -> int:
        return amount


def refund(amount: int) -> int:
    return amount


@pytest.mark.parametrize("place", ["refund", "Shop.charge"])
def test_a_service_that_is_mocked_fails_and_tells_what_it_was_asked(place: str) -> None:
    above, _, name = place.rpartition(".")
    owner: Any = Shop if above else sys.modules[__name__]
    experiment = ChaosExperiment("down", "service_failure", target_services=["shop"], first=1)
    service = Service.at("shop", [f"{__name__}:{place}"])
    with mock.patch.object(owner, name, return_value=3) as stub:
        running = Runtime(services=Services([service])).start(experiment, seed=1)
        try:
            call = getattr(Shop() if above else owner, name)
            with pytest.raises(ServiceFailureError):
                call(3)
            getattr(owner, name).assert_not_called()
            getattr(owner, name).return_value = 4
            assert call(3) == 4
            getattr(owner, name).assert_called_once_with(3)
        finally:
            running.stop()
        assert stub.mock_calls == [mock.call(3)]


# --- loops and TLS ---


@odd_ones
def test_a_loop_with_odd_transports(
    odd: str, elsewhere: Elsewhere, echo_port: int, runtime: Runtime
) -> None:
    async def story() -> bytes:
        loop: Any = asyncio.get_running_loop()
        with socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, (HOST, echo_port))
            kept, loop._transports = loop._transports, ODD[odd]()
            try:
                sock.send(b"tea")
                while True:
                    with contextlib.suppress(BlockingIOError):
                        return sock.recv(3)
                    await asyncio.sleep(0.001)
            finally:
                loop._transports = kept

    running = runtime.start(ChaosExperiment("x", "network_latency", delay=0.001), seed=1)
    try:
        assert asyncio.run(story()) == b"tea"
    finally:
        running.stop()


class Unhashable(ssl.SSLObject):
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise RuntimeError


def test_an_object_of_tls_that_is_like_no_other(elsewhere: Elsewhere) -> None:
    context = ssl.create_default_context()
    context.sslobject_class = Unhashable
    with elsewhere():
        made = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="shop.internal")
        with pytest.raises(ssl.SSLWantReadError):
            made.do_handshake()


def test_all_at_once_and_from_many_threads(elsewhere: Elsewhere) -> None:
    """A real client beside them sees nothing of all that."""
    with serve(echo) as port, elsewhere():

        def work() -> None:
            for make in ODD.values():
                outcome_of(lambda make=make: socket.getaddrinfo(make(), 80))  # type: ignore[misc]
                with socket.socket() as sock:
                    sock.setblocking(False)
                    outcome_of(lambda make=make, sock=sock: sock.connect(make()))  # type: ignore[misc]

        threads = [threading.Thread(target=work) for _ in range(4)]
        for each in threads:
            each.start()
        with socket.create_connection((HOST, port)) as client:
            for _ in range(100):
                client.sendall(b"tea")
                assert client.recv(3) == b"tea"
        for each in threads:
            each.join()
