from __future__ import annotations

import errno
import logging
import os
import socket
import subprocess
import sys
import threading

from collections.abc import Callable

import pytest

from pytest_resilience import ConfigurationError
from pytest_resilience import ShutdownError
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.interceptors.sockets.interceptor import SocketInterceptor
from pytest_resilience.interceptors.sockets.socket_classes import listening_ports
from pytest_resilience.proxy import ChaosProxy
from tests.proxy.conftest import Serve
from tests.proxy.conftest import ask
from tests.proxy.conftest import echo
from tests.proxy.conftest import read_all
from tests.proxy.conftest import receive
from tests.proxy.conftest import until
from tests.resets import reset_when_closed


Connect = Callable[[], socket.socket]


def test_it_leads_to_the_server(proxy: ChaosProxy, connect: Connect) -> None:
    assert proxy.address == (proxy.host, proxy.port) == ("127.0.0.1", proxy.port)
    first, second = connect(), connect()
    assert ask(first, b"one") == b"one"
    assert ask(second, b"two") == b"two"
    assert (proxy.connections, proxy.accepted) == (2, 2)
    first.close()
    until(lambda: proxy.connections == 1)
    assert ask(second) == b"ping"


def test_what_passes_is_what_was_sent(connect: Connect) -> None:
    client = connect()
    sent = os.urandom(20_000_000)
    sender = threading.Thread(target=client.sendall, args=(sent,))
    sender.start()
    assert receive(client, len(sent)) == sent
    sender.join(10)


def test_a_slow_reader_holds_its_sender_up(serve: Serve) -> None:
    sent: list[int] = []
    stuck = threading.Event()

    def pour(connection: socket.socket) -> None:
        connection.settimeout(0.2)
        try:
            while True:
                sent.append(connection.send(bytes(65536)))
        except TimeoutError:
            stuck.set()

    with (
        ChaosProxy(("127.0.0.1", serve(pour))) as proxy,
        socket.create_connection(proxy.address, timeout=10) as client,
    ):
        assert stuck.wait(30)
        assert sum(sent) < 64 * 2**20
        assert len(read_all(client)) == sum(sent)


def test_one_direction_can_end_before_the_other(serve: Serve) -> None:
    def count(connection: socket.socket) -> None:
        connection.sendall(b"%d" % len(read_all(connection)))

    with (
        ChaosProxy(("127.0.0.1", serve(count))) as proxy,
        socket.create_connection(proxy.address, timeout=10) as client,
    ):
        client.sendall(b"four")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"4"
        until(lambda: proxy.connections == 0)


def test_a_server_that_resets_is_seen_to_reset(serve: Serve) -> None:
    def reset(connection: socket.socket) -> None:
        connection.sendall(b"bye")
        receive(connection, 2)
        reset_when_closed(connection)

    with (
        ChaosProxy(("127.0.0.1", serve(reset))) as proxy,
        socket.create_connection(proxy.address, timeout=10) as client,
    ):
        assert receive(client, 3) == b"bye"
        client.sendall(b"ok")
        with pytest.raises(ConnectionResetError) as caught:
            client.recv(1)
        assert caught.value.errno == errno.ECONNRESET


def test_a_client_that_resets_is_seen_to_reset(serve: Serve) -> None:
    seen: list[object] = []

    def wait(connection: socket.socket) -> None:
        connection.sendall(b"x")
        try:
            seen.append(connection.recv(1))
        except OSError as error:
            seen.append(error.errno)

    with ChaosProxy(("127.0.0.1", serve(wait))) as proxy:
        client = socket.create_connection(proxy.address, timeout=10)
        assert client.recv(1) == b"x"
        reset_when_closed(client)
        client.close()
        until(lambda: bool(seen))
    assert seen == [errno.ECONNRESET]


