"""Each marker and each chaos type, as the first thing that a process does with the plugin."""

from __future__ import annotations

import re

from dataclasses import replace
from pathlib import Path

import pytest

from tests.ahead import runs_job
from tests.end_to_end.installed.outside import SESSION
from tests.end_to_end.installed.outside import Outside
from tests.end_to_end.installed.outside import Project
from tests.end_to_end.installed.outside import Runs
from tests.end_to_end.installed.outside import assert_passed


# By chaos type: what is given to the marker, and a test that passes if it has happened.
TYPES = {
    "network_latency": ("delay='1ms'", "shop.connect()"),
    "network_failure": ("rate=1", "with pytest.raises(ConnectionRefusedError): shop.connect()"),
    "service_failure": (
        "target_services=['shop'], exception=TimeoutError, rate=1",
        "with pytest.raises(TimeoutError): shop.connect()",
    ),
    "database_slowdown": ("delay='1ms'", "shop.order()"),
    "database_failure": (
        "mode='locked', rate=1",
        "with pytest.raises(sqlite3.OperationalError, match='locked'): shop.order()",
    ),
    "cpu_stress": ("load=0.1, cores=1", "pass"),
    "memory_stress": ("size='1MiB'", "pass"),
    "disk_stress": ("size='64KiB'", "pass"),
    "disk_failure": (
        "path='**/orders.txt', rate=1",
        "with pytest.raises(OSError, match='No space left'): shop.save()",
    ),
    "cancellation": (
        "at='connect'",
        "with pytest.raises(asyncio.CancelledError): asyncio.run(shop.ask())",
    ),
    "memory_failure": (
        "at='execute'",  # `socket.create_connection` leaves its socket open then
        "with pytest.raises(MemoryError): shop.order()",
    ),
    "fd_exhaustion": (
        "leave=0",
        "with pytest.raises(OSError, match='Too many open files'): os.open('.', os.O_RDONLY)",
    ),
    "thread_exhaustion": (
        "",
        "with pytest.raises(RuntimeError, match='start new thread'): threading.Thread().start()",
    ),
}

SHOP = """
import asyncio
import contextlib
import pathlib
import socket
import sqlite3


def connect():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()


async def ask():
    with socket.create_server(("127.0.0.1", 0)) as server:
        await asyncio.open_connection(*server.getsockname())


def order():
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE orders (total)")


def save():
    pathlib.Path("orders.txt").write_text("7")
"""

TYPE = """
import asyncio
import os
import sqlite3
import threading

import pytest

import shop


@pytest.mark.chaos("{name}"{given})
def test_it():
    {body}
"""

INI = """
[pytest]
addopts = --strict-markers --strict-config
pythonpath = .
chaos_services = shop = shop:connect
"""

PROFILE = """
[tool.pytest_resilience.profiles.ci]
[[tool.pytest_resilience.profiles.ci.experiments]]
chaos_type = "network_failure"
rate = 1
"""


def source_of(name: str) -> str:
    given, body = TYPES[name]
    return TYPE.format(name=name, given=", " * bool(given) + given, body=body)


def project(test: str, *args: str) -> Project:
    files = {"test_it.py": test, "shop.py": SHOP, "pytest.ini": INI, "pyproject.toml": PROFILE}
    return Project(files=files, args=("-W", "error", *args))


MARKERS = {
    "chaos": project(source_of("network_latency")),
    "no_chaos": project(
        """
        import pytest
        import shop

        @pytest.mark.no_chaos
        def test_it():
            shop.connect()
        """,
        "--chaos=network_failure:rate=1",
    ),
    "resilience": project(
        """
        import pytest
        import shop

        @pytest.mark.resilience(allowed=[ConnectionRefusedError], deadline="5s")
        def test_it():
            shop.connect()
        """,
        "--chaos-matrix",
        "--chaos-profile=ci",
    ),
    "chaos_explore": project(
        """
        import pytest
        import shop

        failed = []  # in which test

        def connect(test):
            try:
                shop.connect()
            except ConnectionRefusedError:
                failed.append(test)
                raise

        @pytest.fixture(scope="module", autouse=True)
        def both():
            yield
            assert sorted(set(failed)) == ["explored", "replayed"]

        @pytest.mark.chaos_explore(faults=["refuse"], allowed=[ConnectionRefusedError])
        def test_it():
            connect("explored")

        @pytest.mark.chaos_replay("connect(localhost:port1)@shop.connect#1=refuse")
        def test_again():
            connect("replayed")
        """
    ),
    "virtual_time": project(
        """
        import datetime
        import time
        import pytest

        def asleep():
            began = time.monotonic_ns()
            time.sleep(0.001)
            return time.monotonic_ns() - began

        @pytest.mark.virtual_time(start="2030-01-01T00:00Z")
        def test_it():
            assert datetime.datetime.now(datetime.UTC).year == 2030
            assert asleep() == 1_000_000  # to the nanosecond

        @pytest.mark.virtual_time
        @pytest.mark.no_virtual_time
        def test_really():
            assert asleep() > 1_000_000
        """
    ),
}
# Those that are tried in the project of another.
ALONG = {"chaos_replay": "chaos_explore", "no_virtual_time": "virtual_time"}
NEEDS = {"virtual_time": "time-machine"}


def everything(outside: Outside, folder: Path) -> dict[str, pytest.RunResult]:
    types = {name: project(source_of(name)) for name in TYPES}
    asked = {"markers": project("", "--markers"), "types": project("", "--chaos-list")}
    plain = Project(files={}, args=("--markers", "-p", "no:resilience"))
    # Every other marker begins with the same code: it need not be loaded each time.
    fresh = {"chaos": MARKERS["chaos"]} | asked | {"plain markers": plain}
    rest = {name: each for name, each in (types | MARKERS).items() if name not in fresh}
    for name, library in NEEDS.items():
        rest[name] = replace(rest[name], args=(*rest[name].args, *outside.having(library)))
    return outside.forks(fresh) | outside.forks(rest, SESSION)


pytestmark = runs_job(Runs(module=__name__))


def test_each_type_is_tried(runs: dict[str, pytest.RunResult]) -> None:
    listed = re.findall(r"^(\w+): ", runs["types"].stdout.str(), re.MULTILINE)
    assert set(listed) == TYPES.keys()


@pytest.mark.parametrize("name", TYPES)
def test_each_type_happens(name: str, runs: dict[str, pytest.RunResult]) -> None:
    assert_passed(runs[name])


def test_each_marker_is_tried(runs: dict[str, pytest.RunResult]) -> None:
    def markers(result: pytest.RunResult) -> set[str]:
        return set(re.findall(r"^@pytest\.mark\.(\w+)", result.stdout.str(), re.MULTILINE))

    assert markers(runs["markers"]) - markers(runs["plain markers"]) == (
        MARKERS.keys() | ALONG.keys()
    )


@pytest.mark.parametrize("name", MARKERS)
def test_each_marker_does_what_it_says(name: str, runs: dict[str, pytest.RunResult]) -> None:
    assert_passed(runs[name], MARKERS[name].files["test_it.py"].count("def test_"))


@pytest.mark.parametrize(("name", "other"), ALONG.items())
def test_each_is_in_the_project_that_tries_it(name: str, other: str) -> None:
    assert f"@pytest.mark.{name}" in MARKERS[other].files["test_it.py"]


def test_what_the_matrix_makes_of_a_marker(runs: dict[str, pytest.RunResult]) -> None:
    runs["resilience"].stdout.fnmatch_lines("network_failure: 1 degraded*")
