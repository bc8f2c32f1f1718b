"""Each toxic's sense of time, to the microsecond, on a loop whose clock the test sets."""

from __future__ import annotations

import errno
import random
import socket
import threading
import time

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from pytest_resilience import ManualClock
from pytest_resilience.proxy import ChaosProxy
from pytest_resilience.proxy.event_loop import Timer
from pytest_resilience.proxy.toxic_effects import make_filter
from pytest_resilience.proxy.toxic_types import Toxic
from pytest_resilience.proxy.toxic_types import parse_toxic
from tests.proxy.conftest import Serve
from tests.proxy.conftest import ask
from tests.proxy.conftest import echo
from tests.proxy.conftest import hears_nothing
from tests.proxy.conftest import read_all
from tests.proxy.conftest import receive
from tests.proxy.conftest import until
from tests.waiting import until_all_wait


class FakeDirection:
    """A loop, and a direction, that only do what the test lets them."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.loop = self
        self.connection = self.decisions = self  # all that filters see of these is here
        self.stream = "downstream"
        self.turn = 1
        self.client_done = False
        self.happened: list[Any] = []
        self._timers: list[tuple[float, int, Timer]] = []

    def call_at(self, due: float, action: Callable[[], None]) -> Timer:
        timer = Timer(action)
        self._timers.append((due, len(self._timers), timer))
        return timer

    def run(self, until: float) -> None:
        """Let time pass, and everything that is due by then happen when it is."""
        while True:
            waiting = [each for each in self._timers if each[2].action and each[0] <= until]
            if not waiting:
                break
            first = min(waiting, key=lambda each: each[:2])
            self._timers.remove(first)
            self.clock.advance(max(0.0, first[0] - self.clock.monotonic()))
            assert first[2].action is not None
            first[2].action()
        self.clock.advance(until - self.clock.monotonic())

    def _note(self, what: str) -> None:
        self.happened.append((self.clock.monotonic(), what))

    def reset(self) -> None:
        self._note("reset")

    def close(self) -> None:
        self._note("close")

    def close_after_eof(self) -> None:
        self._note("end")

    def fail(self, stream: str) -> None:
        self._note(f"fail {stream}")

    def update_reading(self) -> None:
        """Not of interest."""


class Target:
    """What comes out, with the moment."""

    def __init__(self, direction: FakeDirection) -> None:
        self.pieces: list[Any] = []
        self._direction = direction

    def write(self, data: bytes) -> None:
        self.pieces.append((self._direction.clock.monotonic(), data))

    def write_eof(self) -> None:
        self.pieces.append((self._direction.clock.monotonic(), b""))

    @property
    def whole(self) -> bytes:
        return b"".join(data for _, data in self.pieces)


def filter_of(kind: str, **attributes: Any) -> tuple[Any, FakeDirection, Target]:
    direction = FakeDirection()
    target = Target(direction)
    settings = Toxic.make(kind, attributes).attributes
    made = make_filter(kind, direction, settings, random.Random(1), target)  # type: ignore[arg-type]
    made.start()
    return made, direction, target


def test_latency_is_that_of_a_piece_and_no_queue() -> None:
    """Three pieces at once are not three times as late."""
    made, direction, target = filter_of("latency", latency=100)
    made.write(b"a")
    direction.run(0.05)
    made.write(b"b")
    made.write(b"c")
    made.write_eof()
    direction.run(1)
    assert target.pieces == [
        (pytest.approx(0.1), b"a"), (pytest.approx(0.15), b"b"), (pytest.approx(0.15), b"c"),
        (pytest.approx(0.15), b""),
    ]  # fmt: skip


@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1), st.integers(0, 100))
def test_jitter_never_reorders_and_never_exceeds(pieces: list[bytes], jitter: int) -> None:
    made, direction, target = filter_of("latency", latency=50, jitter=jitter)
    for number, piece in enumerate(pieces):
        direction.run(number * 0.01)
        made.write(piece)
    last = direction.clock.monotonic()
    direction.run(10)
    assert target.whole == b"".join(pieces)
    assert max(0, 50 - jitter) / 1000 <= target.pieces[0][0] + 1e-9
    assert target.pieces[-1][0] <= last + (50 + jitter) / 1000 + 1e-9
    assert made.held == 0


@given(st.lists(st.binary(min_size=1, max_size=5000), min_size=1), st.integers(1, 100))
def test_bandwidth_takes_as_long_as_the_bytes(pieces: list[bytes], rate: int) -> None:
    made, direction, target = filter_of("bandwidth", rate=rate)
    for piece in pieces:
        made.write(piece)
    made.write_eof()
    direction.run(10_000)
    whole = b"".join(pieces)
    assert target.whole == whole
    assert target.pieces[-1] == (pytest.approx(len(whole) / rate / 1000), b"")
    done = 0
    for moment, data in target.pieces:  # at no moment more than the line carries
        done += len(data)
        assert done <= moment * rate * 1000 + 1e-6 * done


def test_a_line_that_gets_faster_is_faster_at_once() -> None:
    made, direction, target = filter_of("bandwidth", rate=1)
    made.write(bytes(1000))
    direction.run(0.5)
    done = len(target.whole)
    assert 480 <= done <= 500
    made.write_eof()
    made.change({"rate": 1000})
    direction.run(5)
    assert len(target.whole) == 1000
    assert target.pieces[-1] == (pytest.approx(0.5 + (1000 - done) / 1_000_000), b"")


def test_the_slicers_pieces_and_pauses() -> None:
    made, direction, target = filter_of("slicer", average_size=10, size_variation=4, delay=500)
    made.write(bytes(range(100)))
    direction.run(1)
    sizes = [len(data) for _, data in target.pieces]
    assert target.whole == bytes(range(100))
    assert all(6 <= size <= 14 for size in sizes[:-1])
    assert len(set(sizes)) > 1
    assert [moment for moment, _ in target.pieces] == pytest.approx(
        [number * 500e-6 for number in range(len(sizes))]
    )


def test_the_slicer_pauses_after_pieces_and_not_before() -> None:
    made, direction, target = filter_of("slicer", average_size=2, delay=500)
    for moment in (0, 0.0002, 0.01):
        direction.run(moment)
        made.write(b"ab")
    direction.run(1)
    assert target.pieces == [
        (0, b"ab"), (pytest.approx(0.0005), b"ab"), (pytest.approx(0.01), b"ab"),
    ]  # fmt: skip


def test_little_pieces_are_cut_when_they_are_due_and_let_others_have_their_turn() -> None:
    """Cut at once, a megabyte was a million objects, and nobody else was served meanwhile."""
    made, direction, target = filter_of("slicer", average_size=1)
    made.write(bytes(10_000))
    assert 0 < len(target.pieces) < 1000
    made.write_eof()
    direction.run(0)
    assert target.whole == bytes(10_000)
    assert target.pieces[-1] == (0, b"")


def test_pauses_that_end_are_over_at_once() -> None:
    made, direction, target = filter_of("slicer", average_size=1, delay="1h")
    made.write(b"ab")
    made.change({"average_size": 1, "size_variation": 0, "delay": 0})
    direction.run(0)
    assert target.pieces == [(0, b"a"), (0, b"b")]


def test_slow_close_delays_nothing_but_the_end() -> None:
    made, direction, target = filter_of("slow_close", delay=100)
    made.write(b"a")
    direction.run(1)
    made.write_eof()
    direction.run(5)
    assert target.pieces == [(0, b"a"), (pytest.approx(1.1), b"")]


def test_timeout_counts_from_the_last_data() -> None:
    made, direction, target = filter_of("timeout", timeout=100)
    direction.run(0.06)
    made.write(b"lost")
    direction.run(0.12)
    assert direction.happened == []
    direction.run(1)
    assert direction.happened == [(pytest.approx(0.16), "close")]
    assert target.pieces == []


def test_timeouts_can_be_changed_while_they_run() -> None:
    made, direction, _ = filter_of("timeout", timeout=100)
    direction.run(0.05)
    made.change({"timeout": 0})
    direction.run(10)
    assert direction.happened == []
    made.remove()
    assert direction.happened == [(10, "close")]


def test_a_timeout_that_gets_shorter_counts_from_then_on() -> None:
    made, direction, _ = filter_of("timeout", timeout="1h")
    made.write(b"lost")
    made.change({"timeout": 100})
    direction.run(1)
    assert direction.happened == [(pytest.approx(0.1), "close")]


def test_reset_peer_waits_for_its_time_alone() -> None:
    made, direction, target = filter_of("reset_peer", timeout=100)
    made.write(b"lost")
    made.write_eof()
    direction.run(1)
    assert direction.happened == [(pytest.approx(0.1), "reset")]
    assert target.pieces == []


@pytest.mark.parametrize("lost", [b"data", b""])
def test_a_reset_that_is_taken_back_comes_at_once_where_something_is_missing(lost: bytes) -> None:
    made, direction, target = filter_of("reset_peer", timeout=100)
    (made.write(lost) if lost else made.write_eof())
    made.remove()
    assert direction.happened == [(0, "reset")]
    assert target.pieces == []


def test_a_reset_that_is_taken_back_does_not_come_where_nothing_is_missing() -> None:
    made, direction, _ = filter_of("reset_peer", timeout=100)
    made.remove()
    direction.run(1)
    assert direction.happened == []


@pytest.mark.parametrize("kind", ["timeout", "reset_peer"])
def test_a_connection_that_is_gone_has_no_timers(kind: str) -> None:
    made, direction, _ = filter_of(kind, timeout=100)
    made.stop()
    direction.run(1)
    assert direction.happened == []


@given(st.lists(st.binary(min_size=1, max_size=20)), st.integers(0, 100))
def test_limit_data_is_a_limit_of_the_whole(pieces: list[bytes], limit: int) -> None:
    made, direction, target = filter_of("limit_data", bytes=limit)
    for piece in pieces:
        made.write(piece)
    whole = b"".join(pieces)
    assert target.whole == whole[:limit]
    reached = bool(whole) and len(whole) >= limit
    assert [what for _, what in direction.happened[:1]] == ["end"] * reached
    assert (target.pieces[-1:] == [(0, b"")]) is reached


@given(
    st.lists(st.binary(min_size=1, max_size=300), min_size=1),
    st.sampled_from([0.001, 0.05, 0.5, 0.999]),
    st.integers(0, 50),
)
def test_corrupt_keeps_length_and_what_is_skipped(
    pieces: list[bytes], share: float, skip: int
) -> None:
    made, _, target = filter_of("corrupt", share=share, skip=skip)
    for piece in pieces:
        made.write(piece)
    whole = b"".join(pieces)
    assert len(target.whole) == len(whole)
    assert target.whole[:skip] == whole[:skip]
    assert [len(data) for _, data in target.pieces] == [len(piece) for piece in pieces]


def test_truncate_counts_answers_not_pieces() -> None:
    made, direction, target = filter_of("truncate", answer=2)
    made.write(b"11")
    made.write(b"11")
    direction.turn = 5  # whichever it is of the connection
    made.write(b"2222")
    made.write(b"lost")
    assert target.whole == b"111122"
    assert direction.happened == [(0, "end")]


@given(st.lists(st.binary(min_size=1, max_size=100)), st.sampled_from(
    ["latency:latency=50,jitter=20", "bandwidth:rate=1", "slicer:average_size=7,delay=10"]
))  # fmt: skip
def test_who_leaves_lets_everything_go(pieces: list[bytes], line: str) -> None:
    from pytest_resilience.proxy.toxic_types import parse_toxic

    toxic = parse_toxic(line)
    made, _, target = filter_of(toxic.type, **toxic.attributes)
    for piece in pieces:
        made.write(piece)
    made.write_eof()
    made.remove()
    assert target.whole == b"".join(pieces)
    assert target.pieces[-1] == (0, b"")
    assert made.held == 0


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
        hears_nothing(client)
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
    hears_nothing(client)
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
