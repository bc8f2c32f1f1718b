"""Every error this package raises of its own: one small tree.

Each keeps what happened as attributes, so that code can decide on it, and each
survives pickling, because test results travel between processes. Where it holds what does not,
as exceptions of other libraries, `StandInError` arrives in that one's place.
Faults are not here: an injected fault raises what the real event raises.
"""

from __future__ import annotations

import contextlib
import enum
import pickle
import re

from functools import cached_property
from typing import Any
from typing import Self

from pytest_resilience.events import describe


__all__ = [
    "BulkheadRejectedError",
    "CircuitBreakerError",
    "ClockStalledError",
    "ConfigurationError",
    "DuplicateNameError",
    "LeakedThreadsError",
    "NeverFiredError",
    "ResilienceError",
    "RetryExhaustedError",
    "ServiceFailureError",
    "ShutdownError",
    "StandInError",
    "SteadyStateError",
    "TimeLimitExceededError",
    "UnavailableError",
    "UnknownNameError",
]

_SIMPLE = (str, int, float, bool, bytes, type(None))


def _portable(value: Any) -> Any:
    """`value`, or what stands for it where pickling would lose it or fail on the other side."""
    if type(value) in _SIMPLE:
        return value
    with contextlib.suppress(Exception):  # whatever its own code, or its class's, raises
        again = pickle.loads(pickle.dumps(value))  # noqa: S301  # our own
        if not isinstance(value, BaseException) or str(again) == str(value):
            return value
    return StandInError.of(value) if isinstance(value, BaseException) else describe(value)


def _rebuild(
    cls: type[ResilienceError], args: tuple[Any, ...], state: dict[str, Any]
) -> ResilienceError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


DOCUMENTATION = "https://pytest-resilience.readthedocs.io/en/stable/"
"""Where the pages are that errors lead to; said here only."""


def _page(path: str) -> str:
    """The note that leads to a page."""
    return f"See {DOCUMENTATION}{path}"


