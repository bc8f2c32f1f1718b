"""What users have: the built wheel in an environment with what it requires, and nothing else."""

from __future__ import annotations

import compileall
import importlib.metadata
import itertools
import json
import os
import subprocess
import sys
import textwrap
import time
import venv
import zipfile

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path

import packaging.requirements
import pytest


PATIENCE = 120  # seconds for a process

PYTEST = """
import sys
import pytest

sys.exit(pytest.main())
"""

# Each run of pytest in a process of its own, which has imported nothing but pytest until then, and
# what is named; as many at a time as there are processors.
FORKS = """
import gc
import importlib
import json
import os
import sys
import pytest

for name in sys.argv[1:]:
    importlib.import_module(name)
gc.freeze()  # each pytest looks for garbage ten times in the end
jobs = json.load(sys.stdin)
codes = [0] * len(jobs)
running = {}

def wait():
    child, status = os.wait()
    codes[running.pop(child)] = os.waitstatus_to_exitcode(status)

for number, (folder, args) in enumerate(jobs):
    if len(running) == len(os.sched_getaffinity(0)):
        wait()
    child = os.fork()
    if not child:
        os.chdir(folder)
        for descriptor, name in enumerate(["../out", "../err"], start=1):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), descriptor)
        sys.argv = ["pytest", *args]
        sys.exit(pytest.main())
    running[child] = number
while running:
    wait()
print(codes)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """What a user has written, and how they run pytest on it.

    Attributes:
        files: what stands in each; `test_it.py` if only a text is given.
        args: of pytest.
    """

    files: Mapping[str, str]
    args: tuple[str, ...] = ()

    def write(self, folder: Path) -> Path:
        for name, text in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text), encoding="utf-8")
        return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """An environment, and processes in it."""

    folder: Path
    runs: Iterator[int] = field(default_factory=itertools.count)

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def command(self) -> Path:
        """What users call as `pytest`: it leaves the current directory out of `sys.path`."""
        return self.folder / "bin" / "pytest"

    def run(
        self, *args: str | Path, cwd: Path, stdin: str = "", **variables: str | None
    ) -> pytest.RunResult:
        """Run this environment's Python; of `variables`, None stands for one that is not there."""
        environment = self.environment() | variables
        started = time.perf_counter()
        done = subprocess.run(
            [self.python, *args],
            cwd=cwd,
            env={name: value for name, value in environment.items() if value is not None},
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            timeout=PATIENCE,
            check=False,
        )
        seconds = time.perf_counter() - started
        return _result(done.returncode, done.stdout, done.stderr, seconds)

    def environment(self) -> dict[str, str]:
        home = self.folder / "home"
        return {"HOME": str(home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}

    def forks(self, projects: Mapping[str, Project], *imported: str) -> dict[str, pytest.RunResult]:
        """Run pytest on each project, in a process that has `imported` that and nothing else."""
        folders = [self.folder / f"run{next(self.runs)}" / "project" for _ in projects]
        for folder, project in zip(folders, projects.values(), strict=True):
            folder.mkdir(parents=True)
            project.write(folder)
        jobs = [
            (str(folder), ["-p", "no:cacheprovider", *project.args])
            for folder, project in zip(folders, projects.values(), strict=True)
        ]
        script = self.folder / "bin" / "forks"
        done = self.run(script, *imported, cwd=self.folder, stdin=json.dumps(jobs))
        assert done.ret == 0, done.stderr.str()
        return {
            name: _result(
                code,
                (folder.parent / "out").read_text(encoding="utf-8"),
                (folder.parent / "err").read_text(encoding="utf-8"),
                0,
            )
            for name, folder, code in zip(
                projects, folders, json.loads(done.stdout.str()), strict=True
            )
        }

    def path_with(self, *distributions: str) -> str:
        """A PYTHONPATH with libraries more, which the tests have."""
        folder = self.folder / "with" / "-".join(distributions)
        if not folder.exists():
            folder.mkdir(parents=True)
            link(folder, distributions)
        return str(folder)


def _result(code: int, out: str, err: str, seconds: float) -> pytest.RunResult:
    return pytest.RunResult(code, out.splitlines(), err.splitlines(), seconds)


def link(site: Path, distributions: Iterable[str]) -> None:
    """Put distributions that are installed here, and what they require, into a folder."""
    todo = list(distributions)
    done = set()
    while todo:
        found = importlib.metadata.distribution(todo.pop())
        if found.name in done:
            continue
        done.add(found.name)
        for top in {path.parts[0] for path in found.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(found.locate_file(top))))
        for text in found.requires or ():
            requirement = packaging.requirements.Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(requirement.name)


@pytest.fixture(scope="session")
def outside(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Outside:
    """Needs no network: what the wheel requires is where the tests have it."""
    folder = tmp_path_factory.mktemp("outside")
    venv.EnvBuilder(symlinks=True).create(folder)
    [site] = folder.glob("lib/python*/site-packages")
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        [metadata] = [name for name in archive.namelist() if name.endswith("/METADATA")]
    compileall.compile_dir(site / "pytest_resilience", quiet=2)  # as installers do
    installed = importlib.metadata.PathDistribution(site / Path(metadata).parent)
    wanted = map(packaging.requirements.Requirement, installed.requires or ())
    link(site, [each.name for each in wanted if each.marker is None])
    for name, script in {"pytest": PYTEST, "forks": FORKS}.items():
        (folder / "bin" / name).write_text(script, encoding="utf-8")
    (folder / "home").mkdir()
    return Outside(folder=folder)


def shown(result: pytest.RunResult) -> pytest.RunResult:
    """What a run has printed, for those who read why a test failed."""
    sys.stdout.write(f"{result.stdout.str()}\n{result.stderr.str()}\n")
    return result


def assert_passed(result: pytest.RunResult, tests: int = 1) -> None:
    shown(result).assert_outcomes(passed=tests)
    assert result.ret == 0
