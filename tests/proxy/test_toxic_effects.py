"""Each toxic's sense of time, to the microsecond, on a loop whose clock the test sets."""

from __future__ import annotations

import random

from collections.abc import Callable
from typing import Any

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ManualClock
from pytest_resilience.proxy.event_loop import Timer
from pytest_resilience.proxy.toxic_effects import make_filter
from pytest_resilience.proxy.toxic_types import Toxic


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
