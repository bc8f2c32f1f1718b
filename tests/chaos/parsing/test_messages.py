"""What stands in a message is short, and does nothing to who reads it."""

from __future__ import annotations

from typing import Any

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience.chaos.parsing.messages import printable
from pytest_resilience.chaos.parsing.messages import shortened


@given(st.text())
def test_what_is_shown_is_lines_of_printable_text(text: str) -> None:
    shown = printable(text)
    assert all(line.isprintable() for line in shown.split("\n"))
    assert not any(line.lstrip().startswith(("::", "##[", "##vso[")) for line in shown.split("\n"))
    if text.isprintable() and "::" not in text and "##" not in text:
        assert shown == text


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "value",
    [10**5000, "x" * 10_000, [[10**5000]], Unspeakable()],
    ids=["digits", "text", "nested", "unspeakable"],
)
def test_any_value_can_stand_in_a_message(value: Any) -> None:
    assert 0 < len(shortened(value)) < 250
