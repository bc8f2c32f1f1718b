"""Schedules that Hypothesis draws out of a recording."""

from __future__ import annotations

import subprocess
import sys

from typing import Any

import pytest

from hypothesis import find
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from pytest_resilience.errors import ConfigurationError
from pytest_resilience.exploration.schedule import Schedule
from pytest_resilience.exploration.schedule import format_schedule
from pytest_resilience.exploration.schedule import parse_schedule
from pytest_resilience.exploration.search import fault_schedules
from pytest_resilience.exploration.search import singles
from tests.exploration.pieces import System
from tests.exploration.pieces import request


SYSTEM = System([*request("a"), *request("b")], lambda happened: len(happened) > 1)


@given(st.data())
def test_each_is_of_what_was_seen_and_can_be_written(data: st.DataObject) -> None:
    schedule: Schedule = data.draw(fault_schedules(SYSTEM.faultless, least=1, most=3))
    assert 1 <= len(schedule) <= 3
    assert set(schedule) <= set(singles(SYSTEM.faultless))
    assert len({step.point for step in schedule}) == len(schedule)
    assert parse_schedule(format_schedule(schedule)) == schedule
    assert repr(schedule) == repr(format_schedule(schedule))  # to be written in its place


def test_what_fails_is_found_and_becomes_the_simplest_pair() -> None:
    schedule = find(
        fault_schedules(SYSTEM.faultless, most=4),
        lambda drawn: SYSTEM.run(drawn).verdict.bad,
        settings=settings(database=None),
    )
    assert len(schedule) == 2
    assert not any(step.lasts for step in schedule)


@pytest.mark.parametrize("limits", [{"least": 3, "most": 2}, {"least": -1}])
def test_limits_that_leave_nothing_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="0 <= least <= most"):
        fault_schedules(SYSTEM.faultless, **limits)


def test_a_recording_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no operation that can have a fault"):
        fault_schedules([])


@pytest.mark.parametrize("recording", ["connect(a:1)#1=refuse", [3]])
def test_what_is_no_recording_is_refused(recording: Any) -> None:
    with pytest.raises(ConfigurationError, match="is no recording; give what chaos_schedules"):
        fault_schedules(recording)


def test_hypothesis_is_not_imported_before_it_is_used() -> None:
    module = "pytest_resilience.exploration.search"
    code = f"import sys, {module}; assert 'hypothesis' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_hypothesis_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(ConfigurationError, match=r"needs Hypothesis .*; pip install hypothesis"):
        fault_schedules(SYSTEM.faultless)