def anchor(text: str) -> str:
    """The anchor of a heading, as the site makes it."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text.lower()).strip())


def with_page(error: Exception) -> str:
    """The text of an error with its notes, for where no traceback shows them."""
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


class ResilienceError(Exception):
    """Base of every error of this package. A note leads to the page about it."""

    # For all errors of a class, which then costs nothing where an error is raised by the thousand.
    __notes__ = [_page("messages/#resilienceerror")]  # noqa: RUF012  # `add_note` copies it

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        # One of a user's leads to the page of its base.
        if cls.__module__ == __name__ and "__notes__" not in vars(cls):
            cls.__notes__ = [_page(f"messages/#{anchor(cls.__name__)}")]

    def add_note(self, note: str, /) -> None:
        """Add a note to this error, after that of the page."""
        if "__notes__" not in self.__dict__:
            self.__notes__ = list(type(self).__notes__)
        super().add_note(note)

    def lead_to(self, page: str) -> None:
        """Let the note lead to `page` instead, a path below `DOCUMENTATION`."""
        self.__notes__ = [_page(page)]

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own way calls the class with `args`, which is the finished
        # message here and not what the constructors take.
        args = tuple(map(_portable, self.args))
        state = {name: _portable(value) for name, value in self.__dict__.items()}
        return (_rebuild, (type(self), args, state))

    def __copy__(self) -> Self:
        return _rebuild(type(self), self.args, self.__dict__)  # type: ignore[return-value]


class StandInError(ResilienceError):
    """An error that does not survive pickling, in another process than the one that raised it.

    Attributes:
        type_name: of the error, e.g. ``"httpx.HTTPStatusError"``.
        text: of the error.
    """

    __notes__ = []  # noqa: RUF012  # those of the error

    def __init__(self, type_name: str, text: str) -> None:
        self.type_name = type_name
        self.text = text
        super().__init__(f"{type_name}: {text}" if text else type_name)

    @classmethod
    def of(cls, error: BaseException) -> StandInError:
        """What stands for `error`: its type, text and notes."""
        shape = type(error)
        try:
            text = str(error)
        except Exception:
            text = "(its text cannot be had)"
        stand_in = cls(f"{shape.__module__}.{shape.__qualname__}".removeprefix("builtins."), text)
        for note in getattr(error, "__notes__", ()):
            stand_in.add_note(str(note))
        return stand_in


class ConfigurationError(ResilienceError, ValueError):
    """A marker, flag, experiment or field that cannot mean anything.

    The text says what was given, what is allowed and how to change it.
    """

    def within(self, place: str) -> ConfigurationError:
        """This error, with the place where it was found in front of its text."""
        error = ConfigurationError(f"{place}: {self}")
        error.__notes__ = self.__notes__
        return error


def missing_extra(what: str, library: str, extra: str) -> ConfigurationError:
    """The error where a library is not installed that an extra of the package brings."""
    return ConfigurationError(f"{what} needs {library}; pip install 'pytest-resilience[{extra}]'")


class UnknownNameError(ResilienceError, KeyError):
    """A name that nothing was registered under.

    Attributes:
        kind: what was looked for, e.g. ``"bulkhead"``.
        name: the name asked for.
        known: the names there are, sorted.
    """

    def __init__(self, kind: str, name: str, known: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self.name = name
        self.known = tuple(sorted(known))
        there = ", ".join(map(repr, self.known)) or "none"
        super().__init__(f"no {kind} is named {name!r}; known: {there}")

    def __str__(self) -> str:
        # KeyError shows the repr of its argument, quotes and all.
        return str(self.args[0])


class DuplicateNameError(ResilienceError, ValueError):
    """A name that is taken already.

    Attributes:
        kind: what was to be registered, e.g. ``"bulkhead"``.
        name: the name given.
    """

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        super().__init__(f"a {kind} named {name!r} exists already; choose another name")


class ShutdownError(ResilienceError, RuntimeError):
    """Something was used after it had been shut down."""


class UnavailableError(ResilienceError, RuntimeError):
    """This machine cannot do what was asked: a program, a right or a system call is missing.

    In a test under pytest it becomes a skip with this reason.
    """


class SteadyStateError(ResilienceError):
    """A system was not in its steady state before the chaos, so nothing was started.

    Attributes:
        missed: what each probe that was not content says, by its name.
    """

    def __init__(self, missed: dict[str, str]) -> None:
        self.missed = missed
        told = "; ".join(missed.values())
        super().__init__(f"the system is not in its steady state, so no chaos was started: {told}")


class NeverFired(enum.Enum):
    """Why an experiment never fired, in words: as the message says it, and as the page has it."""

    NOTHING_DONE = "the code did nothing that this fault could hit"
    OTHER_TARGET = "nothing went to its target"
    OTHER_REQUEST = "no request was the one that is meant"
    OTHER_KIND = "nothing was done of the kind that it hits"
    OPENED_BEFORE = "the connection was opened before it began"
    IN_PROCESS = "the application was called in this process"
    IN_C = "the client connects in C"
    OTHER_PROCESS = "it was done in another process"
    UNRESOLVED = "the name does not resolve here"
    IMPOSSIBLE = "what was done cannot have this fault"
    NO_CLIENT = "no client came to the proxy"
    NOT_CHOSEN = "its trigger chose none of the operations that matched"
    TOO_LITTLE = "what it chose ended before it could happen"
    NOT_ENTERED = "it was asked for, and no with entered it"


class NeverFiredError(ResilienceError):
    """An experiment was asked for, started, and hit nothing: it met nothing, or chose none of it.

    Attributes:
        experiment: its name.
        fault: its faults, in words.
        target: its targets, in words.
        seen: what the code did instead, or the numbered operations to choose from, one line each.
        why: the likely cause.
    """

    def __init__(
        self,
        experiment: str,
        *,
        fault: str,
        target: str,
        why: NeverFired,
        seen: tuple[str, ...],
        advice: str,
        nearest: str = "",
        chose: str = "",
    ) -> None:
        """`nearest`: of what was seen, to the target; `chose`: the trigger, or what it chose."""
        self.experiment = experiment
        self.fault = fault
        self.target = target
        self.seen = seen
        self.why = why
        said = f"{why.value} ({chose})" if chose else why.value
        what = f"chaos experiment {experiment!r} ({fault}, target {target})"
        lines = [f"{what} never fired: {said}, so this test proves nothing."]
        if nearest:
            lines.append(f"  Nearest to the target: {nearest}")
        if seen:
            lines.append("  It counted:" if why is NeverFired.NOT_CHOSEN else "  The code did:")
        lines += [f"    {line}" for line in seen]
        lines.append(f"  {advice}")
        super().__init__("\n".join(lines))
        self.lead_to(f"messages/#{anchor(why.value)}")


def _argument(position: int) -> Any:
    """An attribute of what an error was made with."""
    return cached_property(lambda error: error.args[position])


class CircuitBreakerError(ResilienceError):
    """A call was rejected because the breaker lets none through now.

    A breaker that is open rejects by the thousand, so the text is formatted when it is read:
    `args` are what the error was made with, as those of an OSError are.

    Attributes:
        name: the breaker's name.
        state: the state that rejected it, e.g. ``"OPEN"``.
        retry_after: seconds until a call may be let through; None when
            nobody can tell (forced open, or trial calls are in progress).
    """

    name: str = _argument(0)
    state: str = _argument(1)
    retry_after: float | None = _argument(2)

    def __init__(self, name: str, state: str, retry_after: float | None = None) -> None:
        super().__init__(name, state, retry_after)

    def __str__(self) -> str:
        if self.retry_after is not None:
            when = f"try again in {self.retry_after:.3g} s"
        elif self.state == "HALF_OPEN":
            when = "its trial calls are in progress"
        else:
            when = "nobody can say until when"
        return f"{self.name} is {self.state}: {when}"


class RetryExhaustedError(ResilienceError):
    """Every attempt failed. Its ``__cause__`` is the last error.

    Attributes:
        attempts: how many calls were made.
        last_exception: what the last of them raised; None when it returned a
            result that was not acceptable.
        last_result: that result, when there was one.
        elapsed: seconds until giving up: from the first call if its beginning was measured,
            else from its failure.
    """

    def __init__(
        self,
        attempts: int,
        last_exception: BaseException | None,
        *,
        reason: str = "",
        last_result: object = None,
        elapsed: float = 0.0,
    ) -> None:
        self.attempts = attempts
        self.last_exception = last_exception
        self.last_result = last_result
        self.elapsed = elapsed
        self.reason = reason
        last = (
            f"last result: {describe(last_result)}"
            if last_exception is None
            else f"last error: {describe(last_exception)}"
        )
        why = f" ({reason})" if reason else ""
        super().__init__(f"gave up after {attempts} attempt(s){why}; {last}")


class BulkheadRejectedError(ResilienceError):
    """A bulkhead had no room for a call. Formatted when read, as `CircuitBreakerError` is.

    Attributes:
        name: the bulkhead's name.
        in_use: calls inside, or in the window of a rate limit.
        capacity: how many there may be.
        retry_after: seconds until there may be room; None when nobody can tell.
    """

    name: str = _argument(0)
    in_use: int = _argument(1)
    capacity: int = _argument(2)
    retry_after: float | None = _argument(4)

    def __init__(
        self,
        name: str,
        in_use: int,
        capacity: int,
        unit: str = "slots are taken",
        retry_after: float | None = None,
    ) -> None:
        """`unit`: what `in_use` of `capacity` are or do, e.g. ``"calls run or wait"``."""
        super().__init__(name, in_use, capacity, unit, retry_after)

    def __str__(self) -> str:
        when = "when a call has ended"
        if self.retry_after is not None:
            when = f"in {self.retry_after:.3g} s"
        return (
            f"{self.name} is full: {self.in_use} of {self.capacity} {self.args[3]}; "
            f"try again {when}"
        )


class TimeLimitExceededError(ResilienceError, TimeoutError):
    """A call took longer than its time limit.

    Attributes:
        limit: the limit, in seconds.
    """

    def __init__(self, message: str, *, limit: float) -> None:
        Exception.__init__(self, message)
        self.limit = limit


class ServiceFailureError(ResilienceError):
    """The error of a failing service, where the user gives no other.

    Attributes:
        service: the service's name.
    """

    def __init__(self, service: str, message: str = "") -> None:
        self.service = service
        super().__init__(message or f"service {service!r} failed")


class ClockStalledError(ResilienceError):
    """Virtual time cannot go on; the text has every thread of the test with its wait and line."""


class LeakedThreadsError(ResilienceError):
    """Threads that a test with virtual time has started and left.

    Attributes:
        threads: each with the file and line where it is.
    """

    def __init__(self, threads: tuple[str, ...]) -> None:
        self.threads = threads
        listed = "\n".join(f"  {each}" for each in threads)
        super().__init__(
            f"{len(threads)} thread(s) of the test have not ended; end them, or start them where "
            f"they live longer, in a fixture of a wider scope:\n{listed}"
        )
