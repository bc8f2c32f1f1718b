"""What a run keeps of the tests that are over: next to nothing, however much happened in them."""

from __future__ import annotations

import ast
import re

import pytest

from tests.ahead import runs


# The first rounds fill what has a bound, and load what is loaded once.
FIRST, LAST = 3, 6

# Looks at what there is after some rounds of the same tests, and after more of them.
COUNTING = """
import collections
import gc
import socket
import sys
import tracemalloc

import pytest

FIRST, LAST = ROUNDS
PACKAGE = "/pytest_resilience/"


class Counting:
    def __init__(self):
        self.rounds = collections.Counter()
        self.objects = []
        self.blocks = []

    def pytest_runtest_logstart(self):
        if not tracemalloc.is_tracing():
            gc.freeze()  # what is loaded by now need not be looked at
            tracemalloc.start()

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self, nodeid):
        if "test_end" not in nodeid:
            return
        self.rounds["over"] += 1
        if self.rounds["over"] in (FIRST, LAST):
            gc.collect()
            names = (f"{type(each).__module__}.{type(each).__name__}" for each in gc.get_objects())
            ours = (each for each in names if each.startswith("pytest_resilience."))
            self.objects.append(collections.Counter(ours))
            self.blocks.append(blocks())

    def pytest_terminal_summary(self, terminalreporter):
        (first, last), (before, after) = self.objects, self.blocks
        objects = {name: more for name, more in (last - first).items() if more >= LAST - FIRST}
        terminalreporter.line(f"objects: {objects}")
        lines = after.copy()
        lines.subtract(before)
        blocks = {line: more for line, more in lines.items() if more >= LAST - FIRST}
        terminalreporter.line(f"blocks: {blocks}")


def blocks():
    "How many the package has asked for and somebody has still, by line."
    sys._clear_type_cache()  # which keeps the names by which C code has asked for attributes
    # A table of keys that is freed is used again by others, and still counts as ours.
    table = sys.getsizeof({"key": 1}) - sys.getsizeof({})
    found = ((each.size, each.traceback[0]) for each in tracemalloc.take_snapshot().traces)
    return collections.Counter(
        str(line) for size, line in found if size != table and PACKAGE in line.filename
    )


def pytest_configure(config):
    from pytest_resilience.chaos import call_site
    from pytest_resilience.plugin import session

    call_site._MOST_CODES = 2  # some are always remembered
    session._MOST_MARKS = 4  # of these as well
    if not hasattr(config, "workerinput"):
        config.add_cleanup(tracemalloc.stop)
        config.pluginmanager.register(Counting())


@pytest.fixture(scope="session")
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def ask(port):
    def ask():
        for _ in range(5):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))

    return ask


@pytest.fixture
def calm(request):
    return request.config.getoption("--resilience-no-chaos", default=False)
"""

HEAD = """
import asyncio
import contextlib
import socket
import sqlite3

import pytest
import requests
import responses  # noqa: F401  # what is loaded before the first test need not be looked at

from pytest_resilience import ChaosExperiment

REFUSE = {"mode": "refuse", "rate": 1}
FOR_ALL = pytest.mark.chaos("network_failure", **REFUSE)
"""

ROUND = """
@FOR_ALL
def test_a_mark_for_all_ROUND(ask):
    ask()

@pytest.mark.chaos("network_failure", **REFUSE)
def test_a_mark_of_its_own_ROUND(ask):
    ask()

@pytest.mark.chaos("network_failure", mode="reset", rate=1, must_fire=False)
@pytest.mark.chaos("network_latency", probability=0)
def test_in_vain_ROUND():
    pass

def test_the_fixture_ROUND(chaos, ask):
    for _ in range(3):
        with chaos.network_failure(**REFUSE):
            ask()

def test_a_service_ROUND(chaos, port, ask):
    chaos.service("shop", f"127.0.0.1:{port}")
    with chaos.service_failure("shop", **REFUSE):
        ask()

def test_a_monkey_ROUND(chaos_monkey, manual_clock, ask):
    chaos_monkey.register_experiment(ChaosExperiment("m", "network_failure", 1.0, **REFUSE))
    chaos_monkey.start_chaos_monkey(60)
    chaos_monkey.tick()
    ask()

def test_a_proxy_ROUND(chaos_proxy, port, calm):
    proxy = chaos_proxy(f"127.0.0.1:{port}")
    with proxy.inject("network_failure", **REFUSE):
        with pytest.raises(OSError):
            with socket.create_connection(("127.0.0.1", proxy.port), 10) as client:
                client.settimeout(0.001 if calm else None)  # then, nobody answers or hangs up
                client.recv(1)

def test_a_mock_ROUND(chaos_responses):
    chaos_responses.get("http://shop.example/", chaos="network_failure:mode=refuse")
    with pytest.raises(requests.ConnectionError):
        requests.get("http://shop.example/", timeout=1)

@pytest.mark.chaos("database_failure", mode="locked", match="SELECT *", rate=1)
def test_a_database_ROUND():
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        with pytest.raises(sqlite3.OperationalError):
            connection.execute("SELECT 1")

@pytest.mark.chaos("disk_failure", path="**/file*", mode="disk_full", rate=1)
def test_a_file_ROUND(tmp_path):
    with pytest.raises(OSError):
        (tmp_path / "file").write_text("it")

@FOR_ALL
def test_a_loop_ROUND(port):
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 10))

def test_under_stress_ROUND(chaos):
    with chaos.fd_exhaustion(leave=0), chaos.thread_exhaustion():
        pass

def test_end_ROUND():
    pass
"""

