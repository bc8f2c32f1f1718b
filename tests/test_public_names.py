"""The names that `pytest_resilience` offers, and how it offers them."""

from __future__ import annotations

import ast
import subprocess
import sys

from importlib import import_module
from pathlib import Path

import pytest

import pytest_resilience
import pytest_resilience.errors


HOMES = pytest_resilience._homes()


def imports_of_type_checkers() -> dict[str, str]:
    """Name -> module below the package, from the stub that type checkers read."""
    stub = Path(pytest_resilience.__path__[0], "__init__.pyi").read_text(encoding="utf-8")
    found = {}
    for node in ast.parse(stub).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert alias.asname == alias.name, "a re-export says `as` for mypy --strict"
                found[alias.name] = (node.module or "").removeprefix("pytest_resilience.")
    return found


def test_what_type_checkers_see_is_what_there_is() -> None:
    assert imports_of_type_checkers() == HOMES
    assert pytest_resilience.__all__ == sorted(HOMES)


@pytest.mark.parametrize("name", pytest_resilience.__all__)
def test_every_name_resolves_to_what_its_module_calls_public(name: str) -> None:
    home = import_module(f"pytest_resilience.{HOMES[name]}")
    assert getattr(pytest_resilience, name) is getattr(home, name)
    assert name in home.__all__
    assert name in dir(pytest_resilience)


def test_every_error_is_offered() -> None:
    assert set(pytest_resilience.errors.__all__) <= set(pytest_resilience.__all__)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(
        AttributeError, match=r"^module 'pytest_resilience' has no attribute 'Chao'$"
    ):
        pytest_resilience.Chao  # type: ignore[attr-defined] # noqa: B018


def test_star_import() -> None:
    names: dict[str, object] = {}
    exec("from pytest_resilience import *", names)
    assert names.keys() >= set(pytest_resilience.__all__)


def test_importing_the_package_imports_no_other_module_of_it() -> None:
    code = "import sys, pytest_resilience; print(*sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert [name for name in shown if name.startswith("pytest_resilience")] == ["pytest_resilience"]
