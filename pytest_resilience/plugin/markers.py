"""The markers: the types of what they take, what `resilience` says, and whether they are right.

`pytest.mark` takes anything, so a type checker finds no mistake in `@pytest.mark.chaos(...)`, and
an editor completes nothing. `mark` is the same object. A bad marker is told with its place.
"""

from __future__ import annotations

import ast
import inspect

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any
from typing import Literal
from typing import Protocol
from typing import TypeAlias
from typing import cast

import pytest

from pytest_resilience.chaos.parsing import quantities
from pytest_resilience.chaos.parsing.experiment_specs import check_flag
from pytest_resilience.chaos.parsing.messages import printable
from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import with_page
from pytest_resilience.stacks import shown_file


if TYPE_CHECKING:
    from pytest_resilience.chaos.types.calls import MarkChaos


__all__ = [
    "DEADLINE", "PROBLEMS", "Expectation", "Marks", "check_expectation", "check_marks", "mark",
    "raise_problems",
]  # fmt: skip

_Errors: TypeAlias = type[BaseException] | Sequence[type[BaseException]]
_Functions: TypeAlias = Callable[..., object] | Sequence[Callable[..., object]]
DEADLINE = 60.0  # seconds of a cell, where nothing else is said
_KEYWORDS = "allowed=, deadline= and own_chaos="
PROBLEMS = "resilience_problems"
"""The key under which a worker of xdist hands over what is wrong with the markers."""


class Marks(Protocol):
    """The markers of this package; `pytest --markers` says what they do."""

    no_chaos: pytest.MarkDecorator
    no_virtual_time: pytest.MarkDecorator

    @property
    def chaos(self) -> MarkChaos[pytest.MarkDecorator]:
        """Of one experiment: `@mark.chaos("network_failure", mode="refuse", first=1)`."""

    def resilience(
        self, *, allowed: _Errors = ..., deadline: float | str = ..., own_chaos: bool = ...
    ) -> pytest.MarkDecorator:
        """How the test may end in the matrix."""

    def virtual_time(
        self,
        *,
        start: str | float | datetime | None = ...,
        schedule: Literal["seeded"] | None = ...,
    ) -> pytest.MarkDecorator:
        """Give the test virtual time."""

    def chaos_explore(
        self,
        *,
        faults: str | Sequence[str] | set[str] | frozenset[str] = ...,
        depth: int = ...,
        allowed: _Errors = ...,
        invariant: _Functions = ...,
        probe: Callable[..., object] | bool | None = ...,
        deadline: float | str = ...,
        max_calls: int | str = ...,
        budget: int | str | Sequence[int | str] = ...,
    ) -> pytest.MarkDecorator:
        """Run the test under every fault that each of its operations can have."""

    def chaos_replay(self, *schedules: str) -> pytest.MarkDecorator:
        """Run the test under schedules that an exploration has printed."""


mark = cast("Marks", cast("Any", pytest.mark))


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """How a test may end under chaos.

    Attributes:
        allowed: exceptions that mean degraded, and not failed.
        deadline: seconds after which it hangs.
        own_chaos: whether experiments of the matrix join the chaos that the test has of its own.
    """

    allowed: tuple[type[BaseException], ...] = ()
    deadline: float = DEADLINE
    own_chaos: bool = False

    @classmethod
    def of(cls, item: pytest.Item) -> Expectation:
        """From all marks of a test; the nearest of each holds. Raises ConfigurationError."""
        given = list(item.iter_markers("resilience"))
        marks = [cls.read(mark) for mark in given]
        return cls(
            allowed=tuple(each for mark in marks for each in mark.allowed),
            deadline=next((mark.deadline for mark in marks if mark.deadline), DEADLINE),
            own_chaos=next(
                (m.kwargs["own_chaos"] for m in given if "own_chaos" in m.kwargs), False
            ),
        )

    @classmethod
    def read(cls, mark: pytest.Mark) -> Expectation:
        """From one mark; the deadline is 0 where it gives none. Raises ConfigurationError."""
        if mark.args:
            told = ", ".join(map(shortened, mark.args))
            raise ConfigurationError(f"resilience takes {_KEYWORDS}, each by its name, not {told}")
        values = dict(mark.kwargs)
        own = check_flag("own_chaos", values.pop("own_chaos", False))
        return replace(cls.from_values(values), own_chaos=own)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Expectation:
        """As `read`, of the values that a mark gives. Raises ConfigurationError."""
        given = dict(values)
        allowed = _types(given.pop("allowed", ()))
        limit = given.pop("deadline", None)
        if given:
            raise ConfigurationError(f"resilience takes {_KEYWORDS}, not {', '.join(given)}")
        seconds = 0.0 if limit is None else quantities.deadline("deadline", limit)
        return cls(allowed=tuple(allowed), deadline=seconds)


