"""Each fixture, as the first thing that a process does with the plugin."""

from __future__ import annotations

import re

from pathlib import Path

import pytest

from tests.ahead import runs_job
from tests.end_to_end.installed.outside import Outside
from tests.end_to_end.installed.outside import Project
from tests.end_to_end.installed.outside import Runs
from tests.end_to_end.installed.outside import assert_passed
from tests.end_to_end.installed.outside import shown


FIXTURES = {
    "chaos": """
        import socket
        import subprocess
        import sys

        import pytest

        def test_it(chaos):
            with socket.create_server(("127.0.0.1", 0)) as server:
                with chaos.network_failure(mode="refuse", rate=1) as outage:
                    with pytest.raises(ConnectionRefusedError):
                        socket.create_connection(server.getsockname())
                    assert not outage.ended
                socket.create_connection(server.getsockname()).close()
            assert outage.ended
            assert outage.hits == 1

            ask = "import socket; socket.getaddrinfo('nowhere.example', 80)"
            with chaos.network_failure(mode="dns", target="nowhere.example") as outage:
                subprocess.run([sys.executable, "-c", ask], stderr=subprocess.DEVNULL)
            assert outage.hits == 1
            assert chaos.events[-1].target == "nowhere.example:80"
    """,
    "chaos_monkey": """
        def test_it(chaos_monkey):
            assert chaos_monkey.get_active_experiments() == {}
            with chaos_monkey:
                assert chaos_monkey.running
            assert not chaos_monkey.running
    """,
    "chaos_schedules": """
        import pytest

        from hypothesis import given, settings

        from pytest_resilience import fault_schedules

        def test_it(chaos_schedules, tmp_path):
            def save():
                (tmp_path / "note.txt").write_text("x")
                (tmp_path / "note.txt").unlink()

            with chaos_schedules.recording() as recording:
                save()
            assert len(recording.seen) == 3

            @settings(database=None, deadline=None, max_examples=10)
            @given(schedule=fault_schedules(recording, most=1))
            def fails(schedule):
                with chaos_schedules.faults(schedule), pytest.raises((OSError, MemoryError)):
                    save()
                (tmp_path / "note.txt").unlink(missing_ok=True)

            fails()
            save()
    """,
    "chaos_proxy": """
        import socket

        import pytest

        def test_it(chaos_proxy):
            with socket.create_server(("127.0.0.1", 0)) as server:
                proxy = chaos_proxy(server.getsockname())
                with proxy.inject("network_failure", mode="refuse", rate=1) as outage:
                    with pytest.raises(ConnectionRefusedError):
                        socket.create_connection(proxy.address)
            assert outage.hits == 1
    """,
    "crash_recorder": """
        def test_it(crash_recorder, tmp_path):
            path = tmp_path / "settings.json"
            path.write_text("old")
            with crash_recorder(tmp_path) as crashes:
                path.write_text("new")
            left = {path.read_text() for state in crashes.states()}
            assert left > {"old", "new", ""}  # and what is torn
    """,
    "chaos_responses": """
        import pytest
        import requests

        def test_it(chaos_responses):
            url = "https://shop.example/orders"
            chaos_responses.get(url, json=[7], chaos="network_failure:mode=lose_answer,first=1")
            with pytest.raises(requests.ConnectionError):
                requests.get(url, timeout=1)
            assert requests.get(url, timeout=1).json() == [7]
    """,
    "sqlite_chaos": """
        import sqlite3

        import pytest

        def test_it(sqlite_chaos, tmp_path):
            connection = sqlite3.connect(tmp_path / "shop.db", timeout=0)
            with sqlite_chaos.locked(tmp_path / "shop.db"):
                with pytest.raises(sqlite3.OperationalError, match="database is locked"):
                    connection.execute("CREATE TABLE orders (total)")
            connection.execute("CREATE TABLE orders (total)")
            connection.close()
    """,
    "postgres_chaos": """
        import pytest

        def test_it(postgres_chaos):
            with pytest.raises(ValueError) as caught:
                postgres_chaos("postgresql://127.0.0.1/shop")
            assert str(caught.value) == (
                "postgres_chaos needs psycopg 3 (No module named 'psycopg'); "
                "pip install 'psycopg[binary]'"
            )
    """,
    "manual_clock": """
        def test_it(manual_clock):
            began = manual_clock.monotonic()
            manual_clock.sleep(60)
            assert manual_clock.monotonic() - began == 60
    """,
    "virtual_clock": """
        import datetime
        import time

        def test_it(virtual_clock):
            began = datetime.datetime.now()
            time.sleep(60)
            virtual_clock.advance(3540)
            assert virtual_clock.elapsed == 3600
            assert datetime.datetime.now() - began == datetime.timedelta(hours=1)
    """,
    "circuit_breaker": """
        import pytest

        def test_it(circuit_breaker):
            breaker = circuit_breaker(failure_threshold=1, name="prices")
            with pytest.raises(ValueError, match="one"):
                breaker.call(int, "one")
            with pytest.raises(Exception, match="prices is OPEN"):
                breaker.call(int, "1")
    """,
    "retry_handler": """
        def test_it(retry_handler, manual_clock):
            answers = iter(["one", "1"])
            retry = retry_handler(max_attempts=2, base_delay=30.0, jitter=False)
            assert retry.execute(lambda: int(next(answers))) == 1
            assert manual_clock.sleeps == [30.0]
    """,
    "retry_testing": """
        import pytest
        from pytest_resilience import RetryConfig, RetryHandler

        def test_it(retry_testing):
            with pytest.raises(Exception, match="gave up after 3 attempt"):
                RetryHandler(RetryConfig(base_delay=60.0)).execute(int, "one")
            retry_testing(attempts=1)
            with pytest.raises(Exception, match="gave up after 1 attempt"):
                RetryHandler(RetryConfig(base_delay=60.0)).execute(int, "one")
    """,
    "bulkhead_manager": """
        def test_it(bulkhead_manager):
            assert bulkhead_manager.create_bulkhead("prices").execute(int, "1") == 1
    """,
    "stub_server": """
        import urllib.request

        def test_it(stub_server):
            url = stub_server.respond("/tea", json={"price": 4}).url
            with urllib.request.urlopen(url, timeout=60) as response:
                assert response.read() == b'{"price": 4}'
    """,
    "degradation_manager": """
        def test_it(degradation_manager):
            assert degradation_manager.get_service_status()["services"] == {}
    """,
}

