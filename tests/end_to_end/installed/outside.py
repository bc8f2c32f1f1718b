"""What users have: the built wheel in an environment with what it requires, and nothing else.

What a module of tests looks at is run in it ahead of them, by `python -m` this.
"""

from __future__ import annotations

import compileall
import importlib
import importlib.metadata
import json
import os
import pickle
import subprocess
import sys
import tempfile
import textwrap
import venv
import zipfile

from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import packaging.requirements
import pytest

from tests.ahead import Command
from tests.ahead import locked


ROOT = Path(__file__).parents[3]
PATIENCE = 120  # seconds for a process
SESSION = "pytest_resilience.plugin.session"  # what every run loads in which something happens

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
        return _result(done.returncode, done.stdout, done.stderr)

    def environment(self) -> dict[str, str]:
        home = self.folder / "home"
        return {"HOME": str(home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}

    def forks(self, projects: Mapping[str, Project], *imported: str) -> dict[str, pytest.RunResult]:
        """Run pytest on each project, in a process that has `imported` that and nothing else."""
        runs = Path(tempfile.mkdtemp(prefix="runs-", dir=self.folder))
        folders = [runs / f"{number}" / "project" for number, _ in enumerate(projects)]
        for folder, project in zip(folders, projects.values(), strict=True):
            folder.mkdir(parents=True)
            project.write(folder)
        # Which pytest says of a plugin that is there already.
        quiet = ["-W", "ignore:Module already imported so cannot be rewritten"] if imported else []
        jobs = [
            (str(folder), ["-p", "no:cacheprovider", *project.args, *quiet])
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
            )
            for name, folder, code in zip(
                projects, folders, json.loads(done.stdout.str()), strict=True
            )
        }

    def having(self, *distributions: str) -> tuple[str, str]:
        """Arguments of pytest with which a project has libraries more."""
        return ("-o", f"pythonpath=. {self.path_with(*distributions)}")

    def path_with(self, *distributions: str) -> str:
        """A PYTHONPATH with libraries more, which the tests have."""
        folder = self.folder / "with" / "-".join(distributions)
        if not folder.exists():
            folder.mkdir(parents=True)
            link(folder, distributions)
        return str(folder)


def _result(code: int, out: str, err: str) -> pytest.RunResult:
    return pytest.RunResult(code, out.splitlines(), err.splitlines(), 0)


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


def built(root: Path) -> Path:
    """A folder with the wheel and the sdist of this checkout, which is made if there is none."""
    out = root / "dist"
    with locked(root / "dist.lock"):
        if not out.exists():
            command = [sys.executable, "-m", "hatchling", "build", "-d", str(out)]
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE)
    return out


def environment(root: Path) -> Outside:
    """Needs no network: what the wheel requires is where the tests have it."""
    folder = root / "outside"
    [wheel] = built(root).glob("*.whl")
    with locked(root / "outside.lock"):
        if not folder.exists():
            _make(folder, wheel)
    return Outside(folder=folder)


def _make(folder: Path, wheel: Path) -> None:
    venv.EnvBuilder(symlinks=True).create(folder)
    [site] = folder.glob("lib/python*/site-packages")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """The job of a module of tests: what its function `everything` does outside, in a folder.

    Attributes:
        module: that has `everything(outside, folder)`, which returns results by name.
    """

    module: str

    def write(self, folder: Path) -> Command:
        (folder / "work").mkdir()
        return Command(args=("-m", __name__, self.module, str(folder)), cwd=ROOT)


def main(module: str, folder: Path) -> None:
    outside = environment(folder.parent)
    results = importlib.import_module(module).everything(outside, folder / "work")
    (folder / "results").write_bytes(pickle.dumps(results))


def shown(result: pytest.RunResult) -> pytest.RunResult:
    """What a run has printed, for those who read why a test failed."""
    sys.stdout.write(f"{result.stdout.str()}\n{result.stderr.str()}\n")
    return result


def assert_passed(result: pytest.RunResult, tests: int = 1) -> None:
    shown(result).assert_outcomes(passed=tests)
    assert result.ret == 0


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
