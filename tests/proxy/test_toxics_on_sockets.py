"""What clients and servers see of each toxic, on real sockets."""

from __future__ import annotations

import errno
import random
import socket
import threading
import time

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from pytest_resilience import ManualClock
from pytest_resilience.proxy import ChaosProxy
from pytest_resilience.proxy.toxic_types import parse_toxic
from tests.proxy.conftest import Serve
from tests.proxy.conftest import ask
from tests.proxy.conftest import echo
from tests.proxy.conftest import read_all
from tests.proxy.conftest import receive
from tests.proxy.conftest import until
from tests.waiting import until_all_wait


Connect = Callable[[], socket.socket]


@contextmanager
def lasting(seconds: float) -> Iterator[None]:
    """At least so long; how much longer is the benchmark's business."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started >= seconds


def test_latency_in_each_direction(proxy: ChaosProxy, connect: Connect) -> None:
    client = connect()
    with proxy.having("latency", latency=20), lasting(0.02):
        assert ask(client) == b"ping"
    with proxy.having("latency", latency="20ms", stream="upstream"), lasting(0.02):
        assert ask(client) == b"ping"
    with (
        proxy.having("latency", latency=10),
        proxy.having("latency", latency=10, stream="upstream"),
        lasting(0.02),
    ):
        assert ask(client) == b"ping"


def test_delayed_pieces_stay_in_order(proxy: ChaosProxy, connect: Connect) -> None:
    client = connect()
    proxy.add("latency", latency=2, jitter=2)
    sent = b"".join(b"%6d" % number for number in range(500))
    for start in range(0, len(sent), 6):
        client.sendall(sent[start : start + 6])
    assert receive(client, len(sent)) == sent


def test_a_removed_toxic_lets_go_at_once(proxy: ChaosProxy, connect: Connect) -> None:
    client = connect()
    with proxy.having("latency", latency="1h"):
        client.sendall(b"ping")
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(10)
    assert receive(client, 4) == b"ping"


def test_a_changed_toxic_is_another_from_then_on(proxy: ChaosProxy, connect: Connect) -> None:
    client = connect()
    proxy.add("latency", latency="1h", name="slow")
    proxy.update("slow", latency=10)
    with lasting(0.01):
        assert ask(client) == b"ping"
    proxy.update("slow", toxicity=0)
    assert ask(client) == b"ping"


def test_time_is_the_clocks(serve: Serve) -> None:
    clock = ManualClock()
    with (
        ChaosProxy(("127.0.0.1", serve(echo)), clock=clock) as proxy,
        socket.create_connection(proxy.address, timeout=10) as client,
    ):
        proxy.add("latency", latency="1h")
        client.sendall(b"ping")
        until(lambda: proxy.connections == 1)
        until_all_wait()  # it is on its way
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(10)
        clock.advance(3600)
        assert receive(client, 4) == b"ping"


def test_bandwidth(proxy: ChaosProxy, connect: Connect) -> None:
    client = connect()
    proxy.add("bandwidth", rate=500)
    with lasting(50_000 / 500_000):
        assert ask(client, bytes(50_000)) == bytes(50_000)


def test_no_bandwidth_lets_nothing_through_until_there_is_some(
    proxy: ChaosProxy, connect: Connect
) -> None:
    client = connect()
    proxy.add("bandwidth", rate=0, name="line")
    client.sendall(b"ping")
    client.settimeout(0.05)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(10)
    proxy.update("line", rate=1000)
    assert receive(client, 4) == b"ping"


def test_slow_close(serve: Serve) -> None:
    with (
        ChaosProxy(("127.0.0.1", serve(lambda each: each.sendall(b"bye")))) as proxy,
        proxy.having("slow_close", delay=50),
        socket.create_connection(proxy.address, timeout=10) as client,
    ):
        started = time.monotonic()
        assert receive(client, 3) == b"bye"
        assert client.recv(1) == b""
        assert time.monotonic() - started >= 0.04  # the connect was a moment before


def test_timeout_loses_data_and_closes(serve: Serve) -> None:
    got: list[bytes] = []
    port = serve(lambda connection: got.append(connection.recv(9)))
    with (
        ChaosProxy(("127.0.0.1", port)) as proxy,
        proxy.having("timeout", timeout=30, stream="upstream"),
        socket.create_connection(proxy.address, timeout=10) as client,
    ):
        with lasting(0.02):
            client.sendall(b"lost")
            assert read_all(client) == b""
        until(lambda: got == [b""])
        assert proxy.connections == 0


def test_timeout_without_end_lasts_until_it_is_removed(proxy: ChaosProxy, connect: Connect) -> None:
    client = connect()
    assert ask(client) == b"ping"
    with proxy.having("timeout"):
        client.sendall(b"lost")
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(10)
    assert read_all(client) == b""  # what was dropped is missing: nothing can go on


@pytest.mark.parametrize("stream", ["upstream", "downstream"])
def test_clients_that_give_up_in_silence_leave_nothing(
    proxy: ChaosProxy, connect: Connect, stream: str
) -> None:
    with proxy.having("timeout", stream=stream):
        for _ in range(5):
            with connect() as client:
                client.sendall(b"lost")
        until(lambda: proxy.connections == 0 and proxy.accepted == 5)


def test_a_client_that_gives_up_after_its_server_has_gone_leaves_nothing(serve: Serve) -> None:
    gone = threading.Event()

    def answer_and_go(connection: socket.socket) -> None:
        connection.sendall(connection.recv(9))
        connection.shutdown(socket.SHUT_WR)
        gone.set()
        read_all(connection)

    with ChaosProxy(("127.0.0.1", serve(answer_and_go))) as proxy, proxy.having("timeout"):
        with socket.create_connection(proxy.address, timeout=0.05) as client:
            client.sendall(b"ping")
            assert gone.wait(10)
            with pytest.raises(TimeoutError):  # and not the end
                client.recv(1)
        until(lambda: proxy.connections == 0)


def test_reset_peer_is_a_real_reset_for_both(serve: Serve) -> None:
    seen: list[int | None] = []

    def wait(connection: socket.socket) -> None:
        connection.sendall(b"x")
        try:
            connection.recv(1)
        except OSError as error:
            seen.append(error.errno)

    with ChaosProxy(("127.0.0.1", serve(wait))) as proxy:
        client = socket.create_connection(proxy.address, timeout=10)
        assert client.recv(1) == b"x"
        proxy.add("reset_peer")
        with pytest.raises(ConnectionResetError) as caught:
            client.recv(1)
        client.close()
        until(lambda: bool(seen))
    assert [caught.value.errno, *seen] == [errno.ECONNRESET, errno.ECONNRESET]


def test_reset_peer_after_a_time(proxy: ChaosProxy, connect: Connect) -> None:
    proxy.add("reset_peer", timeout=30, stream="upstream")
    with lasting(0.02), pytest.raises(ConnectionResetError):
        connect().recv(1)


def test_slicer_cuts_into_small_pieces(serve: Serve) -> None:
    sent = bytes(range(200))
    with (
        ChaosProxy(("127.0.0.1", serve(lambda each: each.sendall(sent)))) as proxy,
        proxy.having("slicer", average_size=40, size_variation=10, delay=5000),
        socket.create_connection(proxy.address, timeout=10) as client,
    ):
        pieces = []
        with lasting(0.01):
            while piece := client.recv(1000):
                pieces.append(piece)
    assert b"".join(pieces) == sent
    assert len(pieces) >= 2  # a reader that is late finds several in one
    assert len(pieces[0]) <= 50 or len(pieces) < 4


def test_limit_data_closes_after_so_many_bytes(proxy: ChaosProxy, connect: Connect) -> None:
    proxy.add("limit_data", bytes=10)
    client = connect()
    assert ask(client, b"12345678") == b"12345678"
    client.sendall(b"abcdefgh")
    assert read_all(client) == b"ab"
    until(lambda: proxy.connections == 0)


def test_data_that_a_limit_let_through_still_comes_late(
    proxy: ChaosProxy, connect: Connect
) -> None:
    proxy.add("limit_data", bytes=3)
    proxy.add("latency", latency=20)
    client = connect()
    with lasting(0.02):
        client.sendall(b"abcdef")
        assert read_all(client) == b"abc"


def test_corrupt_changes_a_share_of_the_bytes(proxy: ChaosProxy, connect: Connect) -> None:
    client = connect()
    sent = bytes(100_000)
    proxy.add("corrupt", share=0.1, skip=1000)
    sender = threading.Thread(target=client.sendall, args=(sent,))
    sender.start()
    got = receive(client, len(sent))
    sender.join(10)
    assert len(got) == len(sent)
    assert got[:1000] == sent[:1000]
    assert 9_000 < sum(byte != 0 for byte in got) < 11_000  # 99 000 draws of 0.1


@pytest.mark.parametrize(("share", "wrong"), [(0, 0), (1, 500)])
def test_corrupt_none_or_all(proxy: ChaosProxy, connect: Connect, share: float, wrong: int) -> None:
    proxy.add("corrupt", share=share)
    got = ask(connect(), bytes(500))
    assert sum(byte != 0 for byte in got) == wrong


def test_what_is_corrupted_repeats_with_the_seed(serve: Serve) -> None:
    port = serve(echo)

    def seen(seed: int) -> bytes:
        with (
            ChaosProxy(("127.0.0.1", port), seed=seed) as proxy,
            proxy.having("corrupt", share=0.05),
            socket.create_connection(proxy.address, timeout=10) as client,
        ):
            return ask(client, bytes(1000))

    assert seen(7) == seen(7) != seen(8)


def test_truncate_gives_half_an_answer_and_closes(proxy: ChaosProxy, connect: Connect) -> None:
    proxy.add("truncate", answer=2)
    client = connect()
    assert ask(client, b"whole") == b"whole"
    client.sendall(b"12345678")
    assert read_all(client) == b"1234"


def test_truncate_never_gives_everything(proxy: ChaosProxy, connect: Connect) -> None:
    proxy.add("truncate", share=1)
    client = connect()
    client.sendall(b"12345678")
    assert read_all(client) == b"1234567"


@pytest.mark.parametrize("reset", [True, False])
def test_a_lost_answer_was_done_by_the_server(serve: Serve, reset: bool) -> None:
    done: list[bytes] = []

    def work(connection: socket.socket) -> None:
        while request := connection.recv(100):
            done.append(request)
            connection.sendall(b"done")

    with (
        ChaosProxy(("127.0.0.1", serve(work))) as proxy,
        proxy.having("lose_answer", answer=2, reset=reset),
        socket.create_connection(proxy.address, timeout=10) as client,
    ):
        client.sendall(b"first")
        assert receive(client, 4) == b"done"
        client.sendall(b"second")
        if reset:
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        else:
            assert client.recv(1) == b""
        assert done == [b"first", b"second"]
        until(lambda: proxy.connections == 0)


def test_refusing_everybody_is_the_kernels_refusal(proxy: ChaosProxy, connect: Connect) -> None:
    client = connect()
    assert ask(client) == b"ping"
    with proxy.having("refuse"):
        with pytest.raises(ConnectionRefusedError):
            connect()
        assert ask(client) == b"ping"  # who is in stays in
    assert ask(connect()) == b"ping"


def test_refusing_some_is_a_reset(proxy: ChaosProxy, connect: Connect) -> None:
    """Who is next is not known before it is there."""
    proxy.add("refuse", toxicity=0.5)
    assert 20 < sum(fate(connect) == "reset" for _ in range(80)) < 60


def fate(connect: Connect) -> str:
    try:
        with connect() as client:
            return ask(client).decode()
    except (ConnectionResetError, BrokenPipeError):
        return "reset"


def test_toxicity_is_a_share_of_the_connections_and_repeats(serve: Serve) -> None:
    port = serve(echo)

    def fates(seed: int) -> list[str]:
        with ChaosProxy(("127.0.0.1", port), seed=seed) as proxy:
            proxy.add("limit_data", bytes=2, toxicity=0.3)
            return [
                ask_once(lambda: socket.create_connection(proxy.address, timeout=10))
                for _ in range(60)
            ]

    first = fates(1)
    assert 6 < first.count("pi") < 32
    assert first == fates(1) != fates(2)


def ask_once(connect: Connect) -> str:
    with connect() as client:
        client.sendall(b"ping")
        return receive(client, 4).decode()


def test_toxics_happen_in_their_order(serve: Serve) -> None:
    """Half of what is left, or what is left of a half."""
    port = serve(echo)

    def seen(*lines: str) -> bytes:
        with (
            ChaosProxy(("127.0.0.1", port)) as proxy,
            socket.create_connection(proxy.address, timeout=10) as client,
        ):
            for line in lines:
                proxy.apply(parse_toxic(line))
            client.sendall(b"1234567890")
            return read_all(client)

    limit, half = "limit_data:bytes=6", "truncate:share=0.5"
    assert seen(limit, half) == b"123"
    assert seen(half, limit) == b"12345"


HARMLESS = [
    f"{line},stream={stream},name={line.split(':')[0]}_{stream}_{number}"
    for number in range(2)
    for stream in ("upstream", "downstream")
    for line in (
        "latency:latency=2,jitter=2",
        "bandwidth:rate=5000",
        "slicer:average_size=5000,size_variation=4000,delay=100",
        "slow_close:delay=2",
        "limit_data:bytes=1000000",
        "corrupt:share=0",
    )
]


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lines=st.lists(st.sampled_from(HARMLESS), max_size=4, unique=True),
    size=st.integers(1, 50_000),
    late=st.booleans(),
)
def test_what_is_only_slowed_arrives_whole(
    proxy: ChaosProxy, lines: list[str], size: int, late: bool
) -> None:
    """In any combination, whether the toxics are there before or come and go meanwhile."""
    sent = random.Random(size).randbytes(size)
    proxy.reset()
    toxics = [parse_toxic(line) for line in lines]
    with socket.create_connection(proxy.address, timeout=20) as client:
        if not late:
            for toxic in toxics:
                proxy.apply(toxic)
        sender = threading.Thread(target=send_all, args=(client, sent))
        sender.start()
        if late:
            for toxic in toxics:
                proxy.apply(toxic)
            for toxic in toxics:
                proxy.remove(toxic.name)
        assert read_all(client) == sent
        sender.join(20)


def send_all(client: socket.socket, data: bytes) -> None:
    """Send, and say that this was all."""
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)


def test_many_connections_at_once(proxy: ChaosProxy, connect: Connect) -> None:
    proxy.add("latency", latency=20)
    clients = [connect() for _ in range(50)]
    for number, client in enumerate(clients):
        client.sendall(b"%4d" % number)
    for number, client in enumerate(clients):
        assert receive(client, 4) == b"%4d" % number
    assert proxy.connections == 50
