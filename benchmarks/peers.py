"""Are the suites of other libraries test for test the same with the plugin?

    python benchmarks/peers.py --source websockets=DIRECTORY [--cache DIRECTORY] [LIBRARY …]

Nine libraries that work with sockets, loops and names all the time are tested by their own
suites: without the plugin (`-p no:resilience`), with it idle, with it and a delay on a
target that nothing talks to, and once more without it. A test whose outcome differs between
the two runs without the plugin is flaky and listed as such; so is one that differs with it,
and ends differently when it is repeated without it. Every other test has to end the same in
all runs. Exit status 1 where one does not, or where a run broke off.

Fetched from PyPI, with pip: the sdist of each library in the versions below, and what its
suite requires. The sdists of websockets have no tests. For it the repository is needed,
checked out at the tag, as is said where it is missing. The suite of redis needs a
`redis-server` on the PATH (of Debian's package of that name), which is started on 127.0.0.1.

Each library has a virtual environment in the cache, with the library from its source and
a wheel of this checkout. Of their options for pytest only those are left out that run
tests in parallel, measure coverage or profile. Making the environments takes ten minutes
(`--prepare` does no more), the runs take about an hour on two cores.

Tests that need the internet, or find out what an address does that nobody answers, are
the same in each run only where there is no network but loopback. To be sure of that, once
the environments are made:

    unshare --net sh -c 'ip link set lo up && python benchmarks/peers.py …'
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import venv

from collections.abc import Iterator
from pathlib import Path
from typing import Any


ROOT = Path(__file__).parents[1]
CHAOS = "network_latency:delay=5ms,target=127.0.0.9:9"
CONDITIONS = {
    "without": ("-p", "no:resilience"),
    "idle": (),
    "chaos": ("--chaos", CHAOS),
    "without again": ("-p", "no:resilience"),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A library, and how its suite is run from the folder of its source."""

    name: str
    version: str
    requires: tuple[str, ...]  # arguments of pip; the source itself is added
    extras: str = ""
    tests: str = "tests"
    options: tuple[str, ...] = ()
    tag: str = ""  # where to get the source when the sdist has no tests
    conftest: str = ""  # what else its own way of running the tests does first
    redis: bool = False


