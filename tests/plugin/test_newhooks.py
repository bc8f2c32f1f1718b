"""What conftest files and other plugins can add and be told."""

from __future__ import annotations

import fnmatch

import pytest

from pytest_resilience.assertions import assert_circuit_open
from pytest_resilience.plugin import newhooks


CONFTEST = """
import dataclasses

from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.types.schema import TypeSchema, trigger_parameters
from pytest_resilience.runtime import NewChaosType
from pytest_resilience.report.cell import CellVerdict

class LostMail(Fault):
    @property
    def kinds(self):
        return frozenset({"mail.send"})

class MailInterceptor:
    kinds = frozenset({"mail.send"})

    def __init__(self, engine):
        self.engine = engine

    def install(self):
        import post
        post.engine = self.engine

    def refresh(self):
        pass

    def remove(self):
        import post
        post.engine = None

LOST_MAIL = TypeSchema(
    summary="letters do not arrive",
    parameters=trigger_parameters(rate="1"),
    faults=lambda given, intensity: (LostMail(),),
)

def pytest_resilience_chaos_types():
    return [NewChaosType("lost_mail", LOST_MAIL, MailInterceptor)]

def pytest_resilience_fault_injected(nodeid, event):
    print(f"TOLD {nodeid} {event.kind} {event.target}")

def pytest_resilience_verdict(item, cell):
    if item.name == "test_lost":
        return dataclasses.replace(cell, verdict=CellVerdict.DEGRADED, reason="letters get lost")

def pytest_resilience_report_section(report):
    return f"OURS: {len(report.cells)} cells"
"""

POST = """
from pytest_resilience.chaos.operation import Operation

engine = None

def send(to):
    operation = Operation(kind="mail.send", target=to, names=(to,))
    return not (engine and engine.decide(operation))
"""

PROFILE = """
[tool.pytest_resilience.profiles.mail]
[[tool.pytest_resilience.profiles.mail.experiments]]
chaos_type = "lost_mail"
"""


