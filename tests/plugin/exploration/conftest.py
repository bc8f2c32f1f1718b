"""Explorations that run inside a test."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(autouse=True)
def _looks_for_little_garbage() -> None:
    """Most of their runs look for some, among all that tests of this module have left."""
    gc.collect()
    gc.freeze()