PEERS = (
    Peer(
        name="aiohttp",
        version="3.14.5",
        requires=("-r", "requirements/test.in"),
        options=("-o", "addopts=--doctest-modules --strict-markers"),
    ),
    Peer(
        name="urllib3",
        version="2.8.0",
        requires=("--group", "dev"),
        extras="[brotli,h2,socks,zstd]",
        tests="test",
    ),
    Peer(
        name="httpcore",
        version="1.0.9",
        requires=("pytest-httpbin==2.0.0", "pytest-trio==0.8.0", "werkzeug<3.1", "setuptools<81"),
        extras="[asyncio,http2,socks,trio]",
    ),
    Peer(
        name="anyio",
        version="4.16.0",
        requires=("--group", "test"),
        extras="[trio]",
    ),
    Peer(
        name="trio",
        version="0.35.0",
        requires=("-r", "test-requirements.in"),
        tests="src/trio",
    ),
    Peer(
        name="tornado",
        version="6.6.1",
        requires=("hypothesis", "pycares<5", "pycurl", "twisted"),
        tests="tornado/test",
        conftest="import logging\n\nlogging.getLogger('tornado.access').setLevel('CRITICAL')\n",
    ),
    Peer(
        name="redis",
        version="8.1.0",
        requires=("-r", "dev_requirements.txt"),
        options=(
            *("--ignore", "tests/test_scenario", "--ignore", "tests/test_asyncio/test_scenario"),
            "-m",
            "not onlycluster and not redismod and not ssl and not multidb_integration",
        ),
        redis=True,
    ),
    Peer(
        name="websockets",
        version="17.0.1",
        requires=("mitmproxy", "python-socks[asyncio]", "trio", "werkzeug"),
        tag="https://github.com/python-websockets/websockets, tag 17.0.1",
    ),
    Peer(
        name="requests",
        version="2.34.2",
        requires=("--group", "test"),
        extras="[socks]",
    ),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How each test ended in one run of a suite, by node id, and why the failed ones did."""

    outcomes: dict[str, str]
    reasons: dict[str, str]
    seconds: float  # of CPU, of pytest and its children
    status: int

    def outcome(self, test: str) -> str:
        return self.outcomes.get(test, "not run")

    def counts(self) -> str:
        found = collections.Counter(self.outcomes.values())
        return f"{found['passed']}/{found['failed'] + found['error']}/{found['skipped']}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The runs of one suite by condition, and more without the plugin of what differed."""

    peer: Peer
    runs: dict[str, Run]
    more: tuple[Run, ...] = ()

    def flaky(self) -> dict[str, set[str]]:
        """Tests that ended differently in runs without the plugin, and how."""
        ended: dict[str, set[str]] = collections.defaultdict(set)
        whole = [self.runs["without"], self.runs["without again"]]
        for test in sorted(whole[0].outcomes.keys() | whole[1].outcomes.keys()):
            ended[test] |= {one.outcome(test) for one in whole}
            ended[test] |= {one.outcomes[test] for one in self.more if test in one.outcomes}
        return {test: outcomes for test, outcomes in ended.items() if len(outcomes) > 1}

    def differing(self, condition: str) -> list[str]:
        """Tests that always end the same without the plugin, and not so in this condition."""
        without, ours, flaky = self.runs["without"], self.runs[condition], self.flaky()
        tests = sorted(without.outcomes.keys() | ours.outcomes.keys())
        return [
            test
            for test in tests
            if test not in flaky and without.outcome(test) != ours.outcome(test)
        ]

    def whole(self) -> bool:
        """Whether no run broke off."""
        return all(one.status in {0, 1} for one in self.runs.values())

    def same(self) -> bool:
        return self.whole() and not self.differing("idle") and not self.differing("chaos")

    def seconds(self, *conditions: str) -> float:
        return sum(self.runs[condition].seconds for condition in conditions) / len(conditions)


# Sources and environments.


def call(command: list[str], where: Path) -> None:
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def wheel(directory: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    call([*pip, str(ROOT)], directory)
    [built] = directory.glob("*.whl")
    return built


def source(peer: Peer, given: Path | None, cache: Path) -> Path:
    """The folder of the library's source: of the sdist, or a copy of the given one."""
    directory = unpacked(peer, given, cache)
    if peer.conftest:
        (directory / "conftest.py").write_text(peer.conftest)
    return directory


def unpacked(peer: Peer, given: Path | None, cache: Path) -> Path:
    if peer.tag and given is None:
        raise SystemExit(
            f"The sdist of {peer.name} {peer.version} has no tests. Check out {peer.tag}, "
            f"and say where: --source {peer.name}=DIRECTORY"
        )
    directory = cache / peer.name / f"{peer.name}-{peer.version}"
    if directory.exists():
        return directory
    if given is not None:
        shutil.copytree(given, directory)
        return directory
    wanted = [f"{peer.name}=={peer.version}", "--no-binary", peer.name, "--no-deps"]
    call([sys.executable, "-m", "pip", "download", "-q", *wanted], directory.parent)
    with tarfile.open(f"{directory}.tar.gz") as archive:
        archive.extractall(directory.parent, filter="data")
    return directory


def prepare(peer: Peer, where: Path, ours: Path) -> None:
    """Make a virtual environment with the library, what its suite requires, and the plugin."""
    directory = where.parent / "venv"
    python = str(directory / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    ready = directory / "ready"
    if not ready.exists():
        venv.create(directory, with_pip=True, clear=True)
        call([*pip, "--upgrade", "pip>=25.1"], where)  # knows groups of requirements
        here = ["-e", f".{peer.extras}", *peer.requires]
        call([*pip, *here, "pytest", "pytest-reportlog", "pytest-timeout", str(ours)], where)
        ready.touch()
    call([*pip, "--force-reinstall", "--no-deps", str(ours)], where)
    asked = f"import importlib.metadata as m; assert m.version('{peer.name}') == '{peer.version}'"
    call([python, "-c", asked], where)


# Runs.


@contextlib.contextmanager
def redis_server(where: Path) -> Iterator[int]:
    """A server of its own, empty, for one run; its port."""
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("The suite of redis needs redis-server: apt-get install redis-server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    where.mkdir(parents=True, exist_ok=True)
    options = {"--bind": "127.0.0.1", "--port": str(port), "--save": "", "--dir": str(where)}
    command = [program, *(part for pair in options.items() for part in pair)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            yield port
        finally:
            server.terminate()


def ended(command: list[str], where: Path, said: Path, deadline: float) -> tuple[int, float]:
    """The exit status of the command, and the seconds of CPU it and its children took."""
    proxies = {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}
    kept = {name: value for name, value in os.environ.items() if name.lower() not in proxies}
    path = os.pathsep.join([str(Path(command[0]).parent), os.environ["PATH"]])
    with said.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=where,
            env={**kept, "PATH": path, "PYTHONHASHSEED": "0"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        timer = threading.Timer(deadline, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        try:
            _, status, used = os.wait4(process.pid, 0)
        finally:
            timer.cancel()
            with contextlib.suppress(ProcessLookupError):  # what is left of it, and of its tests
                os.killpg(process.pid, signal.SIGKILL)
        process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, used.ru_utime + used.ru_stime


def reason(longrepr: Any) -> str:
    if isinstance(longrepr, dict):
        longrepr = (longrepr.get("reprcrash") or {}).get("message", longrepr)
    lines = str(longrepr).strip().splitlines() or [""]
    return lines[0][:200]


def read(log: Path, status: int, seconds: float) -> Run:
    """The outcome of each test, the worst of its setup, call and teardown."""
    outcomes: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for line in log.read_text().splitlines():
        report = json.loads(line)
        kind, test = report.get("$report_type"), report.get("nodeid")
        if kind not in {"TestReport", "CollectReport"} or report["outcome"] == "rerun":
            continue
        bad = report["outcome"] == "failed"
        if bad:
            outcomes[test] = "failed" if report.get("when") == "call" else "error"
            reasons.setdefault(test, reason(report["longrepr"]))
        elif kind == "TestReport" and (report["outcome"] == "skipped" or report["when"] == "call"):
            outcomes.setdefault(test, report["outcome"])
    return Run(outcomes=outcomes, reasons=reasons, seconds=seconds, status=status)


def run(
    peer: Peer,
    where: Path,
    condition: str,
    limits: argparse.Namespace,
    only: tuple[str, ...] = (),
) -> Run:
    name = where.parent / (condition.replace(" ", "-") + ("-only" if only else ""))
    log, said = name.with_suffix(".jsonl"), name.with_suffix(".txt")
    log.write_text("")
    python = where.parent / "venv" / "bin" / "python"
    command = [str(python), "-m", "pytest", "-q", "--report-log"]
    command += [str(log), "--timeout", str(limits.test_deadline)]
    command += [*CONDITIONS[condition], *peer.options, *(only or (peer.tests,))]
    with contextlib.ExitStack() as stack:
        if peer.redis:
            port = stack.enter_context(redis_server(where.parent / "redis"))
            command += ["--redis-url", f"redis://127.0.0.1:{port}/9"]
        status, seconds = ended(command, where, said, limits.suite_deadline)
    return read(log, status, seconds)


def compare(peer: Peer, where: Path, limits: argparse.Namespace) -> Comparison:
    runs = {condition: run(peer, where, condition, limits) for condition in CONDITIONS}
    found = Comparison(peer=peer, runs=runs)
    if not found.whole():  # thousands were not run
        return found
    if only := tuple(sorted({*found.differing("idle"), *found.differing("chaos")})):
        repeats = range(limits.repeats)
        more = tuple(run(peer, where, "without", limits, only) for _ in repeats)
        found = dataclasses.replace(found, more=more)
    return found


# What is shown.


def row(found: Comparison) -> str:
    without, idle = found.seconds("without", "without again"), found.seconds("idle")
    cells = (
        f"{found.peer.name} {found.peer.version}",
        len(found.runs["without"].outcomes),
        *(one.counts() for one in found.runs.values()),
        len(found.flaky()),
        *(len(found.differing(condition)) for condition in ("idle", "chaos")),
        *(f"{one.seconds:.0f}" for one in found.runs.values()),
        f"{idle / without:.2f}",
    )
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def notes(found: Comparison) -> list[str]:
    lines = []
    for condition in ("idle", "chaos"):
        ours, without = found.runs[condition], found.runs["without"]
        for test in found.differing(condition):
            became = f"{without.outcome(test)} -> {ours.outcome(test)}"
            lines.append(f"{condition}: {test}: {became}: {ours.reasons.get(test, '')}")
    for test, outcomes in found.flaky().items():
        lines.append(f"flaky without the plugin: {test}: {' and '.join(sorted(outcomes))}")
    for condition, one in found.runs.items():
        if one.status not in {0, 1}:
            lines.append(f"{condition}: pytest ended with status {one.status}")
    return [f"{found.peer.name}: {line}" for line in lines]


def header() -> str:
    passed = (f"{condition}: passed/failed/skipped" for condition in CONDITIONS)
    seconds = (f"{condition}: s of CPU" for condition in CONDITIONS)
    names = ("library", "tests", *passed, "flaky", "idle: differ", "chaos: differ", *seconds)
    return f"| {' | '.join((*names, 'idle / without'))} |\n|{'---|' * (len(names) + 1)}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [peer.name for peer in PEERS]
    parser.add_argument("libraries", nargs="*", metavar="LIBRARY", help=", ".join(names))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "resilience-peers")
    parser.add_argument("--source", action="append", default=[], metavar="LIBRARY=DIRECTORY")
    parser.add_argument("--prepare", action="store_true", help="make the environments only")
    parser.add_argument("--repeats", type=int, default=5, help="without, of what differs")
    parser.add_argument("--test-deadline", type=float, default=60, metavar="SECONDS")
    parser.add_argument("--suite-deadline", type=float, default=1800, metavar="SECONDS")
    given = parser.parse_args()
    if unknown := set(given.libraries) - set(names):
        parser.error(f"not among the libraries: {', '.join(sorted(unknown))}")
    return given


def compared(given: argparse.Namespace, ours: Path) -> Iterator[Comparison]:
    cache: Path = given.cache.resolve()
    sources = {name: Path(path) for name, _, path in (one.partition("=") for one in given.source)}
    for peer in PEERS:
        if given.libraries and peer.name not in given.libraries:
            continue
        (cache / peer.name).mkdir(parents=True, exist_ok=True)
        where = source(peer, sources.get(peer.name), cache)
        prepare(peer, where, ours)
        if not given.prepare:
            yield compare(peer, where, given)


def main() -> None:
    given = arguments()
    found: list[Comparison] = []
    with tempfile.TemporaryDirectory() as directory:
        for one in compared(given, wheel(Path(directory))):
            print(row(one), file=sys.stderr, flush=True)
            found.append(one)
    if given.prepare:
        return
    print(header(), *map(row, found), "", sep="\n")
    print(*(line for one in found for line in notes(one)), sep="\n")
    raise SystemExit(not all(one.same() for one in found))


if __name__ == "__main__":
    main()
