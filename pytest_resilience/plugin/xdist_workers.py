"""Workers of pytest-xdist: who is one, and the seed that the controller hands to each."""

from __future__ import annotations

from typing import Any

import pytest


__all__ = ["hand_seed", "handed_seed", "is_worker"]

_SEED = "resilience_seed"


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is one: it has no terminal."""
    return hasattr(config, "workerinput")


def handed_seed(config: pytest.Config) -> int | None:
    """In a worker; None elsewhere, and where the controller has none."""
    seed: int | None = getattr(config, "workerinput", {}).get(_SEED)
    return seed


def hand_seed(node: Any, seed: int) -> None:
    """On the controller, before a worker starts: `node` is its WorkerController."""
    node.workerinput[_SEED] = seed
