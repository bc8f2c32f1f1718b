"""What is delivered of a response, and when, does not depend on how it is split into pieces."""

from __future__ import annotations

import dataclasses
import itertools

from collections.abc import Sequence
from typing import assert_never

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ChaosExperiment
from pytest_resilience import ManualClock
from pytest_resilience.chaos.active_experiment import Hit
from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults.network import Closure
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.faults.network import Latency
from pytest_resilience.chaos.faults.network import LostResponse
from pytest_resilience.chaos.faults.network import Partition
from pytest_resilience.chaos.faults.network import Reset
from pytest_resilience.chaos.faults.network import Silence
from pytest_resilience.chaos.faults.response import Bandwidth
from pytest_resilience.chaos.faults.response import Corruption
from pytest_resilience.chaos.faults.response import Dribble
from pytest_resilience.chaos.faults.response import DroppedMessage
from pytest_resilience.chaos.faults.response import From
from pytest_resilience.chaos.faults.response import Pause
from pytest_resilience.chaos.faults.response import StatusResponse
from pytest_resilience.chaos.faults.response import Truncation
from pytest_resilience.chaos.response_stream import CloseConnection
from pytest_resilience.chaos.response_stream import ReadPeer
from pytest_resilience.chaos.response_stream import ReadReplacement
from pytest_resilience.chaos.response_stream import ResetConnection
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.chaos.response_stream import WaitUntil
from tests.another_fault import AN_OPERATION
from tests.another_fault import Shout
from tests.pieces import split


EOF, RESET, LOST = "EOF", "reset", "lost"
LASTS = 1000.0  # seconds, of each experiment

bodies = st.binary(min_size=1, max_size=200)
shares = st.floats(0, 1)
cuts = st.lists(st.integers(1, 50), max_size=30)
latencies = st.builds(Latency, delay=st.floats(0, 10))
paces = st.builds(Bandwidth, rate=st.floats(1, 1e4)) | st.builds(
    Dribble, piece=st.integers(1, 20), pause=st.floats(0, 1)
)
alterations = st.builds(Truncation, share=shares) | st.builds(
    Corruption, share=shares, seed=st.floats(0, 1, exclude_max=True)
)
anything = st.lists(latencies | paces | alterations, min_size=1, max_size=3)


def effect_of(*faults: Fault, clock: ManualClock) -> Effect:
    running = Engine(lambda _: [], clock=clock).start(
        ChaosExperiment("any", "network_latency", delay=0.1, duration=LASTS), seed=1
    )
    return Effect.of([Hit(running, fault, 1, AN_OPERATION) for fault in faults], clock)


