"""How far an exploration goes, as it is written."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_resilience import ConfigurationError
from pytest_resilience.chaos.parsing.quantities import Budget
from pytest_resilience.chaos.parsing.quantities import MaxCalls
from pytest_resilience.chaos.parsing.quantities import read_budget
from pytest_resilience.chaos.parsing.quantities import read_depth
from pytest_resilience.chaos.parsing.quantities import read_max_calls


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (200, Budget(200, None)),
        ("200", Budget(200, None)),
        ("30s", Budget(None, 30.0)),
        (1.5, Budget(None, 1.5)),
        ([200, "30s"], Budget(200, 30.0)),
        (("1m", "3"), Budget(3, 60.0)),
    ],
)
def test_a_budget_is_runs_a_time_or_both(value: Any, expected: Budget) -> None:
    assert read_budget("budget", value) == expected


@pytest.mark.parametrize(
    "value",
    [
        [],
        (),
        [1, 2],
        ["1s", "2s"],
        [3, None],
        [[3]],
        0,
        "0",
        "00",
        "0s",
        0.0,
        -3,
        "-3",
        "3x",
        "lots",
        "",
        "٣",
        "nan",
        float("inf"),
        None,
        True,
        {"runs": 3},
    ],
)
def test_what_is_no_budget_is_told_what_one_is(value: Any) -> None:
    told = r"^budget=.*[;:] give runs such as 200, seconds such as '30s', or one of each\n"
    with pytest.raises(ConfigurationError, match=told):
        read_budget("budget", value)


@pytest.mark.parametrize("value", [0, 5, -1, "x", None, True, 1.5])
def test_no_depth(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="depth="):
        read_depth("depth", value)


def test_depths_and_calls() -> None:
    assert [read_depth("depth", each) for each in (1, "4")] == [1, 4]
    assert [read_max_calls("max_calls", each) for each in ("4x", 4)] == [
        MaxCalls(4, 0),
        MaxCalls(None, 4),
    ]


@pytest.mark.parametrize("value", [0, "0x", "x", "4", True, -1, 1.5, None])
def test_no_calls(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="give a number from 1 of operations"):
        read_max_calls("max_calls", value)