NEEDS = {"virtual_clock": "time-machine", "chaos_schedules": "hypothesis"}


def everything(outside: Outside, folder: Path) -> dict[str, pytest.RunResult]:
    strictly = ("-W", "error", "--strict-markers")
    more = {name: outside.having(library) for name, library in NEEDS.items()}
    alone = {
        name: Project(files={"test_it.py": source}, args=(*strictly, *more.get(name, ())))
        for name, source in FIXTURES.items()
    }
    listed = Project(files={}, args=("--fixtures", "-q"))
    Project(files={f"test_{name}.py": FIXTURES[name] for name in FIXTURES}).write(folder)
    twice = "import pytest; print(*(pytest.main(['-p', 'no:cacheprovider']) for _ in range(2)))"
    return {
        **outside.forks(alone | {"listed": listed}),
        "twice": outside.run(
            "-c", twice, cwd=folder, PYTHONPATH=outside.path_with(*NEEDS.values())
        ),
    }


pytestmark = runs_job(Runs(module=__name__))


def test_each_fixture_is_tried(runs: dict[str, pytest.RunResult]) -> None:
    listed = runs["listed"].outlines
    found = [re.match(r"(\w+)(?: \[.+\])? -- .*/pytest_resilience/", line) for line in listed]
    assert {each[1] for each in found if each} == FIXTURES.keys()


@pytest.mark.parametrize("name", FIXTURES)
def test_each_fixture_works_by_itself(name: str, runs: dict[str, pytest.RunResult]) -> None:
    assert_passed(runs[name])


def test_they_are_there_in_a_second_run_of_a_process(runs: dict[str, pytest.RunResult]) -> None:
    assert shown(runs["twice"]).outlines[-1] == "0 0"


DEADLY = """
    import os

    import psycopg
    import pytest

    def test_it(postgres_chaos):
        url = os.environ["SHOP"]
        with psycopg.connect(url) as connection:
            postgres_chaos(url).terminate(connection.info.backend_pid)
            with pytest.raises(psycopg.errors.AdminShutdown):
                connection.execute("SELECT 1")
"""


def test_postgres_chaos_with_its_driver(postgres: str, outside: Outside, tmp_path: Path) -> None:
    folder = Project(files={"test_it.py": DEADLY}).write(tmp_path)
    path = outside.path_with("psycopg", "psycopg-binary")
    result = outside.run(outside.command, cwd=folder, PYTHONPATH=path, SHOP=postgres)
    assert_passed(result)
