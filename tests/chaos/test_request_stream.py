"""What goes out of what a client sends does not depend on how it is split into calls."""

from __future__ import annotations

from collections.abc import Sequence

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
from pytest_resilience.chaos.faults.network import Partition
from pytest_resilience.chaos.faults.network import Reset
from pytest_resilience.chaos.faults.network import Silence
from pytest_resilience.chaos.faults.response import Bandwidth
from pytest_resilience.chaos.faults.response import Corruption
from pytest_resilience.chaos.faults.response import DroppedMessage
from pytest_resilience.chaos.faults.response import From
from pytest_resilience.chaos.faults.response import Truncation
from pytest_resilience.chaos.request_stream import AHEAD
from pytest_resilience.chaos.request_stream import CAPACITY
from pytest_resilience.chaos.request_stream import RequestStream
from pytest_resilience.chaos.response_stream import CloseConnection
from pytest_resilience.chaos.response_stream import ReadPeer
from pytest_resilience.chaos.response_stream import ResetConnection
from pytest_resilience.chaos.response_stream import WaitUntil
from tests.another_fault import AN_OPERATION


bodies = st.binary(min_size=1, max_size=200)
cuts = st.lists(st.integers(1, 50), max_size=30)


def effect_of(*faults: Fault, clock: ManualClock) -> Effect:
    running = Engine(lambda _: [], clock=clock).start(
        ChaosExperiment("any", "network_latency", delay=0.1, duration=1000), seed=1
    )
    return Effect.of([Hit(running, fault, 1, AN_OPERATION) for fault in faults], clock)


def begun(*faults: Fault, clock: ManualClock, sealed: bool = False) -> RequestStream:
    requests = RequestStream()
    requests.begin(effect_of(*faults, clock=clock), sealed=sealed)
    return requests


def sent(
    requests: RequestStream, message: bytes, calls: Sequence[int], taken: Sequence[int] = ()
) -> tuple[bytes, str]:
    """What goes out of a message, given in so many `calls`, of which a kernel takes so much."""
    out, accepts = b"", iter(taken)
    sizes = [*calls, len(message)]
    while message and sizes:
        data = message[: sizes.pop(0)]
        at = 0
        while at < len(data):
            match requests.next(len(data) - at, 0.0):
                case WaitUntil(due):
                    requests.waited(due)
                case ReadPeer(most):
                    end = at + most
                    ready = requests.take(data[at:end], data[end : end + AHEAD])
                    done = min(len(ready), next(accepts, len(ready)))
                    out += ready[:done]
                    at += requests.passed(done)
                case end:
                    return out, type(end).__name__
        message = message[len(data) :]
    return out, type(requests.next(0, 0.0)).__name__


