"""What is run in processes of its own, while other tests are.

A test says by `@runs` which suite it is about, and asks for `ran`, its result. From the moment that
all tests are collected, a process beside this one runs those suites in the order of their tests.
What it has not begun when its test comes is run then. Workers of xdist share all of it. Any other
`Job` is marked by `runs_job`, and its folder is what `finished` returns.

Each is a fork of a process that has loaded pytest, and nothing that a suite could tell: what the
suite says, or what each run of ours loads before the first test. There is such a process for each
that is said, for faults are put around whatever is loaded. What is no module, or has to be told
before Python starts, is a process of its own.

PYTEST_DONT_REWRITE, for nothing is asserted here, and others load it before it is a plugin.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import gc
import importlib
import json
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import zlib

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from types import ModuleType
from typing import IO
from typing import Any
from typing import NoReturn
from typing import Protocol

import _pytest.config
import pytest

from tests import quick_end


ROOT = Path(__file__).parents[1]
# What a run loads in which something happens, and what that stands on.
LOADED = (
    "asyncio", "http.server", "requests", "sqlite3",
    "pytest_resilience.interceptors.children.interceptor",
    "pytest_resilience.interceptors.databases.pools",
    "pytest_resilience.interceptors.databases.postgres",
    "pytest_resilience.interceptors.databases.redis",
    "pytest_resilience.interceptors.databases.sqlite",
    "pytest_resilience.native.connects", "pytest_resilience.native.redirects",
    "pytest_resilience.plugin.exploration.protocol", "pytest_resilience.plugin.fixtures.patterns",
    "pytest_resilience.plugin.matrix.results_and_exit_status", "pytest_resilience.plugin.session",
    "pytest_resilience.proxy.experiments", "pytest_resilience.report.report_files",
)  # fmt: skip
PATIENCE = 600  # seconds for a job, of which there may be several runs, on a busy machine

_ROOT = pytest.StashKey[Path]()
_FOLDERS = pytest.StashKey[dict[int, Path]]()  # by the identity of the job
_STARTED = pytest.StashKey[bool]()


class Job(Protocol):
    def write(self, folder: Path) -> Command:
        """Put there what is needed to run it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """How a job is run.

    Attributes:
        args: of Python.
        cwd: the folder that it runs in.
        variables: of the environment; None for one that is not there.
        loaded: what may be before it begins, if it is about when something is.
    """

    args: tuple[str, ...]
    cwd: Path
    variables: Mapping[str, str | None] = field(default_factory=dict)
    loaded: tuple[str, ...] = LOADED


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Some files, and how pytest is run on them.

    Attributes:
        files: what stands in each.
        args: of pytest.
        variables: of the environment; None for one that is not there.
        loaded: what may be before it begins, if it is about when something is.
    """

    files: Mapping[str, str]
    args: tuple[str, ...] = ()
    variables: Mapping[str, str | None] = field(default_factory=dict)
    loaded: tuple[str, ...] = LOADED

    def write(self, folder: Path) -> Command:
        (folder / "suite").mkdir()
        for name, text in self.files.items():
            (folder / "suite" / name).write_text(textwrap.dedent(text), encoding="utf-8")
        args = ("-m", "pytest", f"--basetemp={folder / 'temporary'}", *self.args)
        variables = {"HOME": str(folder), **self.variables}
        cwd = folder / "suite"
        return Command(args=args, cwd=cwd, variables=variables, loaded=self.loaded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A program, in a process of its own."""

    code: str

    def write(self, folder: Path) -> Command:
        return Command(args=("-c", self.code), cwd=ROOT)


def runs_python(code: str) -> pytest.MarkDecorator:
    """A test about a program: what it has done nobody has done before."""
    return runs_job(Script(code=code))


def runs(
    *args: str,
    variables: Mapping[str, str | None] | None = None,
    others: Mapping[str, str] | None = None,
    loaded: tuple[str, ...] = LOADED,
    **modules: str,
) -> pytest.MarkDecorator:
    """A test about `pytest *args`, where these modules are, and other files."""
    files = {f"{name}.py": text for name, text in modules.items()} | dict(others or {})
    return runs_job(Suite(files=files, args=args, variables=variables or {}, loaded=loaded))


ALONE_AND_XDIST: dict[str, tuple[str, ...]] = {"alone": (), "xdist": ("-p", "xdist", "-n1")}


def runs_each(
    ways: Mapping[str, tuple[str, ...]],
    *args: str,
    others: Mapping[str, str] | None = None,
    **modules: str,
) -> pytest.MarkDecorator:
    """As `runs`, once with the more arguments of each way."""
    found = [
        pytest.param(
            way, marks=runs(*args, *more, variables=None, others=others, loaded=LOADED, **modules)
        )
        for way, more in ways.items()
    ]
    return pytest.mark.parametrize("ran", found, indirect=True)


