"""What docs/architecture.md names is there."""

from __future__ import annotations

import ast
import functools
import re

from pathlib import Path

import pytest

import pytest_resilience


PACKAGE = Path(pytest_resilience.__file__).parent
ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

# `Class.method` (folder/module.py)
NAMED = re.findall(r"`([\w.]+)`\s+\(([\w/]+\.py)[):]", PAGE)
PATHS = re.findall(r"`([\w/]+(?:\.py|\.md|/))`", PAGE)


def defined(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {getattr(node, "name", "") for node in ast.walk(tree)}
    return names | {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


@functools.cache
def folders() -> list[Path]:
    return [ROOT, *(each for each in [PACKAGE, *PACKAGE.rglob("*")] if each.is_dir())]


@pytest.mark.parametrize("path", sorted(set(PATHS)))
def test_each_path_is_there(path: str) -> None:
    assert any((folder / path).exists() for folder in folders())


@pytest.mark.parametrize(("name", "path"), NAMED)
def test_each_name_is_in_its_module(name: str, path: str) -> None:
    assert set(name.split(".")) <= defined(PACKAGE / path)


def test_enough_is_named() -> None:
    assert len(NAMED) > 15
    assert len(PATHS) > 40
