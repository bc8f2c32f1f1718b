"""What an active experiment that matches nothing costs each test, in CPU time.

`python benchmarks/unmatched.py`, with the `test` extra installed; takes two minutes. Runs
without chaos and with it take turns on one core, each in a process of its own, where the
clients are loaded that a suite of an asynchronous service has loaded.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile

from collections.abc import Iterator
from pathlib import Path

from figures import Figure
from figures import pin
from figures import show
from latency import server


PAIRS = 7
TESTS = 200  # of each kind, in each run
WARM_UP = 20
FLAGS = ("--chaos", "network_latency:delay=5ms,target=127.0.0.9:9")

SUITE = f"""
import asyncio, os, socket, time

import aiohttp, httpx, psycopg, pytest, redis.asyncio, requests, responses, respx, trio, websockets

PORT = int(os.environ["PORT"])
number = pytest.mark.parametrize("number", range({TESTS}))

@number
def test_nothing(number):
    pass

@number
@pytest.mark.chaos("network_latency", delay="5ms", target="127.0.0.9:9", must_fire=False)
def test_marked(number):
    pass

@number
def test_connect(number, note):
    began = time.process_time()
    connection = socket.create_connection(("127.0.0.1", PORT))
    note("connect", time.process_time() - began)
    connection.close()

@number
def test_connect_in_a_loop(number, note):
    async def story():
        began = time.process_time()
        _, writer = await asyncio.open_connection("127.0.0.1", PORT)
        note("connect in a loop", time.process_time() - began)
        writer.close()
    asyncio.run(story())
"""

TIMING = """
import json, pathlib, time
from collections import defaultdict
import pytest

seconds = defaultdict(list)

@pytest.fixture
def note():
    return lambda name, took: seconds[name].append(took)

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    began = time.process_time()
    result = yield
    seconds[item.originalname].append(time.process_time() - began)
    return result

def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.callspec.params["number"])  # the kinds in turns

def pytest_unconfigure():
    pathlib.Path("seconds.json").write_text(json.dumps(seconds))
"""


def run(directory: Path, port: int, *flags: str) -> dict[str, float]:
    """The median of each kind, in ms."""
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "resilience", *flags],
        cwd=directory,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PORT": str(port)},
        check=True,
        capture_output=True,
    )
    seconds = json.loads((directory / "seconds.json").read_text())
    return {name: statistics.median(took[WARM_UP:]) * 1e3 for name, took in seconds.items()}


def figure(what: str, more: list[float], target: float | None = None) -> Figure:
    shown = ", ".join(f"{each:.3f}" for each in sorted(more))
    print(f"# {what}: {shown} ms")
    return Figure(what=what, value=statistics.median(more), target=target, unit="ms")


def measure() -> Iterator[Figure]:
    calm, chaotic = [], []
    with tempfile.TemporaryDirectory() as name, server() as port:
        directory = Path(name)
        (directory / "conftest.py").write_text(TIMING)
        (directory / "test_cost.py").write_text(SUITE)
        for _ in range(PAIRS):
            calm.append(run(directory, port))
            chaotic.append(run(directory, port, *FLAGS))
    without = statistics.median(each["test_nothing"] for each in calm)
    within = statistics.median(each["test_nothing"] for each in chaotic)
    yield Figure(what="a test, CPU time", value=without, target=None, unit="ms")
    ratio = within / without
    yield Figure(what="  under chaos that matches nothing", value=ratio, target=None, unit="x")

    def more(name: str) -> list[float]:
        return [ours[name] - theirs[name] for ours, theirs in zip(chaotic, calm, strict=True)]

    yield figure("a test under a flag that matches nothing: more", more("test_nothing"), 0.5)
    marked = [each["test_marked"] - each["test_nothing"] for each in calm]
    yield figure("a test with a marker that matches nothing: more", marked, 0.5)
    yield figure("the first connect of a test: more", more("connect"), 0.3)
    yield figure("the first connect of a test, in a loop: more", more("connect in a loop"), 0.3)
    yield figure("a test with a loop and a connection: more", more("test_connect_in_a_loop"))


def main() -> int:
    pin()
    return show([*measure()])


if __name__ == "__main__":
    sys.exit(main())