@pytest.fixture
def post(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(CONFTEST)
    pytester.makepyprojecttoml(PROFILE)
    pytester.makepyfile(post=POST)
    pytester.syspathinsert()
    return pytester


def test_a_chaos_type_of_ones_own(post: pytest.Pytester) -> None:
    post.makepyfile("""
        import post
        import pytest

        @pytest.mark.chaos("lost_mail", nth=2)
        def test_marked():
            assert [post.send("ada"), post.send("bob"), post.send("eve")] == [True, False, True]

        def test_part(chaos):
            with chaos.inject("lost_mail") as lost:
                assert not post.send("ada")
            assert post.send("ada")
            assert lost.hits == 1
    """)
    result = post.runpytest("-s")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*TOLD *::test_marked mail.send bob", "*TOLD *::test_part * ada"])
    listed = post.runpytest("--chaos-list")
    listed.stdout.fnmatch_lines(["lost_mail: letters do not arrive"])


def test_a_name_that_is_taken_is_refused(post: pytest.Pytester) -> None:
    post.makeconftest(CONFTEST.replace('"lost_mail", LOST', '"cpu_stress", LOST'))
    result = post.runpytest("--chaos-list")
    result.stderr.fnmatch_lines(["ERROR: a chaos type named 'cpu_stress' exists already; *"])


@pytest.mark.parametrize(
    ("hook", "given", "wanted"),
    [
        ("chaos_types", "'lost_mail'", "NewChaosType"),
        ("chaos_types", "NewChaosType", "NewChaosType"),
        ("adapters", "[3]", "functions, each of one object"),
        ("adapters", "print", "functions, each of one object"),
    ],
)
def test_what_a_hook_is_not_asked_for_is_refused(
    pytester: pytest.Pytester, hook: str, given: str, wanted: str
) -> None:
    pytester.makeconftest(f"""
        from pytest_resilience import NewChaosType

        def pytest_resilience_{hook}():
            return {given}
    """)
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest("--chaos-seed=1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    message = f"ERROR: the hook pytest_resilience_{hook} gave *; return a list of {wanted}"
    result.stderr.fnmatch_lines(message)


def test_profiles_are_not_listed_over_a_name_that_is_taken(post: pytest.Pytester) -> None:
    post.makeconftest(CONFTEST.replace('"lost_mail", LOST', '"cpu_stress", LOST'))
    result = post.runpytest("--chaos-profile=?")
    result.stderr.fnmatch_lines(["ERROR: a chaos type named 'cpu_stress' exists already; *"])


def test_the_matrix_listens(post: pytest.Pytester) -> None:
    post.makepyfile("""
        import post

        def test_lost():
            assert post.send("ada")

        def test_kept():
            post.send("ada")
    """)
    result = post.runpytest("--chaos-matrix", "--chaos-profile=mail")
    result.stdout.fnmatch_lines(["lost_mail: 1 survived, 1 degraded", "OURS: 2 cells"])


def test_all_begin_so_that_a_run_sees_that_somebody_has_one() -> None:
    hooks = [name for name in vars(newhooks) if name.startswith("pytest_")]
    assert all(name.startswith("pytest_resilience_") for name in hooks)


@pytest.mark.parametrize(
    ("hook", "complaint"),
    [
        ("pytest_resilience_verdict(item, result)", "*'result'*not*found in the hookspec*"),
        ("pytest_resilience_verdikt()", "*conftest.py: unknown hook * (did you mean '*verdict'?)*"),
        ("pytest_resilience_zzz()", "*conftest.py: unknown hook pytest_resilience_zzz; known: *"),
    ],
)
@pytest.mark.parametrize(
    ("folder", "flags"),
    [
        (".", []),
        ("below", []),
        (".", ["--chaos-seed=1"]),
        ("below", ["--chaos-seed=1"]),
        (".", ["-p", "xdist", "-n1"]),  # below, only the worker loads it, and xdist fails with it
    ],
)
def test_a_hook_is_checked_also_where_there_is_no_chaos(
    pytester: pytest.Pytester, hook: str, complaint: str, folder: str, flags: list[str]
) -> None:
    pytester.makepyfile(**{f"{folder}/conftest": f"def {hook}: pass"})
    pytester.makepyfile(**{f"{folder}/test_it": "def test(): pass"})
    result = pytester.runpytest_subprocess(*flags)
    assert result.ret in {pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.INTERRUPTED}
    assert "INTERNALERROR" not in result.stdout.str()
    lines = [*result.outlines, *result.errlines]
    assert fnmatch.filter(lines, complaint), lines


ADAPTERS = """
from pytest_resilience.assertions import CircuitReading

class Fuse:
    blown = True

def read(thing):
    if isinstance(thing, Fuse):
        state = "OPEN" if thing.blown else "CLOSED"
        return CircuitReading(name="fuse", state=state, path=None, timeline=(), refuses=thing.blown)

def pytest_resilience_adapters():
    return [read]
"""


def test_a_conftest_of_any_directory_can_add_readers(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
        import pytest

        @pytest.hookimpl
        def pytest_resilience_adapters():
            return []
    """)
    below = pytester.mkpydir("below")
    (below / "conftest.py").write_text(ADAPTERS)
    (below / "test_fuse.py").write_text("""
from pytest_resilience.assertions import assert_circuit_open, assert_fails_fast
from .conftest import Fuse

def test_blown():
    assert_circuit_open(Fuse())
    assert_fails_fast(Fuse())

def test_whole():
    fuse = Fuse()
    fuse.blown = False
    assert_circuit_open(fuse)
""")
    result = pytester.runpytest()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines("E*expected fuse to be OPEN, but it is CLOSED")


def test_they_are_gone_after_the_run(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
        from pytest_resilience.assertions import CircuitReading

        def pytest_resilience_adapters():
            return [lambda thing: CircuitReading(
                name="any", state="OPEN", path=None, timeline=(), refuses=True
            )]
    """)
    pytester.makepyfile("""
        from pytest_resilience.assertions import assert_circuit_open

        def test_any():
            assert_circuit_open(3)
    """)
    pytester.runpytest().assert_outcomes(passed=1)
    with pytest.raises(TypeError):
        assert_circuit_open(3)
