"""What a retry handler records of the calls it had to try again."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_resilience.events import Event


__all__ = ["RetryAborted", "RetryEvent", "RetryGaveUp", "RetryScheduled", "RetrySucceeded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryEvent(Event):
    """Something about one call.

    No event keeps an exception: it would keep every frame alive that it passed through.

    Attributes:
        call: the call's number among those its handler had to try again.
        attempt: how many attempts were made by then.
    """

    call: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryScheduled(RetryEvent):
    """An attempt has failed and another follows.

    Attributes:
        failure: what went wrong, in words.
        delay: seconds until the next.
    """

    failure: str
    delay: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySucceeded(RetryEvent):
    """A call has succeeded after all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryAborted(RetryEvent):
    """A call that was to be tried again was ended by what is not: cancellation, say.

    Attributes:
        failure: by what, in words.
    """

    failure: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryGaveUp(RetryEvent):
    """The last attempt has failed.

    Attributes:
        failure: what went wrong, in words.
        reason: why no other attempt follows.
    """

    failure: str
    reason: str
