"""What counts as an operation, who is hit and who is left alone."""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import os
import select
import socket
import threading
import time

from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from pytest_resilience import ChaosExperiment
from pytest_resilience import FaultInjected
from pytest_resilience import ManualClock
from pytest_resilience.chaos.descriptors import readable
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.diagnosis import never_fired
from pytest_resilience.interceptors.sockets import receive
from pytest_resilience.interceptors.sockets.interceptor import SocketInterceptor
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection
from pytest_resilience.virtual_time.clock import VirtualClock
from tests.clocks import MovableClock
from tests.injecting import Inject
from tests.interceptors.conftest import echo
from tests.interceptors.conftest import outcome
from tests.interceptors.conftest import serve
from tests.waiting import eventually


@contextlib.contextmanager
def connected(port: int, timeout: float | None = 5) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as client:
        yield client


@contextlib.contextmanager
def accepted() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client, and what was accepted for it."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        connected(listener.getsockname()[1]) as client,
        listener.accept()[0] as server,
    ):
        yield client, server


def ask(client: socket.socket, text: bytes = b"hello") -> bytes:
    client.sendall(text)
    return client.recv(100)


def kinds(events: list[FaultInjected]) -> list[str]:
    return [event.kind.removeprefix("network.") for event in events]


def test_latency_is_paid_by_connect_and_by_each_turn(
    echo_port: int, inject: Inject, events: list[FaultInjected]
) -> None:
    with inject("network_latency", delay=0.02) as latency:
        started = time.monotonic()
        with connected(echo_port) as client:
            assert time.monotonic() - started >= 0.02
            started = time.monotonic()
            for _ in range(3):
                assert ask(client) == b"hello"
            assert time.monotonic() - started >= 0.06
    assert kinds(events) == ["connect", "receive", "receive", "receive"]
    assert latency.delay >= 0.08 - 1e-9


def test_a_delay_counts_from_the_request_on_whenever_the_client_asks(inject: Inject) -> None:
    with (
        VirtualClock() as clock,
        accepted() as (client, peer),
    ):
        with inject("network_latency", delay=5) as latency:
            client.sendall(b"hello")
            peer.sendall(b"world")
            clock.advance(3)  # the client has other things to do
            began = clock.elapsed
            assert client.recv(5) == b"world"
        assert clock.elapsed - began == pytest.approx(2)
        assert latency.delay == pytest.approx(5)


def test_many_sends_or_receives_in_a_row_are_one_turn(
    echo_port: int, inject: Inject, events: list[FaultInjected]
) -> None:
    with inject("network_latency", delay=0.001), connected(echo_port) as client:
        for part in (b"a", b"b", b"c"):
            client.send(part)
        received = b""
        while len(received) < 3:
            received += client.recv(1)
        assert received == b"abc"
    assert kinds(events) == ["connect", "receive"]


def test_a_redis_pipeline_is_one_turn(inject: Inject, events: list[FaultInjected]) -> None:
    def resp(connection: socket.socket) -> None:
        while data := connection.recv(65536):
            connection.sendall(b"+OK\r\n" * data.count(b"*"))

    with serve(resp) as port, redis.Redis(port=port, protocol=2) as client:
        client.set("warm", 1)
        with inject("network_latency", delay=0.001):
            pipeline = client.pipeline(transaction=False)
            for number in range(20):
                pipeline.set(f"key{number}", number)
            assert pipeline.execute() == [True] * 20
    assert kinds(events) == ["receive"]


def test_the_delay_comes_on_top_of_what_the_peer_takes(inject: Inject) -> None:
    asked, answer = threading.Event(), threading.Event()

    def patient(connection: socket.socket) -> None:
        connection.recv(100)
        asked.set()
        assert answer.wait(10)
        connection.sendall(b"late")

    with serve(patient) as port, inject("network_latency", delay=0.03), connected(port) as client:
        client.sendall(b"x")
        assert asked.wait(10)
        answered = []

        def answer_later() -> None:
            answered.append(time.monotonic())
            answer.set()

        threading.Timer(0.03, answer_later).start()
        assert client.recv(100) == b"late"
        assert time.monotonic() >= answered[0] + 0.03


