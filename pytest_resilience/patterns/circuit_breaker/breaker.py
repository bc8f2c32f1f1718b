"""A circuit breaker: stops calling what keeps failing, and tries it again later.

In a registry breakers have names, so that all callers of one service share one.
"""

from __future__ import annotations

import contextvars
import sys
import threading

from collections.abc import Callable
from types import FrameType
from typing import Any
from typing import ParamSpec
from typing import Self
from typing import TypeVar

from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.errors import DuplicateNameError
from pytest_resilience.errors import UnknownNameError
from pytest_resilience.events import Listeners
from pytest_resilience.locks import OfThisProcess
from pytest_resilience.locks import fork_safe
from pytest_resilience.patterns import validation
from pytest_resilience.patterns.callables import FINISHED
from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import Decorator
from pytest_resilience.patterns.callables import EnteredBlocks
from pytest_resilience.patterns.callables import calls_first_argument
from pytest_resilience.patterns.callables import is_awaitable
from pytest_resilience.patterns.callables import kind_of
from pytest_resilience.patterns.circuit_breaker.circuit import Circuit
from pytest_resilience.patterns.circuit_breaker.config import CircuitBreakerConfig
from pytest_resilience.patterns.circuit_breaker.shared import UNNAMED
from pytest_resilience.patterns.circuit_breaker.shared import shared_circuit
from pytest_resilience.patterns.circuit_breaker.states import CircuitState
from pytest_resilience.patterns.circuit_breaker.states import CircuitTransition
from pytest_resilience.patterns.circuit_breaker.states import Open
from pytest_resilience.patterns.circuit_breaker.states import StatePermit
from pytest_resilience.patterns.circuit_breaker.store import RedisStore
from pytest_resilience.patterns.circuit_breaker.wrappers import Isolation
from pytest_resilience.patterns.circuit_breaker.wrappers import Permit
from pytest_resilience.patterns.circuit_breaker.wrappers import go_on
from pytest_resilience.patterns.circuit_breaker.wrappers import run_coroutine
from pytest_resilience.patterns.circuit_breaker.wrappers import start
from pytest_resilience.patterns.circuit_breaker.wrappers import wrap


__all__ = ["CircuitBreaker", "CircuitBreakerRegistry"]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_PLAIN, _COROUTINE = CallKind.PLAIN, CallKind.COROUTINE
# A block that was entered: its circuit (None once it was left), its permit, and the block around
# it. A list, because whoever leaves it marks it for all contexts that were copied meanwhile.
_Block = list[Any]
# The innermost block of this thread or task. One variable for all breakers: a ContextVar is
# never collected.
_innermost: contextvars.ContextVar[_Block | None] = contextvars.ContextVar(
    "pytest_resilience_breaker_blocks", default=None
)
_get_innermost, _set_innermost = _innermost.get, _innermost.set
_KIND = "circuit breaker"