def runs_job(job: Job) -> pytest.MarkDecorator:
    """A test, or all of a module, about what comes of this."""
    return pytest.mark.runs(job)


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
    config.addinivalue_line("markers", "runs(job): what the test wants the result of.")


def pytest_collection_finish(session: pytest.Session) -> None:
    config = session.config
    marks = [item.get_closest_marker("runs") for item in session.items]
    jobs = {id(mark.args[0]): mark.args[0] for mark in marks if mark is not None}
    if not jobs or config.option.collectonly:
        return
    config.stash[_FOLDERS] = folders = {}
    with locked(root(config) / "lock"):
        for number, (key, job) in enumerate(jobs.items()):
            folders[key] = folder = root(config) / f"{number:03}"
            if not folder.exists():  # unless another worker, with the same tests, was first
                folder.mkdir()
                command = json.dumps(dataclasses.asdict(job.write(folder)), default=str)
                (folder / "command.json").write_text(command, encoding="utf-8")
    if not hasattr(config, "workerinput"):
        config.add_cleanup(_start(root(config)))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["ahead"] = str(root(node.config))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any) -> None:
    """The first worker has written all jobs."""
    if _STARTED not in node.config.stash:
        node.config.stash[_STARTED] = True
        node.config.add_cleanup(_start(root(node.config)))


def runs_tests(config: pytest.Config) -> bool:
    """Whether this process runs any: with xdist its workers do, which wait until it is ready."""
    return hasattr(config, "workerinput") or not config.getoption("tx", None)


def root(config: pytest.Config) -> Path:
    """A folder for all jobs, and for what several of them use."""
    if hasattr(config, "workerinput"):
        return Path(config.workerinput["ahead"])
    if _ROOT not in config.stash:
        config.stash[_ROOT] = Path(tempfile.mkdtemp(prefix="ahead-"))
        config.add_cleanup(lambda: shutil.rmtree(config.stash[_ROOT], ignore_errors=True))
    return config.stash[_ROOT]


