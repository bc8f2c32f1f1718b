"""A circuit breaker: stops calling what keeps failing, and tries it again later."""

from __future__ import annotations

import functools
import logging
import threading

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from typing import ParamSpec
from typing import TypeVar

from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.errors import CircuitBreakerError
from pytest_resilience.events import Listeners
from pytest_resilience.patterns import fields
from pytest_resilience.patterns.breaker_events import CircuitState
from pytest_resilience.patterns.breaker_events import CircuitTransition
from pytest_resilience.patterns.calls import CallKind
from pytest_resilience.patterns.calls import kind_of


__all__ = ["CircuitBreaker", "CircuitBreakerConfig"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_HISTORY = 100  # transitions that are remembered
_logger = logging.getLogger("pytest_resilience.breaker")


@dataclass(frozen=True, slots=True)
class CircuitBreakerConfig:
    """When a breaker opens, and how it closes again.

    Attributes:
        failure_threshold: failures in a row that open it.
        success_threshold: successes while half open that close it, and how many calls
            are let through until it is decided.
        timeout: seconds it stays open before it lets calls through to try.
        expected_exception: what counts as a failure. Anything else the call raises counts
            neither way and passes through.

    Raises ConfigurationError or TypeError for a value that makes no sense.
    """

    failure_threshold: int = 5
    success_threshold: int = 3
    timeout: float = 60.0
    expected_exception: tuple[type[BaseException], ...] = (Exception,)

    def __post_init__(self) -> None:
        fields.integer("failure_threshold", self.failure_threshold, low=1)
        fields.integer("success_threshold", self.success_threshold, low=1)
        fields.number("timeout", self.timeout)
        types = fields.exception_types("expected_exception", self.expected_exception)
        object.__setattr__(self, "expected_exception", types)


class CircuitBreaker:
    """Protects calls of one thing that can fail, from any number of threads and tasks.

    CLOSED, it lets every call through and opens after `failure_threshold` failures in a
    row. OPEN, it refuses with `CircuitBreakerError` until `timeout` seconds have passed. Then,
    HALF_OPEN, it lets `success_threshold` calls through: if all succeed it closes, and the
    first failure opens it again. A call that began under an earlier state changes nothing.

    No lock is held while a call runs, and none is taken by a call that succeeds while the
    breaker is closed and nothing has failed before.

    Attributes:
        config: as given.
        name: what errors, events and logs call it.
        listeners: told of every `CircuitTransition`.
    """

    def __init__(
        self,
        config: CircuitBreakerConfig | None = None,
        *,
        name: str = "circuit breaker",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.config = config or CircuitBreakerConfig()
        self.name = name
        self.listeners = Listeners()
        self._clock = clock
        self._lock = threading.Lock()
        self._state = CircuitState.CLOSED
        # Counts the states there have been; a call's outcome counts only in its own.
        self._generation = 0
        self._failures = 0
        self._successes = 0
        self._probes = 0
        self._opened_at = 0.0
        self._last_failure: float | None = None
        self._history: deque[CircuitTransition] = deque(maxlen=_HISTORY)

    @property
    def state(self) -> CircuitState:
        """The state, as the last call left it; an OPEN breaker turns half open when called."""
        return self._state

    @property
    def transitions(self) -> tuple[CircuitTransition, ...]:
        """The latest changes of state, at most 100, oldest first."""
        return tuple(self._history)

    def __call__(self, func: Callable[_P, _R]) -> Callable[_P, _R]:
        """Protect a function, plain or async, as a decorator.

        Raises TypeError for a generator function, whose call does nothing yet.
        """
        kind = kind_of(func)
        if kind in (CallKind.GENERATOR, CallKind.ASYNC_GENERATOR):
            raise TypeError(f"{func!r} is a {kind.value} function; protect what consumes it")
        return self._awaiting(func) if kind is CallKind.COROUTINE else self._calling(func)

    def _calling(self, func: Callable[_P, _R]) -> Callable[_P, _R]:
        admit, failed, succeeded = self._admit, self._failed, self._succeeded

        @functools.wraps(func)
        def protected(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            generation = admit()
            try:
                result = func(*args, **kwargs)
            except BaseException as error:
                failed(generation, error)
                raise
            succeeded(generation)
            return result

        return protected

    def _awaiting(self, func: Callable[_P, Any]) -> Callable[_P, Any]:
        admit, failed, succeeded = self._admit, self._failed, self._succeeded

        @functools.wraps(func)
        async def protected(*args: _P.args, **kwargs: _P.kwargs) -> Any:
            generation = admit()
            try:
                result = await func(*args, **kwargs)
            except BaseException as error:
                failed(generation, error)
                raise
            succeeded(generation)
            return result

        return protected

    def call(self, func: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call `func` if the breaker lets it; await the result of a coroutine function.

        Raises CircuitBreakerError when it does not, else whatever `func` raises.
        """
        return self(func)(*args, **kwargs)

    def get_stats(self) -> dict[str, Any]:
        """The state and the counts now; times are monotonic seconds."""
        with self._lock:
            last = self._last_failure
            return {
                "state": self._state.value,
                "failure_count": self._failures,
                "success_count": self._successes,
                "last_failure_time": last,
                "time_since_last_failure": None if last is None else self._clock.monotonic() - last,
            }

    def _admit(self) -> int:
        """Let a call through, giving the generation it belongs to; or refuse it."""
        generation = self._generation  # before the state: too old is ignored, too new is not
        if self._state is CircuitState.CLOSED:
            return generation
        with self._lock:
            transition = self._try_again()
            refusal = self._take_probe()
            generation = self._generation
        self._tell(transition)
        if refusal is not None:
            raise refusal
        return generation

    def _try_again(self) -> CircuitTransition | None:
        """Turn half open if it is time, under the lock."""
        if self._state is CircuitState.OPEN and self._remaining() <= 0:
            return self._change(CircuitState.HALF_OPEN, "the timeout is over")
        return None

    def _take_probe(self) -> CircuitBreakerError | None:
        """Why no call is let through, or None if one is, under the lock."""
        if self._state is CircuitState.CLOSED:
            return None
        if self._state is CircuitState.HALF_OPEN and self._probes < self.config.success_threshold:
            self._probes += 1
            return None
        return self._refusal()

    def _refusal(self) -> CircuitBreakerError:
        is_open = self._state is CircuitState.OPEN
        retry_after = self._remaining() if is_open else None
        when = f"try again in {retry_after:.3g} s" if is_open else "its probes are under way"
        return CircuitBreakerError(
            f"{self.name} is {self._state.value}: {when}",
            name=self.name,
            state=self._state.value,
            retry_after=retry_after,
        )

    def _remaining(self) -> float:
        return self._opened_at + self.config.timeout - self._clock.monotonic()

    def _succeeded(self, generation: int) -> None:
        if self._state is CircuitState.CLOSED and not self._failures:
            return
        transition = None
        with self._lock:
            if generation != self._generation:
                return
            self._failures = 0
            if self._state is CircuitState.HALF_OPEN:
                self._successes += 1
                if self._successes >= self.config.success_threshold:
                    reason = f"{self._successes} calls succeeded"
                    transition = self._change(CircuitState.CLOSED, reason)
        self._tell(transition)

    def _failed(self, generation: int, error: BaseException) -> None:
        if not isinstance(error, self.config.expected_exception):
            self._ignored(generation)
            return
        transition = None
        with self._lock:
            if generation != self._generation:
                return
            self._failures += 1
            self._last_failure = self._clock.monotonic()
            half_open = self._state is CircuitState.HALF_OPEN
            if half_open or self._failures >= self.config.failure_threshold:
                what = "a probe failed" if half_open else f"{self._failures} failures in a row"
                reason = f"{what}, with {type(error).__name__}"
                transition = self._change(CircuitState.OPEN, reason)
        self._tell(transition)

    def _ignored(self, generation: int) -> None:
        """A call ended that says nothing: its probe, if it was one, can be made again."""
        with self._lock:
            if generation == self._generation and self._state is CircuitState.HALF_OPEN:
                self._probes -= 1

    def _change(self, new: CircuitState, reason: str) -> CircuitTransition:
        """Enter a state, under the lock."""
        now = self._clock.monotonic()
        event = CircuitTransition(at=now, source=self.name, old=self._state, new=new, reason=reason)
        self._state = new
        self._generation += 1
        self._probes = self._successes = 0
        if new is CircuitState.OPEN:
            self._opened_at = now
        self._history.append(event)
        return event

    def _tell(self, transition: CircuitTransition | None) -> None:
        """Log and announce, not under the lock."""
        if transition is not None:
            _logger.info(
                "%s: %s -> %s, %s",
                self.name,
                transition.old.value,
                transition.new.value,
                transition.reason,
            )
            self.listeners.emit(transition)

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.name!r} {self._state.value} failures={self._failures}>"
