"""What explorations tell while they go on, which somebody has to look at."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest


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
