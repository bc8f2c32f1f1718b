"""Actions and probes for Chaos Toolkit: experiments in the process that runs them.

They are plain functions for providers of type `python`, for `chaos run` and for
`ToolkitExperiment.run` alike. What they start lasts until it is stopped, its duration is over, or
the process ends.

    {"type": "action", "name": "slow down", "provider": {"type": "python",
     "module": "pytest_resilience.toolkit_actions", "func": "start_experiment",
     "arguments": {"chaos_type": "network_latency", "delay": "200ms"}}}
"""

from __future__ import annotations

import sys
import threading

from typing import Any

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.types.catalog import chaos_type as parse_type
from pytest_resilience.errors import DuplicateNameError
from pytest_resilience.errors import UnknownNameError
from pytest_resilience.locks import fork_safe
from pytest_resilience.runtime import default_runtime


__all__ = [
    "active_experiments",
    "count_hits",
    "start_experiment",
    "stop_all_experiments",
    "stop_experiment",
]

# Those that have ended as well: their counts can be asked for later.
_started: dict[str, ActiveExperiment] = {}
_lock = fork_safe(sys.modules[__name__], "_lock", threading.Lock)


def start_experiment(
    chaos_type: str, name: str = "", seed: int = 0, **parameters: Any
) -> dict[str, Any]:
    """Start an experiment; `name` is its chaos type if it is not given.

    Raises ConfigurationError, and DuplicateNameError for the name of one that runs.
    """
    name = name or parse_type(chaos_type).value
    experiment = ChaosExperiment(name, chaos_type, **parameters)
    with _lock:
        if name in active_experiments():
            raise DuplicateNameError("chaos experiment", name)
        _started[name] = default_runtime().start(experiment, seed=seed)
    return {"name": name, "what": str(experiment)}


def stop_experiment(name: str) -> dict[str, Any]:
    """End an experiment. Raises UnknownNameError; ending it twice is harmless.

    Returns its counts: operations that `matched`, `hits`, and the `delay` in seconds it added.
    """
    active_experiment = _find(name)
    active_experiment.stop()
    return {
        "name": name,
        "matched": active_experiment.matched,
        "hits": active_experiment.hits,
        "delay": active_experiment.delay,
    }


def stop_all_experiments() -> list[dict[str, Any]]:
    """End every experiment that was started here, as a rollback; harmless when none runs."""
    return [stop_experiment(name) for name in active_experiments()]


def active_experiments() -> list[str]:
    """A probe: the names of the experiments that run."""
    return [name for name, each in list(_started.items()) if not each.ended]


def count_hits(name: str) -> int:
    """A probe: how many operations an experiment has hit. Raises UnknownNameError."""
    return _find(name).hits


def _find(name: str) -> ActiveExperiment:
    try:
        return _started[name]
    except KeyError:
        raise UnknownNameError("chaos experiment", name, tuple(_started)) from None