def test_closing_leaves_nothing(serve: Serve) -> None:
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    port = serve(echo)
    with socket.create_connection(("127.0.0.1", port)) as direct:
        direct.sendall(b"x")
    proxy = ChaosProxy(("127.0.0.1", port))
    proxy.add("latency", latency="1h")
    client = socket.create_connection(proxy.address, timeout=10)
    client.sendall(b"x")
    until(lambda: proxy.connections == 1)
    proxy.close()
    proxy.close()
    assert read_to_the_end(client) in (b"", errno.ECONNRESET)
    client.close()
    assert proxy.connections == 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("proxy")]
    # The server of this test has a listener and its thread; connections end by themselves.
    until(lambda: len(os.listdir("/proc/self/fd")) <= before[1] + 1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(proxy.address)
    with pytest.raises(ShutdownError, match=r"(?m)^the proxy is closed; make a new one$"):
        proxy.add("slicer")


def read_to_the_end(client: socket.socket) -> object:
    try:
        return read_all(client)
    except OSError as error:
        return error.errno


def test_disabled_it_refuses_and_cuts(proxy: ChaosProxy, connect: Connect) -> None:
    client = connect()
    assert ask(client) == b"ping"
    address = proxy.address
    with proxy.down():
        assert not proxy.enabled
        assert read_all(client) == b""
        with pytest.raises(ConnectionRefusedError) as caught:
            connect()
        assert caught.value.errno == errno.ECONNREFUSED
        proxy.disable()
        # Nobody else can take the port meanwhile.
        with pytest.raises(OSError, match="in use"), socket.socket() as thief:
            thief.bind(address)
    assert proxy.address == address
    assert ask(connect()) == b"ping"


def test_it_can_begin_disabled(serve: Serve) -> None:
    with ChaosProxy(("127.0.0.1", serve(echo)), enabled=False) as proxy:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(proxy.address)
        proxy.enable()
        with socket.create_connection(proxy.address, timeout=10) as client:
            assert ask(client) == b"ping"


def test_it_can_lead_and_listen_elsewhere(
    proxy: ChaosProxy, connect: Connect, serve: Serve
) -> None:
    client = connect()
    assert ask(client) == b"ping"
    there = serve(lambda connection: connection.sendall(b"elsewhere"))
    listen = proxy.listen
    proxy.move(upstream=("127.0.0.1", there))
    assert (proxy.upstream, proxy.listen) == (f"127.0.0.1:{there}", listen)
    assert read_all(client) == b""
    assert read_all(connect()) == b"elsewhere"
    proxy.move(listen="127.0.0.1:0")
    assert read_all(connect()) == b"elsewhere"


def test_reset_makes_it_as_new(proxy: ChaosProxy, connect: Connect) -> None:
    proxy.add("timeout")
    proxy.disable()
    proxy.reset()
    assert proxy.toxics == ()
    assert ask(connect()) == b"ping"


def test_a_server_that_is_down_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with ChaosProxy(("127.0.0.1", port), name="orders") as proxy:
        assert proxy.unreachable is None
        with (
            caplog.at_level(logging.WARNING, "pytest_resilience.proxy"),
            pytest.raises(ConnectionResetError),
            socket.create_connection(proxy.address, timeout=10) as client,
        ):
            client.recv(1)
        until(lambda: bool(caplog.messages))
        assert isinstance(proxy.unreachable, ConnectionRefusedError)
        assert caplog.messages == [
            (
                f"the proxy at {proxy.listen} cannot reach 127.0.0.1:{port}: "
                f"[Errno {errno.ECONNREFUSED}] Connection refused"
            )
        ]


def test_a_server_of_two_addresses_is_tried_at_both(serve: Serve) -> None:
    """`localhost` is ::1 too, where this server is not."""
    with (
        ChaosProxy(("localhost", serve(echo))) as proxy,
        socket.create_connection(proxy.address, timeout=10) as client,
    ):
        assert ask(client) == b"ping"


@pytest.mark.parametrize("listen", ["[::1]:0", ("localhost", 0), "127.3.2.1:0"])
def test_it_listens_on_any_loopback(serve: Serve, listen: str) -> None:
    with (
        ChaosProxy(("127.0.0.1", serve(echo)), listen) as proxy,
        socket.create_connection(proxy.address, timeout=10) as client,
    ):
        assert ask(client) == b"ping"
        assert repr(proxy).startswith(f"<ChaosProxy '{proxy.upstream}' {proxy.listen} -> ")


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:8000", ("10.0.0.1", 1), ("", 0), "db:1"])
def test_it_listens_nowhere_else(listen: str) -> None:
    with pytest.raises(ConfigurationError, match="is not loopback, and a proxy listens nowhere"):
        ChaosProxy("127.0.0.1:1", listen)


@pytest.mark.parametrize(
    ("upstream", "text"),
    [
        ("localhost", "upstream='localhost' has no port; give 'host:port' or (host, port)"),
        ("::1", "upstream='::1' has no port; give 'host:port' or (host, port)"),
        ("http://a:1", "upstream='http://a:1' is a URL; give 'host:port' or (host, port)"),
        (("localhost",), "upstream=('localhost',) is no address; give 'host:port' or (host, port)"),
        ("localhost:x", "upstream='localhost:x': a port is a number up to 65535{SAY}"),
        (
            ("localhost", 65536),
            "upstream=('localhost', 65536): a port is a number up to 65535{SAY}",
        ),
        (("localhost", True), "upstream=('localhost', True): a port is a number up to 65535{SAY}"),
        ("localhost:0", "upstream='localhost:0' needs a host and a port to connect to{SAY}"),
        (":80", "upstream=':80' needs a host and a port to connect to{SAY}"),
    ],
)
def test_addresses_that_are_none(upstream: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ChaosProxy(upstream)
    assert str(caught.value) == text.replace("{SAY}", "; write 'db:5432', say")


def test_a_server_without_an_address() -> None:
    with pytest.raises(ConfigurationError, match=r"upstream='no\.invalid:80' cannot be resolved: "):
        ChaosProxy("no.invalid:80")


def test_a_port_that_is_taken(proxy: ChaosProxy, serve: Serve) -> None:
    threads = threading.active_count()
    taken = serve(echo)
    for port in (taken, proxy.port):
        with pytest.raises(ConfigurationError) as caught:
            ChaosProxy("127.0.0.1:1", ("127.0.0.1", port))
        assert str(caught.value) == (
            f"cannot listen on 127.0.0.1:{port}: Address already in use; give another port, or "
            "port 0 for any that is free"
        )
        with pytest.raises(ConfigurationError, match="Address already in use"):
            proxy.move(listen=("127.0.0.1", taken))
    until(lambda: threading.active_count() <= threads + 1)
    with socket.create_connection(proxy.address, timeout=10) as client:
        assert ask(client) == b"ping"


def test_experiments_on_this_process_leave_its_own_traffic_alone(serve: Serve) -> None:
    """Its sockets are nobody's client: a fault on every connection happens once, not twice."""
    engine = Engine(lambda engine: [SocketInterceptor(engine)])
    with ChaosProxy(("127.0.0.1", serve(echo))) as proxy:
        refused = engine.start(
            ChaosExperiment("x", "network_failure", mode="refuse", rate=1, target=proxy.upstream),
            seed=1,
        )
        try:
            with socket.create_connection(proxy.address, timeout=10) as client:
                assert ask(client) == b"ping"
        finally:
            refused.stop()
    assert refused.matched == 0


def test_it_works_without_pytest() -> None:
    program = (
        "import sys; from pytest_resilience.proxy import ChaosProxy; ChaosProxy('127.0.0.1:1')"
        ".close(); print([name for name in ('pytest', 'asyncio', 'requests', 'psutil', 'ssl')"
        " if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_nothing_controls_it_unless_asked_for(serve: Serve) -> None:
    """Its own port is all that it opens."""
    upstream = serve(echo)
    before = listening_ports()
    with ChaosProxy(("127.0.0.1", upstream)) as proxy:
        assert listening_ports() - before == {proxy.port}
