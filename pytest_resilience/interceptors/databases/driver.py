"""What all drivers share: asking the engine before a call, waiting, failing, proceeding.

A driver is reached by wrapping the functions that its users call. Before each call a wrapper
asks `DriverHooks` for an `Injection`; None, the usual case, lets the call through.

How a failure is brought about is written once for blocking and awaited drivers: as a
generator that yields the calls to be made, in the way of psycopg's own `generators`.
"""

from __future__ import annotations

import functools
import operator

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Generator
from dataclasses import dataclass
from dataclasses import replace
from typing import Any

from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CHECK_OUT
from pytest_resilience.chaos.operation import COMMIT
from pytest_resilience.chaos.operation import EXECUTE
from pytest_resilience.chaos.operation import FETCH
from pytest_resilience.chaos.operation import OPEN_CONNECTION
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.operation import SqlDetails
from pytest_resilience.chaos.parsing.targets import control_word
from pytest_resilience.chaos.types.database import AFTER
from pytest_resilience.chaos.types.database import DatabaseFailure
from pytest_resilience.interceptors.sync_or_async import run
from pytest_resilience.interceptors.sync_or_async import run_async
from pytest_resilience.interceptors.waiting import wait
from pytest_resilience.interceptors.waiting import wait_async


__all__ = [
    "DATABASE_KINDS", "DriverHooks", "Fail", "Injection", "Session", "Steps", "hooked",
    "hooked_async", "inject",
]  # fmt: skip

DATABASE_KINDS = frozenset({OPEN_CONNECTION, CHECK_OUT, EXECUTE, COMMIT, FETCH})
_BEYOND_THE_TEXT = frozenset({"position", "database"})  # parameters that a text cannot decide
_MOST_REMEMBERED = 10_000  # statements

# Calls to be made one after the other, each given the result of the one before; what is
# returned is the error to raise, or None where the call itself will now fail as it should.
Steps = Generator[Callable[[], Any], Any, BaseException | None]
Fail = Callable[[DatabaseFailure], Steps | BaseException | None]


@dataclass(slots=True)
class Session:
    """The state of one connection, as far as experiments are about it.

    Attributes:
        names: what its database is called, the best name first.
        conditions: the failures that its database knows; None for any.
        position: how many statements its transaction has had so far.
        statement: the latest one.
    """

    names: tuple[str, ...]
    conditions: frozenset[str] | None = None
    position: int = 0
    statement: str = ""


@dataclass(frozen=True, slots=True)
class Injection:
    """The effect on one call: a wait, then maybe a failure, which `fail` brings about."""

    effect: Effect
    fail: Fail


