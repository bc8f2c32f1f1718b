"""The matrix together with other plugins, and with tests of every kind."""

from __future__ import annotations

import json
import re

from collections import Counter
from pathlib import Path

import pytest

from tests.ahead import runs
from tests.cells import cells_of


SHOP = """
def stock():
    return 3
"""

PROFILE = """
[tool.pytest_resilience.profiles.ci]
seed = 1

[tool.pytest_resilience.profiles.ci.services]
stock = "shop:stock"

[[tool.pytest_resilience.profiles.ci.experiments]]
name = "no stock"
chaos_type = "service_failure"
target_services = ["stock"]
rate = 1

[[tool.pytest_resilience.profiles.ci.experiments]]
name = "late"
chaos_type = "service_failure"
target_services = ["stock"]
exception = "TimeoutError"
rate = 1
"""


@pytest.fixture
def shop(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyprojecttoml(PROFILE)
    pytester.makepyfile(shop=SHOP)
    pytester.syspathinsert()
    return pytester


FLAGS = ("--chaos-matrix", "--chaos-profile=ci", "--resilience-report=out.json")


def run(shop: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return shop.runpytest(*FLAGS, *arguments)


def apart(*arguments: str, profile: str = PROFILE, **modules: str) -> pytest.MarkDecorator:
    """The same in a process of its own."""
    files = {f"{name}.py": text for name, text in {"shop": SHOP, **modules}.items()}
    return runs(*FLAGS, *arguments, others={"pyproject.toml": profile, **files})


def counts(folder: Path) -> Counter[str]:
    cells = cells_of(folder / "out.json")
    return Counter(cell["verdict"] for cell in cells)


CAREFUL = """
import shop

def careful():
    try:
        return shop.stock()
    except Exception:
        return 0
"""


def test_fixtures_of_functions_are_fresh_and_others_are_kept(shop: pytest.Pytester) -> None:
    shop.makepyfile(careful=CAREFUL)
    shop.makepyfile("""
        import logging
        import pytest
        from careful import careful

        made = []

        @pytest.fixture(scope="module")
        def module():
            made.append("module")
            yield
            made.append("module ended")

        @pytest.fixture(scope="class", params=[1, 2])
        def klass(request):
            made.append(f"class {request.param}")

        @pytest.fixture
        def function():
            made.append("function")

        @pytest.mark.usefixtures("module", "klass", "function")
        class TestKinds:
            @pytest.mark.parametrize("number", [1, 2])
            def test_it(self, number, tmp_path, monkeypatch, capsys, caplog):
                assert not hasattr(self, "seen")
                self.seen = True
                assert list(tmp_path.iterdir()) == []
                (tmp_path / "file").touch()
                print("out")
                assert capsys.readouterr().out == "out\\n"
                assert caplog.records == []
                logging.getLogger("x").warning("hm")
                careful()

        def test_how_often():
            assert made.count("module") == 1
            assert made.count("function") == 3 * 4
            assert [each for each in made if each.startswith("class")] == ["class 1", "class 2"]
            assert made[-1] == "module ended" or "module ended" not in made
            careful()
    """)
    result = run(shop)
    result.assert_outcomes(passed=5)
    assert counts(shop.path) == {"survived": 10}


def test_unittest(shop: pytest.Pytester) -> None:
    shop.makepyfile(careful=CAREFUL)
    shop.makepyfile("""
        import unittest
        from careful import careful
        import shop

        class TestShop(unittest.TestCase):
            set_up = 0

            @classmethod
            def setUpClass(cls):
                cls.set_up += 1

            def setUp(self):
                self.fresh = []

            def test_careful(self):
                assert self.set_up == 1
                self.fresh.append(careful())
                assert len(self.fresh) == 1

            def test_naive(self):
                self.assertEqual(shop.stock(), 3)

            def test_parts(self):
                for number in range(2):
                    with self.subTest(number=number):
                        careful()
    """)
    result = run(shop)
    result.assert_outcomes(passed=3)
    assert counts(shop.path) == {"survived": 4, "failed": 2}


def test_doctests(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        test_doc='''
        """
        >>> import shop
        >>> shop.stock()
        3
        """
    '''
    )
    result = run(shop, "--doctest-modules", "test_doc.py")
    result.assert_outcomes(passed=1)
    assert counts(shop.path) == {"failed": 2}


NAIVE = """
    import shop

    def test_naive():
        assert shop.stock() == 3

    def test_wary():
        try:
            shop.stock()
        except Exception:
            pass
"""


def test_timeouts_and_deadlines(shop: pytest.Pytester) -> None:
    pytest.importorskip("pytest_timeout")
    shop.makepyfile("""
        import time
        import pytest
        import shop

        @pytest.mark.resilience(deadline=0.05)
        def test_hangs():
            try:
                shop.stock()
            except Exception:
                time.sleep(60)
    """)
    result = run(shop, "-p", "pytest_timeout", "--timeout=30")
    result.assert_outcomes(passed=1)
    assert counts(shop.path) == {"hang": 2}


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(module, marks=apart("-p", module, *arguments, test_it=NAIVE))
        for module, arguments in {
            "pytest_randomly": (),
            "pytest_rerunfailures": ("--reruns=2",),
            "pytest_cov": ("--cov=shop", "--cov-report="),
            "xdist": ("-n2",),
        }.items()
    ],
)
def test_other_plugins(module: str, ran: pytest.RunResult, ran_in: Path) -> None:
    pytest.importorskip(module)
    ran.assert_outcomes(passed=2)
    assert counts(ran_in) == {"survived": 2, "failed": 2}


