"""Where the installed package is run, and what has been run there."""

from __future__ import annotations

import pickle

from pathlib import Path

import pytest

from tests.ahead import finished
from tests.ahead import result_in
from tests.ahead import root
from tests.end_to_end.installed.outside import Outside
from tests.end_to_end.installed.outside import environment


@pytest.fixture(scope="session")
def outside(pytestconfig: pytest.Config) -> Outside:
    return environment(root(pytestconfig))


@pytest.fixture(scope="module")
def done(request: pytest.FixtureRequest) -> Path:
    """The folder of the job of this module, which has been done."""
    folder = finished(request)
    assert result_in(folder).ret == 0
    return folder


@pytest.fixture(scope="module")
def runs(done: Path) -> dict[str, pytest.RunResult]:
    """What came of everything that the module had run."""
    results: dict[str, pytest.RunResult] = pickle.loads((done / "results").read_bytes())
    return results


@pytest.fixture(scope="module")
def folder(done: Path) -> Path:
    """Where that has worked."""
    return done / "work"