def test_what_it_takes_to_decide_is_no_part_of_the_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a response that has not come by then: however long that takes, it is never early."""
    begin_response = TcpConnection.begin_response

    def decides_late(connection: TcpConnection, engine: Engine, **options: Any) -> Any:
        engine.clock.advance(0.03)  # type: ignore[attr-defined]  # a machine without time for us
        return begin_response(connection, engine, **options)

    monkeypatch.setattr(TcpConnection, "begin_response", decides_late)
    assert _delayed_by(0.04, monkeypatch) == pytest.approx(0.04)


@pytest.mark.parametrize(("took", "is_a_part"), [(0.0009, True), (0.0011, False)])
def test_what_a_near_peer_takes_is_a_part_of_the_delay(
    took: float, is_a_part: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where its response is there by the time somebody looks: who is first is chance."""
    delayed = _delayed_by(0.04, monkeypatch, took=took)
    assert delayed == pytest.approx(0.04 - took * is_a_part, abs=1e-6)


@pytest.mark.parametrize(("took", "is_a_part"), [(0.0009, True), (0.0011, False)])
def test_what_a_send_takes_that_waits_for_nothing_is_a_part_of_the_delay(
    took: float, is_a_part: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's clock has run since then, and to find out who is concerned takes a while too."""
    begin_request = TcpConnection.begin_request

    def takes_a_while(connection: TcpConnection, engine: Engine, message: bytes) -> None:
        engine.clock.advance(took)  # type: ignore[attr-defined]  # a machine without time for us
        begin_request(connection, engine, message)

    monkeypatch.setattr(TcpConnection, "begin_request", takes_a_while)
    delayed = _delayed_by(0.04, monkeypatch)
    assert delayed == pytest.approx(0.04 - took * is_a_part, abs=1e-6)


def _delayed_by(delay: float, monkeypatch: pytest.MonkeyPatch, took: float = 0.0) -> float:
    """How long a response is held up that comes `took` seconds after it is awaited."""
    clock, awaited = ManualClock(), threading.Event()
    engine = Engine(lambda engine: [SocketInterceptor(engine)], clock=clock)

    def awaits(sock: socket.socket, timeout: float | None) -> bool:
        if timeout != 0:
            clock.advance(took)
            awaited.set()
        return readable(sock, timeout)

    def patient(connection: socket.socket) -> None:
        connection.recv(100)
        assert awaited.wait(10)
        connection.sendall(b"late")

    with serve(patient) as port, connected(port) as client:
        active_experiment = engine.start(
            ChaosExperiment("x", "network_latency", delay=delay), seed=1
        )
        client.sendall(b"x")
        monkeypatch.setattr(receive, "readable", awaits)
        assert client.recv(100) == b"late"
        active_experiment.stop()
    (slept,) = clock.sleeps
    return slept


def test_time_the_client_spends_elsewhere_counts(echo_port: int) -> None:
    """An answer that has arrived meanwhile is delayed from the send on."""
    clock = ManualClock()
    engine = Engine(lambda engine: [SocketInterceptor(engine)], clock=clock)
    active_experiment = engine.start(ChaosExperiment("x", "network_latency", delay=0.04), seed=1)
    with connected(echo_port) as client:
        client.sendall(b"x")
        assert readable(client, 10)  # the answer is there
        clock.advance(0.03)  # but the client is busy
        assert client.recv(100) == b"x"
    active_experiment.stop()
    assert clock.sleeps == pytest.approx([0.04, 0.01])  # connecting, and the rest


def test_a_shorter_socket_timeout_fires_and_the_answer_still_comes(
    echo_port: int, movable: MovableClock, inject_by: Inject
) -> None:
    with (
        connected(echo_port) as client,
        inject_by("network_latency", delay=50, duration=200) as latency,
    ):
        client.settimeout(0.05)
        started = movable.monotonic()
        client.sendall(b"hello")
        for _ in range(2):
            with pytest.raises(TimeoutError, match=r"^timed out$"):
                client.recv(100)
        assert movable.monotonic() - started >= 0.1
        movable.advance(50 - 0.15)
        client.settimeout(5)
        assert client.recv(100) == b"hello"
        assert movable.monotonic() - started >= 49.999  # since the send
        assert latency.matched == 1
        client.sendall(b"again")
        assert readable(client, 10)  # the answer is there
        movable.advance(50 - 0.05)
        assert client.recv(100) == b"again"
        assert latency.matched == 2


def test_a_peer_who_does_not_answer_times_out_as_ever(silent_port: int, inject: Inject) -> None:
    """There is no answer that could be delayed."""
    with connected(silent_port, 0.05) as client, inject("network_latency", delay=60):
        started = time.monotonic()
        client.sendall(b"hello")
        with pytest.raises(TimeoutError, match=r"^timed out$"):
            client.recv(100)
        assert time.monotonic() - started >= 0.049


def test_stacked_latencies_add_up(echo_port: int) -> None:
    clock = ManualClock()
    engine = Engine(lambda engine: [SocketInterceptor(engine)], clock=clock)
    running = [
        engine.start(ChaosExperiment(f"{delay}", "network_latency", delay=delay), seed=1)
        for delay in (0.01, 0.02)
    ]
    with connected(echo_port):
        assert clock.sleeps == [0.03]
    for active_experiment in running:
        active_experiment.stop()
    assert [active_experiment.delay for active_experiment in running] == pytest.approx([0.01, 0.02])


def test_a_timeout_while_connecting_leaves_the_rest_for_the_attempt(
    echo_port: int, inject: Inject
) -> None:
    with inject("network_latency", delay=0.02), socket.socket() as client:
        client.settimeout(5)
        client.connect(("127.0.0.1", echo_port))
        assert client.gettimeout() == 5


def test_servers_in_the_same_process_are_left_alone(echo_port: int, inject: Inject) -> None:
    with (
        connected(echo_port) as before,
        inject("network_failure", mode="reset", rate=1, first=1) as failure,
        connected(echo_port) as after,
    ):
        with pytest.raises(ConnectionResetError):
            ask(before)
        assert ask(after) == b"hello"
    assert failure.matched == 2


def test_a_connection_accepted_before_is_known_for_what_it_is(inject: Inject) -> None:
    with accepted() as (client, server), inject("network_failure", mode="reset", rate=1) as failure:
        client.sendall(b"hello")
        assert server.recv(100) == b"hello"
        server.sendall(b"hello")
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    assert failure.matched == 1


def test_who_asks_while_it_is_removed_leaves_nothing_for_the_next_time(inject: Inject) -> None:
    class Preempted(socket.socket):
        """Its thread is preempted on the way to its connection."""

        may_go_on = threading.Event()
        asked = threading.Event()

        def fileno(self) -> int:
            self.asked.set()
            assert self.may_go_on.wait(10)
            return super().fileno()

    Preempted.may_go_on.set()
    ours = Preempted()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
    with ours, theirs, ThreadPoolExecutor() as pool:
        theirs.sendall(b"late")
        with inject("network_failure", mode="reset", rate=1, target="elsewhere.example"):
            Preempted.may_go_on.clear()
            Preempted.asked.clear()
            received = pool.submit(ours.recv, 100)
            assert Preempted.asked.wait(10)
        Preempted.may_go_on.set()
        assert received.result(10) == b"late"
    with accepted() as (client, server), inject("network_failure", mode="reset", rate=1) as failure:
        client.sendall(b"hello")
        assert server.recv(100) == b"hello"
    assert failure.matched == 0


def test_a_server_that_listens_no_more_is_known_for_what_it_is(inject: Inject) -> None:
    with inject("network_failure", mode="reset", rate=1) as failure:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname(), timeout=5)
            server, _ = listener.accept()
        with client, server:
            client.sendall(b"hello")
            assert server.recv(100) == b"hello"
            server.sendall(b"bye")
        assert failure.matched == 0