class CircuitBreaker(Decorator):
    """Protects calls of one thing that can fail, from any number of threads and tasks.

    CLOSED, it lets every call through, and opens on too many failures. OPEN, it rejects
    with `CircuitBreakerError` until `timeout` is over. Then, HALF_OPEN, it lets as many trial
    calls through as can decide: with enough successes it closes, and the first failure opens
    it again. The outcome of a call that began in an earlier state changes nothing. Trial calls
    that have not ended when `timeout` is over are given up.

    It is a decorator for functions, coroutine functions and generators of both kinds (which
    are protected for the length of their iteration); `call` runs a function; `with` and
    `async with` protect a block; `acquire` is for calls that are none of these.

    Attributes:
        config: as given.
        name: what errors, events and logs call it.
        listeners: are given every `CircuitTransition` and `CircuitRejection`.
        call_listeners: are given every `CircuitCall` and `CircuitRejection`. While there are
            any each call takes longer, by a lock and two readings of the clock.

    Examples:
        >>> breaker = CircuitBreaker(CircuitBreakerConfig(failure_threshold=2))
        >>> breaker.call(len, "abc")
        3
    """

    def __init__(
        self,
        config: CircuitBreakerConfig | None = None,
        *,
        name: str = UNNAMED,
        clock: Clock = SYSTEM_CLOCK,
        store: RedisStore | None = None,
    ) -> None:
        """`store`: where its state is shared with the breakers of that name elsewhere."""
        self.config = validation.config(config, CircuitBreakerConfig)
        validation.clock(clock)
        self.name = validation.text("name", name)
        make = Circuit if store is None else shared_circuit(store)
        self._circuit = make(self.config, name, clock)
        self._trials: EnteredBlocks[_Block] = EnteredBlocks()
        self.listeners: Listeners = self._circuit.journal.listeners
        self.call_listeners: Listeners = self._circuit.journal.call_listeners

    @property
    def state(self) -> CircuitState:
        """The state as the last call left it; OPEN turns to HALF_OPEN only when called.

        Of a breaker with a store, it is read there.
        """
        return self._circuit.state

    @property
    def transitions(self) -> tuple[CircuitTransition, ...]:
        """The latest changes of state, at most 100, oldest first."""
        return self._circuit.history()

    def _decorate(self, func: Any) -> Any:
        return wrap(self._circuit, func)

    @calls_first_argument
    def call(self, func: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call `func` if the breaker lets it; await the result of a coroutine function.

        What a plain function returns may be awaitable: how that ends is the outcome.
        Raises CircuitBreakerError when it does not, else whatever `func` raises.
        """
        circuit = self._circuit
        kind = kind_of(func, args)
        if kind is not _PLAIN:
            if kind is _COROUTINE:
                return run_coroutine(circuit, func, args, kwargs)  # type: ignore[return-value,arg-type]
            return start(circuit, kind, func, args, kwargs)  # type: ignore[no-any-return]
        permit = circuit.fast_path
        if permit is None:
            state = circuit.current
            if isinstance(state, Open) and not circuit.awaits:  # as `acquire_permit` does
                remaining = state.reopens_at - circuit.clock.monotonic()
                if remaining > 0:
                    raise circuit.refusal(state, remaining)
            permit = circuit.acquire_permit()
        try:
            result = func(*args, **kwargs) if kwargs else func(*args)  # type: ignore[call-arg]
        except BaseException as error:
            circuit.record_error(permit, error)
            raise
        if type(result) not in FINISHED and is_awaitable(result):
            return go_on(circuit, permit, result)  # type: ignore[no-any-return]
        if circuit.settled is not permit:
            circuit.record_result(permit, result)
        return result

    def acquire(self) -> Permit:
        """Let a call through that is no function; say on the permit how it ended.

        Raises CircuitBreakerError when it is not let through.
        """
        circuit = self._circuit
        return Permit(circuit, circuit.fast_path or circuit.acquire_permit())

    async def acquire_async(self) -> Permit:
        """As `acquire`, where coroutine functions listen, or with a store.

        When it is said how the call ended, await `notify_async` of the permit.
        """
        circuit = self._circuit
        permit = circuit.fast_path or (
            await circuit.acquire_async() if circuit.awaits else circuit.acquire_permit()
        )
        return Permit(circuit, permit)

    def __enter__(self) -> Self:
        circuit = self._circuit
        permit = circuit.fast_path
        if permit is None:  # `acquire_permit`, written out for where durations matter
            state = circuit.quick[3]
            if state is None:
                current = circuit.current
                if isinstance(current, Open) and not circuit.awaits:  # as `acquire_permit` does
                    remaining = current.reopens_at - circuit.clock.monotonic()
                    if remaining > 0:
                        raise circuit.refusal(current, remaining)
                self._enter(circuit.acquire_permit())
                return self
            permit = state, circuit.clock.monotonic()
        outer = _get_innermost()
        if outer is not None and outer[0] is None:
            outer = outer[2] and _entered(outer[2])
        _set_innermost([circuit, permit, outer])
        return self

    def _enter(self, permit: StatePermit) -> None:
        circuit = self._circuit
        block = [circuit, permit, _entered(_get_innermost())]
        _set_innermost(block)
        if circuit.is_trial(permit):
            self._trials.enter(_frame_of_block(), block)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        circuit, inner = self._circuit, None
        block = _get_innermost()
        if self._trials:
            block = self._left_of(block)
        while block is not None and block[0] is not circuit:
            inner, block = block, block[2]  # of another breaker: generators end in any order
        if block is None:
            # It was entered in another context. Frameworks run the two halves of a generator
            # each in a thread of its own.
            permit = circuit.adopt()
        else:
            permit, block[0] = block[1], None  # it may stay the innermost: to set it costs more
            if inner is not None:
                inner[2] = block[2]
        if error is not None:
            circuit.record_error(permit, error)
        elif circuit.settled is not permit:
            quick, until, slow_after, state = circuit.quick  # `record_success`, written out
            if permit[0] is state:
                now = circuit.clock.monotonic()
                if now < until and now - permit[1] <= slow_after and next(quick, True) is None:
                    return
            circuit.record_success(permit)

    def _left_of(self, innermost: _Block | None) -> _Block | None:
        """Where to look for the block that is left now, while trial calls are in progress.

        One of them is known by its frame. Else it is not one of them, if there is another.
        """
        trial = self._trials.leave(_frame_of_block())
        if trial is not None:
            return trial
        block, last = innermost, None
        while block is not None:
            if block[0] is self._circuit:
                if not self._circuit.is_trial(block[1]):
                    return block
                last = last or block
            block = block[2]
        if last is not None:  # an ExitStack's
            self._trials.leave_this(last)
        return last

    async def __aenter__(self) -> Self:
        if not self._circuit.awaits:
            return self.__enter__()
        self._enter(await self._circuit.acquire_async())
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.__exit__(kind, error, traceback)
        if self._circuit.awaits:
            await self._circuit.notify_async(error)

    def force_open(self) -> None:
        """Reject every call until `reset` or another of these."""
        self._circuit.force(CircuitState.FORCED_OPEN, "forced")

    def force_closed(self) -> None:
        """Let every call through and count nothing, until `reset` or another of these."""
        self._circuit.force(CircuitState.DISABLED, "disabled")

    disable = force_closed

    def metrics_only(self) -> None:
        """Let every call through and count, until `reset` or another of these.

        Listeners get a `CircuitWouldOpen` when it would have opened, and `get_stats` says why.
        """
        self._circuit.force(CircuitState.METRICS_ONLY, "metrics only")

    def isolate(self) -> Isolation:
        """Reject every call until the result ends, by `end()` or as a `with` block.

        Then it is as before, with its counts, and the time that it would have been open has
        gone on. Isolations nest. What sets another state meanwhile ends them.
        """
        return Isolation(self._circuit)

    def open_for(self, seconds: float) -> None:
        """Open it for so many seconds at least, as if it had failed too often.

        Changes nothing where one of `force_open`, `force_closed`, `metrics_only` and `isolate`
        has been said.
        """
        validation.number("seconds", seconds)
        self._circuit.open_for(seconds, f"asked to, for {seconds:g} s")

    def reset(self) -> None:
        """Close it and forget all counts."""
        self._circuit.force(CircuitState.CLOSED, "reset")

    def get_stats(self) -> dict[str, Any]:
        """The state and the counts now; times are monotonic seconds.

        With a window `failure_count` is what is in it, else failures in a row. `failure_rate` is
        that of the window or, half open, of the trial calls that have ended. Totals count since
        the breaker was made, whatever its state, but for DISABLED; `total_successes` only with
        `count_calls`, for that a call succeeds in a closed breaker is not even noted otherwise.
        """
        return self._circuit.statistics()

    def __repr__(self) -> str:
        failures = self.get_stats()["failure_count"]
        return f"<CircuitBreaker {self.name!r} {self.state.value} failures={failures}>"


def _frame_of_block() -> FrameType:
    """Of the `with` that has called in here."""
    frame = sys._getframe(2)  # noqa: SLF001  # public, says its documentation
    while frame.f_globals is globals() and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _entered(block: _Block | None) -> _Block | None:
    """It, or the next one around it that was not left."""
    while block is not None and block[0] is None:
        block = block[2]
    return block


class CircuitBreakerRegistry(OfThisProcess):
    """Holds circuit breakers by name.

    Attributes:
        default: the configuration of breakers that are created without one.
    """

    def __init__(
        self,
        default: CircuitBreakerConfig | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
        store: RedisStore | None = None,
    ) -> None:
        """`store`: where all of them share their states with those of the same name elsewhere."""
        self.default = validation.config(default, CircuitBreakerConfig)
        self._clock: Clock = validation.clock(clock)
        self._store = store
        self._breakers: dict[str, CircuitBreaker] = {}
        self._lock = fork_safe(self, "_lock", threading.Lock)

    def create(self, name: str, config: CircuitBreakerConfig | None = None) -> CircuitBreaker:
        """A new breaker. Raises DuplicateNameError if there is one of that name."""
        with self._lock:
            if name in self._breakers:
                raise DuplicateNameError(_KIND, name)
            return self._add(name, config)

    def get(self, name: str) -> CircuitBreaker:
        """The breaker of that name. Raises UnknownNameError, a KeyError, naming the known."""
        try:
            return self._breakers[name]
        except KeyError:
            raise UnknownNameError(_KIND, name, tuple(self._breakers)) from None

    def get_or_create(
        self, name: str, config: CircuitBreakerConfig | None = None
    ) -> CircuitBreaker:
        """The breaker of that name, created if there is none; else `config` changes nothing."""
        known = self._breakers.get(name)
        if known is not None:
            return known
        with self._lock:  # and look again: another thread may have created it
            return self._breakers.get(name) or self._add(name, config)

    def _add(self, name: str, config: CircuitBreakerConfig | None) -> CircuitBreaker:
        breaker = CircuitBreaker(
            config or self.default, name=name, clock=self._clock, store=self._store
        )
        self._breakers[name] = breaker
        return breaker

    def replace(self, name: str, config: CircuitBreakerConfig | None = None) -> CircuitBreaker:
        """A new breaker in the place of the one of that name. Raises UnknownNameError.

        Whoever has the old one, as a function that it decorates, goes on with that.
        """
        with self._lock:
            self.get(name)
            return self._add(name, config)

    def remove(self, name: str) -> CircuitBreaker:
        """Forget the breaker of that name, which is returned. Raises UnknownNameError."""
        with self._lock:
            breaker = self.get(name)
            del self._breakers[name]
            return breaker

    @property
    def names(self) -> tuple[str, ...]:
        """The names there are, sorted."""
        return tuple(sorted(self._breakers))

    def get_all_stats(self) -> dict[str, dict[str, Any]]:
        """The stats of every breaker, by name."""
        breakers = self._breakers.copy()  # others may add and remove meanwhile
        return {name: breakers[name].get_stats() for name in sorted(breakers)}
