"""A family for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interceptors.children.family import Family


@pytest.fixture
def family() -> Iterator[Family]:
    made = Family()
    yield made
    made.close()