@apart(
    "-p",
    "pytest_asyncio.plugin",
    "--asyncio-mode=auto",
    "-W",
    "ignore",
    test_it="""
        import asyncio
        import shop

        loops = []

        async def test_wary():
            loop = asyncio.get_running_loop()
            assert loop not in loops
            loops.append(loop)
            try:
                shop.stock()
            except Exception:
                await asyncio.sleep(0)
    """,
)
def test_asyncio(ran: pytest.RunResult, ran_in: Path) -> None:
    pytest.importorskip("pytest_asyncio")
    ran.assert_outcomes(passed=1)
    assert counts(ran_in) == {"survived": 2}


@apart(
    "-p",
    "anyio",
    test_it="""
        import pytest
        import shop

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        async def test_naive():
            assert shop.stock() == 3
    """,
)
def test_anyio(ran: pytest.RunResult, ran_in: Path) -> None:
    pytest.importorskip("anyio")
    ran.assert_outcomes(passed=1)
    assert counts(ran_in) == {"failed": 2}


@apart(
    test_it="""
        from hypothesis import given, settings, strategies as st
        import shop

        @settings(max_examples=5, database=None, deadline=None)
        @given(st.integers())
        def test_wary(number):
            try:
                shop.stock()
            except Exception:
                pass
    """
)
def test_hypothesis(ran: pytest.RunResult, ran_in: Path) -> None:
    ran.assert_outcomes(passed=1)
    assert counts(ran_in) == {"survived": 2}


def test_subtests_of_inner_runs_are_not_counted(shop: pytest.Pytester) -> None:
    if not hasattr(pytest, "Subtests"):
        pytest.skip("this pytest has no subtests")
    shop.makepyfile("""
        import shop

        def test_parts(subtests):
            for number in range(3):
                with subtests.test(number=number):
                    assert shop.stock() == 3
    """)
    result = run(shop, "--resilience-report-only")
    assert result.ret == 0
    assert counts(shop.path)["failed"] == 2


def test_the_first_failure_ends_the_run_and_the_report_says_so(shop: pytest.Pytester) -> None:
    shop.makepyfile("""
        import shop

        def test_broken():
            assert 0

        def test_later():
            shop.stock()
    """)
    result = run(shop, "-x")
    result.assert_outcomes(failed=1)
    assert counts(shop.path) == {"invalid": 2, "not_run": 2}
    document = json.loads((shop.path / "out.json").read_text())
    assert not document["complete"]
    assert document["interrupted"]


