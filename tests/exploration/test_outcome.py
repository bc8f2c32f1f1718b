"""The verdict: the first that holds, and what tells one failure from another."""

from __future__ import annotations

import json

from typing import Any

import pytest

from pytest_resilience.errors import CircuitBreakerError
from pytest_resilience.exploration.outcome import Facts
from pytest_resilience.exploration.outcome import judge
from pytest_resilience.exploration.outcome import signature_of
from pytest_resilience.exploration.schedule import Step
from pytest_resilience.report.cell import CellVerdict
from tests.exploration.pieces import System
from tests.exploration.pieces import request
from tests.exploration.pieces import seen


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def verdict(facts: Facts, allowed: tuple[type[BaseException], ...] | None = None) -> CellVerdict:
    return judge(facts, allowed, lambda _: True)[0]


IN_ORDER = [
    ("void", "skipped", CellVerdict.INVALID),
    ("missed", "it did not come", CellVerdict.STALE),
    ("hang", "still running", CellVerdict.HANG),
    ("storm", "too many", CellVerdict.STORM),
    ("invariant", AssertionError(), CellVerdict.INVARIANT),
    ("probe", AssertionError(), CellVerdict.PROBE),
    ("error", AssertionError(), CellVerdict.FAILED),
    ("leaked", "1 socket", CellVerdict.LEAK),
]


@pytest.mark.parametrize("number", range(len(IN_ORDER)))
def test_the_first_that_holds(number: int) -> None:
    facts = Facts(**{name: value for name, value, _ in IN_ORDER[number:]})  # type: ignore[arg-type]
    assert verdict(facts) is IN_ORDER[number][2]


def test_the_worse_a_verdict_the_earlier_it_holds() -> None:
    order = [each for _, _, each in IN_ORDER] + [CellVerdict.DEGRADED, CellVerdict.SURVIVED]
    severities = [each.severity for each in order]
    assert severities == sorted(severities, reverse=True)


def test_nothing_is_survived() -> None:
    assert verdict(Facts()) is CellVerdict.SURVIVED


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(), TimeoutError(), json.JSONDecodeError("no", "", 0),
        ExceptionGroup("", [OSError()]), RuntimeError("not now"),
    ],
)  # fmt: skip
def test_where_nobody_says_what_is_allowed_failures_of_others_degrade(error: Exception) -> None:
    assert verdict(Facts(error=raised(error))) is CellVerdict.DEGRADED


@pytest.mark.parametrize(
    "error",
    [
        AssertionError(), TypeError(), KeyError("total"), IndexError(), AttributeError(),
        UnboundLocalError(), ExceptionGroup("", [OSError(), TypeError()]), SystemExit(1),
    ],
)  # fmt: skip
def test_and_mistakes_of_the_program_fail(error: BaseException) -> None:
    assert verdict(Facts(error=raised(error))) is CellVerdict.FAILED


def test_an_assertion_that_tells_of_an_error_is_what_that_error_is() -> None:
    for cause, expected in [(OSError(), CellVerdict.DEGRADED), (KeyError(), CellVerdict.FAILED)]:
        error = AssertionError("it did not work")
        error.__cause__ = cause
        assert verdict(Facts(error=error)) is expected


CACHE = """
class Cache(dict):
    # Has no value of what it cannot read.
    def __missing__(self, key):
        try:
            raise PermissionError
        except PermissionError:
            if key == "told":
                raise KeyError(key) from None
            return {"one": "value"}[key]
"""


@pytest.mark.parametrize(
    ("key", "file", "expected"),
    [
        ("told", "of a library", CellVerdict.DEGRADED),
        ("told", __file__, CellVerdict.FAILED),
        ("wrong", "of a library", CellVerdict.FAILED),
    ],
)
def test_a_lookup_by_which_a_library_tells_of_an_error_is_what_that_error_is(
    key: str, file: str, expected: CellVerdict
) -> None:
    namespace: dict[str, Any] = {}
    exec(compile(CACHE, file if file == __file__ else f"<{file}>", "exec"), namespace)
    with pytest.raises(KeyError) as found:
        namespace["Cache"]()[key]
    assert verdict(Facts(error=found.value)) is expected


def test_what_is_said_to_be_allowed_is_all_that_is() -> None:
    facts = Facts(error=raised(TimeoutError()))
    assert verdict(facts, (TimeoutError,)) is CellVerdict.DEGRADED
    assert verdict(facts, (KeyError,)) is CellVerdict.FAILED
    assert verdict(facts, ()) is CellVerdict.FAILED


def test_a_breaker_that_is_open_is_no_mistake() -> None:
    assert (
        verdict(Facts(error=raised(CircuitBreakerError("shop", "OPEN", 1.0))))
        is CellVerdict.DEGRADED
    )


def test_a_leak_is_worse_than_an_error_that_is_allowed() -> None:
    facts = Facts(error=raised(TimeoutError()), leaked="1 socket")
    assert judge(facts, None, lambda _: True)[:2] == (CellVerdict.LEAK, "it left 1 socket behind")


def test_failures_are_told_apart_by_type_and_the_projects_own_place() -> None:
    def one() -> None:
        raise KeyError

    def other() -> None:
        json.loads("{")

    found = []
    for function in (one, one, other):
        with pytest.raises(Exception) as caught:  # whichever it is
            function()
        found.append(signature_of(CellVerdict.FAILED, caught.value, lambda file: file == __file__))
    assert found[0] == found[1] != found[2]
    assert found[0].place == f"{__file__} in one"
    assert found[2].place == f"{__file__} in other"


def test_a_fault_that_stays_strikes_all_later_operations_of_its_kind_on_the_target() -> None:
    operations = [*request("a"), *request("a", 2), *request("b")]
    once, stays = (
        Step(operations[1].point, "reset"),
        Step(operations[0].point, "refuse", lasts=True),
    )
    system = System(operations, lambda _: False)
    assert system.run((once,)).struck == {1: once}
    assert system.run((stays,)).struck == {0: stays, 2: stays}
    assert not system.run((Step(seen("c").point, "reset"),)).struck
