"""Faults of a response: how fast its bytes come, which ones, and from whom.

Frozen data, as all faults are. The state of one response while its bytes pass is in `payload`.
"""

from __future__ import annotations

import math

from dataclasses import dataclass
from dataclasses import replace
from http import HTTPStatus
from typing import ClassVar

from pytest_resilience.chaos.faults.network import PACED
from pytest_resilience.chaos.faults.network import Delay
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.faults.payload import Altered
from pytest_resilience.chaos.faults.payload import Corrupted
from pytest_resilience.chaos.faults.payload import Head
from pytest_resilience.chaos.faults.payload import Skipped
from pytest_resilience.chaos.faults.payload import Truncated
from pytest_resilience.chaos.faults.payload import head_of
from pytest_resilience.chaos.faults.stream_items import After
from pytest_resilience.chaos.faults.stream_items import BytePosition
from pytest_resilience.chaos.faults.stream_items import Cut
from pytest_resilience.chaos.faults.stream_items import Dropped
from pytest_resilience.chaos.faults.stream_items import ItemPosition
from pytest_resilience.chaos.faults.stream_items import Position
from pytest_resilience.chaos.faults.stream_items import Then
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.chaos.operation import FRAMED
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import HttpRequest
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.parsing.quantities import format_bytes
from pytest_resilience.chaos.parsing.quantities import format_seconds


