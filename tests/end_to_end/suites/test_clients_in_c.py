"""Clients in C under markers, fixtures, flags, profiles and the matrix."""

from __future__ import annotations

import pytest

from pytest_resilience.native.loader_tables import unsupported
from pytest_resilience.plugin.matrix.results_and_exit_status import MATRIX_FAILED
from tests.ahead import runs
from tests.ahead import runs_python


pytestmark = pytest.mark.skipif(bool(unsupported()), reason=unsupported())
pytest.importorskip("psycopg2")

SERVER = """
import socket
import threading

import psycopg2
import pytest

@pytest.fixture(scope="session")
def port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def hang_up():
            try:
                while True:
                    listener.accept()[0].close()
            except OSError:
                pass
        thread = threading.Thread(target=hang_up)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()

@pytest.fixture
def ask(port):
    def ask():
        with pytest.raises(psycopg2.OperationalError) as caught:
            psycopg2.connect(f"host=127.0.0.1 port={port} dbname=shop")
        return str(caught.value)
    return ask
"""

TESTS = """
import pytest

@pytest.mark.chaos("network_failure", mode="refuse")
def test_a_marker(ask):
    assert "Connection refused" in ask()

def test_the_fixture(chaos, ask, port):
    assert "closed the connection" in ask()
    with chaos.network_failure(mode="refuse", target=f"127.0.0.1:{port}") as refused:
        assert "Connection refused" in ask()
    assert refused.hits == 1
    assert "closed the connection" in ask()

@pytest.mark.chaos("network_failure", mode="refuse", target="127.0.0.9")
def test_elsewhere(ask):
    assert "closed the connection" in ask()
"""

PLAIN = """
def test_it(ask):
    assert "Connection refused" in ask()
"""

TOLERANT = """
def test_it(ask):
    assert "closed the connection" in ask()
"""


@runs(test_it=TESTS, conftest=SERVER)
def test_by_markers_and_fixtures(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=3, errors=1)
    ran.stdout.fnmatch_lines(["*target 127.0.0.9) never fired*", "*127.0.0.1:* (in C)*"])


@runs("--chaos=network_failure:mode=refuse,rate=1", test_it=PLAIN, conftest=SERVER)
def test_by_a_flag(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=1)


@runs(
    "--chaos=network_failure:mode=refuse,rate=1", "-o", "chaos_native=false",
    test_it=TOLERANT, conftest=SERVER,
)  # fmt: skip
def test_not_with_the_option_off(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=1)


OUTAGE = """
[[tool.pytest_resilience.profiles.outage.experiments]]
name = "refused"
chaos_type = "network_failure"
mode = "refuse"
rate = 1
probability = 1.0
duration = "1h"
"""


@runs("--chaos-profile=outage", test_it=PLAIN, conftest=SERVER, others={"pyproject.toml": OUTAGE})
def test_by_a_profile(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=1)


@runs(
    "--chaos-profile=outage", "--chaos-matrix", "-rA",
    test_it=TOLERANT, conftest=SERVER, others={"pyproject.toml": OUTAGE},
)  # fmt: skip
def test_in_the_matrix(ran: pytest.RunResult) -> None:
    assert ran.ret == MATRIX_FAILED
    ran.stdout.fnmatch_lines(["*test_it.py::test_it*", "*refused*failed*"])


MONKEY = """
from pytest_resilience import ChaosExperiment

def test_it(chaos_monkey, manual_clock, ask):
    chaos_monkey.register_experiment(
        ChaosExperiment("outage", "network_failure", 1.0, 30.0, mode="refuse", rate=1)
    )
    chaos_monkey.start_chaos_monkey(60)
    chaos_monkey.tick()
    assert "Connection refused" in ask()
    manual_clock.advance(31)
    chaos_monkey.tick()
    assert "closed the connection" in ask()
"""


@runs(test_it=MONKEY, conftest=SERVER)
def test_by_a_monkey(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=1)


TWO_RUNS = f"""
import pathlib, tempfile

import psycopg2
import pytest

from pytest_resilience.native.slots import all_slots
from tests.native.test_slots import pointers

with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    (folder / "pytest.ini").write_text("[pytest]")
    (folder / "conftest.py").write_text({SERVER!r})
    (folder / "test_it.py").write_text({MONKEY!r})
    all_slots().refresh()
    before = pointers(all_slots())
    for _ in range(2):
        ended = pytest.main(["-q", "-p", "no:cacheprovider", name])
        found = pointers(all_slots())
        print(int(ended), len(before) > 5, before.items() <= found.items())
"""


@runs_python(TWO_RUNS)
def test_two_runs_in_one_process(ran: pytest.RunResult) -> None:
    assert [line for line in ran.outlines if "True" in line] == ["0 True True"] * 2
