"""What the exploration costs: `python benchmarks/explore.py`. Takes a minute.

The recording, which is a run without faults, and a run with one, beside the same test as pytest
runs it, without any of it in place; the whole exploration of one test in 200 runs, beside 200 runs
of the test alone; and how many runs twelve failing schedules of five faults take to become their
pairs.

Sixteen operations on files in 5 ms are dense. Beside that stands a test of 5 ms that sends four
HTTP requests to a server in a thread of its own, whose work is a part of the 5 ms.

The test takes 5 ms alone, with all that pytest does for it: its temporary folder and its eight
files take a part of that, and it calculates for the rest. Each process first finds out how long
that is. The files are in memory where there is such a file system: what a disk takes for one
differs from moment to moment, from 20 to 500 us, and none of it is the exploration's.

Times are of the CPU. The three ways to run a test take turns in one process, and what is compared
are the runs of one turn, so that a busy machine tells much the same. The first run of a turn, alone
and recorded, is not counted: what was put in place, or removed, has emptied Python's caches.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile

from pathlib import Path
from typing import Any

from figures import Figure
from figures import pin
from figures import show


BUSY = """
import time

OWN = 0

def busy(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
"""
SAVES = (
    BUSY
    + """
import pytest

@pytest.mark.parametrize("files", {files})
def test_saves(tmp_path, files):
    busy(OWN)
    for number in range(files):
        try:
            with open(tmp_path / f"{{number}}.txt", "w") as file:
                file.write("x")
        except (OSError, MemoryError):
            pass
"""
)
ASKS = (
    BUSY
    + """
import http.server
import threading
import urllib.request
import pytest

class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass

@pytest.fixture(scope="module")
def address():
    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{{server.server_port}}/"
        server.shutdown()
        thread.join()

@pytest.mark.parametrize("requests", {requests})
def test_asks(address, requests):
    busy(OWN)
    for _ in range(requests):
        try:
            with urllib.request.urlopen(address) as response:
                response.read()
        except OSError:
            pass
"""
)
FITTED = """
import json
import statistics
import time
import pytest

from pytest_resilience.plugin.pytest_internals import run_once, tear_down

def timed(run):
    began = time.process_time()
    ran = run()
    return time.process_time() - began, ran

def alone(item):
    return timed(lambda: run_once(item, counts=False))[0]

def fit(item):
    'Let the test take ALONE seconds with all that pytest does for it.'
    run_once(item, counts=True)
    for _ in range(TIMES):
        took = statistics.median(alone(item) for _ in range(TURNS))
        item.module.OWN += ALONE - took
    assert item.module.OWN > 0, f"it takes {took} s without calculating"

"""
IN_TURNS = """
from pytest_resilience.exploration.schedule import Step
from pytest_resilience.plugin.exploration.settings import ExploreSettings, plan_of

found = {}

def in_turns(item, explored, oracle, times):
    alone(item)
    plain = alone(item)
    with explored.observing():
        explored.run(item, (), oracle)
        calm, ran = timed(lambda: explored.run(item, (), oracle))
        assert len(ran.outcome.seen) == EACH * times
        if not times:
            return plain, calm, 0.0
        schedule = (Step(ran.outcome.seen[0].point, FAULT),)
        faulted, ran = timed(lambda: explored.run(item, schedule, oracle, baseline=ran.leaked))
        assert ran.outcome.hit
    return plain, calm, faulted

@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session):
    explored = session.config.pluginmanager.get_plugin("resilience-explored-runs")
    for item in session.items:
        oracle = plan_of(item, ExploreSettings()).oracle
        times, = item.callspec.params.values()
        fit(item)
        found[times] = [in_turns(item, explored, oracle, times) for _ in range(TURNS)]
        tear_down(item, None)
    return True

def pytest_unconfigure():
    with open("spent.json", "w") as file:
        json.dump(found, file)
"""
WHOLE = """
spent = {}

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    fit(item)
    tear_down(item, None)
    began = time.process_time()
    result = yield
    spent["explored"] = time.process_time() - began
    spent["alone"] = sum(alone(item) for _ in range(RUNS))
    tear_down(item, nextitem)
    return result

def pytest_unconfigure():
    with open("spent.json", "w") as file:
        json.dump(spent, file)
"""
PAIRS = """
import pytest

def is_saved(path):
    try:
        path.write_text("x")
        return True
    except OSError:
        return False

@pytest.mark.parametrize(("pair", "fault"), {cases})
def test_pair(tmp_path, pair, fault):
    failed = {{name for name in {names!r} if not is_saved(tmp_path / name)}}
    assert not failed >= set(pair)
"""
COUNTS = """
import json
import pytest

runs = []

def pytest_configure(config):
    from pytest_resilience.plugin.exploration.runs import ExploredRuns
    usual = ExploredRuns.run

    def run(self, item, schedule, *args, **kwargs):
        runs.append((item.name, len(schedule)))
        return usual(self, item, schedule, *args, **kwargs)

    ExploredRuns.run = run

def pytest_unconfigure():
    with open("spent.json", "w") as file:
        json.dump(runs, file)
