"""What explorations tell while they go on, which somebody has to look at."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from pytest_resilience.plugin.exploration import findings as module


_SHOWN = re.compile(rb"\x1b7\s*([^\s\x1b][^\x1b]*)\x1b\[K")


def shown_on_a_terminal(pytester: pytest.Pytester, *arguments: str, **more: str) -> list[str]:
    """What was shown in passing on a terminal of 120 columns."""
    unset = {"CI", "BUILD_NUMBER", "PYTEST_ADDOPTS"}
    environment = {key: value for key, value in os.environ.items() if key not in unset}
    environment |= {
        "COLUMNS": "120",
        "TERM": "xterm",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        **more,
    }
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "pytest", "-p", "pytest_resilience.plugin", "--chaos-explore"]
    with subprocess.Popen(
        [*command, *arguments], cwd=pytester.path, env=environment, stdin=theirs, stdout=theirs
    ) as process:
        os.close(theirs)
        written = bytearray()
        try:
            while found := os.read(ours, 65536):
                written += found
        except OSError:  # EIO, when the last of them has ended
            pass
        finally:
            os.close(ours)
    assert process.returncode == 0, written.decode()
    return [each.decode() for each in _SHOWN.findall(bytes(written))]


@pytest.fixture
def notes(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile("""
        def test_saves(tmp_path):
            (tmp_path / "a").write_text("x")
        def test_saves_more(tmp_path):
            (tmp_path / "a").write_text("x")
    """)
    return pytester


def test_a_terminal_shows_how_far_it_is(notes: pytest.Pytester) -> None:
    shown = shown_on_a_terminal(notes, "--chaos-explore-budget=4")
    assert shown[0] == "explored 0 tests, 1 run, 0 ways to fail, 3 runs left for this test"
    over = [each for each in shown if not each.endswith("left for this test")]
    assert [each.split(", ")[:3] for each in over] == [
        ["explored 1 test", "4 runs", "0 ways to fail"],
        ["explored 2 tests", "8 runs", "0 ways to fail"],
    ]


@pytest.mark.parametrize(
    ("arguments", "more"), [(("-q",), {}), ((), {"CI": "true"}), ((), {"BUILD_NUMBER": "7"})]
)
def test_nobody_looks_under_q_or_in_ci(
    notes: pytest.Pytester, arguments: tuple[str, ...], more: dict[str, str]
) -> None:
    assert not shown_on_a_terminal(notes, "--chaos-explore-budget=4", *arguments, **more)


def test_tests_that_are_not_explored_for_one_reason_are_told_together_but_under_v(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile("""
        import pytest
        @pytest.mark.parametrize("number", range(4))
        def test_computes(number): pass
        def test_saves(tmp_path): (tmp_path / "a").touch()
        @pytest.mark.skip(reason="not here")
        def test_skips(): pass
    """)
    nothing = "*.py::test_computes[[]{}]: not applicable: there is nothing to explore: *"
    usual = pytester.runpytest("--chaos-explore")
    usual.stdout.fnmatch_lines(
        [
            nothing.format(0),
            "  and so it is with 3 more tests, which -v shows",
            "*::test_skips: not run: the test is skipped *: not here",
        ],
        consecutive=True,
    )
    whole = pytester.runpytest("--chaos-explore", "-v")
    whole.stdout.fnmatch_lines([nothing.format(number) for number in range(4)], consecutive=True)
    monkeypatch.setattr(module, "_MOST_NOTES", 1)
    few = pytester.runpytest("--chaos-explore")
    few.stdout.fnmatch_lines(["and 1 more test not explored, which -v shows"])
