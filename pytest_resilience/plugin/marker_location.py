"""Where a marker is written: file and line, for messages about it."""

from __future__ import annotations

import ast
import inspect

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest


__all__ = ["mark_location"]


def mark_location(node: Any, mark: pytest.Mark) -> str:
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
    return f"{_shown(path)}:{line}"


def _shown(path: Path) -> str:
    cwd = Path.cwd()
    return str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path)


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
    """What `pytestmark = …` in the body of a module or class holds."""
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
