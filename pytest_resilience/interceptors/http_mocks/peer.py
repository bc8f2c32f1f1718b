"""Whom a mocked call would have been made to, and what happens on the way there.

A mock has no connections. Each call, and each retry of one, counts as a connection of its
own: a name that is resolved, unless it is an address; a connect; an answer. So the nth
call is the nth of each, whatever a pool would have made of it. TLS is not shaken hands
for, and nobody sees how a connection is closed.
"""

from __future__ import annotations

import os

from collections.abc import Callable
from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import replace

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults.response import Alteration
from pytest_resilience.chaos.faults.response import InjectedResponse
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.parsing.targets import as_shown
from pytest_resilience.interceptors.sockets.host_names import HostNames
from pytest_resilience.interceptors.sockets.host_names import is_literal
from pytest_resilience.interceptors.sockets.response_stream import Course


__all__ = ["GetThrough", "Peer", "Reply", "os_error", "wants_reply"]

_PORTS = {"http": 80, "https": 443}


class GetThrough(BaseException):  # no client may catch it
    """Nothing happens to this call: it is the mock's to answer.

    Attributes:
        error: what the mock has raised, if it was asked.
    """

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a mock has answered.

    Attributes:
        status: of HTTP.
        reason: the phrase after it.
        headers: names and values, in order.
        body: as it would be sent, before anything is decoded.
    """

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @classmethod
    def of(cls, status: int, reason: str, headers: Iterable[tuple[str, str]], body: bytes) -> Reply:
        """The reply a server sends: the body in one piece, whose length it names, if any."""
        kept = [
            each for each in headers if each[0].lower() not in {"transfer-encoding", "connection"}
        ]
        if body and not any(name.lower() == "content-length" for name, _ in kept):
            kept.append(("Content-Length", str(len(body))))
        return cls(status=status, reason=reason, headers=tuple(kept), body=body)

    @property
    def head(self) -> bytes:
        """In HTTP/1.1, up to where the body begins."""
        lines = [f"HTTP/1.1 {self.status} {self.reason}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1", "replace")

    def heard_under(self, effect: Effect, began: float) -> Course:
        """How it is heard, from `began` on, in monotonic seconds."""
        if not self.body:  # whatever length is named, as in an answer to HEAD
            effect.uncount()
        return Course(effect, began, encrypted=not self.body)


class Peer:
    """A host that is mocked.

    Attributes:
        clock: on which those who wait for it wait.
        tls: whether it would be spoken to over TLS.
    """

    def __init__(
        self, engine: Engine, scheme: str, host: str, port: int | None, answer: object = None
    ) -> None:
        """`answer` is the mock's own object that answers; None where it is not known."""
        self.clock = engine.clock
        self._answer = answer
        self.tls = scheme == "https"
        self._engine = engine
        host = as_shown(host)
        self._resolved = is_literal(host)
        self._spoken = scheme in _PORTS
        self._names = HostNames().of(host, port or _PORTS.get(scheme))

    @classmethod
    def nobody(cls, engine: Engine) -> Peer:
        """Where nothing happens, and nothing is noted."""
        return cls(engine, "", "", None)

    def concerns(self, answered: Callable[[], bool] = lambda: True) -> bool:
        """Whether an active experiment is aimed at it, and the mock has `answered`.

        Notes that it was called if not.
        """
        operation = self._operation(CONNECT)
        if not self._spoken or not self._engine.is_targeted(operation):
            self._note(operation)
            return False
        if not answered():
            self.unanswered()
            return False
        return True

    def unanswered(self) -> None:
        """Note that it was called, and that the mock has no answer."""
        self._note(replace(self._operation(CONNECT), remark="the mock has no answer"))

    def _note(self, operation: Operation) -> None:
        if not self._spoken:
            return
        self._engine.note_unmatched(operation)
        if self._engine.recorder is not None:  # it would be a whole exchange
            for kind in (RECEIVE,) if self._resolved else (RESOLVE, RECEIVE):
                self._engine.recorder.note(self._operation(kind))

    def ask(self, kind: str) -> Effect | None:
        """What happens to an operation `kind`; None if nothing does."""
        if not self._spoken or (kind == RESOLVE and self._resolved):
            return None  # nobody is called, or nobody has to be asked for an address
        return self._engine.decide(self._operation(kind))

    @property
    def name(self) -> str:
        """`host:port`."""
        return self._names[0]

    def _operation(self, kind: str) -> Operation:
        names = self._names
        return Operation(kind=kind, target=names[0], names=names, mock_response=self._answer)


def wants_reply(effect: Effect) -> bool:
    """Whether the mock has to answer, for something to happen to that answer."""
    failure = effect.failure
    if isinstance(failure, InjectedResponse):
        return False
    return isinstance(failure, Alteration) or effect.pace is not None


def os_error(code: int) -> OSError:
    """As the system raises it."""
    return OSError(code, os.strerror(code))