class DriverHooks:
    """Called by a driver before it connects, executes, commits, fetches or checks out.

    Attributes:
        unmatched: statements that no active experiment is aimed at, whatever the connection
            and its transaction. They need not be asked about, which is what keeps them cheap.
        engine: whom it asks.
        commits, fetches: whether an active experiment is aimed at those.
        watching: whether every new connection is made so that experiments reach it later.
    """

    def __init__(self, engine: Engine) -> None:
        self.unmatched: set[str] = set()
        self.commits = self.fetches = self.watching = False
        self._text_decides = True
        self.engine = engine

    def refresh(self) -> None:
        """The active experiments have changed."""
        active, kinds = self.engine.active, self.engine.kinds
        self.commits = COMMIT in kinds
        self.fetches = FETCH in kinds
        self._text_decides = not self.fetches and not any(
            _BEYOND_THE_TEXT & dict(each.experiment.parameters).keys()
            for each in active
            if not DATABASE_KINDS.isdisjoint(each.kinds)
        )
        self.unmatched.clear()

    @property
    def in_use(self) -> bool:
        """Whether its engine has something to do with connections that are made now."""
        return self.watching or bool(self.engine.active) or self.engine.recorder is not None

    @property
    def only_recording(self) -> bool:
        """No test runs, so that a new connection is only noted, and stays what it is."""
        recorder = self.engine.recorder
        recording = recorder is not None and not recorder.in_test and not self.engine.active
        return recording and not self.watching

    def before_connect(self, names: tuple[str, ...], fail: Fail) -> Injection | None:
        watched = SqlDetails(watched=self.watching)
        opening = Operation(kind=OPEN_CONNECTION, target=names[0], names=names, sql=watched)
        return self._decide(opening, fail)

    def before_checkout(self, pool: str, fail: Fail) -> Injection | None:
        """Before a connection is taken from a pool."""
        return self._decide(Operation(kind=CHECK_OUT, target=pool, names=(pool,)), fail)

    def before_execute(
        self, session: Session, statement: str, in_transaction: bool, fail: Fail
    ) -> Injection | None:
        """Before a statement; `in_transaction`: whether a transaction was begun before it."""
        control = control_word(statement)
        if control == "commit":  # said as a statement, it is one all the same
            return self.before_commit(session, fail) if in_transaction else None
        if control:
            session.position = session.position if control == "savepoint" else 0
            return None
        session.position = session.position + 1 if in_transaction else 1
        session.statement = statement
        operation = _operation(EXECUTE, session, statement)
        injection = self._decide(operation, fail)
        if injection is None and self._text_decides and not self._is_target(operation):
            if len(self.unmatched) >= _MOST_REMEMBERED:
                self.unmatched.clear()
            self.unmatched.add(statement)
        return injection

    def before_locking(self, session: Session, statement: str, fail: Fail) -> Injection | None:
        """Before a transaction is begun that has the database to itself, or finds it locked."""
        session.position, session.statement = 0, statement
        begun = replace(session, conditions=frozenset({"locked"}))
        return self._decide(_operation(EXECUTE, begun, statement), fail)

    def before_commit(self, session: Session, fail: Fail) -> Injection | None:
        """Before a COMMIT of an open transaction, by a statement or by a method."""
        session.position = 0
        return self._decide(_operation(COMMIT, session, "COMMIT"), fail)

    def before_fetch(self, session: Session, fail: Fail) -> Injection | None:
        """Before rows of the latest statement are fetched."""
        return self._decide(_operation(FETCH, session, session.statement), fail)

    def _decide(self, operation: Operation, fail: Fail) -> Injection | None:
        effect = self.engine.decide(operation)
        return None if effect is None else Injection(effect, fail)

    def _is_target(self, operation: Operation) -> bool:
        return any(
            operation.kind in each.kinds and each.experiment.matches_target(operation)
            for each in self.engine.active
        )


def _operation(kind: str, session: Session, statement: str) -> Operation:
    sql = SqlDetails(
        statement=statement, position=max(1, session.position), conditions=session.conditions
    )
    return Operation(kind=kind, target=session.names[0], names=session.names, sql=sql)


def hooked(
    before: Callable[..., Injection | None], original: Callable[..., Any]
) -> Callable[..., Any]:
    """`original`, with `before` asked what happens to each call of it."""

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        injection = before(*args, **kwargs)
        if injection is None:
            return original(*args, **kwargs)
        return inject(injection, functools.partial(original, *args, **kwargs))

    return call


def hooked_async(
    before: Callable[..., Injection | None], original: Callable[..., Awaitable[Any]]
) -> Callable[..., Awaitable[Any]]:
    """As `hooked`, for what is awaited."""

    @functools.wraps(original)
    async def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        injection = before(*args, **kwargs)
        if injection is None:
            return await original(*args, **kwargs)
        return await _inject_async(injection, functools.partial(original, *args, **kwargs))

    return call


def inject(injection: Injection | None, proceed: Callable[[], Any]) -> Any:
    """Wait, fail or `proceed`, as the effect says; `proceed` if there is none."""
    __tracebackhide__ = True
    if injection is None:
        return proceed()
    effect = injection.effect
    if effect.delay:
        effect.add_delay(wait(effect.clock, effect.delay, effect.left))
    return run(_steps(injection, proceed), operator.call)


async def _inject_async(injection: Injection, proceed: Callable[[], Any]) -> Any:
    """As `inject`, without blocking the event loop."""
    __tracebackhide__ = True
    effect = injection.effect
    if effect.delay:
        effect.add_delay(await wait_async(effect.clock, effect.delay, effect.left))
    return await run_async(_steps(injection, proceed), operator.call)


def _steps(
    injection: Injection, proceed: Callable[[], Any]
) -> Generator[Callable[[], Any], Any, Any]:
    """One call after its wait; returns what the call returns."""
    __tracebackhide__ = True
    failure = injection.effect.failure
    if not isinstance(failure, DatabaseFailure):
        return (yield proceed)
    if failure.moment == AFTER:
        yield proceed  # it is done, and only the response to it is lost
    error = injection.fail(failure)
    if isinstance(error, Generator):
        error = yield from error
    if error is None:
        return (yield proceed)
    raise error
