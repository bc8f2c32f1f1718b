"""`mark` is `pytest.mark`, and its types know every marker and what each takes."""

from __future__ import annotations

import inspect
import re

import pytest

from pytest_resilience import mark
from pytest_resilience.plugin.exploration import settings
from pytest_resilience.plugin.mark import Marks


NAMES = {name for name in vars(Marks) if not name.startswith("_")} | Marks.__annotations__.keys()


def test_it_is_that_of_pytest() -> None:
    assert mark is pytest.mark


def test_every_marker_has_its_type(pytestconfig: pytest.Config) -> None:
    lines = [re.split(r"\W", line, maxsplit=1)[0] for line in pytestconfig.getini("markers")]
    ours = {name for name in lines if name.removeprefix("no_") in NAMES or "chaos" in name}
    assert ours == NAMES


@pytest.mark.parametrize(
    ("name", "keywords"),
    [
        ("chaos_explore", set(settings._EXPLORE_KEYS)),
        ("resilience", {"allowed", "deadline", "own_chaos"}),
        ("virtual_time", {"start", "schedule"}),
    ],
)
def test_its_keywords_are_those_that_are_read(name: str, keywords: set[str]) -> None:
    assert inspect.signature(getattr(Marks, name)).parameters.keys() - {"self"} == keywords
