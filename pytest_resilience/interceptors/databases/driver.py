"""What the drivers of databases have in common: whom to ask, how to wait, what to pass over."""

from __future__ import annotations

from collections.abc import Awaitable
from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CHECK_OUT
from pytest_resilience.chaos.operation import COMMIT
from pytest_resilience.chaos.operation import EXECUTE
from pytest_resilience.chaos.operation import FETCH
from pytest_resilience.chaos.operation import OPEN_CONNECTION
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.parsing.sql import control_word
from pytest_resilience.chaos.types.database import AFTER
from pytest_resilience.chaos.types.database import DatabaseFailure
from pytest_resilience.interceptors.waiting import wait
from pytest_resilience.interceptors.waiting import wait_async


__all__ = [
    "DATABASE_KINDS", "Gate", "Session", "hold_up", "hold_up_async", "pass_through",
    "pass_through_async",
]  # fmt: skip

DATABASE_KINDS = frozenset({OPEN_CONNECTION, CHECK_OUT, EXECUTE, COMMIT, FETCH})
_MORE = frozenset({"position", "database"})  # parameters that look at more than the text
_MOST_PASSING = 10_000  # statements whose texts are remembered


class Session:
    """What is known of one connection.

    Attributes:
        names: what its database is called, the best name first.
        position: how many statements of its transaction there were.
        statement: the last one.
        conditions: what its database can be made to say; None for anything.
    """

    __slots__ = ("conditions", "names", "position", "statement")

    def __init__(self, names: tuple[str, ...], conditions: frozenset[str] | None = None) -> None:
        self.names = names
        self.conditions = conditions
        self.position = 0
        self.statement = ""


class Gate:
    """Stands between drivers and an engine.

    Attributes:
        passing: texts of statements that no active experiment is aimed at, and none can
            become so by where in a transaction it stands: all that they cost is to be found
            here.
        commits, fetches: whether an active experiment is about those.
    """

    def __init__(self, engine: Engine) -> None:
        self.passing: set[str] = set()
        self.commits = self.fetches = False
        self._counts = False
        self._engine = engine

    def refresh(self) -> None:
        """The active experiments have changed."""
        active, kinds = self._engine.active, self._engine.kinds
        self.commits = COMMIT in kinds
        self.fetches = FETCH in kinds
        self._counts = any(_MORE & dict(each.experiment.parameters).keys() for each in active)
        self.passing.clear()

    @property
    def aside(self) -> bool:
        """Whether a connection that is opened now is only noted, and is to stay as it is."""
        watch = self._engine.watch
        return watch is not None and not watch.noting and not self._engine.active

    def opening(self, names: tuple[str, ...]) -> Effect | None:
        """What happens to a connect."""
        return self._engine.decide(_operation(OPEN_CONNECTION, names))

    def checking_out(self, names: tuple[str, ...]) -> Effect | None:
        """What happens to a connection being taken from a pool."""
        return self._engine.decide(_operation(CHECK_OUT, names))

    def executing(self, session: Session, statement: str, in_transaction: bool) -> Effect | None:
        """What happens to a statement; `in_transaction`: whether one was begun before it."""
        control = control_word(statement)
        if control == "commit":
            return self.committing(session) if in_transaction else None
        if control:
            session.position = session.position if control == "savepoint" else 0
            return None
        session.position = session.position + 1 if in_transaction else 1
        session.statement = statement
        operation = _operation_of(session, EXECUTE, statement, session.position)
        if self._counts or self.fetches or self._concerns(operation):
            return self._engine.decide(operation)
        self._pass(operation)
        return None

    def _concerns(self, operation: Operation) -> bool:
        return any(
            operation.kind in active_experiment.kinds
            and active_experiment.experiment.matches_target(operation)
            for active_experiment in self._engine.active
        )

    def _pass(self, operation: Operation) -> None:
        self._engine.saw(operation)
        if len(self.passing) >= _MOST_PASSING:
            self.passing.clear()
        self.passing.add(operation.statement)

    def committing(self, session: Session) -> Effect | None:
        """What happens to a COMMIT, however it is said."""
        session.position = 0
        return self._engine.decide(_operation_of(session, COMMIT, "COMMIT"))

    def fetching(self, session: Session) -> Effect | None:
        """What happens to a fetch of what the last statement found."""
        return self._engine.decide(
            _operation_of(session, FETCH, session.statement, session.position)
        )


def _operation(kind: str, names: tuple[str, ...]) -> Operation:
    return Operation(kind=kind, target=names[0], names=names)


def _operation_of(session: Session, kind: str, statement: str, position: int = 1) -> Operation:
    return Operation(
        kind=kind,
        target=session.names[0],
        names=session.names,
        statement=statement,
        position=position,
        conditions=session.conditions,
    )


def hold_up(effect: Effect) -> DatabaseFailure | None:
    """Wait as long as is asked; then, how the operation fails."""
    __tracebackhide__ = True
    if effect.delay:
        effect.add_delay(wait(effect.clock, effect.delay, effect.left))
    return _failure(effect)


async def hold_up_async(effect: Effect) -> DatabaseFailure | None:
    """As `hold_up`, without blocking the loop."""
    __tracebackhide__ = True
    if effect.delay:
        effect.add_delay(await wait_async(effect.clock, effect.delay, effect.left))
    return _failure(effect)


def _failure(effect: Effect) -> DatabaseFailure | None:
    failure = effect.failure
    return failure if isinstance(failure, DatabaseFailure) else None


def pass_through(
    effect: Effect | None,
    proceed: Callable[[], Any],
    fail: Callable[[DatabaseFailure], BaseException | None],
) -> Any:
    """Do what an effect says with an operation.

    `fail` brings about the state that the failure leaves and gives the error to raise; None
    where `proceed` itself will now fail as it should.
    """
    __tracebackhide__ = True
    failure = None if effect is None else hold_up(effect)
    if failure is None:
        return proceed()
    if failure.moment == AFTER:
        proceed()
    error = fail(failure)
    if error is None:
        return proceed()
    raise error


async def pass_through_async(
    effect: Effect | None,
    proceed: Callable[[], Awaitable[Any]],
    fail: Callable[[DatabaseFailure], Awaitable[BaseException | None]],
) -> Any:
    """As `pass_through`, for coroutine functions."""
    __tracebackhide__ = True
    failure = None if effect is None else await hold_up_async(effect)
    if failure is None:
        return await proceed()
    if failure.moment == AFTER:
        await proceed()
    error = await fail(failure)
    if error is None:
        return await proceed()
    raise error
