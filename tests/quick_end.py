"""Lets each pytest that a test has started end quickly.

In the end pytest looks for garbage ten times. It need not look among what was loaded before.

PYTEST_DONT_REWRITE, for nothing is asserted here, and what runs in the process of the tests
would warn that this has been loaded there before.
"""

from __future__ import annotations

import gc
import os

from pathlib import Path


_OUTSIDE = "QUICK_END_OUTSIDE"


def environment() -> dict[str, str]:
    """What loads this in every pytest that is started from here."""
    return {
        "PYTEST_PLUGINS": __name__,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        _OUTSIDE: str(os.getpid()),
    }


def pytest_sessionstart() -> None:
    if os.environ.get(_OUTSIDE) != str(os.getpid()):  # here, we would keep all that tests make
        gc.freeze()


def pytest_collection_finish() -> None:
    pytest_sessionstart()