def _types(value: object) -> list[type[BaseException]]:
    found: list[type[BaseException]] = []
    for each in value if isinstance(value, (list, tuple)) else [value]:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise ConfigurationError(f"allowed={shortened(value)}: give exception types in a list")
        found.append(each)
    return found


def check_marks(
    config: pytest.Config,
    items: list[pytest.Item],
    check: Callable[[pytest.Item, pytest.Mark], object],
) -> None:
    """Raise `pytest.UsageError` naming each mark of `items` that `check` refuses.

    `check` raises ConfigurationError. In a worker of xdist nothing is raised: it would reach
    the user as an internal error of xdist. The worker runs no test, and the controller, which
    is given the problems, raises.
    """
    problems: dict[str, None] = {}
    for item in items:
        # From the module to the function, as they are written.
        for node, mark in reversed(list(item.iter_markers_with_node())):
            try:
                check(item, mark)
            except ConfigurationError as error:
                problems[with_page(error.within(_location(node, mark)))] = None
    raise_problems(config, items, problems)


def raise_problems(
    config: pytest.Config, items: list[pytest.Item], problems: Iterable[str]
) -> None:
    """Raise `pytest.UsageError` if there are problems; in a worker, let its controller do it."""
    problems = list(problems)
    if problems and hasattr(config, "workeroutput"):
        config.workeroutput[PROBLEMS] = problems
        items.clear()
    elif problems:
        raise pytest.UsageError(printable("\n".join(problems)))


def check_expectation(_item: pytest.Item, mark: pytest.Mark) -> None:
    """Raise ConfigurationError for a bad mark `resilience` or `no_chaos`."""
    if mark.name == "resilience":
        Expectation.read(mark)
    elif mark.name == "no_chaos" and (mark.args or mark.kwargs):
        raise ConfigurationError("no_chaos takes nothing; write @pytest.mark.no_chaos")


def _location(node: Any, mark: pytest.Mark) -> str:
    """`file:line` of `mark`, which stands on `node`: a function, class or module.

    A mark does not know where it was made, so it is looked for in the source. One that
    was made elsewhere, as a variable or a parameter's mark, is placed at what it marks.
    """
    path = Path(node.path)
    own = [each for each in node.own_markers if each.name == mark.name]
    first = _first_line(node)
    lines = _mark_lines(path, 0 if isinstance(node, pytest.Module) else first, mark.name)
    index = next((number for number, each in enumerate(own) if each is mark), len(own))
    line = lines[index] if index < len(lines) else first
    return f"{shown_file(str(path), str(Path.cwd()))}:{line}"


def _first_line(node: Any) -> int:
    """Of the decorators or the definition; 1 for a module or where there is no source."""
    try:
        return max(1, inspect.getsourcelines(inspect.unwrap(node.obj))[1])
    except (AttributeError, OSError, TypeError):
        return 1


@lru_cache(maxsize=64)
def _mark_lines(path: Path, first: int, name: str) -> list[int]:
    """The lines of the marks `name` on what begins at line `first`, as pytest orders them.

    Line 0 stands for the module itself.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    owner: ast.AST = tree
    decorators: list[ast.expr] = []
    for each in ast.walk(tree):
        if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            begin = min([each.lineno, *(decorator.lineno for decorator in each.decorator_list)])
            if begin == first:
                owner, decorators = each, each.decorator_list
                break
    listed = [] if isinstance(owner, (ast.FunctionDef, ast.AsyncFunctionDef)) else _listed(owner)
    # Decorators are applied, and so listed by pytest, from the bottom up.
    return [each.lineno for each in (*listed, *reversed(decorators)) if _is_mark(each, name)]


def _listed(owner: Any) -> list[ast.expr]:
    """The marks of `pytestmark = …` in the body of a module or class."""
    for statement in owner.body:
        if isinstance(statement, ast.Assign):
            names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
            if "pytestmark" in names:
                value = statement.value
                return value.elts if isinstance(value, (ast.List, ast.Tuple)) else [value]
    return []


def _is_mark(expression: ast.expr, name: str) -> bool:
    called = expression.func if isinstance(expression, ast.Call) else expression
    return isinstance(called, ast.Attribute) and called.attr == name
