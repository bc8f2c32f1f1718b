"""What experiments do to one connection: its conversation, and what they decide about it."""

from __future__ import annotations

from typing import Protocol

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults.response import InjectedResponse
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import END
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.operation import TcpDetails
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.proxy.stage import LinkContext
from pytest_resilience.proxy.stage import Sink
from pytest_resilience.proxy.stage import Stage
from pytest_resilience.proxy.toxics.toxic import DOWNSTREAM
from pytest_resilience.proxy.toxics.toxic import UPSTREAM


__all__ = ["Decisions", "ExperimentStage"]

_TLS_HANDSHAKE = b"\x16\x03"  # how a record of TLS that shakes hands begins
_SERVER_FIRST = "before any request"
_END_OF_HEAD = b"\r\n\r\n"
_EXPECTATION = b"\r\nexpect: 100-continue\r\n"
_HTTP2_PREFACE = b"PRI * HTTP/2"
_LOOK = 0.05  # seconds until it is noticed that an experiment was ended by another thread
# The operations of each direction: a message, and the end of all messages.
_OPERATIONS = {UPSTREAM: (SEND, END), DOWNSTREAM: (RECEIVE, CLOSE)}


class Decisions:
    """Follows the conversation of one connection, and asks the engine about its operations.

    Nobody tells a proxy where messages begin. A request is what the client sends after the server
    has answered, and a response is what the server sends until then.

    Attributes:
        turn: the number of the response that comes now, or is awaited, from 1; 0 before any.
        answered: whether any of that response has passed: what the client sends next is a new
            request.
        encrypted: whether nobody but the server can answer: what passes is encrypted, or HTTP/2,
            or nobody has asked yet.
        informational: whether what was asked is only to be told to go on (100 Continue).
    """

    def __init__(self, engine: Engine, names: tuple[str, ...]) -> None:
        """`names`: every `host:port` the server is known by, the best first."""
        self.turn = 0
        self.answered = False
        self.encrypted = True
        self.informational = False
        self._remark = _SERVER_FIRST
        self._engine = engine
        self._names = names

    @property
    def active(self) -> tuple[ActiveExperiment, ...]:
        """The experiments that run."""
        return self._engine.active

    def note_request(self, data: memoryview) -> None:
        """The client has sent this: a new request, or more of one."""
        is_new = self.answered or not self.turn or self.informational
        if is_new:
            self.turn += 1
            self.answered = False
        if is_new or self._remark == _SERVER_FIRST:
            self._look_at_beginning(data)

    def note_response(self) -> None:
        """The server has sent something."""
        self.turn = self.turn or 1  # it may speak first

    def _look_at_beginning(self, request: memoryview) -> None:
        """Notice TLS, and HTTP/2, where it begins, and a head that comes before its body."""
        end = request[-len(_END_OF_HEAD) :] == _END_OF_HEAD
        self.informational = end and _EXPECTATION in bytes(request).lower()
        if request[: len(_TLS_HANDSHAKE)] == _TLS_HANDSHAKE:
            self.encrypted, self._remark = True, ""
        elif request[: len(_HTTP2_PREFACE)] == _HTTP2_PREFACE:
            self.encrypted, self._remark = True, "HTTP/2"
        elif self._remark == _SERVER_FIRST:
            self.encrypted, self._remark = False, ""

    def decide(self, kind: str, *, mid_message: bool = False) -> Effect | None:
        """What happens to an operation; None if nothing does. `mid_message`: see `TcpDetails`."""
        if not self._concerns(kind, mid_message=mid_message):
            return None
        return self._engine.decide(self._operation(kind, mid_message=mid_message))

    def _concerns(self, kind: str, *, mid_message: bool) -> bool:
        faults = (fault for each in self.active for fault in each.experiment.faults)
        if mid_message:
            return any(kind in fault.kinds and fault.transient for fault in faults)
        # An experiment that never fires tells which connections and responses there were.
        return self._engine.has(kind) or (kind in (CONNECT, RECEIVE) and bool(self.active))

    def is_newly_targeted(self, known: tuple[ActiveExperiment, ...]) -> bool:
        """Whether an experiment runs that is not `known`, and is about this connection."""
        return self._engine.news(known, self._operation(RECEIVE))

    def _operation(self, kind: str, *, mid_message: bool = False) -> Operation:
        is_response = kind == RECEIVE
        return Operation(
            kind=kind,
            target=self._names[0],
            names=self._names,
            tcp=TcpDetails(
                encrypted=self.encrypted and is_response,
                partial=self.answered and is_response,
                informational=self.informational and is_response,
                mid_message=mid_message,
            ),
            remark=self._remark if is_response and self._could_be_injected else "",
        )

    @property
    def _could_be_injected(self) -> bool:
        faults = (fault for each in self.active for fault in each.experiment.faults)
        return any(isinstance(fault, InjectedResponse) for fault in faults)


class _ConversingLink(LinkContext, Protocol):
    """The link of an experiment stage."""

    def message_passed(self) -> None:
        """Bytes of a message have been passed on."""


class ExperimentStage(Stage):
    """The first stage of a link: what experiments do to the messages of one direction.

    While no experiment runs and nothing waits in it, bytes need not be shown to it.
    """

    def __init__(
        self, stream: str, decisions: Decisions, link: _ConversingLink, following: Sink
    ) -> None:
        """`stream`: "upstream" or "downstream"."""
        super().__init__(link, following)
        self._passed = link.message_passed
        self._decisions = decisions
        self._kinds = _OPERATIONS[stream]
        self._asked: tuple[int, tuple[ActiveExperiment, ...]] = (0, ())
        self._message: ResponseStream | None = None
        self._partition: Effect | None = None

    @property
    def is_open(self) -> bool:
        """Whether no experiment can have to do with what comes next."""
        return not (self._decisions.active or self._queue or self.stopped) and (
            self._message is None or not self._message.effect.left()
        )

    def begin(self) -> None:
        """A message comes, or more of one: ask about each once.

        Once more where an experiment has begun since that may be about it: not all that is sent
        is answered, and there are responses that go on for ever.
        """
        turn, active = self._decisions.turn, self._decisions.active
        asked_turn, known = self._asked
        if not active or (turn, active) == self._asked:
            return
        self._asked = (turn, active)
        if turn != asked_turn or self._decisions.is_newly_targeted(known):
            effect = self._decisions.decide(self._kinds[0])
            self._message = None if effect is None else ResponseStream(effect)
            if effect is not None and effect.transient and effect.delay == float("inf"):
                self._partition = effect
            if self._message is not None and not self._message.needs_response:
                self._put(self._message)

    def write(self, data: bytes) -> None:
        self._look_for_partition()
        self._put(self._message, data)

    def write_eof(self) -> None:
        if self.stopped:
            return
        effect = self._decisions.decide(self._kinds[1])
        self._look_for_partition()
        self._put_eof(None if effect is None else ResponseStream(effect))

    def stop(self) -> None:
        super().stop()
        self._message = None

    def _look_for_partition(self) -> None:
        """Nothing gets through a partition: in the middle of a message, or without one, neither."""
        if self._partition is not None and self._partition.left():
            return
        self._partition = self._decisions.decide(self._kinds[0], mid_message=True)
        if self._partition is not None:
            self._put(ResponseStream(self._partition))

    def _write_on(self, data: bytes) -> None:
        super()._write_on(data)
        self._passed()

    def _look_again(self, due: float) -> float:
        return min(due, self._now() + _LOOK)
