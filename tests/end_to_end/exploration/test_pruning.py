"""What is left out as known would have changed no verdict: of the shop's bugs, and of the examples.

Of the shop those that take less than a second, for each is explored twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.ahead import LOADED
from tests.ahead import ROOT
from tests.ahead import Command
from tests.ahead import finished
from tests.ahead import runs_job
from tests.cells import Cell
from tests.cells import cells_of
from tests.cells import verdicts_of
from tests.end_to_end.exploration.test_seeded_shop import BUGS
from tests.end_to_end.exploration.test_seeded_shop import SHOP


BOTH = """
import gc, importlib, os, sys
import pytest
for name in {loaded!r}:
    importlib.import_module(name)
gc.freeze()  # each exploration looks for garbage after many of its runs
for report, *more in ({pruned!r},), ({whole!r}, "--no-prune"):
    if not os.fork():
        sys.exit(pytest.main([*{args!r}, *more, f"--resilience-report={{report}}"]))
    os.wait()
"""
QUICK = ("test_total", "test_invoice", "test_description")
# Pairs of faults are left out of it; of the one with the bug more is tried than any budget allows.
OF_PAIRS = "(test_rate and mended)"
# Those that have no chaos of their own, and do something.
OF_EXAMPLES = ("on_a_good_day", "leaves_the_database_alone", "the_other_way_round")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExploringTwice:
    """Some tests of a folder or a file, with what is known left out, and with all of it."""

    tests: Path
    keywords: tuple[str, ...]

    def write(self, folder: Path) -> Command:
        top = self.tests if self.tests.is_dir() else self.tests.parent
        args = [
            str(self.tests), "-k", " or ".join(self.keywords), "--chaos-explore",
            f"--basetemp={folder / 'temporary'}", f"--confcutdir={top}",
            "-Wignore::ResourceWarning",
            "-Wignore::pytest.PytestUnraisableExceptionWarning",
        ]  # fmt: skip
        reports = {name: str(folder / f"{name}.json") for name in ("pruned", "whole")}
        return Command(args=("-c", BOTH.format(loaded=LOADED, args=args, **reports)), cwd=ROOT)


def kind_of_error(cell: dict[str, Any]) -> str:
    """Of its reason; what stands behind it, such as a damaged byte, may be another each time."""
    reason: str = cell["reason"]
    return reason.partition(":")[0]


def both_ways(request: pytest.FixtureRequest) -> tuple[dict[Cell, str], dict[Cell, str]]:
    """The verdicts with what is known left out, and of all; after they are the same."""
    folder = finished(request)
    pruned, whole = (
        {(cell["test"], cell["experiment"]): cell for cell in cells_of(folder / f"{name}.json")}
        for name in ("pruned", "whole")
    )
    same = {name: cell["verdict"] for name, cell in pruned.items()}
    assert {name: whole[name]["verdict"] for name in same} == same
    left_out = [whole[name] for name in whole.keys() - pruned.keys()]
    assert left_out
    for cell in left_out:
        if cell["verdict"] == "stale":  # its operation cannot have that fault
            assert cell["reason"].endswith("has happened to its operation")
            continue
        # A fault that stays, where that is the same run as the one in which it happens once.
        assert "+=" in cell["experiment"]
        once = whole[cell["test"], cell["experiment"].replace("+=", "=")]
        assert (cell["verdict"], kind_of_error(cell)) == (once["verdict"], kind_of_error(once))
    return same, verdicts_of(whole.values())


@runs_job(ExploringTwice(tests=SHOP, keywords=(*QUICK, OF_PAIRS)))
def test_of_the_shop(request: pytest.FixtureRequest) -> None:
    pruned, _ = both_ways(request)
    for name in QUICK:
        found = {verdict for (test, _), verdict in pruned.items() if f"{name}[seeded]" in test}
        assert BUGS[name] in found


@runs_job(ExploringTwice(tests=ROOT / "examples", keywords=OF_EXAMPLES))
def test_of_the_examples_which_hold(request: pytest.FixtureRequest) -> None:
    pruned, whole = both_ways(request)
    assert {test.rpartition("::")[2] for test, _ in pruned} >= {
        "test_on_a_good_day", "test_an_api_that_is_full_leaves_the_database_alone",
        "test_and_the_other_way_round",
    }  # fmt: skip
    assert set(whole.values()) <= {"survived", "degraded"}
