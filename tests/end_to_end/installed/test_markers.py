"""Each marker and each chaos type, as the first thing that a process does with the plugin."""

from __future__ import annotations

import re

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
}


def everything(outside: Outside, folder: Path) -> dict[str, pytest.RunResult]:
    types = {name: project(source_of(name)) for name in TYPES}
    asked = {"markers": project("", "--markers"), "types": project("", "--chaos-list")}
    plain = Project(files={}, args=("--markers", "-p", "no:resilience"))
    # Every other marker begins with the same code: it need not be loaded each time.
    fresh = {"chaos": MARKERS["chaos"]} | asked | {"plain markers": plain}
    rest = {name: each for name, each in (types | MARKERS).items() if name not in fresh}
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

    assert markers(runs["markers"]) - markers(runs["plain markers"]) == MARKERS.keys()


@pytest.mark.parametrize("name", MARKERS)
def test_each_marker_does_what_it_says(name: str, runs: dict[str, pytest.RunResult]) -> None:
    assert_passed(runs[name])


def test_what_the_matrix_makes_of_a_marker(runs: dict[str, pytest.RunResult]) -> None:
    runs["resilience"].stdout.fnmatch_lines("network_failure: 1 degraded*")
