"""The chaos types of databases: slow steps, and failures as the drivers report them."""

from __future__ import annotations

import fnmatch

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_resilience.chaos.faults.network import Delay
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.operation import CHECK_OUT
from pytest_resilience.chaos.operation import COMMIT
from pytest_resilience.chaos.operation import EXECUTE
from pytest_resilience.chaos.operation import FETCH
from pytest_resilience.chaos.operation import OPEN_CONNECTION
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.chaos.parsing.quantities import count
from pytest_resilience.chaos.parsing.targets import StatementPattern
from pytest_resilience.chaos.parsing.targets import parse_statements
from pytest_resilience.chaos.types.schema import CHILDREN_PARAMETER
from pytest_resilience.chaos.types.schema import Parameter
from pytest_resilience.chaos.types.schema import TypeSchema
from pytest_resilience.chaos.types.schema import delay_parameters
from pytest_resilience.chaos.types.schema import distribution_of
from pytest_resilience.chaos.types.schema import one_of
from pytest_resilience.chaos.types.schema import several_of
from pytest_resilience.chaos.types.schema import trigger_parameters
from pytest_resilience.errors import ConfigurationError


__all__ = [
    "AFTER", "BEFORE", "DATABASE_FAILURE", "DATABASE_SLOWDOWN", "DURING", "LOST",
    "STATEMENT_PARAMETERS", "DatabaseDelay", "DatabaseFailure",
]  # fmt: skip

MOST_DELAY = 5.0  # seconds at intensity 1

BEFORE, DURING, AFTER = "before", "during", "after"
LOST = "lost"

