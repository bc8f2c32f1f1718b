"""The markers of the collected tests: checked, with the place of each bad one."""

from __future__ import annotations

import ast
import inspect

from collections.abc import Callable
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from pytest_resilience.chaos.parsing.texts import printable
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import with_page
from pytest_resilience.plugin.matrix.expectation import Expectation
from pytest_resilience.stacks import shown_file


__all__ = ["PROBLEMS", "check_expectation", "check_marks", "raise_problems"]

PROBLEMS = "resilience_problems"
"""The key under which a worker of xdist hands over what is wrong with the markers."""


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
