"""The README's set-up commands, and the script that runs what the README says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]

MAIN = "python -m pip install . && python -m pytest examples"
TESTS = 'python -m pip install -e ".[test]" && python -m pytest'

# Stands for every program of the script: notes how it was called, prints what pytest would,
# and fails if told to. As `python3.11 -m venv DIR` it puts itself there as DIR/bin/python.
STUB = """#!/bin/sh
called="$(basename "$0") $*"
case "$called" in
    *" -c "*) exit 0 ;;
    *" -m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; echo "$3" > "$NOTES/venv" ;;
esac
echo "$called" >> "$NOTES/calls"
case "$called" in
    *"-m pytest examples"*) echo "== 7 passed in 0.05s ==" ;;
    *"-m pytest"*) echo "== 1 failed, 41 passed in 0.01s =="; echo "written at exit" ;;
esac
case "$called" in $FAILING) exit 1 ;; esac
"""


def fenced_commands(text: str) -> list[str]:
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("python -m pip install")]


class Checkout:
    """A directory with the script, a README, and stubs for all that the script calls."""

    def __init__(self, path: Path, readme: str) -> None:
        self.path = path / "a checkout"
        self.notes = path / "notes"
        self.programs = path / "programs"
        (self.path / ".ci").mkdir(parents=True)
        self.notes.mkdir()
        self.programs.mkdir()
        shutil.copy(ROOT / ".ci" / "run", self.path / ".ci" / "run")
        (self.path / "README.md").write_text(readme)
        for name in ("python3.11", "ruff", "mypy", "mkdocs", "twine"):
            (self.programs / name).write_text(STUB)
            (self.programs / name).chmod(0o755)

    def run(self, failing: str = "nothing") -> subprocess.CompletedProcess[str]:
        path = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["bash", str(self.path / ".ci" / "run")],
            env={**os.environ, "PATH": path, "NOTES": str(self.notes), "FAILING": failing},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    @property
    def calls(self) -> list[str]:
        lines = (self.notes / "calls").read_text().splitlines()
        return [line for line in lines if " -m venv " not in line]

    @property
    def venv(self) -> Path:
        return Path((self.notes / "venv").read_text().strip())

    @property
    def work(self) -> Path:
        """Where the script keeps all that it makes."""
        return self.venv.parent


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    readme = """
        python -m pip install not-in-a-fenced-block

        ```console
        python -m pip install . && python -m pytest examples -q
        ```
        Text in between.
        ```
        python -m something else
        python -m pip install -e ".[test]" && python -m pytest --two-words "a b"
        ```
    """
    return Checkout(tmp_path, re.sub(r"(?m)^ {8}", "", readme))


def test_the_readme_holds_exactly_the_two_commands() -> None:
    assert fenced_commands((ROOT / "README.md").read_text()) == [MAIN, TESTS]


def test_the_script_runs_the_readmes_commands_then_the_linters(checkout: Checkout) -> None:
    result = checkout.run()
    assert checkout.calls == [
        "python -m pip install .",
        "python -m pytest examples -q",
        "python -m pip install -e .[test]",
        "python -m pytest --two-words a b",
        "ruff check",
        "ruff format --check",
        "mypy ",
        "python benchmarks/virtual_time.py --soak 60",
        "python -m pip install -q -e .[docs]",
        f"mkdocs build --strict -q -d {checkout.work}/site",
        f"python -m build -o {checkout.work}/dist",
        f"twine check --strict {checkout.work}/dist/*",
    ]
    assert result.returncode == 0, result.stderr


def test_the_script_ends_with_the_closing_line_of_the_tests(checkout: Checkout) -> None:
    assert checkout.run().stdout.splitlines()[-1] == "== 1 failed, 41 passed in 0.01s =="


def test_the_script_leaves_no_environment_behind(checkout: Checkout) -> None:
    checkout.run(failing="ruff check")
    assert not checkout.venv.is_relative_to(checkout.path)
    assert not checkout.work.exists()


@pytest.mark.parametrize(
    "failing",
    [
        "python -m pip install .",
        "python -m pytest examples*",
        "python -m pytest --two-words*",
        "ruff check*",
        "ruff format*",
        "mypy*",
        "mkdocs*",
        "python -m build*",
        "twine*",
    ],
)
def test_one_failure_fails_the_script_but_stops_nothing_else(
    checkout: Checkout, failing: str
) -> None:
    result = checkout.run(failing)
    assert result.returncode == 1
    assert "\nfailed:\n  " in result.stdout
    assert "mypy " in checkout.calls
    assert any(call.startswith("python -m build") for call in checkout.calls)
    assert result.stdout.splitlines()[-1] == "== 1 failed, 41 passed in 0.01s =="


def test_the_closing_line_is_not_borrowed_from_the_examples(checkout: Checkout) -> None:
    result = checkout.run(failing="python -m pip install -e *")
    assert result.returncode == 1
    assert result.stdout.splitlines()[-1] == "no test was run"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_script_wants_exactly_two_commands(tmp_path: Path, count: int) -> None:
    command = "python -m pip install .\n"
    result = Checkout(tmp_path, f"```\n{command * count}```\n").run()
    assert result.returncode == 1
    assert f"README.md has {count} set-up commands in fenced blocks, not 2" in result.stderr


def test_the_script_says_which_python_it_needs(checkout: Checkout) -> None:
    for name in ("python3.11", "python3", "python"):
        (checkout.programs / name).write_text("#!/bin/sh\nexit 1\n")
        (checkout.programs / name).chmod(0o755)
    result = checkout.run()
    assert result.returncode == 1
    assert "no Python 3.11 or newer found, as python3.11, python3 or python" in result.stderr
