"""Faults of a response: how fast its bytes come, which ones, and from whom.

Frozen data, as all faults are. The state of one response while its bytes pass is in `payload`.
"""

from __future__ import annotations

import math

from dataclasses import dataclass
from dataclasses import replace
from http import HTTPStatus
from typing import ClassVar

from pytest_resilience.chaos.faults.network import Delay
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.faults.payload import Altered
from pytest_resilience.chaos.faults.payload import Corrupted
from pytest_resilience.chaos.faults.payload import Truncated
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.parsing.quantities import format_bytes
from pytest_resilience.chaos.parsing.quantities import format_seconds


__all__ = [
    "Alteration",
    "Bandwidth",
    "Corruption",
    "Dribble",
    "InjectedResponse",
    "MalformedJson",
    "Pace",
    "SlowClose",
    "StatusResponse",
    "Truncation",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowClose(Delay):
    """The peer's end of the connection comes `delay` seconds after its last byte."""

    kinds: ClassVar[frozenset[str]] = frozenset({CLOSE})

    def __str__(self) -> str:
        return f"slow close {self.length}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace(Fault):
    """Base of those that let a response arrive in pieces, each after a time."""

    kinds: ClassVar[frozenset[str]] = frozenset({RECEIVE})
    waits: ClassVar[bool] = True
    needs_response: ClassVar[bool] = True
    needs_body: ClassVar[bool] = True

    @property
    def piece(self) -> int:
        """Most bytes of a piece."""
        raise NotImplementedError

    def seconds(self, size: int) -> float:
        """How long after the piece before one of `size` bytes is there."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth(Pace):
    """Responses come over a line of `rate` bytes a second; if that is 0, not at all."""

    rate: float

    @property
    def piece(self) -> int:
        return max(1, int(self.rate * 0.02))

    def seconds(self, size: int) -> float:
        return size / self.rate if self.rate else math.inf

    def __str__(self) -> str:
        return f"bandwidth {format_bytes(self.rate)}/s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dribble(Pace):
    """Responses come `piece` bytes at a time, each `pause` seconds after the one before."""

    piece: int = 1
    pause: float

    def seconds(self, size: int) -> float:
        return self.pause * max(1, math.ceil(size / self.piece))

    def __str__(self) -> str:
        return f"dribble {self.piece} B every {format_seconds(self.pause)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alteration(Fault):
    """Base of those that change the bytes of a response, in HTTP those of its body only."""

    kinds: ClassVar[frozenset[str]] = frozenset({RECEIVE})
    needs_response: ClassVar[bool] = True
    needs_body: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncation(Alteration):
    """A part of the response's bytes arrives, then the connection ends.

    Attributes:
        share: how much of it.
        limit: how many bytes instead; None for the share.
        headless: the bytes of a stream of whatever protocol are meant, not those of one body.
        end: of the connection: "eof", in good order, or "reset".
    """

    share: float = 0.0
    limit: int | None = None
    headless: bool = False
    end: str = "eof"

    @property
    def breaks(self) -> bool:
        return self.end == "reset"

    def altered(self) -> Altered:
        return Truncated(share=self.share, limit=self.limit, headless=self.headless)

    def __str__(self) -> str:
        kept = f"{self.share:.3g} of it" if self.limit is None else format_bytes(self.limit)
        return f"truncated to {kept}" + (" by a reset" if self.breaks else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Corruption(Alteration):
    """A `share` of the response's bytes, and at least one, is not what was sent.

    Attributes:
        seed: decides which, and what they are instead.
        skip: bytes of a stream of whatever protocol that are left alone before, and then none
            has to be hit; None where it happens to the body of one response.
    """

    share: float
    seed: float = 0.0
    skip: int | None = None

    @property
    def varies(self) -> bool:
        return True

    def drawn(self, share: float) -> Fault:
        return replace(self, seed=share)

    def altered(self) -> Altered:
        return Corrupted(self.share, self.seed, self.skip)

    def __str__(self) -> str:
        return f"corrupted, {self.share:.3g} of the bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class InjectedResponse(Fault):
    """Base of responses in the peer's place, in HTTP/1.1, after which the connection is closed.

    Attributes:
        body: the text after the headers; None for a default.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({RECEIVE})
    body: str | None = None

    def can_happen_to(self, operation: Operation) -> bool:
        elsewhere = operation.tcp.encrypted or operation.tcp.partial or operation.tcp.multiplexed
        return not elsewhere and Fault.can_happen_to(self, operation)

    @property
    def replacement(self) -> bytes:
        """From the status line to the end of the body."""
        content = self.content
        lines = [*self.head, f"Content-Length: {len(content)}", "Connection: close", "", ""]
        return "\r\n".join(lines).encode("ascii") + content

    @property
    def head(self) -> list[str]:
        """The status line, and what headers are its own."""
        raise NotImplementedError

    @property
    def content(self) -> bytes:
        """The body."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusResponse(InjectedResponse):
    """The service responds that it has failed, or is overloaded.

    Attributes:
        status: the HTTP status, 400 to 599.
        retry_after: seconds for a `Retry-After` header, which has whole ones; None for none.
    """

    status: int
    retry_after: float | None = None

    @property
    def head(self) -> list[str]:
        kind = "application/json" if (self.body or "").startswith(("{", "[")) else "text/plain"
        after = self.retry_after
        return [
            f"HTTP/1.1 {self.status} {self._reason}",
            f"Content-Type: {kind}; charset=utf-8",
            *([] if after is None else [f"Retry-After: {math.ceil(after)}"]),
        ]

    @property
    def content(self) -> bytes:
        return (self._reason if self.body is None else self.body).encode()

    @property
    def _reason(self) -> str:
        return next((each.phrase for each in HTTPStatus if each == self.status), "Failure")

    def __str__(self) -> str:
        after = self.retry_after
        return f"status {self.status}" + (
            "" if after is None else f", Retry-After {math.ceil(after)}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MalformedJson(InjectedResponse):
    """The service responds 200, with JSON that cannot be parsed."""

    @property
    def head(self) -> list[str]:
        return ["HTTP/1.1 200 OK", "Content-Type: application/json"]

    @property
    def content(self) -> bytes:
        return ('{"status": "ok", "items": [' if self.body is None else self.body).encode()

    def __str__(self) -> str:
        return "malformed JSON"
