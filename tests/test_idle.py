"""What a run that asks for no chaos has loaded when it ends.

Looked at when the interpreter exits, for what a last hook imports is paid for as well.
"""

from __future__ import annotations

import pytest


HEAVY = {"asyncio", "psutil", "requests", "responses", "sqlite3", "ssl"}

# All that is loaded of the package.
IDLE = {"pytest_resilience", "pytest_resilience.plugin"}

# More, where a flag is typed or all are shown.
FLAGS = {
    "pytest_resilience.plugin.options",
    "pytest_resilience.plugin.pytest_internals",
    "pytest_resilience.plugin.starting",
    "pytest_resilience.plugin.xdist_workers",
}

CONFTEST = """
import atexit
import pathlib
import sys

def note():
    pathlib.Path("loaded").write_text("\\n".join(sys.modules))

atexit.register(note)
"""

# Every outcome, and names that look like chaos without being it.
TESTS = """
import unittest

import pytest

def test_passes():
    pass

def test_fails():
    assert 1 == 2

@pytest.mark.skip
def test_is_skipped():
    pass

@pytest.mark.xfail(strict=True)
def test_is_expected_to_fail():
    raise OSError

@pytest.mark.no_chaos
@pytest.mark.parametrize("how", ["chaos"])
def test_with_parameters(how):
    pass

def test_with_fixtures(tmp_path, monkeypatch, capsys, request):
    pass

class TestChaos(unittest.TestCase):
    def test_chaos(self):
        pass
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(CONFTEST)
    return pytester


def loaded(suite: pytest.Pytester, *args: str) -> set[str]:
    (suite.path / "loaded").unlink(missing_ok=True)
    suite.runpytest_subprocess(*args)
    return set((suite.path / "loaded").read_text().split())


@pytest.mark.parametrize(
    "args",
    [[], ["--collect-only"], ["--junitxml=report.xml", "-v", "-rA"], ["--fixtures"], ["--help"]],
    ids=" ".join,
)
def test_an_idle_run_loads_the_plugin_layer_alone(suite: pytest.Pytester, args: list[str]) -> None:
    suite.makepyfile(test_chaos=TESTS)
    modules = loaded(suite, *args)
    own = {name for name in modules if name.partition(".")[0] == "pytest_resilience"}
    assert own == IDLE | (FLAGS if "--help" in args else set())
    assert modules & HEAVY == set()


def test_an_idle_run_registers_no_plugin_object_and_no_autouse_fixture(
    suite: pytest.Pytester,
) -> None:
    suite.makepyfile("""
        def test_nothing(request):
            names = [name for name, _ in request.config.pluginmanager.list_name_plugin()]
            assert [name for name in names if "resilience" in name] == ["resilience"]
            assert request.fixturenames == ["request"]
    """)
    suite.runpytest_subprocess().assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("test", "args"),
    [
        ("@pytest.mark.chaos('network_latency', must_fire=False)\ndef test(): pass", []),
        ("def test(chaos): pass", []),
        ("def test(): pass", ["--chaos=network_latency"]),
    ],
    ids=["marker", "fixture", "flag"],
)
def test_a_run_that_asks_loads_more(suite: pytest.Pytester, test: str, args: list[str]) -> None:
    suite.makepyfile(f"import pytest\n{test}")
    assert "pytest_resilience.chaos.engine" in loaded(suite, *args)


@pytest.mark.parametrize(
    ("test", "args", "is_loaded"),
    [
        ("def test(): pass", [], False),
        ("@pytest.mark.chaos('network_latency', must_fire=False)\ndef test(): pass", [], False),
        ("def test(chaos): pass", [], False),
        ("def test(virtual_clock): pass", [], True),
        ("@pytest.mark.virtual_time\ndef test(): pass", [], True),
        ("def test(): pass", ["--virtual-time"], True),
    ],
    ids=["idle", "chaos by marker", "chaos by fixture", "fixture", "marker", "flag"],
)
def test_virtual_time_is_loaded_by_who_asks_for_it(
    suite: pytest.Pytester, test: str, args: list[str], is_loaded: bool
) -> None:
    suite.makepyfile(f"import pytest\n{test}")
    modules = loaded(suite, *args)
    own = {name for name in modules if name.startswith("pytest_resilience.virtual_time")}
    assert bool(own | modules & {"time_machine"}) is is_loaded


def test_chaos_without_a_client_loads_no_client(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest

        @pytest.mark.chaos("network_failure", must_fire=False)
        def test_nothing():
            pass
    """)
    assert loaded(suite) & {"asyncio", "psutil", "requests", "responses", "sqlite3"} == set()


def test_no_conftest_file_is_opened_where_there_is_none(suite: pytest.Pytester) -> None:
    for name in ("apples", "pears"):
        suite.mkdir(name)
    (suite.path / "pears" / "conftest.py").touch()
    suite.makeconftest("""
        import pathlib
        import sys

        opened = []

        def note(event, args):
            if event == "open":
                opened.append(str(args[0]))

        sys.addaudithook(note)

        def pytest_unconfigure():
            pathlib.Path("opened").write_text(" ".join(opened))
    """)
    suite.runpytest_subprocess()
    opened = (suite.path / "opened").read_text().split()
    assert str(suite.path / "pears" / "conftest.py") in opened
    assert str(suite.path / "apples" / "conftest.py") not in opened