"""
ALONE, FILES, REQUESTS, RUNS, TURNS, TIMES = 0.005, 8, 4, 200, 40, 3
IN_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
NAMES = "abcde"
FAULTS = ("disk_full", "permission_denied")


def fitted(conftest: str, each: int = 2, fault: str = "disk_full") -> str:
    """A conftest that has the test take as long as is meant.

    `each`: operations of a file, or a request. `fault`: that the first of them is given.
    """
    numbers = f"ALONE, RUNS, TURNS, TIMES = {ALONE}, {RUNS}, {TURNS}, {TIMES}\n"
    return f"{numbers}EACH, FAULT = {each}, {fault!r}\n{FITTED}{conftest}"


def explored(code: str, conftest: str, *arguments: str, kept: str = "") -> tuple[Any, str]:
    """What a conftest has written of a run that explores, and what that has printed."""
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        Path(folder, "test_it.py").write_text(code)
        Path(folder, "conftest.py").write_text(conftest)
        Path(folder, "kept.txt").write_text(kept)
        plugin = ["-p", "resilience", "--chaos-explore"]
        temporary = f"--basetemp={folder}/temporary"
        command = [sys.executable, "-m", "pytest", "-q", temporary, *plugin, *arguments]
        done = subprocess.run(
            command, cwd=folder, env=environment, check=False, capture_output=True, text=True
        )
        return json.loads(Path(folder, "spent.json").read_text()), done.stdout


def beside_the_test() -> list[Figure]:
    """What recording it takes, and a run with a fault."""
    code = SAVES.format(files=(0, FILES))
    without, turns = [], []
    for _ in range(TIMES):
        found, _ = explored(code, fitted(IN_TURNS))
        without += found["0"]
        turns += found[str(FILES)]
    alone = statistics.median(plain for plain, _, _ in turns)
    recording = statistics.median(calm - plain for plain, calm, _ in turns)
    fixed = statistics.median(calm - plain for plain, calm, _ in without)
    more = statistics.median(faulted - plain for plain, _, faulted in turns)
    each = (recording - fixed) / (2 * FILES)
    name = f"a test of {ALONE * 1e3:g} ms, {2 * FILES} operations: alone"
    return [
        Figure(what=name, value=alone * 1e3, target=None, unit="ms"),
        Figure(what="  recording it", value=100 * recording / alone, target=5, unit="%"),
        Figure(what="    of which a test without any", value=fixed * 1e3, target=None, unit="ms"),
        Figure(what="    and an operation", value=each * 1e6, target=None, unit="us"),
        Figure(what="  a run with a fault, more", value=more * 1e3, target=2, unit="ms"),
    ]


def of_requests() -> list[Figure]:
    """What recording takes of a test that sends requests, as most do."""
    code = ASKS.format(requests=[REQUESTS])
    turns = []
    for _ in range(TIMES):
        found, _ = explored(code, fitted(IN_TURNS, each=3, fault="refuse"))
        turns += found[str(REQUESTS)]
    alone = statistics.median(plain for plain, _, _ in turns)
    recording = statistics.median(calm - plain for plain, calm, _ in turns)
    name = f"a test of {ALONE * 1e3:g} ms, {REQUESTS} HTTP requests: alone"
    return [
        Figure(what=name, value=alone * 1e3, target=None, unit="ms"),
        Figure(what="  recording it", value=100 * recording / alone, target=None, unit="%"),
    ]


def whole() -> list[Figure]:
    """What the exploration of one test takes, in as many runs as are asked for."""
    code = SAVES.format(files=[FILES])
    turns = []
    for _ in range(TIMES):
        spent, out = explored(code, fitted(WHOLE), f"--chaos-explore-budget={RUNS}")
        assert f", {RUNS} runs," in out, out
        turns.append((spent["explored"], spent["alone"]))
    seconds = statistics.median(found for found, _ in turns)
    alone = statistics.median(alone for _, alone in turns)
    times = statistics.median(found / alone for found, alone in turns)
    return [
        Figure(what=f"  {RUNS} runs, with all that it takes", value=seconds, target=2, unit="s"),
        Figure(what=f"    {RUNS} runs of the test alone", value=alone, target=None, unit="s"),
        Figure(what="    the one beside the other", value=times, target=None, unit="x"),
    ]


def shrinking() -> dict[str, int]:
    """The runs that it takes to make each of twelve schedules smaller; -1 for one that stays."""
    pairs = ["".join(pair) for pair in itertools.combinations(NAMES, 2)]
    cases = [*((pair, FAULTS[0]) for pair in pairs), *((pair, FAULTS[1]) for pair in pairs[:2])]
    kept = "".join(
        f"test_it.py::test_pair[{pair}-{fault}]  {_schedule(NAMES, fault)}\n"
        for pair, fault in cases
    )
    runs, out = explored(
        PAIRS.format(cases=cases, names=NAMES), COUNTS, "--chaos-explore-budget=1",
        "--chaos-schedules=kept.txt", kept=kept,
    )  # fmt: skip
    found = {}
    for pair, fault in cases:
        name = f"test_pair[{pair}-{fault}]"
        simplest = _schedule(pair, FAULTS[0])  # which fails in the same way
        first = f"pytest 'test_it.py::{name}' --chaos-replay='{simplest}'"
        number = sum(test == name and faults > 0 for test, faults in runs) - 1  # itself
        found[name] = number if first in out else -1
    return found


def _schedule(names: str, fault: str) -> str:
    return ", ".join(f"create(tmp_path/{name})@test_it.is_saved#1={fault}" for name in names)


def main() -> int:
    pin()
    figures = beside_the_test()
    found = shrinking()
    smaller = [runs for runs in found.values() if runs >= 0]
    kept = len(found) - len(smaller)
    figures += [
        *whole(),
        *of_requests(),
        Figure(
            what=f"{len(found)} schedules of {len(NAMES)} faults: not made a pair of",
            value=kept,
            target=0,
            unit="",
        ),
        Figure(
            what="  runs that it takes, at most", value=max(smaller, default=0), target=12, unit=""
        ),
    ]
    return show(figures)


if __name__ == "__main__":
    sys.exit(main())
