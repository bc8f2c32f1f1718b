from __future__ import annotations

import pytest

from pytest_resilience.assertions import assert_circuit_open


CONFTEST = """
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
    (below / "conftest.py").write_text(CONFTEST)
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
