"""Actions and probes for Chaos Toolkit: experiments in the process that runs them.

They are plain functions for providers of type `python`, for `chaos run` and for
`ToolkitExperiment.run` alike. What they start lasts until it is stopped, its duration is over, or
the process ends.

    {"type": "action", "name": "slow down", "provider": {"type": "python",
     "module": "pytest_resilience.toolkit_actions", "func": "start_experiment",
     "arguments": {"chaos_type": "network_latency", "delay": "200ms"}}}
"""

from __future__ import annotations

import functools
import threading

from typing import Any

from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.types.catalog import chaos_type as parse_type
from pytest_resilience.errors import DuplicateNameError
from pytest_resilience.errors import UnknownNameError
from pytest_resilience.locks import fork_safe
from pytest_resilience.runtime import Hazard
from pytest_resilience.runtime import default_runtime


__all__ = [
    "active_experiments",
    "count_hits",
    "start_experiment",
    "stop_all_experiments",
    "stop_experiment",
]


class _Started:
    """The experiments that were started here, by name, those that have ended as well."""

    def __init__(self) -> None:
        self.by_name: dict[str, Hazard] = {}
        self.lock = fork_safe(self, "lock", threading.Lock)

    def get(self, name: str) -> Hazard:
        try:
            return self.by_name[name]
        except KeyError:
            raise UnknownNameError("chaos experiment", name, tuple(self.by_name)) from None


@functools.cache
def _started() -> _Started:
    return _Started()


def start_experiment(
    chaos_type: str, name: str = "", seed: int = 0, **parameters: Any
) -> dict[str, Any]:
    """Start an experiment; `name` is its chaos type if it is not given.

    Raises ConfigurationError, and DuplicateNameError for the name of one that runs.
    """
    name = name or parse_type(chaos_type).value
    experiment = ChaosExperiment(name, chaos_type, **parameters)
    started = _started()
    with started.lock:
        if name in active_experiments():
            raise DuplicateNameError("chaos experiment", name)
        started.by_name[name] = default_runtime().start(experiment, seed=seed)
    return {"name": name, "what": str(experiment)}


def stop_experiment(name: str) -> dict[str, Any]:
    """End an experiment. Raises UnknownNameError; ending it twice is harmless.

    Returns its counts: operations that `matched`, `hits`, and the `delay` in seconds it added.
    """
    started = _started().get(name)
    started.stop()
    counts = started.active_experiment
    return {
        "name": name,
        "matched": counts.matched,
        "hits": counts.hits,
        "delay": counts.delay,
    }


def stop_all_experiments() -> list[dict[str, Any]]:
    """End every experiment that was started here, as a rollback; harmless when none runs."""
    return [stop_experiment(name) for name in active_experiments()]


def active_experiments() -> list[str]:
    """A probe: the names of the experiments that run."""
    now = default_runtime().engine.clock.monotonic()
    started = list(_started().by_name.items())
    return [name for name, each in started if each.active_experiment.left(now)]


def count_hits(name: str) -> int:
    """A probe: how many operations an experiment has hit. Raises UnknownNameError."""
    return _started().get(name).active_experiment.hits
