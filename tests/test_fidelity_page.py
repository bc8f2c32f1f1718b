"""The page of what is injected and what really happens: written in order, compared with sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import fidelity_page
from tests.fidelity_page import HEAD
from tests.fidelity_page import Section
from tests.fidelity_page import assert_complete
from tests.fidelity_page import written_sections


FIRST = Section(title="requests", events=("refused", "reset"), about="More of it.")
SECOND = Section(title="sqlite3", events=("locked",), libraries=("pytest",))


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "fidelity.md"
    path.write_text(HEAD, encoding="utf-8")
    monkeypatch.setattr(fidelity_page, "PAGE", path)
    monkeypatch.delenv("UPDATE_DOCS", raising=False)
    return path


@pytest.fixture
def _written(page: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("UPDATE_DOCS", "1")
        SECOND.note("locked", "Busy", "Locked", "it has two names")
        FIRST.note("reset", "Reset", "Reset", "it might not")
        FIRST.note("refused", "Refused", "Refused")


@pytest.mark.usefixtures("_written")
def test_the_order_does_not_depend_on_who_came_first(page: Path) -> None:
    assert [*written_sections()] == ["requests", "sqlite3"]
    assert [*written_sections()["requests"].rows] == ["refused", "reset"]
    text = page.read_text(encoding="utf-8")
    assert text.startswith(HEAD)
    assert "| locked | Busy | Locked | it has two names |\n" in text
    assert "| reset | Reset | Reset |  |\n" in text  # nothing to be explained
    assert_complete(FIRST, SECOND)


@pytest.mark.usefixtures("_written")
def test_a_row_is_compared_and_left_alone(page: Path) -> None:
    before = page.read_bytes()
    FIRST.note("reset", "Reset", "Reset")
    with pytest.raises(AssertionError, match="UPDATE_DOCS=1"):
        FIRST.note("reset", "Broken", "Broken")
    with pytest.raises(AssertionError, match="injected: Reset\nfor real: Broken"):
        FIRST.note("reset", "Reset", "Broken")
    assert page.read_bytes() == before


@pytest.mark.usefixtures("_written")
def test_with_other_versions_only_the_text_may_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity_page, "version", lambda name: "0.1")
    SECOND.note("locked", "Occupied", "Occupied")
    with pytest.raises(AssertionError, match="for real: Free"):
        SECOND.note("locked", "Occupied", "Free")


@pytest.mark.usefixtures("_written")
def test_what_was_written_with_other_versions_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPDATE_DOCS", "1")
    monkeypatch.setattr("platform.python_version", lambda: "3.99.0")
    FIRST.note("reset", "Reset", "Reset")
    assert [*written_sections()["requests"].rows] == ["reset"]
    assert written_sections()["requests"].versions == "With Python 3.99.0."
    monkeypatch.delenv("UPDATE_DOCS")
    with pytest.raises(AssertionError):
        assert_complete(FIRST)
