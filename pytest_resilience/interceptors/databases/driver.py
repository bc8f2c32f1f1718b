"""What all drivers share: asking the engine before a call, waiting, failing, proceeding.

Drivers written in C have connections and cursors whose classes cannot be changed. `sqlite3` and
`psycopg2` can be told which class to make a connection of. They are given one derived from the
class that they would have used, with these methods in front of its own.
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
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.waiting import hold
from pytest_resilience.interceptors.waiting import run_steps
from pytest_resilience.interceptors.waiting import run_steps_async
from pytest_resilience.interceptors.waiting import wait_async


__all__ = [
    "DATABASE_KINDS", "DriverHooks", "Fail", "HookedConnection", "HookedCursor", "Injection",
    "Session", "Steps", "hooked", "hooked_async", "hooked_class", "inject",
]  # fmt: skip

DATABASE_KINDS = frozenset({OPEN_CONNECTION, CHECK_OUT, EXECUTE, COMMIT, FETCH})
_BEYOND_THE_TEXT = frozenset({"position", "database"})  # parameters that a text cannot decide
_MOST_REMEMBERED = 10_000  # statements
# Calls to be made one after the other, each given the result of the one before; what is
# returned is the error to raise, or None where the call itself will now fail as it should.
Steps = Generator[Callable[[], Any], Any, BaseException | None]
Fail = Callable[[DatabaseFailure], Steps | BaseException | None]
_Base: Any = object  # what follows in the method resolution order: a class of the driver


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
        hold(effect, effect.delay)
    return run_steps(_steps(injection, proceed), operator.call)


async def _inject_async(injection: Injection, proceed: Callable[[], Any]) -> Any:
    """As `inject`, without blocking the event loop."""
    __tracebackhide__ = True
    effect = injection.effect
    if effect.delay:
        effect.add_delay(await wait_async(effect.clock, effect.delay, effect.left))
    return await run_steps_async(_steps(injection, proceed), operator.call)


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


class HookedConnection(_Base):  # type: ignore[misc]  # see above
    """The methods of a connection.

    Attributes:
        chaos_hooks: of the class.
        chaos_session: what is known of the connection.
    """

    chaos_hooks: DriverHooks
    chaos_session: Session

    def __init__(self, database: Any, *args: Any, **kwargs: Any) -> None:
        # First of all: a class of the user's may execute statements when it is made.
        self.chaos_session = Session(self.chaos_names(database))
        super().__init__(database, *args, **kwargs)

    def commit(self) -> None:
        __tracebackhide__ = True
        hooks, injection = self.chaos_hooks, None
        if hooks.commits and self.chaos_in_transaction():
            injection = hooks.before_commit(self.chaos_session, self.chaos_failing("COMMIT"))
        inject(injection, super().commit)

    @staticmethod
    def chaos_names(database: Any) -> tuple[str, ...]:
        """The names of a database, the best first."""
        raise NotImplementedError

    def chaos_in_transaction(self) -> bool:
        """The connection is open, and has begun a transaction."""
        raise NotImplementedError

    def chaos_failing(self, statement: str) -> Fail:
        """How a failure of a statement is brought about here; "" for that of a fetch."""
        raise NotImplementedError


class HookedCursor(_Base):  # type: ignore[misc]  # see above
    """The methods of a cursor."""

    chaos_hooks: DriverHooks
    connection: HookedConnection

    def execute(self, sql: Any, *args: Any) -> Any:
        # Before all else: this is what a statement costs at which no experiment is aimed.
        if type(sql) is str and sql in self.chaos_hooks.unmatched:
            return super().execute(sql, *args)
        __tracebackhide__ = True
        return self.chaos_execute(sql, functools.partial(super().execute, sql, *args))

    def executemany(self, sql: Any, *args: Any) -> Any:
        __tracebackhide__ = True
        return self.chaos_execute(sql, functools.partial(super().executemany, sql, *args))

    def fetchone(self) -> Any:
        __tracebackhide__ = True
        return (
            self.chaos_fetch(super().fetchone) if self.chaos_hooks.fetches else super().fetchone()
        )

    def fetchmany(self, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return self.chaos_fetch(functools.partial(super().fetchmany, *args, **kwargs))

    def fetchall(self) -> Any:
        __tracebackhide__ = True
        return self.chaos_fetch(super().fetchall)

    def chaos_text(self, sql: Any) -> str:
        """The text of what is to be executed; "" for what the driver will refuse."""
        raise NotImplementedError

    def chaos_execute(self, sql: Any, proceed: Callable[[], Any]) -> Any:
        __tracebackhide__ = True
        hooks, connection, text = self.chaos_hooks, self.connection, self.chaos_text(sql)
        if not text or text in hooks.unmatched:
            return proceed()
        injection = hooks.before_execute(
            connection.chaos_session,
            text,
            connection.chaos_in_transaction(),
            connection.chaos_failing(text),
        )
        return inject(injection, proceed)

    def chaos_fetch(self, proceed: Callable[[], Any]) -> Any:
        __tracebackhide__ = True
        hooks, connection = self.chaos_hooks, self.connection
        if not hooks.fetches:
            return proceed()
        injection = hooks.before_fetch(connection.chaos_session, connection.chaos_failing(""))
        return inject(injection, proceed)


def hooked_class(hooks: DriverHooks, mixin: type, factory: Any) -> Any:
    """A class with the methods of `mixin` in front of those of the class `factory`.

    `mixin` derives from one of the driver's classes; what is no such class, as a factory may
    be any function, is returned as it is. So is a class with the hooks of another engine that is
    in use: it was asked after this one, and is the nearest to the code under test.
    """
    if not (is_a(factory, type) and issubclass(factory, mixin.__bases__[-1])):
        return factory
    others: DriverHooks = getattr(factory, "chaos_hooks", hooks)
    return factory if others is not hooks and others.in_use else _derived(hooks, mixin, factory)


@functools.lru_cache(maxsize=512)
def _derived(hooks: DriverHooks, mixin: type, base: type) -> type:
    if issubclass(base, mixin):  # the class of another hooked connection
        bases: tuple[type, ...] = (base,)
    else:
        bases = (mixin,) if base in mixin.__bases__ else (mixin, base)
    return type(base.__name__, bases, {"chaos_hooks": hooks, "__module__": base.__module__})