__all__ = [
    "Alteration",
    "Bandwidth",
    "Corruption",
    "Dribble",
    "DroppedMessage",
    "From",
    "InjectedResponse",
    "MalformedJson",
    "Pace",
    "Pause",
    "SlowClose",
    "StatusResponse",
    "Together",
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
    def awaited(self) -> str:
        return PACED

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
class From:
    """From where on in a message something happens; one of these is given.

    Attributes:
        items: after so many events, messages, lines or chunks (see `stream_items`).
        size: after so many bytes of the body.
        seconds: after so long, from its first byte on.
    """

    items: int | None = None
    size: int | None = None
    seconds: float = 0.0

    def position(self, head: Head) -> Position | None:
        """The place in a new message that begins with `head`; None where it goes by time."""
        if self.items is not None:
            return ItemPosition(head, self.items)
        return None if self.size is None else BytePosition(head, self.size)

    def altered(self, head: Head, then: Then) -> Altered:
        """The state of a message that `then` alters from there on."""
        position = self.position(head)
        return then if position is None else After(position, then)

    def __str__(self) -> str:
        if self.items is not None:
            return f"after {self.items} items"
        if self.size is not None:
            return f"after {format_bytes(self.size)}"
        return f"after {format_seconds(self.seconds)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause(Pace):
    """A response stops for `pause` seconds in the middle, and then goes on."""

    begins: From
    pause: float

    @property
    def has_place(self) -> bool:
        return True

    @property
    def is_nothing(self) -> bool:
        return not self.pause

    def __str__(self) -> str:
        return f"pause of {format_seconds(self.pause)} {self.begins}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alteration(Fault):
    """Base of those that change the bytes of a response, in HTTP those of its body only.

    Attributes:
        begins: from where on; None for all of it.
        of_requests: it is what the client sends that is changed.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({RECEIVE})
    needs_response: ClassVar[bool] = True
    needs_body: ClassVar[bool] = True
    is_of_response: ClassVar[bool] = True
    begins: From | None = None
    of_requests: bool = False

    @property
    def after(self) -> float:
        return 0.0 if self.begins is None else self.begins.seconds

    @property
    def has_place(self) -> bool:
        return self.begins is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncation(Alteration):
    """A part of the response's bytes arrives, then the connection ends.

    Attributes:
        share: how much of it, where it is not cut off from somewhere on.
        limit: how many bytes instead; None for the share.
        headless: the bytes of a stream of whatever protocol are meant, not those of one body.
        end: of the connection: "eof", in good order, or "reset"; "silence": it stays, and nothing
            comes any more.
    """

    share: float = 0.0
    limit: int | None = None
    headless: bool = False
    end: str = "eof"

    @property
    def has_place(self) -> bool:
        return self.begins is not None or self.limit is not None

    @property
    def breaks(self) -> bool:
        return self.end == "reset"

    @property
    def stalls(self) -> bool:
        return self.end == "silence"

    def altered(self) -> Altered:
        if self.begins is not None:
            return self.begins.altered(head_of(self.of_requests), Cut())
        head = Skipped(0) if self.headless else head_of(self.of_requests)
        return Truncated(head, share=self.share, limit=self.limit)

    def __str__(self) -> str:
        if self.begins is not None:
            return f"{_ENDINGS[self.end]} {self.begins}"
        kept = f"{self.share:.3g} of it" if self.limit is None else format_bytes(self.limit)
        return f"truncated to {kept}" + (" by a reset" if self.breaks else "")


_ENDINGS = {"eof": "truncated", "reset": "reset", "silence": "silent"}


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
        if self.begins is not None:
            is_shown_all = not self.begins.seconds  # of what comes before
            head = head_of(self.of_requests) if is_shown_all else Skipped(0)
            damaged = Corrupted(head, self.share, self.seed, hits_for_certain=True)
            return self.begins.altered(head_of(self.of_requests), damaged)
        head = head_of(self.of_requests) if self.skip is None else Skipped(self.skip)
        return Corrupted(head, self.share, self.seed, hits_for_certain=self.skip is None)

    def __str__(self) -> str:
        begins = "" if self.begins is None else f" {self.begins}"
        return f"corrupted, {self.share:.3g} of the bytes{begins}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedMessage(Alteration):
    """One event, message, line or chunk is lost, and the connection lives.

    Attributes:
        items: how many come before it.
    """

    items: int = 0

    @property
    def has_place(self) -> bool:
        return self.items > 0

    @property
    def is_of_stream(self) -> bool:
        return True

    def altered(self) -> Altered:
        return Dropped(head_of(self.of_requests), self.items)

    def __str__(self) -> str:
        return f"message {self.items + 1} dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Together(Fault):
    """What several experiments change in one response: each what the one before it delivers.

    Attributes:
        faults: theirs, that of the oldest first.
    """

    needs_response: ClassVar[bool] = True
    needs_body: ClassVar[bool] = True
    is_of_response: ClassVar[bool] = True
    faults: tuple[Fault, ...]

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset[str]().union(*(each.kinds for each in self.faults))

    @property
    def parts(self) -> tuple[Fault, ...]:
        return self.faults

    @property
    def has_place(self) -> bool:
        return any(each.has_place for each in self.faults)

    @property
    def is_of_stream(self) -> bool:
        return any(each.is_of_stream for each in self.faults)


@dataclass(frozen=True, slots=True, kw_only=True)
class InjectedResponse(Fault):
    """Base of responses in the peer's place, in HTTP/1.1, after which the connection is closed.

    Attributes:
        body: the text after the headers; None for a default.
        headers: in place of those of the same name that it has by itself, and more.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({RECEIVE})
    is_of_http: ClassVar[bool] = True
    is_of_response: ClassVar[bool] = True
    has_direction: ClassVar[bool] = False
    body: str | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def can_happen_to(self, operation: Operation) -> bool:
        tcp = operation.tcp
        elsewhere = tcp.encrypted or tcp.partial or tcp.form == FRAMED or tcp.other
        return not elsewhere and Fault.can_happen_to(self, operation)

    @property
    def replacement(self) -> bytes:
        """From the status line to the end of the body."""
        status, reason = self.status_line
        content, given = self.content, {name.lower() for name, _ in self.headers}
        own = {"Content-Type": _content_type(self.body or ""), **self.own_headers}
        headers = [each for each in own.items() if each[0].lower() not in given]
        end = [("Content-Length", str(len(content))), ("Connection", "close")]
        lines = [f"{name}: {value}" for name, value in (*headers, *self.headers, *end)]
        head = "\r\n".join([f"HTTP/1.1 {status} {reason}", *lines, "", ""])
        return head.encode("latin-1") + content

    @property
    def status_line(self) -> tuple[int, str]:
        """The status, and what it means."""
        raise NotImplementedError

    @property
    def own_headers(self) -> dict[str, str]:
        """Those that it has unless others are given."""
        return {}

    @property
    def content(self) -> bytes:
        """The body."""
        raise NotImplementedError


_MILLISECONDS = "retry-after-ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusResponse(InjectedResponse):
    """The service responds that it has failed, or is overloaded.

    Attributes:
        status: the HTTP status, 400 to 599.
        retry_after: seconds for a `Retry-After` header; None for none. That has whole ones: a part
            of one is for clients that read milliseconds, which have a header of their own.
    """

    status: int
    retry_after: float | None = None

    @property
    def has_fraction(self) -> bool:
        """Whether only some clients can be told of all of `retry_after`."""
        return self.retry_after is not None and not float(self.retry_after).is_integer()

    def can_happen_to(self, operation: Operation) -> bool:
        is_told = not self.has_fraction or _reads_milliseconds(operation.http.request)
        return is_told and InjectedResponse.can_happen_to(self, operation)

    @property
    def status_line(self) -> tuple[int, str]:
        reason = next((each.phrase for each in HTTPStatus if each == self.status), "Failure")
        return self.status, reason

    @property
    def own_headers(self) -> dict[str, str]:
        if self.retry_after is None:
            return {}
        whole = {"Retry-After": str(math.ceil(self.retry_after))}
        milliseconds = {_MILLISECONDS: f"{self.retry_after * 1e3:g}"}
        return whole | milliseconds if self.has_fraction else whole  # as OpenAI's servers

    @property
    def content(self) -> bytes:
        return (self.status_line[1] if self.body is None else self.body).encode()

    def __str__(self) -> str:
        after = "" if self.retry_after is None else f", Retry-After {self.retry_after:g}"
        return f"status {self.status}{after}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MalformedJson(InjectedResponse):
    """The service responds 200, with JSON that cannot be parsed."""

    @property
    def status_line(self) -> tuple[int, str]:
        return 200, "OK"

    @property
    def own_headers(self) -> dict[str, str]:
        return {"Content-Type": "application/json"}

    @property
    def content(self) -> bytes:
        return ('{"status": "ok", "items": [' if self.body is None else self.body).encode()

    def __str__(self) -> str:
        return "malformed JSON"


def _reads_milliseconds(request: HttpRequest | None) -> bool:
    """Whether it comes of a client that does: those of openai and anthropic, say, or of Azure."""
    return request is not None and any(
        name.startswith("x-stainless-") or (name == "user-agent" and "azsdk-" in value)
        for name, value in request.headers
    )


def _content_type(body: str) -> str:
    """What it looks like."""
    begins = body.lstrip().lower()
    if begins.startswith(("{", "[")):
        kind = "application/json"
    elif begins.startswith(("<!doctype html", "<html")):
        kind = "text/html"
    else:
        kind = "application/xml" if begins.startswith("<") else "text/plain"
    return f"{kind}; charset=utf-8"
