"""With pytest-xdist: one seed for all workers, one summary from all of them."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_resilience.plugin.settings import SEED_KEY
from pytest_resilience.plugin.settings import settings_of
from pytest_resilience.plugin.summary import PROBLEMS
from pytest_resilience.plugin.summary import ChaosSummary


__all__ = ["configure_node", "hand_over"]


def configure_node(node: Any) -> None:
    """On the controller, before a worker starts. `node` is xdist's WorkerController."""
    settings = settings_of(node.config)
    node.workerinput[SEED_KEY] = settings.seed
    ChaosSummary.register(node.config, settings)


def hand_over(config: Any, items: list[pytest.Item], problems: list[str]) -> None:
    """On a worker: run nothing, and leave the usage error to the controller.

    Raised here, it would reach the user as an internal error of xdist.
    """
    config.workeroutput[PROBLEMS] = problems
    items.clear()