def http(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@dataclasses.dataclass
class Delivery:
    """What a client has received of one response: each byte, when it came, and how it ended."""

    data: bytes = b""
    times: list[float] = dataclasses.field(default_factory=list)
    end: str = ""

    def add(self, data: bytes, at: float) -> None:
        self.data += data
        self.times += [at] * len(data)


def deliver(
    faults: Sequence[Fault],
    sent: Sequence[bytes],
    *,
    every: float = 0.0,
    reads: Sequence[int] = (),
) -> Delivery:
    """Drive a stream: the peer has `sent` a piece `every` so many seconds, the client `reads`."""
    clock = ManualClock()
    stream = ResponseStream(effect_of(*faults, clock=clock))
    began = clock.monotonic()
    coming = [(began + number * every, piece) for number, piece in enumerate(sent)]
    sizes = itertools.chain(reads, itertools.repeat(1 << 16))
    there, found = b"", Delivery()
    stream.arrive(began)
    while not found.end:
        while coming and coming[0][0] <= clock.monotonic():
            there += coming.pop(0)[1]
        match stream.next(len(there), clock.monotonic()):
            case WaitUntil(due) if due > clock.monotonic() + LASTS:
                clock.advance(LASTS)
                found.end = "" if stream.effect.transient else LOST
            case WaitUntil(due):
                clock.advance(due - clock.monotonic())
                stream.waited(due)
            case ReadPeer(_) if coming and not there:
                clock.advance(coming[0][0] - clock.monotonic())
            case ReadPeer(most):
                size = min(most, next(sizes))
                data, there = there[:size], there[size:]
                found.end = "" if data else EOF
                found.add(stream.take(data), clock.monotonic() - began)
            case ReadReplacement():
                data = stream.replay(next(sizes))
                found.end = "" if data else EOF
                found.add(data, clock.monotonic() - began)
            case ResetConnection():
                found.end = RESET
            case CloseConnection():
                found.end = EOF
            case never:
                assert_never(never)
    return found


@given(anything, bodies, cuts, st.floats(0, 1), cuts)
def test_any_split_delivers_the_same_bytes(
    faults: list[Fault], body: bytes, sent: list[int], every: float, reads: list[int]
) -> None:
    pieces = split(http(body), sent)
    assert (
        deliver(faults, pieces, every=every, reads=reads).data == deliver(faults, [http(body)]).data
    )


@given(anything, bodies, cuts, cuts)
def test_what_has_come_is_delivered_at_the_same_time_in_any_split(
    faults: list[Fault], body: bytes, sent: list[int], reads: list[int]
) -> None:
    assert deliver(faults, split(http(body), sent), reads=reads) == deliver(faults, [http(body)])


@given(bodies, cuts, st.floats(0, 1), st.floats(1, 1e4), cuts)
def test_a_line_carries_no_more_than_its_rate_and_is_never_idle(
    body: bytes, sent: list[int], every: float, rate: float, reads: list[int]
) -> None:
    fault = Bandwidth(rate=rate)
    found = deliver([fault], split(body, sent), every=every, reads=reads)
    assert found.data == body
    assert all(at * rate >= number - 1e-6 for number, at in enumerate(found.times, 1))
    if every == 0:
        assert found.times[-1] == pytest.approx(len(body) / rate)


@given(bodies, st.integers(1, 20), st.floats(0.001, 1), cuts)
def test_a_dribble_is_a_piece_and_a_pause(
    body: bytes, piece: int, pause: float, reads: list[int]
) -> None:
    found = deliver([Dribble(piece=piece, pause=pause)], [body], reads=reads)
    expected = [pause * (1 + number // piece) for number in range(len(body))]
    assert found == Delivery(body, pytest.approx(expected), EOF)  # type: ignore[arg-type]


@given(st.lists(latencies, min_size=1, max_size=3), bodies)
def test_a_delay_holds_the_first_byte_back(faults: list[Fault], body: bytes) -> None:
    found = deliver(faults, [body])
    assert found.times[0] == pytest.approx(sum(each.delay for each in faults))
    assert (found.data, found.end) == (body, EOF)


@given(bodies, shares, cuts)
def test_what_is_cut_off_ends_with_an_eof(body: bytes, share: float, sent: list[int]) -> None:
    found = deliver([Truncation(share=share)], split(http(body), sent))
    kept = min(len(body) - 1, int(len(body) * share))
    assert (found.data, found.end) == (http(body)[: len(http(body)) - len(body) + kept], EOF)


@given(st.permutations([Corruption(share=1.0, seed=0.5), Truncation(share=0.0, limit=3)]), cuts)
def test_what_is_damaged_and_cut_off_is_both(faults: list[Fault], sent: list[int]) -> None:
    head, body = http(b"abcdef")[:-6], b"abcdef"
    found = deliver(faults, split(head + body, sent))
    assert (found.data[: len(head)], found.end) == (head, EOF)
    assert len(found.data) == len(head) + 3
    assert all(got != was for got, was in zip(found.data[len(head) :], body, strict=False))


@given(bodies, st.integers(0, 200), cuts, cuts, st.sampled_from(["eof", "reset"]))
def test_a_connection_ends_after_so_many_bytes(
    body: bytes, limit: int, sent: list[int], reads: list[int], end: str
) -> None:
    found = deliver([Truncation(limit=limit, end=end)], split(http(body), sent), reads=reads)
    kept = http(body)[: len(http(body)) - len(body) + limit]
    whole = limit >= len(body)  # there is nothing to cut off
    assert (found.data, found.end) == (kept, EOF if whole or end == "eof" else RESET)


@given(st.lists(st.binary(min_size=1, max_size=9), min_size=2), st.integers(0, 9), cuts, cuts)
def test_a_stream_goes_silent_after_so_many_lines(
    texts: list[bytes], count: int, sent: list[int], reads: list[int]
) -> None:
    lines = [b"$" + text.replace(b"\n", b"") + b"\n" for text in texts]
    fault = Truncation(begins=From(items=count), end="silence")
    found = deliver([fault], split(b"".join(lines), sent), reads=reads)
    kept = b"".join(lines[:count])
    assert (found.data, found.end) == (kept, EOF if count > len(lines) else RESET)


@given(st.lists(st.binary(min_size=1, max_size=9), min_size=2), st.integers(1, 9), cuts, cuts)
def test_a_stream_pauses_after_so_many_lines(
    texts: list[bytes], count: int, sent: list[int], reads: list[int]
) -> None:
    lines = [b"$" + text.replace(b"\n", b"") + b"\n" for text in texts]
    fault = Pause(begins=From(items=count), pause=2)
    found = deliver([Latency(delay=1), fault], split(b"".join(lines), sent), reads=reads)
    before = len(b"".join(lines[:count]))
    assert (found.data, found.end) == (b"".join(lines), EOF)
    assert found.times == [1] * before + [3] * (len(found.data) - before)


def test_a_stream_pauses_after_some_time() -> None:
    fault = Pause(begins=From(seconds=1.5), pause=10)
    found = deliver([fault], [b"a", b"b", b"c", b"d"], every=1)
    assert (found.data, found.times, found.end) == (b"abcd", [0, 1, 12, 12], EOF)


def test_a_stream_is_cut_off_after_some_time() -> None:
    pieces = [b"a", b"b", b"c", b"d"]
    fault = Truncation(begins=From(seconds=2.5), end="reset")
    found = deliver([fault], pieces, every=1)
    assert (found.data, found.times, found.end) == (b"abc", [0, 1, 2], RESET)


def test_what_is_held_back_of_a_message_is_no_end() -> None:
    lines = [b"one\n", b"t", b"wo", b"\n", b"three\n"]
    found = deliver([DroppedMessage(items=1)], lines)
    assert (found.data, found.end) == (b"one\nthree\n", EOF)


@given(bodies, cuts, cuts)
def test_an_injected_response_replaces_the_peers(
    body: bytes, sent: list[int], reads: list[int]
) -> None:
    fault = StatusResponse(status=503)
    found = deliver([Latency(delay=1), fault], split(body, sent), reads=reads)
    assert (found.data, found.end, found.times[0]) == (fault.replacement, EOF, 1)


@pytest.mark.parametrize(
    ("fault", "end", "needs_response"),
    [
        (Reset(), RESET, False),
        (Closure(), EOF, False),
        (LostResponse(), RESET, True),
        (Silence(), LOST, False),
    ],
    ids=str,
)
def test_nothing_is_delivered(fault: Fault, end: str, *, needs_response: bool) -> None:
    assert deliver([fault], [b"hello"]) == Delivery(end=end)
    stream = ResponseStream(effect_of(fault, clock=ManualClock()))
    assert stream.needs_response == needs_response


def test_a_partition_ends_with_its_experiment_and_then_all_of_it_comes() -> None:
    assert deliver([Partition()], [b"hello"]) == Delivery(b"hello", [LASTS] * 5, EOF)


@pytest.mark.parametrize(
    "fault", [Reset(), StatusResponse(status=503), Truncation(share=0), Bandwidth(rate=1)], ids=str
)
def test_nothing_happens_when_the_experiments_are_over(fault: Fault) -> None:
    clock = ManualClock()
    stream = ResponseStream(effect_of(Latency(delay=1), fault, clock=clock))
    stream.arrive(clock.monotonic())
    assert isinstance(stream.next(5, clock.monotonic()), WaitUntil)
    clock.advance(LASTS)
    assert stream.next(5, clock.monotonic()) == ReadPeer()
    assert stream.is_unchanged
    assert stream.take(b"hello") == b"hello"


def test_a_wait_by_another_clock_is_over_when_its_driver_says_so() -> None:
    clock = ManualClock()  # stands still
    stream = ResponseStream(effect_of(Latency(delay=1), clock=clock))
    step = stream.next(5, clock.monotonic())
    assert isinstance(step, WaitUntil)
    stream.waited(step.due)
    assert stream.next(5, clock.monotonic()) == ReadPeer()


def test_of_an_encrypted_response_the_time_is_for_one_driver_and_the_bytes_for_another() -> None:
    clock = ManualClock()
    effect = effect_of(Truncation(share=0.5), clock=clock)
    stream = ResponseStream(effect, encrypted=True)
    assert stream.next(100, clock.monotonic()) == ReadPeer()
    assert stream.is_unchanged
    assert stream.take(b"record") == b"record"
    assert stream.content is not None
    assert stream.content.take(http(b"abcd")) == http(b"abcd")[:-2]
    assert stream.content.closes
    assert stream.next(100, clock.monotonic()) == CloseConnection()


def test_an_encrypted_response_is_lost_when_it_is_seen_to_be_one() -> None:
    clock = ManualClock()
    effect = effect_of(LostResponse(), clock=clock)
    stream = ResponseStream(effect, encrypted=True)
    assert stream.next(100, clock.monotonic()) == ReadPeer()
    assert stream.take(b"ticket") == b"ticket"
    assert stream.content is not None
    assert not stream.content.is_over
    assert stream.content.take(http(b"abcd")) == b""
    assert stream.next(100, clock.monotonic()) == ResetConnection()


def test_a_reset_within_an_encrypted_response_is_for_the_driver_of_the_connection() -> None:
    clock = ManualClock()
    effect = effect_of(Truncation(limit=2, end="reset"), clock=clock)
    stream = ResponseStream(effect, encrypted=True)
    assert stream.next(100, clock.monotonic()) == ReadPeer()
    assert stream.content is not None
    assert stream.content.take(http(b"abcd")) == http(b"abcd")[:-2]
    assert stream.content.resets
    assert stream.next(100, clock.monotonic()) == ResetConnection()


def test_a_record_is_carried_as_a_whole_and_what_comes_meanwhile_too() -> None:
    clock = ManualClock()
    began = clock.monotonic()
    stream = ResponseStream(effect_of(Bandwidth(rate=100), clock=clock))
    assert stream.next(100, began, whole=True) == WaitUntil(began + 1)
    assert stream.next(150, began + 1, whole=True) == WaitUntil(began + 1.5)
    assert stream.next(150, began + 1.5, whole=True) == ReadPeer()
    stream.drained()  # it was not all of a record
    assert stream.next(50, began + 2, whole=True) == WaitUntil(began + 2.5)


def test_what_was_tls_s_own_is_not_the_response() -> None:
    clock = ManualClock()
    began = clock.monotonic()
    stream = ResponseStream(effect_of(Latency(delay=1), clock=clock))
    assert stream.next(10, began) == WaitUntil(began + 1)
    assert stream.next(10, began + 1) == ReadPeer()
    stream.await_again()
    assert stream.next(10, began + 3) == WaitUntil(began + 4)


def test_a_client_that_comes_late_meets_the_line_all_the_same() -> None:
    clock = ManualClock()
    began = clock.monotonic()
    stream = ResponseStream(effect_of(Bandwidth(rate=100), clock=clock))
    stream.arrive(began)
    assert stream.next(1, began + 5) == WaitUntil(began + 5.01)


def test_pieces_that_a_driver_has_stamped_are_late_each_by_itself() -> None:
    clock = ManualClock()
    began = clock.monotonic()
    stream = ResponseStream(effect_of(Latency(delay=1), clock=clock))
    stream.arrive(began)
    assert stream.next(3, began + 1, since=began + 1) == ReadPeer()
    assert stream.next(3, began + 1, since=began + 1.5) == WaitUntil(began + 1.5)


@given(bodies, cuts, cuts)
def test_another_kind_of_fault_is_one_class(body: bytes, sent: list[int], reads: list[int]) -> None:
    found = deliver([Latency(delay=1), Shout()], split(body, sent), reads=reads)
    assert found == Delivery(body.upper(), [1] * len(body), EOF)


def test_a_driver_that_wakes_up_late_loses_no_time_on_the_line() -> None:
    clock = ManualClock()
    began = clock.monotonic()
    stream = ResponseStream(effect_of(Dribble(piece=1, pause=1), clock=clock))
    assert stream.next(3, began) == WaitUntil(began + 1)
    assert stream.next(3, began + 1.5) == ReadPeer(1)
    stream.take(b"x")
    assert stream.next(2, began + 1.5) == WaitUntil(began + 2)


UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


def test_time_goes_on_in_a_conversation() -> None:
    clock = ManualClock()
    begins = From(seconds=2.0)
    stream = ResponseStream(effect_of(Truncation(begins=begins), clock=clock))
    delivered = []
    for data in (UPGRADED, b"one", b"two"):
        stream.arrive(clock.monotonic())
        assert isinstance(stream.next(len(data), clock.monotonic()), ReadPeer)
        delivered.append(stream.take(data))
        clock.advance(1.0)
        stream = stream.going_on(None)
    assert delivered == [UPGRADED, b"one", b""]


def test_a_pause_comes_once_in_a_conversation() -> None:
    clock = ManualClock()
    stream = ResponseStream(effect_of(Pause(begins=From(items=1), pause=3.0), clock=clock))
    stream.arrive(0.0)
    for byte in UPGRADED + b"\x81\x00":
        assert stream.next(10, clock.monotonic()) == ReadPeer(1)
        stream.take(bytes([byte]))
    for due in (WaitUntil(clock.monotonic() + 3.0), ReadPeer()):
        stream = stream.going_on(None)
        assert stream.next(10, clock.monotonic()) == due
        clock.advance(3.0)


def test_what_has_ended_a_conversation_goes_on_ending_it() -> None:
    clock = ManualClock()
    ends = Truncation(begins=From(items=0), end="silence")
    stream = ResponseStream(effect_of(ends, clock=clock))
    stream.arrive(0.0)
    stream.next(1, 0.0)
    assert stream.take(UPGRADED) == UPGRADED
    assert stream.going_on(None) is stream
    assert stream.going_on(effect_of(Latency(delay=1), clock=clock)) is stream


def test_each_message_is_late_by_what_is_new_and_no_other() -> None:
    clock = ManualClock()
    lost = DroppedMessage(items=1)
    stream = ResponseStream(effect_of(Latency(delay=1), lost, clock=clock))
    assert stream.arrive(0.0) == 1.0
    assert isinstance(stream.next(1, 1.0), ReadPeer)
    stream.take(UPGRADED + b"\x81\x00")
    following = stream.going_on(effect_of(Latency(delay=3), clock=clock))
    assert following.arrive(1.0) == 4.0
    assert following.take(b"\x82\x00") == b""  # also if it is read before
    assert stream.going_on(None).arrive(1.0) == 1.0
