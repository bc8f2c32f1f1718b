"""An engine with both interceptors, as users have them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.interceptors.http_mocks.interceptor import HttpMockInterceptor
from pytest_resilience.interceptors.sockets.interceptor import SocketInterceptor
from tests.injecting import ending


@pytest.fixture
def clock() -> Clock:
    """By which the engine goes."""
    return MACHINE_CLOCK


@pytest.fixture
def engine(clock: Clock) -> Iterator[Engine]:
    """What one of the interceptors has done, the other must not do again."""
    engine = Engine(
        lambda engine: [SocketInterceptor(engine), HttpMockInterceptor(engine)], clock=clock
    )
    with ending(engine):
        yield engine
