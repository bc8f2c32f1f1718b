"""An engine with the interceptor of sockets, and servers that behave or misbehave for real."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading

from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from typing import NamedTuple

import pytest
import trustme

from pytest_resilience import Event
from pytest_resilience import FaultInjected
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.interceptors.sockets.interceptor import SocketInterceptor
from tests.clocks import HOUR
from tests.clocks import MovableClock
from tests.clocks import leap_when_struck
from tests.free_loops import no_loop_was_running
from tests.injecting import Inject
from tests.injecting import ending
from tests.injecting import injecting
from tests.resets import reset_when_closed
from tests.waiting import PATIENCE


Handler = Callable[[socket.socket], None]

HOST = "127.0.0.1"
TIMEOUT = 0.05  # seconds, of who hears nothing


class Trust:
    """An authority, and what servers and clients need to make use of it."""

    def __init__(self, folder: Path, *names: str) -> None:
        """`names`: of the servers; by default those of this machine."""
        authority = trustme.CA()
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate = authority.issue_cert(*(names or (HOST, "localhost")))
        certificate.configure_cert(self.server)
        self.server_file = str(folder / "server.pem")
        certificate.private_key_and_cert_chain_pem.write_to_path(self.server_file)
        self.client = ssl.create_default_context()
        authority.configure_trust(self.client)
        # For a client that reads in one thread while it writes in another. OpenSSL allows that only
        # as long as what is read is not the protocol's own: of 2,400 connections with the tickets
        # that TLS 1.3 sends after the handshake a dozen hung, of those without none did.
        self.client_without_tickets = ssl.create_default_context()
        self.client_without_tickets.maximum_version = ssl.TLSVersion.TLSv1_2
        authority.configure_trust(self.client_without_tickets)
        self.file = str(folder / "authority.pem")
        authority.cert_pem.write_to_path(self.file)

    def over_tls(self, handler: Handler) -> Handler:
        def handle(connection: socket.socket) -> None:
            with self.server.wrap_socket(connection, server_side=True) as wrapped:
                handler(wrapped)

        return handle


class Timeouts(NamedTuple):
    """Of a client, in seconds. Only what is to time out has a short one: a busy machine may take
    as long for all else."""

    connect: float = PATIENCE
    read: float = PATIENCE

    @classmethod
    def of(cls, event: str) -> Timeouts:
        if event == "timeout while connecting":
            return cls(connect=TIMEOUT)
        return cls(read=TIMEOUT) if event == "timeout while reading" else cls()


@contextlib.contextmanager
def serve(handler: Handler) -> Iterator[int]:
    """Give each connection to `handler`, in a thread of its own; yields the port."""
    open_sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def handle(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            handler(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                open_sockets.append(connection)
                threads.append(threading.Thread(target=handle, args=(connection,), daemon=True))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        yield listener.getsockname()[1]
        shut(listener)
        acceptor.join(10)  # or it might still be about to hand on who has come last
        for each in open_sockets:
            shut(each)
    for thread in threads:
        thread.join(10)


def shut(sock: socket.socket) -> None:
    """Wake the thread that waits on it."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def silent(connection: socket.socket) -> None:
    """Read and never answer."""
    while connection.recv(65536):
        pass


def echo(connection: socket.socket) -> None:
    """Answer with what was received."""
    while data := connection.recv(65536):
        connection.sendall(data)


def reset(connection: socket.socket) -> None:
    """Read a request, then tear the connection down with RST."""
    connection.recv(65536)
    reset_when_closed(connection)


def all_names_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name is one of this machine."""
    resolve = socket.getaddrinfo

    def found(host: Any, *args: Any, **kwargs: Any) -> Any:
        flags = args[4] if len(args) > 4 else kwargs.get("flags", 0)
        there = host if flags & socket.AI_NUMERICHOST else HOST
        return resolve(there, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", found)


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    yield port


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """A port whose queue of connections is full: Linux drops what comes on top."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()[1]


def met(action: Callable[[], object]) -> list[tuple[str, int | None]]:
    """The exception an action raises and all behind it, each with its errno."""
    with pytest.raises(Exception) as caught:
        action()
    chain: list[tuple[str, int | None]] = []
    error: BaseException | None = caught.value
    while error is not None:
        kind = type(error)
        if no_loop_was_running(error):
            break
        chain.append((f"{kind.__module__}.{kind.__qualname__}", getattr(error, "errno", None)))
        error = error.__cause__ or error.__context__
    return chain


def outcome(action: Callable[[], object]) -> str:
    """What an action on a socket returns or raises."""
    try:
        return repr(action())
    except OSError as error:
        return f"{type(error).__name__} {error.errno}"


@pytest.fixture(scope="session")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    return Trust(tmp_path_factory.mktemp("trust"))


@pytest.fixture
def echo_port() -> Iterator[int]:
    with serve(echo) as port:
        yield port


@pytest.fixture
def silent_port() -> Iterator[int]:
    with serve(silent) as port:
        yield port


@contextlib.contextmanager
def engine_by(clock: Clock) -> Iterator[Engine]:
    engine = Engine(lambda engine: [SocketInterceptor(engine)], clock=clock)
    engine.preload()  # as a run does, for experiments may begin in a loop
    with ending(engine):
        yield engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    with engine_by(MACHINE_CLOCK) as engine:
        yield engine


@pytest.fixture
def movable() -> MovableClock:
    """By which an engine of the test's own goes: see `engine_by`."""
    return MovableClock()


@pytest.fixture
def inject_briefly(movable: MovableClock) -> Iterator[Inject]:
    """As `inject`, of what is over 0.2 seconds after it has struck."""
    with engine_by(movable) as engine:
        leap_when_struck(engine, movable)
        yield injecting(engine.start, duration=HOUR)


@pytest.fixture
def inject_by(movable: MovableClock) -> Iterator[Inject]:
    """As `inject`, by that clock."""
    with engine_by(movable) as engine:
        yield injecting(engine.start)


@pytest.fixture
def events(engine: Engine) -> list[FaultInjected]:
    heard: list[FaultInjected] = []

    def note(event: Event) -> None:
        assert isinstance(event, FaultInjected)
        heard.append(event)

    engine.listeners.add(note)
    return heard


@pytest.fixture
def inject(engine: Engine) -> Inject:
    return injecting(engine.start)
