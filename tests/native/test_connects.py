"""What a client in C meets at its connect, its names and its responses."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import select
import socket
import struct
import threading

from collections.abc import Iterator

import pytest

from pytest_resilience import FaultInjected
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.diagnosis import never_fired
from pytest_resilience.native.slots import all_slots
from pytest_resilience.runtime import new_engine
from tests.clocks import MovableClock
from tests.forks import in_fork
from tests.injecting import Inject
from tests.injecting import ending
from tests.injecting import injecting
from tests.interceptors.conftest import echo
from tests.interceptors.conftest import serve
from tests.native.conftest import Client
from tests.native.conftest import ClientOfAnAddress
from tests.native.conftest import met
from tests.native.test_slots import pointers
from tests.waiting import asleep
from tests.waiting import eventually


HOST = "127.0.0.1"


@pytest.fixture
def port() -> Iterator[int]:
    with serve(echo) as port:
        yield port


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def code_of(client: Client, port: int, host: str = HOST) -> int | None:
    with pytest.raises(OSError, match=r".") as caught:
        client.connect(host, port)
    return caught.value.errno


def test_what_is_refused_is_as_what_nobody_listens_to(
    client: Client, port: int, inject: Inject
) -> None:
    real = code_of(client, free_port())
    with inject("network_failure", mode="refuse", rate=1) as refused:
        assert code_of(client, port) == real == errno.ECONNREFUSED
    assert (refused.matched, refused.hits) == (1, 1)
    client.connect(HOST, port)
    assert client.ask(b"tea") == b"tea"


def test_a_server_that_is_not_there_is_not_there(client: Client, inject: Inject) -> None:
    with inject("network_latency", delay="1ms"):
        assert code_of(client, free_port()) == errno.ECONNREFUSED


def test_a_connect_is_late(client: Client, port: int, engine: Engine, inject: Inject) -> None:
    with inject("network_latency", delay="20ms", target=f"{HOST}:{port}") as late:
        client.connect(HOST, port)
        assert late.delay >= 0.02 or late.hits == 0
        began = engine.clock.monotonic()
        assert client.ask(b"tea") == b"tea"
        assert engine.clock.monotonic() - began >= 0.02
    assert late.hits >= 1


@pytest.mark.parametrize(
    ("mode", "met"),
    [("reset", errno.ECONNRESET), ("close", b""), ("truncate", b"12"), ("corrupt", None)],
)
def test_a_response_fails(
    client: Client, port: int, inject: Inject, mode: str, met: int | bytes | None
) -> None:
    with inject("network_failure", mode=mode, rate=1) as failing:
        client.connect(HOST, port)
        try:
            found: object = client.ask(b"1234")
        except OSError as error:
            found = error.errno
    if met is None:
        assert isinstance(found, bytes)
        assert len(found) == 4
        assert found != b"1234"
    else:
        assert found == met
    assert failing.hits == 1


def test_other_targets_pass(client: Client, port: int, inject: Inject) -> None:
    with inject("network_failure", mode="refuse", rate=1, target="127.0.0.9") as elsewhere:
        client.connect(HOST, port)
        assert client.ask(b"tea") == b"tea"
    assert elsewhere.matched == 0
    assert f"{HOST}:{port} (in C)" in str(never_fired(elsewhere))


def test_names_are_targets(client: Client, port: int, inject: Inject) -> None:
    with inject("network_failure", mode="refuse", rate=1, target="localhost") as aimed:
        assert code_of(client, port, "localhost") == errno.ECONNREFUSED
    assert aimed.hits >= 1  # it may have more than one address


def test_a_name_is_not_found(client: Client, inject: Inject, engine: Engine) -> None:
    events: list[object] = []
    engine.listeners.add(events.append)
    with inject("network_failure", mode="dns", rate=1, target="shop.example") as lost:
        code_of(client, 443, "shop.example")
    assert lost.hits >= 1
    told = [each.target for each in events if isinstance(each, FaultInjected)]
    assert set(told) == {"shop.example:443"}


def test_a_connection_goes_on_when_the_experiment_is_over_and_meets_the_next(
    client: Client, port: int, inject: Inject
) -> None:
    with inject("network_latency", delay="1ms"):
        client.connect(HOST, port)
    assert client.ask(b"tea") == b"tea"
    with (
        inject("network_failure", mode="reset", rate=1) as cut,
        pytest.raises(ConnectionResetError),
    ):
        client.ask(b"more")
    assert cut.hits == 1


def test_what_is_kept_is_closed_by_a_service_that_goes_down(
    client: Client, port: int, inject: Inject
) -> None:
    with inject("network_latency", delay="1ms"):
        client.connect(HOST, port)
    assert client.ask(b"tea") == b"tea"
    with inject("network_failure", mode="down", rate=1):
        assert client.ask(b"") == b""  # EOF
        assert code_of(Client(), port) == errno.ECONNREFUSED


@pytest.mark.parametrize(("mode", "meets"), [("reset", errno.ECONNRESET), ("down", b"")])
def test_who_waits_is_struck_when_a_window_begins(
    client: Client, mode: str, meets: int | bytes
) -> None:
    clock, asked = MovableClock(), threading.Event()

    def keeps_silent(connection: socket.socket) -> None:
        connection.settimeout(10)
        connection.recv(100)
        asked.set()
        with contextlib.suppress(TimeoutError):
            while connection.recv(100):
                pass
        connection.sendall(b"late")

    def begins() -> None:
        assert asked.wait(10)
        clock.advance(30)

    with (
        serve(keeps_silent) as port,
        ending(new_engine(clock=clock)) as engine,
        injecting(engine.start)("network_failure", mode=mode, rate=1, between="30s..60s") as outage,
    ):
        threading.Thread(target=begins, daemon=True).start()
        assert met(port, client) == meets
        assert outage.hits >= 1


@pytest.mark.parametrize(("mode", "meets"), [("reset", errno.ECONNRESET), ("close", b"")])
def test_who_listens_for_what_is_said_unasked_is_struck(
    client: Client, port: int, inject: Inject, mode: str, meets: int | bytes
) -> None:
    """As one that has subscribed to something, and not as one that is kept for later."""
    found: list[bytes | int | None] = []

    def listen() -> None:
        try:
            found.append(client.ask(b""))
        except OSError as error:
            found.append(error.errno)

    kept = Client()
    with contextlib.closing(kept):
        with inject("network_latency", delay="1ms"):
            for each in (client, kept):
                each.connect(HOST, port)
                assert each.ask(b"tea") == b"tea"
        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        asleep_for = 0
        while asleep_for < 20:
            asleep_for = asleep_for + 1 if asleep(listener) else 0
        with inject("network_failure", mode=mode, rate=1, target=f"{HOST}:{port}") as outage:
            listener.join(10)
            assert found == [meets]
            assert outage.hits == 1


def test_who_does_not_block_learns_of_a_refusal_from_a_poll(port: int, inject: Inject) -> None:
    def told(number: int) -> int:
        client = Client()
        with socket.socket(fileno=os.dup(client.begin(HOST, number))) as sock:
            select.select([], [sock], [])
            client.close()
            return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    with socket.socket() as held:  # which nobody listens at
        held.bind((HOST, 0))
        nobody = held.getsockname()[1]
        real = told(nobody)
        with inject("network_failure", mode="refuse", rate=1) as refused:
            assert told(port) == real == errno.ECONNREFUSED
        assert refused.hits == 1
        with inject("network_latency", delay="1ms"):
            assert told(nobody) == real


def test_who_asks_again_for_what_has_begun_gets_what_the_kernel_says(
    port: int, inject: Inject
) -> None:
    """As one does who was interrupted."""
    library = ctypes.CDLL(None, use_errno=True)
    address = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, b"\x7f\0\0\1")

    def connect(sock: socket.socket) -> int:
        return 0 if library.connect(sock.fileno(), address, 16) == 0 else ctypes.get_errno()

    with socket.socket() as sock:
        real = connect(sock), connect(sock)
    assert real == (0, errno.EISCONN)
    client = Client()
    with inject("network_latency", delay="1ms") as late:
        client.connect(HOST, port)
        number = client.number()
        assert library.connect(number, address, 16) == -1
        assert ctypes.get_errno() == errno.EISCONN
        assert client.ask(b"tea") == b"tea"
        client.close()
    assert late.hits >= 1


def test_one_that_was_there_before_is_not_reached(
    client: Client, port: int, inject: Inject
) -> None:
    client.connect(HOST, port)
    with inject("network_failure", mode="reset", rate=1) as late:
        assert client.ask(b"tea") == b"tea"
    assert late.matched == 0


def test_silence_at_connect_lasts_as_long_as_the_experiment(
    client: Client, port: int, inject: Inject
) -> None:
    met: list[object] = []

    def connect() -> None:
        try:
            client.connect(HOST, port)
            met.append("connected")
        except OSError as error:
            met.append(error.errno)

    thread = threading.Thread(target=connect, daemon=True)
    with inject("network_failure", mode="partition", rate=1) as cut:
        thread.start()
        assert eventually(lambda: cut.hits > 0)
        assert met == []
    thread.join(60)
    assert met == ["connected"]
    assert client.ask(b"tea") == b"tea"


def test_ipv6_and_what_is_written_as_such(client: Client, inject: Inject) -> None:
    with contextlib.ExitStack() as stack:
        listener = socket.socket(socket.AF_INET6)
        stack.callback(listener.close)
        try:
            listener.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        listener.listen()
        number = listener.getsockname()[1]
        with inject("network_failure", mode="refuse", rate=1, target=f"[::1]:{number}") as aimed:
            assert code_of(client, number, "[::1]") == errno.ECONNREFUSED
        with inject("network_latency", delay="1ms", target=f"[::1]:{number}"):
            client.connect("[::1]", number)
            listener.accept()[0].close()
            assert client.ask(b"tea") == b""
    assert aimed.hits == 1


ALWAYS = (
    ("network_failure", {"mode": "refuse", "rate": 1}),
    ("network_failure", {"mode": "reset", "rate": 1}),
    ("network_latency", {"delay": "1ms"}),
)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_in_between_goes_on_in_both_processes(port: int, inject: Inject) -> None:
    found = list[bytes | int | None]()
    for kind, given in ALWAYS:
        with inject(kind, target=f"{HOST}:{port}", **given):
            found.append(met(port, Client()))
            assert in_fork(lambda: int(met(port, Client()) != found[-1])) == 0
        assert in_fork(lambda: int(met(port, Client()) != b"tea")) == 0
        assert met(port, Client()) == b"tea"
    assert found[0] == errno.ECONNREFUSED
    assert found[1] in {b"", errno.ECONNRESET}
    assert found[2] == b"tea"


THREADS, CALLS = 100, 5
AT_RANDOM = (
    ("network_failure", {"mode": "refuse", "rate": 0.5}),
    ("network_failure", {"mode": "reset", "rate": 0.5}),
    ("network_latency", {"delay": "1ms"}),
)
POSSIBLE = {b"tea", b"", errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE}


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_each_meets_what_can_happen_and_all_is_given_back(
    port: int, inject: Inject, engine: Engine
) -> None:
    of_others = set(threading.enumerate())
    with inject("network_latency", delay="1ms"):
        pass
    before, found = pointers(all_slots()), set[bytes | int | None]()

    def call() -> None:
        for _ in range(CALLS):
            found.add(met(port, Client()))

    threads = [threading.Thread(target=call) for _ in range(THREADS)]
    for each in threads:
        each.start()
    for number in itertools.count():
        kind, given = AT_RANDOM[number % len(AT_RANDOM)]
        with inject(kind, target=f"{HOST}:{port}", **given):
            assert in_fork(lambda: int(met(port, ClientOfAnAddress()) not in POSSIBLE)) == 0
        if not any(each.is_alive() for each in threads):
            break
    assert b"tea" in found
    assert found <= POSSIBLE
    assert pointers(all_slots()) == before
    for each in set(threading.enumerate()) - of_others:
        if each.name == "clients in C":  # it is on its way
            each.join(60)
            assert not each.is_alive()
