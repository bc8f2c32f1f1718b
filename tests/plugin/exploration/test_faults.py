"""Where an operation is done, as an exploration names it."""

from __future__ import annotations

import sys

from types import CodeType

import pytest

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.exploration.operation_log import OperationLog
from pytest_resilience.exploration.operation_log import Watch
from pytest_resilience.exploration.operation_names import TargetNames
from pytest_resilience.plugin.exploration.faults import place_in


OPERATION = Operation(kind=CONNECT, target="shop:80", names=("shop:80",))


@pytest.fixture
def engine() -> Engine:
    """One in which every operation is seen by a log."""
    engine, watch = Engine(lambda _: []), Watch()
    watch.log = OperationLog(TargetNames(temporary="", project=""), place_in(engine))
    watch.log.is_open = True
    engine.recorder = watch
    return engine


def test_a_place_is_looked_for_from_who_has_asked_the_engine(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    begins: list[CodeType] = []

    def call_site(loop_objects: tuple[object, ...], *, above: int) -> str:
        begins.append(sys._getframe(above).f_code)
        return "here"

    def interceptor() -> None:
        engine.decide(OPERATION)

    monkeypatch.setattr(engine, "call_site", call_site)
    interceptor()
    assert begins == [interceptor.__code__]


def test_who_asks_the_engine_may_be_the_place(engine: Engine) -> None:
    engine.decide(OPERATION)
    watch = engine.recorder
    assert isinstance(watch, Watch)
    assert watch.log is not None
    [seen] = watch.log.seen
    assert seen.place.endswith("in test_who_asks_the_engine_may_be_the_place")