_STEPS = {"connect": OPEN_CONNECTION, "execute": EXECUTE, "commit": COMMIT, "fetch": FETCH}
# The step at which each happens, where the user gives none.
_CONDITIONS = {
    LOST: EXECUTE,
    "refused": OPEN_CONNECTION,
    "locked": EXECUTE,
    "deadlock": EXECUTE,
    "serialization_failure": COMMIT,
    "statement_timeout": EXECUTE,
    "pool_exhausted": CHECK_OUT,
    "read_only": EXECUTE,
    "disk_full": EXECUTE,
    "constraint": EXECUTE,
    "too_many_connections": OPEN_CONNECTION,
}
_AT_FIXED_STEP = frozenset({"refused", "pool_exhausted", "too_many_connections"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseDelay(Delay):
    """A step `at` which the database takes `delay` seconds longer."""

    at: str = EXECUTE

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset({self.at})

    def __str__(self) -> str:
        return f"{self.at.removeprefix('database.')} slower by {self.length}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFailure(Fault):
    """A step `at` which the database fails, as its driver tells it.

    Attributes:
        condition: the parameter `mode`.
        at: the kind of operation.
        moment: BEFORE it reaches the database, DURING it, or AFTER it has been done.
    """

    condition: str
    at: str
    moment: str = DURING

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset({self.at})

    def can_happen_to(self, operation: Operation) -> bool:
        known = operation.sql.conditions is None or self.condition in operation.sql.conditions
        return known and Fault.can_happen_to(self, operation)

    def __str__(self) -> str:
        what = "connection lost" if self.condition == LOST else self.condition.replace("_", " ")
        return f"{what} {self.moment} {self.at.removeprefix('database.')}"


@dataclass(frozen=True, slots=True)
class _Statements:
    """Which statements are meant; connecting and fetching have none."""

    patterns: tuple[StatementPattern, ...]

    def accepts(self, operation: Operation) -> bool:
        return any(pattern.matches(operation.sql.statement) for pattern in self.patterns)

    def __str__(self) -> str:
        return f"match {' | '.join(map(str, self.patterns))}"


@dataclass(frozen=True, slots=True)
class _Position:
    """Which statement of each transaction is meant."""

    number: int

    def accepts(self, operation: Operation) -> bool:
        return operation.sql.position == self.number

    def __str__(self) -> str:
        return f"statement {self.number} of each transaction"


@dataclass(frozen=True, slots=True)
class _Databases:
    """Which databases are meant."""

    globs: tuple[str, ...]

    def accepts(self, operation: Operation) -> bool:
        return any(fnmatch.fnmatch(name, glob) for name in operation.names for glob in self.globs)

    def __str__(self) -> str:
        return f"database {' | '.join(self.globs)}"


def _databases(name: str, value: Any) -> _Databases:
    if not isinstance(value, str) or not all(each.strip() for each in value.split("|")):
        raise ConfigurationError(
            f"{name}={shortened(value)}: give a database's name or path, or a glob"
        )
    return _Databases(tuple(each.strip() for each in value.split("|")))


STATEMENT_PARAMETERS = (
    Parameter(
        name="match", unit="SQL with * or ..., several between |", default="every statement",
        parse=lambda name, value: _Statements(parse_statements(name, value)),
        help="which statements, e.g. 'SELECT * FROM orders*'",
    ),
    Parameter(
        name="position", unit="number, from 1", default="any",
        parse=lambda name, value: _Position(count(name, value)),
        help="which statement of each transaction",
    ),
    Parameter(
        name="database", unit="name or path, globs, several between |", default="every database",
        parse=_databases, help="whose operations are meant",
    ),
)  # fmt: skip


def _slowdown(given: Mapping[str, Any], intensity: float) -> tuple[Fault, ...]:
    delay = given.get("delay", intensity * MOST_DELAY)
    distribution = distribution_of(given, delay)
    kinds = [_STEPS[step] for step in given.get("at", ("execute",))]
    return tuple(DatabaseDelay(delay=delay, distribution=distribution, at=kind) for kind in kinds)


def _failure(given: Mapping[str, Any], _intensity: float) -> tuple[Fault, ...]:
    condition = given.get("mode", LOST)
    moments = [moment for moment in (BEFORE, DURING, AFTER) if moment in given]
    if len(moments) > 1:
        raise ConfigurationError(f"{' and '.join(moments)}: give one of them")
    if not moments:
        moment = BEFORE if condition == LOST else DURING
        return (DatabaseFailure(condition=condition, at=_CONDITIONS[condition], moment=moment),)
    (moment,) = moments
    if condition in _AT_FIXED_STEP or (condition != LOST and moment != DURING):
        fixed = condition in _AT_FIXED_STEP
        cure = "leave it out" if fixed else f"write {DURING}={given[moment]!r}"
        raise ConfigurationError(
            f"{moment}={given[moment]!r} does not go with mode={condition!r}; {cure}"
        )
    kind = _STEPS[given[moment]]
    if condition != LOST and kind not in {EXECUTE, COMMIT}:
        raise ConfigurationError(f"{moment}: mode={condition!r} happens to execute or commit")
    return (DatabaseFailure(condition=condition, at=kind, moment=moment),)


def _moment(name: str, meaning: str) -> Parameter:
    return Parameter(
        name=name, unit=", ".join(_STEPS), default="as fits the mode", parse=one_of(_STEPS),
        help=meaning,
    )  # fmt: skip


DATABASE_SLOWDOWN = TypeSchema(
    summary="a database responds late",
    parameters=(
        *delay_parameters(f"intensity x {MOST_DELAY:g}s", "added to each step"),
        Parameter(
            name="at", unit=f"{', '.join(_STEPS)}, several between |", default="execute",
            parse=several_of(_STEPS), help="which steps are slow",
        ),
        *STATEMENT_PARAMETERS,
        *trigger_parameters(rate="1"),
        CHILDREN_PARAMETER,
    ),
    faults=_slowdown,
)  # fmt: skip

DATABASE_FAILURE = TypeSchema(
    summary="a database fails, with the driver's own error and code",
    parameters=(
        Parameter(
            name="mode", unit=", ".join(_CONDITIONS), default=LOST, parse=one_of(_CONDITIONS),
            help="what is the matter",
        ),
        _moment(BEFORE, "lost before this step reaches the database"),
        _moment(DURING, "fails at this step; lost: the outcome is unknown, it was not done"),
        _moment(AFTER, "lost when this step was done, and the response did not arrive"),
        *STATEMENT_PARAMETERS,
        *trigger_parameters(rate="1 in a test; by flag or profile intensity"),
        CHILDREN_PARAMETER,
    ),
    faults=_failure,
    rate=lambda _given, intensity: intensity,
)  # fmt: skip
