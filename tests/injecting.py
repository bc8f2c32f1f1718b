"""Experiments that are started for a block."""

from __future__ import annotations

import contextlib

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.engine import Engine


__all__ = ["Inject", "ending", "injecting"]

Inject = Callable[..., contextlib.AbstractContextManager[ActiveExperiment]]


def injecting(start: Callable[..., ActiveExperiment], **usual: Any) -> Inject:
    """`with inject("network_latency", delay=…) as active_experiment:`.

    `start`: of an engine or a runtime. `usual`: what is given unless the block gives it.
    """

    @contextlib.contextmanager
    def inject(kind: str, **parameters: Any) -> Iterator[ActiveExperiment]:
        given = usual | parameters
        active_experiment = start(ChaosExperiment(given.pop("name", kind), kind, **given), seed=1)
        try:
            yield active_experiment
        finally:
            active_experiment.stop()

    return inject


@contextlib.contextmanager
def ending(engine: Engine) -> Iterator[Engine]:
    """What the block starts ends with it.

    One engine serves many tests, as it does in a suite of users: to make it takes longer than
    most of them.
    """
    assert not engine.active
    assert not engine.listeners
    try:
        yield engine
    finally:
        for active_experiment in engine.active:
            active_experiment.stop()