@apart(
    test_it="""
        import shop

        def test_wary():
            try:
                shop.stock()
            except TimeoutError:
                raise KeyboardInterrupt
            except Exception:
                pass
    """
)
def test_an_interrupt_loses_no_report(ran: pytest.RunResult, ran_in: Path) -> None:
    assert ran.ret == pytest.ExitCode.INTERRUPTED
    assert counts(ran_in) == {"survived": 1, "not_run": 1}
    document = json.loads((ran_in / "out.json").read_text())
    assert document["interrupted"] == "it was interrupted"


@apart(
    "-p",
    "xdist",
    "-n1",
    "--max-worker-restart=0",
    test_a="""
            import shop

            def test_wary():
                try:
                    shop.stock()
                except Exception:
                    pass
        """,
    test_b="""
            import os
            import shop

            def test_crashes():
                try:
                    shop.stock()
                except Exception:
                    os._exit(3)
        """,
)
def test_a_worker_that_crashes_leaves_its_cells_not_run(
    ran: pytest.RunResult, ran_in: Path
) -> None:
    assert ran.ret != 0
    assert counts(ran_in) == {"survived": 2, "not_run": 2}
    document = json.loads((ran_in / "out.json").read_text())
    assert "gw0 crashed" in document["interrupted"]


@apart(
    "-p",
    "xdist",
    "-n1",
    test_it=NAIVE,
    conftest="""
        def pytest_resilience_verdict(item, cell):
            if item.name == "test_wary":
                raise RuntimeError("an internal error")
    """,
)
def test_planned_cells_that_a_worker_never_ran_leave_the_run_incomplete(
    ran: pytest.RunResult, ran_in: Path
) -> None:
    assert ran.ret != 0
    assert counts(ran_in) == {"failed": 2, "not_run": 2}
    document = json.loads((ran_in / "out.json").read_text())
    assert document["interrupted"] == (
        "2 planned cells were never run, test_it.py::test_wary under 'no stock' first"
    )
    ran.stdout.fnmatch_lines(["  - the run did not come to its end: 2 planned cells were never *"])


REFUSED = """
[[tool.pytest_resilience.profiles.ci.experiments]]
name = "refused"
chaos_type = "network_failure"
rate = 1
"""

CAREFUL_WITH_A_MOCK = """
import httpx

def greeting():
    try:
        return httpx.get("http://shop.example/").text
    except httpx.ConnectError:
        if not CAREFUL:
            raise
        return "ok"

def test_mocked(httpx_mock):
    httpx_mock.add_response(text="ok", is_optional=True)
    assert greeting() == "ok"
"""


def mocked(careful: bool) -> pytest.MarkDecorator:
    arguments = ("--chaos-experiment=refused", "-p", "pytest_httpx")
    test = CAREFUL_WITH_A_MOCK.replace("CAREFUL", str(careful))
    return apart(*arguments, profile=PROFILE + REFUSED, test_it=test)


@pytest.mark.parametrize(
    "verdict",
    [
        pytest.param("survived", marks=mocked(careful=True)),
        pytest.param("failed", marks=mocked(careful=False)),
    ],
)
def test_calls_of_a_mocked_transport_are_cells_like_others(
    verdict: str, ran: pytest.RunResult, ran_in: Path
) -> None:
    ran.assert_outcomes(passed=1)
    assert counts(ran_in) == {verdict: 1}


def test_progress_on_a_terminal_leaves_the_lines_of_pytest_as_they_are(
    shop: pytest.Pytester,
) -> None:
    shop.makepyfile(test_it=NAIVE)
    shop.makeconftest("""
        def pytest_collection_finish(session):
            session.config.pluginmanager.get_plugin("terminalreporter").isatty = True
    """)
    result = run(shop, "-p", "no:randomly")
    shown = result.stdout.str()
    assert "matrix 1/4, 1 not good, " in shown
    assert "matrix 4/4, 2 not good, 0 s left" in shown
    left = re.sub("\x1b7.*?\x1b8", "", shown)
    assert re.search(r"^test_\w+\.py \.\. +\[100%\]$", left, re.MULTILINE)
    assert shown.rindex("matrix 4/4") < shown.rindex("\x1b7  \x1b[K\x1b8")  # taken away