def test_connections_opened_before_are_hit(echo_port: int, inject: Inject) -> None:
    with connected(echo_port) as client:
        ask(client)
        with inject("network_failure", mode="reset", rate=1), pytest.raises(ConnectionResetError):
            ask(client)


@pytest.mark.parametrize(
    ("target", "hit"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:{port}", True),
        ("127.*:*", True),
        ("localhost", True),
        ("LOCAL*:{port}", True),
        ("elsewhere|localhost:*", True),
        ("127.0.0.1:1", False),
        ("elsewhere", False),
        ("[::1]:{port}", False),
    ],
)
def test_targets(echo_port: int, inject: Inject, target: str, hit: bool) -> None:
    aim = target.format(port=echo_port)
    with inject("network_failure", rate=1, target=aim) as failure:
        for host in ("127.0.0.1", "localhost"):
            if hit:
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection((host, echo_port), timeout=5)
            else:
                socket.create_connection((host, echo_port), timeout=5).close()
    assert (failure.hits > 0) is hit


def test_names_that_share_an_address_are_told_apart(
    echo_port: int, inject: Inject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(host: str, *args: Any, **kwargs: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", echo_port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with inject("network_failure", rate=1, target="*.one.example") as failure:
        socket.create_connection(("api.two.example", echo_port), timeout=5).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("api.one.example", echo_port), timeout=5)
        socket.create_connection(("api.two.example", echo_port), timeout=5).close()
    assert failure.matched == 1


def test_a_connection_keeps_its_name_in_another_socket_object(
    echo_port: int, inject: Inject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in TLS, where the descriptor moves; other names may be looked up meanwhile."""

    def resolve(host: str, *args: Any, **kwargs: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", echo_port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with inject("network_failure", mode="reset", rate=1, target="one.example"):
        plain = socket.create_connection(("one.example", echo_port), timeout=5)
        socket.create_connection(("two.example", echo_port), timeout=5).close()
        with (
            socket.socket(fileno=plain.detach()) as moved,
            pytest.raises(ConnectionResetError),
        ):
            ask(moved)


def test_host_names_are_not_resolved_under_a_dns_failure(echo_port: int, inject: Inject) -> None:
    with inject("network_failure", mode="dns", rate=1, target="localhost") as failure:
        for resolve in (socket.getaddrinfo, lambda host, _: socket.gethostbyname(host)):
            with pytest.raises(socket.gaierror, match="Temporary failure in name resolution"):
                resolve("localhost", echo_port)
        for connect in (socket.socket.connect, socket.socket.connect_ex):
            with socket.socket() as client, pytest.raises(socket.gaierror):
                connect(client, ("localhost", echo_port))
        assert socket.getaddrinfo("127.0.0.1", echo_port)  # no name, nobody to ask
        assert socket.getaddrinfo(None, 0)
        with connected(echo_port) as plain:
            assert ask(plain) == b"hello"
    assert failure.hits == 4


@pytest.mark.parametrize(
    ("owner", "name"),
    [(os, "write"), (select, "select"), (socket, "gethostbyname"), (socket.socket, "recv")],
)
def test_what_lies_under_another_tools_patch_is_made_anew(
    owner: Any, name: str, inject: Inject, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = getattr(owner, name)
    with monkeypatch.context() as tool:
        with inject("network_failure"):
            replaced = getattr(owner, name)
            tool.setattr(owner, name, functools.partial(replaced))
        for _ in range(2):
            with (
                inject("network_failure", mode="dns") as failure,
                pytest.raises(socket.gaierror),
            ):
                socket.getaddrinfo("localhost", 80)
            assert failure.hits == 1
    with inject("network_failure"):
        pass
    assert getattr(owner, name) is before


def test_a_closed_socket_is_what_it_was(echo_port: int, inject: Inject) -> None:
    with inject("network_failure", mode="reset", rate=1) as failure:
        with connected(echo_port) as client:
            pass
        for action in (lambda: client.send(b"x"), lambda: client.recv(1)):
            assert outcome(action) == f"OSError {errno.EBADF}"
        with socket.socket() as never_connected:
            assert outcome(lambda: never_connected.recv(1)) == f"OSError {errno.ENOTCONN}"
    assert failure.matched == 0


def test_non_blocking_sockets_are_never_made_to_wait_for_a_connection(
    echo_port: int, inject: Inject, events: list[FaultInjected]
) -> None:
    with inject("network_latency", delay=60) as latency, socket.socket() as client:
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", echo_port))
    assert events == []
    error = str(never_fired(latency))
    assert "(begun without blocking, in no loop of asyncio or trio)" in error
    assert "This fault makes callers wait, and nobody waits for what begins" in error


def test_non_blocking_sockets_are_reset_when_the_answer_is_there(inject: Inject) -> None:
    def receive_until_it_fails(client: socket.socket) -> None:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError):
                client.recv(100)

    with (
        serve(echo) as port,
        connected(port) as client,
        inject("network_failure", mode="reset", rate=1),
    ):
        client.sendall(b"hello")
        client.setblocking(False)
        with pytest.raises(ConnectionResetError):
            receive_until_it_fails(client)


def test_datagrams_and_unix_sockets_are_no_connections(inject: Inject, tmp_path: Path) -> None:
    with inject("network_failure", mode="reset", rate=1) as failure:
        one, two = socket.socketpair()
        with one, two:
            one.sendall(b"x")
            assert two.recv(1) == b"x"
        with socket.socket(type=socket.SOCK_DGRAM) as receiver:
            receiver.bind(("127.0.0.1", 0))
            with socket.socket(type=socket.SOCK_DGRAM) as sender:
                sender.connect(receiver.getsockname())
                sender.send(b"x")
                assert receiver.recv(1) == b"x"
    assert failure.matched == 0
    assert never_fired(failure).seen[0].endswith("(UDP)")
    with (
        inject("network_failure", mode="refuse", rate=1) as failure,
        socket.socket(socket.AF_UNIX) as local,
        pytest.raises(FileNotFoundError),
    ):
        local.connect(str(tmp_path / "nobody"))
    assert failure.matched == 0
    assert never_fired(failure).seen == (
        f"network.connect {tmp_path}/nobody (a socket of the file system)",
    )


def test_every_way_to_send_and_receive(echo_port: int, inject: Inject, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"hello")

    def send_file(client: socket.socket) -> None:
        with file.open("rb") as source:
            client.sendfile(source)

    sends: list[Callable[[socket.socket], Any]] = [
        lambda client: client.send(b"hello"),
        lambda client: client.sendall(b"hello"),
        lambda client: client.sendmsg([b"hel", b"lo"]),
        send_file,
    ]
    receives: list[Callable[[socket.socket], Any]] = [
        lambda client: client.recv(100),
        lambda client: client.recv_into(bytearray(100)),
        lambda client: client.recvfrom(100),
        lambda client: client.recvfrom_into(bytearray(100)),
        lambda client: client.recvmsg(100),
        lambda client: client.recvmsg_into([bytearray(100)]),
        lambda client: client.makefile("rb").read(1),
    ]
    with inject("network_latency", delay=0.001) as latency, connected(echo_port) as client:
        for send in sends:
            send(client)
            client.recv(100)
        for receive in receives:
            client.sendall(b"hello")
            receive(client)
    assert latency.matched == 1 + len(sends) + len(receives)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_descriptor_used_again_is_somebody_else(inject: Inject) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        inject("network_failure", mode="reset", rate=1) as failure,
    ):
        client = socket.create_connection(listener.getsockname(), timeout=5)
        number = client.fileno()
        server, _ = listener.accept()
        server.close()
        del client  # without a close: the collector takes the descriptor back
        gc.collect()
        one, two = socket.socketpair()
        with one, two:
            assert number in {one.fileno(), two.fileno()}
            one.sendall(b"x")
            assert two.recv(1) == b"x"
    assert failure.matched == 0


def test_the_number_of_a_closed_clients_socket_passes_to_a_servers(inject: Inject) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        inject("network_failure", mode="reset", rate=1) as failure,
    ):
        address = listener.getsockname()
        first = socket.create_connection(address, timeout=5)
        number = first.fileno()
        # Opened but unused: the freed number goes to the socket that is accepted.
        other = socket.create_connection(address, timeout=5)
        first.close()
        accepted = [listener.accept()[0] for _ in range(2)]
        assert number in {server.fileno() for server in accepted}
        other.sendall(b"x")
        with other, accepted[0], accepted[1]:
            assert accepted[0].recv(1) == b""
            assert accepted[1].recv(1) == b"x"
        assert failure.matched == 0


def test_one_thread_sends_while_another_waits_for_its_answer(inject: Inject) -> None:
    """As in a protocol with heartbeats: the wait goes on, and its end finds no surprise."""
    waiting, sent = threading.Event(), threading.Event()

    class Clock:
        """Stops the one who waits until the other has sent."""

        def monotonic(self) -> float:
            return 0.0

        def time(self) -> float:
            return 0.0

        def sleep(self, seconds: float) -> None:
            waiting.set()
            assert sent.wait(10)

        async def asleep(self, seconds: float) -> None:
            raise NotImplementedError

    engine = Engine(lambda engine: [SocketInterceptor(engine)], clock=Clock())
    with serve(echo) as port, connected(port) as client, ThreadPoolExecutor(1) as pool:
        active_experiment = engine.start(
            ChaosExperiment("x", "network_latency", delay=0.01), seed=1
        )
        client.sendall(b"question")
        answer = pool.submit(client.recv, 8)
        assert waiting.wait(10)
        client.sendall(b"heartbeat")
        sent.set()
        assert answer.result(10) == b"question"
        assert client.recv(9) == b"heartbeat"
        active_experiment.stop()
        assert active_experiment.matched == 2


def test_an_answer_is_free_when_what_held_it_back_has_ended(
    silent_port: int, engine: Engine, inject: Inject
) -> None:
    """Also while another experiment keeps the interceptor in place."""
    with (
        inject("network_latency", target="elsewhere.example"),
        inject("network_failure", mode="reset", rate=1, from_nth=9),
        connected(silent_port) as client,
    ):
        silence = engine.start(
            ChaosExperiment("y", "network_failure", mode="timeout", rate=1), seed=1
        )
        client.settimeout(0.02)
        client.sendall(b"hello")
        with pytest.raises(TimeoutError):
            client.recv(100)
        silence.stop()
        client.settimeout(None)
        client.shutdown(socket.SHUT_WR)  # the server says goodbye, and that is received
        assert client.recv(100) == b""


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the server has threads
def test_a_forked_child_meets_the_same_faults(echo_port: int, inject: Inject) -> None:
    with inject("network_failure", rate=1) as failure:
        child = os.fork()
        if not child:  # no exception may leave it: it would run the rest of the suite
            try:
                socket.create_connection(("127.0.0.1", echo_port), timeout=5)
            except ConnectionRefusedError:
                os._exit(7)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert failure.matched == 1


def test_no_descriptor_is_lost(inject: Inject) -> None:
    def run(mode: str) -> None:
        with serve(echo) as port, inject("network_failure", mode=mode, rate=1) as failure:
            for _ in range(20):
                with contextlib.suppress(ConnectionError), connected(port) as client:
                    ask(client)
        assert failure.hits == 20

    def sockets() -> set[str]:
        gc.collect()  # what other tests have left in cycles is not our affair
        links = []
        for each in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # the one that it takes to look
                links.append(os.readlink(each))
        return {link for link in links if link.startswith("socket:")}

    before = sockets()
    run("refuse")
    run("reset")
    assert sockets() <= before


def test_threads_share_an_experiment_without_losing_count(echo_port: int, inject: Inject) -> None:
    together = threading.Barrier(32, timeout=10)

    def client(_: int) -> bool:
        together.wait()
        try:
            with connected(echo_port):
                return True
        except ConnectionRefusedError:
            return False

    def hits() -> int:
        with inject("network_failure", rate=0.5) as failure, ThreadPoolExecutor(32) as pool:
            through = sum(pool.map(client, range(32)))
        assert failure.matched == 32
        assert failure.hits == 32 - through
        return failure.hits

    assert hits() == hits()


def test_silence_without_a_timeout_ends_with_the_experiment(echo_port: int, inject: Inject) -> None:
    with (
        VirtualClock() as clock,
        inject("network_failure", mode="timeout", rate=1, duration=60) as failure,
        socket.socket() as client,
        pytest.raises(TimeoutError) as caught,
    ):
        client.connect(("127.0.0.1", echo_port))
    assert clock.elapsed == failure.delay == 60
    assert caught.value.errno == 110
    assert "No timeout is set on this socket" in caught.value.__notes__[0]


def test_a_caller_held_up_is_released_when_the_experiment_ends(
    echo_port: int, engine: Engine, inject: Inject
) -> None:
    with connected(echo_port) as client, inject("network_latency", delay=600) as latency:
        client.settimeout(900)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(ask, client)
            assert eventually(lambda: latency.matched > 0)
            latency.stop()
            assert answer.result(10) == b"hello"


def test_silence_ends_on_a_clock_that_stands_still(
    echo_port: int, inject: Inject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    with (
        inject("network_failure", mode="timeout", rate=1) as silence,
        socket.socket() as client,
        ThreadPoolExecutor(1) as pool,
    ):
        connecting = pool.submit(client.connect, ("127.0.0.1", echo_port))
        assert eventually(lambda: silence.matched > 0)
        silence.stop()
        with pytest.raises(TimeoutError, match="Connection timed out"):
            connecting.result(10)


def test_a_clock_that_stands_still_does_not_hang_the_wait(
    echo_port: int, inject: Inject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    with inject("network_latency", delay=0.02) as latency, connected(echo_port, None) as client:
        assert ask(client) == b"hello"
    assert latency.hits == 2
