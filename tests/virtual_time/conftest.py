from __future__ import annotations

import os
import random

from collections.abc import Iterator

import pytest

from pytest_resilience.virtual_time.clock import VirtualClock


@pytest.fixture(params=[None, 7], ids=["free", "seeded"])
def clock(request: pytest.FixtureRequest) -> Iterator[VirtualClock]:
    chance = None if request.param is None else random.Random(request.param)
    with VirtualClock(chance=chance) as clock:
        yield clock


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ours, theirs = os.pipe()
    yield ours, theirs
    os.close(ours)
    os.close(theirs)