def _start(root: Path) -> Callable[[], None]:
    """Run the jobs there one after the other, in a process that is no child of this one.

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


@contextlib.contextmanager
def locked(path: Path, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    """By one at a time."""
    with path.open("w") as lock:
        fcntl.flock(lock, how)
        yield


def finished(request: pytest.FixtureRequest) -> Path:
    """The folder of the job that the test, or its module, is about, which has been run."""
    mark = request.node.get_closest_marker("runs")
    assert mark is not None
    folder = request.config.stash[_FOLDERS][id(mark.args[0])]
    with locked(folder / "lock"):  # once it has run, if it has been begun
        _run(folder)
    return folder


@pytest.fixture
def ran_in(request: pytest.FixtureRequest) -> Path:
    """Where `ran` has run."""
    return finished(request) / "suite"


@pytest.fixture
def ran(request: pytest.FixtureRequest) -> pytest.RunResult:
    """The result of the suite that the test is about."""
    return result_in(finished(request))


def result_in(folder: Path) -> pytest.RunResult:
    """What a job has printed, and its status."""
    out, err = ((folder / name).read_text(encoding="utf-8") for name in ("out", "err"))
    sys.stdout.write(f"{out}\n{err}\n")
    code = int((folder / "code").read_text())
    return pytest.RunResult(code, out.splitlines(), err.splitlines(), 0)


def _run(folder: Path, *, forks: bool = False) -> None:
    """Run the job unless it has been run; whoever calls holds its lock.

    `forks`: this process is one that nothing has happened in.
    """
    if (folder / "code").exists():
        return
    command = json.loads((folder / "command.json").read_text(encoding="utf-8"))
    if not forks and _is_forked_elsewhere(folder, command["loaded"]):
        return
    variables = os.environ | surroundings() | command["variables"]
    environment = {name: value for name, value in variables.items() if value is not None}
    is_module = command["args"][0] == "-m"
    is_told_late = any(name.startswith("PYTHON") for name in command["variables"])
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        if forks and is_module and not is_told_late:
            code = _fork(command["args"][1:], command["cwd"], environment, (out, err))
        else:
            process = subprocess.Popen(
                [sys.executable, *command["args"]],
                cwd=command["cwd"],
                env=environment,
                stdout=out,
                stderr=err,
            )
            try:
                code = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
    (folder / "code").write_text(str(code))


def _fork(
    args: Sequence[str], cwd: str, environment: Mapping[str, str], to: Sequence[IO[str]]
) -> int:
    """Run `python -m *args` in a child of this process; returns its status."""
    child = os.fork()
    if child:
        killer = threading.Timer(PATIENCE, os.kill, (child, signal.SIGKILL))
        killer.start()
        _, status = os.waitpid(child, 0)
        killer.cancel()
        killer.join()  # the next fork is of one thread
        return os.waitstatus_to_exitcode(status)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, file in enumerate(to, start=1):
        os.dup2(file.fileno(), descriptor)
    sys.path[0] = cwd
    sys.path.insert(1, environment["PYTHONPATH"])
    for arg in args:
        if told := re.fullmatch(r"-n(\d+)", arg):
            _fork_workers(int(told[1]))
    sys.argv = [*args]  # whose first runpy sets
    runpy.run_module(args[0], run_name="__main__", alter_sys=True)
    sys.exit()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Worker:
    """A child, as execnet knows it."""

    pid: int
    stdin: IO[bytes]
    stdout: IO[bytes]

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def _fork_workers(count: int) -> None:
    """Let the first workers of xdist be children of this process, before anything happens in it."""
    ready: list[_Worker] = []
    for _ in range(count):
        ready.append(_fork_worker(ready))
    from execnet import gateway_base
    from execnet import gateway_io

    class Ready(gateway_io.Popen2IOMaster):
        def __init__(self, args: list[str], execmodel: Any) -> None:
            if not ready:
                super().__init__(args, execmodel)
                return
            self.popen = ready.pop(0)
            gateway_base.Popen2IO.__init__(self, self.popen.stdin, self.popen.stdout, execmodel)

    gateway_io.Popen2IOMaster = Ready  # type: ignore[misc]


def _fork_worker(others: Sequence[_Worker]) -> _Worker:
    """What `python -c` would be, with what execnet tells it to do: that comes as one line."""
    (its_in, to_it), (from_it, its_out) = os.pipe(), os.pipe()
    child = os.fork()
    if child:
        os.close(its_in)
        os.close(its_out)
        return _Worker(pid=child, stdin=open(to_it, "wb"), stdout=open(from_it, "rb"))
    for file in (each for other in others for each in (other.stdin, other.stdout)):
        file.close()  # which ends when the other's master does
    os.dup2(its_in, 0)
    os.dup2(its_out, 1)
    for descriptor in (its_in, to_it, from_it, its_out):
        os.close(descriptor)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.argv = ["-c"]
    sys.modules["__main__"] = ModuleType("__main__")
    if told := sys.stdin.readline():
        exec(eval(told), vars(sys.modules["__main__"]))
    sys.exit()


def _socket(root: Path, loaded: Sequence[str]) -> str:
    """Where that process listens which has loaded this and forks."""
    return str(root / f"forks-{zlib.crc32(repr([*loaded]).encode()):x}")


def _is_forked_elsewhere(folder: Path, loaded: Sequence[str]) -> bool:
    """Have the job run by a fork of the process that has loaded this, if there is one yet."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(_socket(folder.parent, loaded))
        except OSError:
            return False
        client.sendall(folder.name.encode())
        client.recv(1)  # when it is over
    return (folder / "code").exists()


def _serve(root: Path, loaded: Sequence[str]) -> None:
    """Fork for whoever asks, in a child that has loaded this, until nobody does any more."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(_socket(root, loaded))
    server.listen()  # who asks from here on waits until it is ready
    server.settimeout(PATIENCE)
    if os.fork():
        server.close()
        return
    for name in loaded:
        importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those below
    with contextlib.suppress(TimeoutError):
        while True:
            client, _ = server.accept()
            if not os.fork():
                server.close()
                _run_for(client, root)
            client.close()
    os._exit(0)


def _run_for(client: socket.socket, root: Path) -> NoReturn:
    """In a child of its own. What is raised here is let through: the job's process ends by that."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _run(root / client.recv(1024).decode(), forks=True)
    client.sendall(b".")  # what the job has left running may keep it open
    os._exit(0)


def _run_all(root: Path) -> None:
    commands = {each.parent: each for each in sorted(root.glob("*/command.json"))}
    told = (json.loads(each.read_text(encoding="utf-8")) for each in commands.values())
    _pytest.config.get_config()  # loads its plugins
    for loaded in dict.fromkeys(tuple(each["loaded"]) for each in told):
        _serve(root, loaded)
    for folder in commands:
        without_waiting = locked(folder / "lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
        with contextlib.suppress(BlockingIOError), without_waiting:
            _run(folder)


if __name__ == "__main__":
    _run_all(Path(sys.argv[1]))
