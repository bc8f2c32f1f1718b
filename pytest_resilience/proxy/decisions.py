"""Where one connection asks an engine what experiments do to it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults.response import InjectedResponse
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.operation import TcpDetails
from pytest_resilience.proxy.event_loop import Loop


__all__ = ["Gate"]

_HELLO = b"\x16\x03"  # how what TLS shakes hands with begins
_SPEAKS_FIRST = "before any request"
_END_OF_HEAD = b"\r\n\r\n"
_EXPECTATION = b"\r\nexpect: 100-continue\r\n"
_PREFACE = b"PRI * HTTP/2"  # how HTTP/2 begins


class Gate:
    """See the module.

    Attributes:
        encrypted: whether nobody but the server can answer: what passes is encrypted, or HTTP/2,
            or nobody has asked yet.
        interim: whether what was asked is only to be told to go on (100 Continue).
    """

    def __init__(self, engine: Engine, loop: Loop, names: tuple[str, ...]) -> None:
        """`names`: every `host:port` the server is known by, the best first."""
        self.encrypted = True
        self.informational = False
        self._remark = _SPEAKS_FIRST
        self._engine = engine
        self._loop = loop
        self._names = names

    @property
    def unasked(self) -> bool:
        """Whether nobody has asked the server for anything yet."""
        return self._remark == _SPEAKS_FIRST

    @property
    def quiet(self) -> bool:
        """Whether no experiment runs."""
        return not self._engine.active

    @property
    def active(self) -> tuple[ActiveExperiment, ...]:
        """The experiments that run."""
        return self._engine.active

    def look(self, request: memoryview) -> None:
        """Notice TLS, and HTTP/2, where it begins, and a head that comes before its body."""
        end = request[-len(_END_OF_HEAD) :] == _END_OF_HEAD
        self.informational = end and _EXPECTATION in bytes(request).lower()
        if request[:2] == _HELLO:
            self.encrypted, self._remark = True, ""
        elif request[: len(_PREFACE)] == _PREFACE:
            self.encrypted, self._remark = True, "HTTP/2"
        elif self.unasked:
            self.encrypted, self._remark = False, ""

    def concerns(self, kind: str, *, mid_message: bool = False) -> bool:
        """Whether to ask about operations of a kind. See `TcpDetails` for `mid_message`."""
        if mid_message:
            return any(
                kind in fault.kinds and fault.transient
                for active_experiment in self._engine.active
                for fault in active_experiment.experiment.faults
            )
        # Of answers those are told, too, that are about something else and never fire.
        return self._engine.has(kind) or (kind == RECEIVE and bool(self._engine.active))

    def news(self, known: Sequence[ActiveExperiment]) -> bool:
        """Whether an experiment runs that is not known, and is about this connection."""
        return self._engine.news(known, self._operation(RECEIVE))

    def ask(self, kind: str, *, mid_message: bool = False, begun: bool = False) -> Effect | None:
        """What happens to an operation; `begun`: to the rest of one, if it is an answer."""
        return self._engine.decide(self._operation(kind, mid_message=mid_message, begun=begun))

    def _operation(self, kind: str, *, mid_message: bool = False, begun: bool = False) -> Operation:
        return Operation(
            kind=kind,
            target=self._names[0],
            names=self._names,
            tcp=TcpDetails(
                encrypted=self.encrypted and kind == RECEIVE,
                partial=begun and kind == RECEIVE,
                informational=self.informational and kind == RECEIVE,
                mid_message=mid_message,
            ),
            remark=self._remark if kind == RECEIVE and self._speaks_for_server else "",
        )

    @property
    def _speaks_for_server(self) -> bool:
        return any(
            isinstance(fault, InjectedResponse)
            for active_experiment in self._engine.active
            for fault in active_experiment.experiment.faults
        )

    def opening(self, dial: Callable[[], None], refuse: Callable[[], None]) -> None:
        """A client has connected: `dial` the server when it may be, or `refuse`."""
        effect = None if self.quiet else self.ask(CONNECT)
        if effect is None:
            dial()
            return
        started = self._loop.clock.monotonic()
        then = dial if effect.failure is None else refuse

        def over() -> None:
            if effect.delay:
                effect.add_delay(self._loop.clock.monotonic() - started)
            then()

        self._loop.hold(started + effect.delay, effect.left, over)