def http(body: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@given(bodies, st.integers(0, 250), cuts, cuts, st.sampled_from(["eof", "reset"]))
def test_a_connection_ends_after_so_many_bytes_of_a_body(
    body: bytes, limit: int, calls: list[int], taken: list[int], end: str
) -> None:
    fault = Truncation(limit=limit, end=end, of_requests=True)
    message = http(body)
    # A head that is split is no head any more.
    calls = [len(message) - len(body), *calls]
    found = sent(begun(fault, clock=ManualClock()), message, calls, taken)
    if limit >= len(body):
        assert found == (message, "ReadPeer")
    else:
        kept = message[: len(message) - len(body) + limit]
        assert found == (kept, "ResetConnection" if end == "reset" else "CloseConnection")


@given(bodies, cuts, cuts)
def test_damage_is_the_same_in_any_calls(body: bytes, calls: list[int], taken: list[int]) -> None:
    fault = Corruption(share=0.3, seed=0.5, of_requests=True)
    body = b"\x00" + body  # no request
    whole = sent(begun(fault, clock=ManualClock()), body, [])
    assert whole[0] != body
    assert len(whole[0]) == len(body)
    assert sent(begun(fault, clock=ManualClock()), body, [len(body), *calls], taken) == whole


@given(bodies, cuts, cuts)
def test_a_thin_line_carries_all_of_it(body: bytes, calls: list[int], taken: list[int]) -> None:
    found = sent(begun(Bandwidth(rate=100), clock=ManualClock()), body, calls, taken)
    assert found == (body, "ReadPeer")


def test_what_a_peer_has_ended_is_not_sent() -> None:
    for fault, end in ((Reset(), ResetConnection()), (Closure(), CloseConnection())):
        requests = begun(fault, clock=ManualClock())
        assert requests.next(5, 0.0) == end


@pytest.mark.parametrize("end", ["reset", "eof", "silence"])
def test_what_a_kernel_has_no_room_for_is_still_being_sent_when_the_peer_takes_no_more(
    end: str,
) -> None:
    for size, passed in ((CAPACITY, CAPACITY), (CAPACITY + 2, 1)):
        requests = begun(Truncation(limit=1, end=end), clock=ManualClock())
        requests.next(size, 0.0)
        assert requests.take(bytes(size)) == b"\x00"
        assert requests.passed(1) == passed


def test_what_is_late_is_not_held_up_and_silence_cuts_it_off() -> None:
    clock = ManualClock()
    late = begun(Latency(delay=1), clock=clock)
    assert late.is_unchanged
    assert late.late is not None
    assert late.late.delay == 1
    for fault in (Silence(), Partition()):
        silent = begun(fault, clock=clock)
        assert silent.is_cut
        clock.advance(1000)
        assert not silent.is_cut


def test_a_message_is_a_request_with_its_body_or_a_call() -> None:
    requests = RequestStream()
    for message, answered, begins in (
        (b"one", False, True),
        (b"two", False, True),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n", False, True),
        (b"abc", False, False),
        (b"GET / HTTP/1.1\r\n\r\n", True, True),
        (b"a frame, after an upgrade", True, True),
        (b"another", False, True),
    ):
        assert requests.begins(message, answered=answered) is begins
    requests.rest = 3  # the kernel has not taken all
    assert not requests.begins(b"her", answered=True)


@pytest.mark.parametrize(
    ("fault", "is_more"),
    [
        (Truncation(limit=9, end="reset"), True),
        (Truncation(begins=From(seconds=2.0)), True),
        (Corruption(share=1, begins=From(items=2)), True),
        (DroppedMessage(items=2), True),
        (Truncation(share=0.5), False),
        (Corruption(share=1), False),
        (DroppedMessage(), False),
        (Reset(), False),
        (Bandwidth(rate=100), False),
    ],
    ids=str,
)
def test_what_happens_somewhere_is_about_all_until_the_peer_answers(
    fault: Fault, is_more: bool
) -> None:
    clock = ManualClock()
    requests = begun(fault, clock=clock)
    assert requests.begins(b"two", answered=False) is not is_more
    assert requests.begins(b"GET / HTTP/1.1\r\n\r\n", answered=False)
    assert begun(fault, clock=clock).begins(b"two", answered=True)
    clock.advance(1000)
    assert requests.begins(b"\r\n", answered=False) is False  # of that request
    over = begun(fault, clock=clock)
    clock.advance(1000)
    assert over.begins(b"two", answered=False)


def sealed(data: bytes, number: int) -> bytes:
    """Records of it, by all appearances: no two are the same."""
    return b"" if not data else b"%30d %b" % (number, data[::-1])


@given(bodies, st.integers(1, 250), st.tuples(cuts, cuts, cuts), st.sampled_from(["eof", "reset"]))
def test_records_arrive_up_to_where_the_message_ends_however_they_are_sent(
    body: bytes, limit: int, split: tuple[list[int], list[int], list[int]], end: str
) -> None:
    """All is encrypted before any of it is sent."""
    calls, sends, taken = split
    fault = Truncation(limit=limit, end=end, of_requests=True)
    requests = begun(fault, clock=ManualClock(), sealed=True)
    arriving, lost, rest = b"", b"", body
    sizes = iter([*calls, len(body)])
    while rest:
        piece, rest = rest[: (size := next(sizes))], rest[size:]
        parts = requests.seal(piece, 0.0)
        assert b"".join(parts) == piece
        records = [sealed(part, 2 * len(rest) + at) for at, part in enumerate(parts)]
        requests.end_between(*records)
        arriving, lost = arriving + records[0], lost + records[1]
    assert requests.is_ending is (limit <= len(body))
    met = sent(requests, arriving + lost, sends, taken)
    if limit > len(body):
        assert met == (arriving, "ReadPeer")
    else:
        assert met == (arriving, "ResetConnection" if end == "reset" else "CloseConnection")


@pytest.mark.parametrize("fault", [Reset(), Closure()], ids=str)
def test_who_sends_the_records_of_what_is_lost_is_told(fault: Fault) -> None:
    requests = begun(fault, clock=ManualClock(), sealed=True)
    assert requests.seal(b"tea", 0.0) == (b"", b"tea")
    assert requests.next(10, 0.0) == ReadPeer()  # a record of before
    requests.end_between(b"", b"record")
    assert sent(requests, b"beforerecord", []) in [
        (b"before", "ResetConnection"), (b"before", "CloseConnection"),
    ]  # fmt: skip


def test_records_go_over_a_thin_line_before_the_message_ends() -> None:
    faults = [Bandwidth(rate=100), Truncation(limit=3, end="reset", of_requests=True)]
    requests = begun(*faults, clock=ManualClock(), sealed=True)
    assert requests.seal(b"tea and milk", 0.0) == (b"tea", b" and milk")
    requests.end_between(b"record", b"lost")
    assert isinstance(requests.next(10, 0.0), WaitUntil)
    assert sent(requests, b"recordlost", []) == (b"record", "ResetConnection")
