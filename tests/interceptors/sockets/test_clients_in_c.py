"""Clients in C that are not reached are noticed, and who never fires says where they went."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys

from collections.abc import Callable
from collections.abc import Iterator
from concurrent import futures
from contextlib import closing
from typing import Any

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience import NeverFiredError
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.types.service import Service
from pytest_resilience.diagnosis import never_fired
from pytest_resilience.runtime import new_engine
from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import echo
from tests.interceptors.conftest import serve
from tests.proxy.postgres import listening


@pytest.fixture
def lost(inject: Inject) -> Callable[..., NeverFiredError]:
    """Does something in an experiment of latency, and gives the error that it is owed."""

    def run(action: Callable[[], object], kind: str = "network_latency", **given: Any) -> Any:
        with inject(kind, **given) as active_experiment:
            action()
        assert active_experiment.matched == 0
        return never_fired(active_experiment)

    return run


@pytest.fixture
def postgres_port(postgres: str) -> Iterator[tuple[int, str]]:
    """The port and the user of a real server, whose connections end before the next test."""
    with listening(postgres) as there:
        yield there


def connect(driver: str, dsn: str) -> None:
    module: Any = pytest.importorskip(driver)
    module.connect(dsn).close()


def cure(driver: str, port: int) -> str:
    return (
        f"{driver} connected to 127.0.0.1:{port} through libpq, which is C: lead it through a "
        f"proxy with the fixture chaos_proxy: proxy = chaos_proxy('127.0.0.1:{port}'); "
        f"{driver}.connect(proxy.dsn(...)); then proxy.inject(...) what is injected here."
    )


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.parametrize(
    "form",
    [
        "postgresql://{user}@127.0.0.1:{port}/postgres",
        "host=127.0.0.1 port={port} user={user} dbname=postgres",
    ],
    ids=["url", "string"],
)
def test_libpq(
    lost: Callable[..., NeverFiredError], postgres_port: tuple[int, str], driver: str, form: str
) -> None:
    port, user = postgres_port
    error = lost(lambda: connect(driver, form.format(port=port, user=user)))
    seen = f"network.connect 127.0.0.1:{port} (by {driver} through libpq, which is C)"
    assert error.seen[0] == seen  # the server of this test is led on to a socket of its own
    assert str(error).endswith(f"\n  {cure(driver, port)}")


def test_libpq_under_asyncio(
    lost: Callable[..., NeverFiredError], postgres_port: tuple[int, str]
) -> None:
    psycopg = pytest.importorskip("psycopg")
    port, user = postgres_port

    async def connect() -> None:
        url = f"postgresql://{user}@localhost:{port}/postgres"
        async with await psycopg.AsyncConnection.connect(url) as connection:
            await connection.execute("SELECT 1")

    error = lost(lambda: asyncio.run(connect()), target=f"127.0.0.1:{port}")
    assert cure("psycopg", port).replace("127.0.0.1", "localhost") in str(error)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_what_libpq_is_told_by_the_environment(
    lost: Callable[..., NeverFiredError],
    postgres_port: tuple[int, str],
    driver: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port, user = postgres_port
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    monkeypatch.setenv("PGPORT", str(port))
    error = lost(lambda: connect(driver, f"user={user} dbname=postgres"), target=f"*:{port}")
    assert cure(driver, port) in str(error)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_connection_that_fails_is_noticed_too(
    lost: Callable[..., NeverFiredError], driver: str
) -> None:
    with serve(echo) as port:
        pass  # nobody listens there any more
    module: Any = pytest.importorskip(driver)

    def connect() -> None:
        with pytest.raises(module.OperationalError):
            module.connect(f"host=127.0.0.1 port={port} connect_timeout=5")

    assert cure(driver, port) in str(lost(connect))


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_unix_socket_is_no_network(
    lost: Callable[..., NeverFiredError], driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGHOST", raising=False)
    monkeypatch.delenv("PGHOSTADDR", raising=False)
    module: Any = pytest.importorskip(driver)

    def connect(dsn: str) -> None:
        with pytest.raises(module.OperationalError):
            module.connect(dsn)

    for dsn in ("host=/nowhere port=5433", "port=5433 dbname=nowhere"):
        text = str(lost(lambda dsn=dsn: connect(dsn), target="localhost:5433"))
        assert (
            f"{driver} connected through a unix socket, where there is no network: set host (or "
            "PGHOST) to an address such as 127.0.0.1, and lead it through a proxy with the "
            "fixture chaos_proxy: proxy = chaos_proxy('127.0.0.1:5433')"
        ) in text


@pytest.mark.parametrize("kind", ["network_failure", "service_failure"])
def test_other_experiments_of_the_network(
    engine: Engine, lost: Callable[..., NeverFiredError], postgres_port: tuple[int, str], kind: str
) -> None:
    port, user = postgres_port
    given: dict[str, Any] = {"mode": "reset"}
    if kind == "service_failure":
        engine.services.add(Service.at("shop", [f"127.0.0.1:{port}"]))
        given["target_services"] = "shop"
    dsn = f"host=127.0.0.1 port={port} user={user} dbname=postgres"
    assert cure("psycopg2", port) in str(lost(lambda: connect("psycopg2", dsn), kind, **given))


def test_an_aim_elsewhere_gets_no_such_advice(
    lost: Callable[..., NeverFiredError], postgres_port: tuple[int, str]
) -> None:
    port, user = postgres_port
    dsn = f"host=127.0.0.1 port={port} user={user} dbname=postgres"
    error = lost(lambda: connect("psycopg2", dsn), target="payments:443")
    assert sum("through libpq" in each for each in error.seen) == 1
    assert "Correct the target" in str(error)
    assert "chaos_proxy" not in str(error)


def test_names_are_no_business_of_a_proxy(
    lost: Callable[..., NeverFiredError], postgres_port: tuple[int, str]
) -> None:
    port, user = postgres_port
    dsn = f"host=127.0.0.1 port={port} user={user} dbname=postgres"
    error = lost(lambda: connect("psycopg2", dsn), "network_failure", mode="dns")
    assert "chaos_proxy" not in str(error)


def test_experiments_of_databases_reach_them(postgres_port: tuple[int, str]) -> None:
    port, user = postgres_port
    dsn = f"host=127.0.0.1 port={port} user={user} dbname=postgres"
    engine = new_engine(native=False)
    aimed = ChaosExperiment("slow", "database_slowdown", delay="1ms", match="DELETE*")
    here = ChaosExperiment("far", "network_latency", delay="1ms")
    running = [engine.start(each, seed=1) for each in (aimed, here)]
    connect("psycopg2", dsn)
    for each in running:
        each.stop()
    slow, far = (str(never_fired(each)) for each in running)
    assert "chaos_proxy" not in slow
    assert "chaos_proxy" in far


# --- gRPC ---


@pytest.fixture
def service() -> Iterator[int]:
    """The port of a gRPC server that answers with what it is asked."""
    grpc: Any = pytest.importorskip("grpc")
    handler = grpc.method_handlers_generic_handler(
        "Echo", {"Say": grpc.unary_unary_rpc_method_handler(lambda request, _: request)}
    )
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None).wait()


@pytest.mark.parametrize("scheme", ["", "dns:///", "ipv4:"])
def test_grpc(lost: Callable[..., NeverFiredError], service: int, scheme: str) -> None:
    grpc: Any = pytest.importorskip("grpc")

    def call() -> None:
        with grpc.insecure_channel(f"{scheme}127.0.0.1:{service}") as channel:
            assert channel.unary_unary("/Echo/Say")(b"hello", timeout=20) == b"hello"

    error = lost(call, target="127.0.0.1:*")
    assert error.seen == (f"network.connect 127.0.0.1:{service} (by grpc in C)",)
    assert (
        f"grpc connected to 127.0.0.1:{service} in C: lead it through a proxy with the fixture "
        f"chaos_proxy: proxy = chaos_proxy('127.0.0.1:{service}'); "
        "grpc.insecure_channel(proxy.listen)"
    ) in str(error)


@pytest.mark.may_block("where its last channel goes, grpc waits for a thread of its own")
def test_grpc_under_asyncio(lost: Callable[..., NeverFiredError], service: int) -> None:
    grpc: Any = pytest.importorskip("grpc")

    async def call() -> None:
        async with grpc.aio.insecure_channel(f"localhost:{service}") as channel:
            assert await channel.unary_unary("/Echo/Say")(b"hello", timeout=20) == b"hello"

    error = lost(lambda: asyncio.run(call()), target=f"127.0.0.1:{service}")
    assert "grpc.aio.insecure_channel(proxy.listen)" in str(error)


# --- a loop in C ---


def test_uvloop(lost: Callable[..., NeverFiredError]) -> None:
    import httpx
    import uvloop

    async def ask(port: int) -> None:
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"http://127.0.0.1:{port}/")).text == "yes"

    def answer(connection: Any) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes")

    with serve(answer) as port:
        error = lost(lambda: uvloop.run(ask(port)), target=f"127.0.0.1:{port}")
    assert (
        f"uvloop connected to 127.0.0.1:{port} in C, where asyncio's own loop would be reached: "
        "lead it through a proxy"
    ) in str(error)
    assert f"chaos_proxy('127.0.0.1:{port}'); connect to proxy.listen; then" in str(error)


# --- UDP ---


def send(port: int) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", ("127.0.0.1", port))


def send_with_flags(port: int) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", 0, ("127.0.0.1", port))


def send_message(port: int) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.sendmsg([b"x"], [], 0, ("127.0.0.1", port))


def send_connected(port: int) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        sock.send(b"x")


async def send_in_a_loop(port: int, *, connected: bool) -> None:
    loop = asyncio.get_running_loop()
    there = ("127.0.0.1", port)
    transport, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol,
        remote_addr=there if connected else None,
        family=0 if connected else socket.AF_INET,
    )
    transport.sendto(b"x", None if connected else there)
    transport.close()
    await asyncio.sleep(0)


async def send_in_trio(port: int) -> None:
    import trio

    with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
        await sock.sendto(b"x", ("127.0.0.1", port))


def send_in_uvloop(port: int) -> None:
    import uvloop

    uvloop.run(send_in_a_loop(port, connected=True))


def run_in_trio(port: int) -> None:
    import trio

    trio.run(send_in_trio, port)


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(20)
        yield sock


@pytest.mark.parametrize(
    "action",
    [
        send,
        send_with_flags,
        send_message,
        send_connected,
        lambda port: asyncio.run(send_in_a_loop(port, connected=True)),
        lambda port: asyncio.run(send_in_a_loop(port, connected=False)),
        run_in_trio,
    ],
    ids=["sendto", "flags", "sendmsg", "connect", "asyncio-connected", "asyncio", "trio"],
)
def test_datagrams(
    lost: Callable[..., NeverFiredError],
    receiver: socket.socket,
    action: Callable[[int], object],
) -> None:
    port = receiver.getsockname()[1]
    error = lost(lambda: action(port), target=f"localhost:{port}")
    assert receiver.recv(10) == b"x"
    assert error.seen == (f"network.send_datagram 127.0.0.1:{port} (UDP)",)
    assert str(error).endswith(
        f"\n  Datagrams went to 127.0.0.1:{port}, over UDP, where there are no connections: "
        "those that come back can be late (network_latency), and those that are sent with "
        "stream='upstream'; by network_failure they are lost (mode='drop', 'timeout', "
        "'partition'), doubled ('duplicate'), out of order ('reorder') or refused ('refuse')."
    )


def test_datagrams_in_uvloop(lost: Callable[..., NeverFiredError], receiver: socket.socket) -> None:
    port = receiver.getsockname()[1]
    error = lost(lambda: send_in_uvloop(port), target=f"localhost:{port}")
    assert receiver.recv(10) == b"x"
    assert error.seen == (f"network.send_datagram 127.0.0.1:{port} (UDP, by uvloop in C)",)
    assert (
        f"uvloop sent datagrams to 127.0.0.1:{port} in C: lead it through a proxy with the fixture "
        f"chaos_proxy: proxy = chaos_proxy('127.0.0.1:{port}', protocol='udp'); send to "
        "proxy.address; then"
    ) in str(error)


def test_name_servers_asked_by_pycares(
    lost: Callable[..., NeverFiredError], receiver: socket.socket
) -> None:
    import pycares

    port = receiver.getsockname()[1]

    def ask() -> None:
        with closing(pycares.Channel(servers=[HOST], udp_port=port)) as channel:
            channel.query("a.test", pycares.QUERY_TYPE_A, callback=lambda *_: None)
            assert b"test" in receiver.recv(100)

    error = lost(ask, target=f"{HOST}:{port}")
    assert error.seen == (f"network.send_datagram {HOST}:{port} (UDP, by pycares (aiodns) in C)",)
    assert f"proxy = chaos_proxy('{HOST}:{port}', protocol='udp'); aiodns.DNSResolver(" in str(
        error
    )


def test_datagrams_of_a_socket_connected_before(
    lost: Callable[..., NeverFiredError], receiver: socket.socket
) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.connect(receiver.getsockname())
        assert "Datagrams went to 127.0.0.1:" in str(lost(lambda: sock.send(b"x")))


def test_datagrams_elsewhere_get_no_such_advice(
    lost: Callable[..., NeverFiredError], receiver: socket.socket
) -> None:
    error = lost(lambda: send(receiver.getsockname()[1]), target="payments:443")
    assert "Datagrams" not in str(error)


# --- names ---


@pytest.mark.parametrize("mode", ["lose_answer", "truncate", "corrupt"])
@pytest.mark.parametrize("client", ["blocking", "asyncio", "httpx", "trio"])
def test_a_name_that_does_not_resolve(
    lost: Callable[..., NeverFiredError], client: str, mode: str
) -> None:
    def connect() -> None:
        import httpx
        import trio

        async def in_asyncio() -> None:
            await asyncio.open_connection("payments.invalid", 443)

        actions: dict[str, Callable[[], object]] = {
            "blocking": lambda: socket.create_connection(("payments.invalid", 443), timeout=20),
            "asyncio": lambda: asyncio.run(in_asyncio()),
            "httpx": lambda: httpx.get("http://payments.invalid:443/"),
            "trio": lambda: trio.run(trio.open_tcp_stream, "payments.invalid", 443),
        }
        with pytest.raises((OSError, httpx.ConnectError)):
            actions[client]()

    error = lost(connect, "network_failure", mode=mode, target="payments.invalid:443")
    assert "network.resolve payments.invalid:443 (does not resolve here)" in error.seen
    found = str(error).splitlines()[-1]
    assert found.startswith("  payments.invalid:443 does not resolve here (")
    assert found.endswith(
        "), so that nothing connected: use a name that does, or an address, or a fault that needs "
        "no server: refuse, timeout, reset, status; or, if this is what you test, mode='dns'."
    )


def test_a_name_elsewhere_gets_no_such_advice(lost: Callable[..., NeverFiredError]) -> None:
    def connect() -> None:
        with pytest.raises(OSError):
            socket.create_connection(("payments.invalid", 443), timeout=20)

    assert "mode='dns'" not in str(lost(connect, target="shop.internal"))


# --- MySQL ---


def test_mysqlclient(lost: Callable[..., NeverFiredError]) -> None:
    driver: Any = pytest.importorskip("MySQLdb", reason="mysqlclient is not installed")
    with serve(echo) as port:
        pass  # nobody listens there any more

    def connect(**where: Any) -> None:
        with pytest.raises(driver.OperationalError):
            driver.connect(port=port, connect_timeout=5, **where)

    assert (
        f"proxy = chaos_proxy('127.0.0.1:{port}'); MySQLdb.connect(host=proxy.host, "
        "port=proxy.port, ...)"
    ) in str(lost(lambda: connect(host="127.0.0.1")))
    assert "set host to an address" in str(lost(lambda: connect(unix_socket="/nowhere")))


# --- manners ---


def test_everything_is_put_back(inject: Inject) -> None:
    psycopg, psycopg2 = pytest.importorskip("psycopg"), pytest.importorskip("psycopg2")
    places = [(psycopg.BaseConnection, "_connect_gen"), (psycopg2, "_connect")]
    before = [vars(owner)[name] for owner, name in places]
    with inject("network_latency"):
        assert [vars(owner)[name] for owner, name in places] != before
    assert [vars(owner)[name] for owner, name in places] == before


def test_drivers_are_not_loaded_for_it() -> None:
    program = (
        "import sys\n"
        "from pytest_resilience import ChaosExperiment\n"
        "from pytest_resilience.runtime import new_engine\n"
        "engine = new_engine()\n"
        "engine.start(ChaosExperiment('x', 'network_latency'), seed=1)\n"
        "print({'psycopg', 'psycopg2', 'grpc', 'MySQLdb'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "set()\n"


def test_one_that_is_loaded_later_is_noticed() -> None:
    program = (
        "from pytest_resilience import ChaosExperiment\n"
        "from pytest_resilience.diagnosis import never_fired\n"
        "from pytest_resilience.runtime import new_engine\n"
        "engine = new_engine(native=False)\n"
        "running = engine.start(ChaosExperiment('x', 'network_latency'), seed=1)\n"
        "import grpc\n"
        "grpc.insecure_channel('shop.internal:443').close()\n"
        "print(never_fired(running))\n"
    )
    pytest.importorskip("grpc")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert "proxy = chaos_proxy('shop.internal:443')" in done.stdout


def test_what_makes_no_sense_is_for_the_driver_to_say(inject: Inject) -> None:
    psycopg, psycopg2 = pytest.importorskip("psycopg"), pytest.importorskip("psycopg2")
    with inject("network_latency"):
        with pytest.raises(psycopg.ProgrammingError):
            psycopg.connect("nonsense")
        with pytest.raises(psycopg2.ProgrammingError):
            psycopg2.connect("nonsense")
