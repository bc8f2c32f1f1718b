"""What type checkers know of what users write, and that they refuse what is wrong."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

from pathlib import Path

import pytest


USERS = [str(path) for path in sorted(Path(__file__).parent.glob("*_user.py"))]
# Most libraries are not followed: these files meet none of their types, and mypy takes half of its
# time for them.
MYPY = """
[mypy]
strict = True
follow_imports = skip
[mypy-pytest_resilience.*,pytest.*,_pytest.*,pluggy.*,redis.*,requests.*,responses.*]
follow_imports = normal
"""
PYRIGHT = {
    "include": USERS,
    "typeCheckingMode": "strict",
    "enableTypeIgnoreComments": False,  # those of mypy
    "reportUnnecessaryTypeIgnoreComment": "error",
}


def check(*command: str) -> None:
    python = [sys.executable, "-m"]
    done = subprocess.run(
        [*python, *command], check=False, capture_output=True, text=True, timeout=300, cwd="/"
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_knows_what_users_write(tmp_path: Path) -> None:
    config = tmp_path / "mypy.ini"
    config.write_text(MYPY)
    check("mypy", f"--config-file={config}", "--cache-dir=/dev/null", *USERS)


def test_pyright_knows_what_users_write(tmp_path: Path) -> None:
    if importlib.util.find_spec("basedpyright") is None:
        pytest.skip("basedpyright is not installed, so only mypy was asked")
    config = tmp_path / "pyrightconfig.json"
    config.write_text(json.dumps(PYRIGHT))
    check("basedpyright", "--project", str(config), "--pythonpath", sys.executable)