PLAIN = """
def test_ROUND(ask):
    ask()

def test_end_ROUND():
    pass
"""

TOLERANT = """
def test_ROUND(port):
    with contextlib.suppress(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()

def test_end_ROUND():
    pass
"""

PROFILE = """
[profiles.ci]
experiments = [{chaos_type = "network_failure", mode = "refuse", rate = 1, probability = 1}]
"""


def counting(head: str, tests: str, *flags: str) -> pytest.MarkDecorator:
    """Rounds of `tests`, and what there is after some of them and after all."""
    rounds = [tests.replace("ROUND", f"r{number}") for number in range(LAST)]
    return runs(
        "-q",
        "--tb=no",
        *flags,
        conftest=COUNTING.replace("ROUNDS", f"{FIRST}, {LAST}"),
        test_it="".join([head, *rounds]),
        others={"chaos.toml": PROFILE},
    )


def grown(ran: pytest.RunResult) -> tuple[dict[str, int], dict[str, int]]:
    """How many more objects there are after more rounds, and more blocks of memory."""
    objects, blocks = (
        re.search(rf"^{what}: (.*)$", ran.stdout.str(), re.MULTILINE)
        for what in ("objects", "blocks")
    )
    assert objects is not None
    assert blocks is not None
    return ast.literal_eval(objects[1]), ast.literal_eval(blocks[1])


FLAG = "--chaos=network_failure:mode=refuse,rate=1,target=127.0.0.1"
XDIST = ("-p", "xdist", "-n", "1")


@pytest.mark.parametrize(
    "way",
    [
        pytest.param("markers and fixtures", marks=counting(HEAD, ROUND)),
        pytest.param("flag", marks=counting("", PLAIN, FLAG)),
        pytest.param("profile", marks=counting("", PLAIN, "--chaos-profile=chaos.toml:ci")),
        pytest.param("monkey", marks=counting("", PLAIN, "--chaos-monkey=chaos.toml:ci")),
        pytest.param("xdist", marks=counting(HEAD, ROUND, *XDIST)),
        pytest.param("calm", marks=counting(HEAD, ROUND, "--no-chaos")),
    ],
)
def test_nothing_is_kept_of_tests_that_are_over(way: str, ran: pytest.RunResult) -> None:
    assert "errors" not in ran.parseoutcomes()
    assert grown(ran) == ({}, {}), way


MATRIX = ("--chaos-profile=chaos.toml:ci", "--chaos-matrix")


@pytest.mark.parametrize(
    "way",
    [
        pytest.param("alone", marks=counting(HEAD, TOLERANT, *MATRIX)),
        pytest.param("xdist", marks=counting(HEAD, TOLERANT, *MATRIX, *XDIST)),
    ],
)
def test_the_matrix_keeps_its_cells(way: str, ran: pytest.RunResult) -> None:
    objects, _ = grown(ran)
    cells = {f"pytest_resilience.report.cell.{name}" for name in ("Cell", "TimelineEntry")}
    assert set(objects) == cells, way


@runs(
    test_it="""
        import gc

        from pytest_resilience import FaultInjected
        from pytest_resilience.chaos.engine import Engine
        from pytest_resilience.chaos.operation import CONNECT, Operation

        def test_much(chaos):
            gc.unfreeze()  # what is there when tests are collected, too
            engine = next(each for each in gc.get_objects() if isinstance(each, Engine))
            connect = Operation(kind=CONNECT, target="shop:80", names=("shop:80",))
            for _ in range(3):  # in a loop, as Hypothesis does
                with chaos.network_failure(mode="refuse", rate=1, target="shop"):
                    for _ in range(5_000):
                        engine.decide(connect)
            assert (chaos.matched, chaos.hits) == (15_000, 15_000)
            assert len(chaos.events) == 10_000
            assert chaos.events[-1].number == 5_000

        def test_more():
            gc.collect()
            assert not any(isinstance(each, FaultInjected) for each in gc.get_objects())
    """
)
def test_of_one_test_as_many_events_are_kept_as_anybody_reads(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=2)
    ran.stdout.fnmatch_lines("network_failure: * - 1 test, matched 15000, hit 15000")
