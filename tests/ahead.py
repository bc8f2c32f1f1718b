"""Suites in processes of their own, which run while other tests do.

A test says by `@runs` which suite it is about, and asks for `ran`, its result. From the moment that
all tests are collected, a process beside this one runs those suites in the order of their tests.
What it has not begun when its test comes is run then; under xdist, all of them are.

PYTEST_DONT_REWRITE, for nothing is asserted here, and others load it before it is a plugin.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path

import pytest

from tests import quick_end


ROOT = Path(__file__).parents[1]
PATIENCE = 120  # seconds for a suite

_FOLDERS = pytest.StashKey[dict[str, Path]]()


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Some files, and how pytest is run on them.

    Attributes:
        files: what stands in each.
        args: of pytest.
        variables: of the environment; None for one that is not there.
    """

    files: Mapping[str, str]
    args: tuple[str, ...] = ()
    variables: Mapping[str, str | None] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        (folder / "suite").mkdir(parents=True)
        for name, text in self.files.items():
            (folder / "suite" / name).write_text(textwrap.dedent(text), encoding="utf-8")
        how = json.dumps({"args": self.args, "variables": dict(self.variables)})
        (folder / "how.json").write_text(how, encoding="utf-8")


def runs(
    *args: str,
    variables: Mapping[str, str | None] | None = None,
    others: Mapping[str, str] | None = None,
    **modules: str,
) -> pytest.MarkDecorator:
    """A test about `pytest *args`, where these modules are, and other files."""
    files = {f"{name}.py": text for name, text in modules.items()} | dict(others or {})
    return pytest.mark.runs(Suite(files=files, args=args, variables=variables or {}))


def surroundings() -> dict[str, str | None]:
    """The environment of suites inside tests: only our plugin is loaded, and those asked for by -p.

    None stands for what is not there: with these, pytest cuts no line short.
    """
    return {
        "CI": None,
        "BUILD_NUMBER": None,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_ADDOPTS": "-p resilience -p no:cacheprovider",
        **quick_end.environment(),
    }


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "runs(suite): what `ran` is the result of.")


def pytest_collection_finish(session: pytest.Session) -> None:
    config = session.config
    marks = {item.nodeid: item.get_closest_marker("runs") for item in session.items}
    suites = {name: mark.args[0] for name, mark in marks.items() if mark is not None}
    if not suites or config.option.collectonly:
        return
    root = Path(tempfile.mkdtemp(prefix="ahead-"))
    config.add_cleanup(lambda: shutil.rmtree(root, ignore_errors=True))
    config.stash[_FOLDERS] = {name: root / f"{number:03}" for number, name in enumerate(suites)}
    for name, suite in suites.items():
        suite.write(config.stash[_FOLDERS][name])
    if not hasattr(config, "workerinput"):
        config.add_cleanup(_start(root))


def _start(root: Path) -> Callable[[], None]:
    """Run the suites there one after the other, in a process that is no child of this one.

    Tests wait for children, and count them.
    """
    shell = subprocess.Popen(
        ["/bin/sh", "-c", '"$@" &', "sh", sys.executable, "-m", "tests.ahead", str(root)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    shell.wait()

    def stop() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)

    return stop


@pytest.fixture
def ran_in(request: pytest.FixtureRequest, ran: pytest.RunResult) -> Path:
    """Where `ran` has run."""
    return request.config.stash[_FOLDERS][request.node.nodeid] / "suite"


@pytest.fixture
def ran(request: pytest.FixtureRequest) -> pytest.RunResult:
    """The result of the suite that the test is about."""
    folder = request.config.stash[_FOLDERS][request.node.nodeid]
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # once it has run, if it has been begun
        _run(folder)
    out, err = ((folder / name).read_text(encoding="utf-8") for name in ("out", "err"))
    sys.stdout.write(f"{out}\n{err}\n")
    code = int((folder / "code").read_text())
    return pytest.RunResult(code, out.splitlines(), err.splitlines(), 0)


def _run(folder: Path) -> None:
    """Run the suite unless it has been run; whoever calls holds its lock."""
    if (folder / "code").exists():
        return
    how = json.loads((folder / "how.json").read_text(encoding="utf-8"))
    variables = os.environ | surroundings() | {"HOME": str(folder)} | how["variables"]
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", f"--basetemp={folder / 'temporary'}", *how["args"]],
            cwd=folder / "suite",
            env={name: value for name, value in variables.items() if value is not None},
            stdout=out,
            stderr=err,
        )
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    (folder / "code").write_text(str(process.returncode))


def _run_all(root: Path) -> None:
    for folder in sorted(root.iterdir()):
        with (folder / "lock").open("w") as lock, contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _run(folder)


if __name__ == "__main__":
    _run_all(Path(sys.argv[1]))
