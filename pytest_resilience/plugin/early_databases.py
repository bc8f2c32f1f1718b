"""Connections of databases that conftest files open while pytest loads them."""

from __future__ import annotations

import pytest

from pytest_resilience.runtime import DatabaseInterceptor
from pytest_resilience.runtime import watched_databases


__all__ = ["EARLY_DATABASES", "watch"]

# What the engine of the run is made with, once all is known of it.
EARLY_DATABASES = pytest.StashKey[DatabaseInterceptor]()


def watch(config: pytest.Config) -> None:
    """From now on connections are such as experiments of this run reach."""
    databases = config.stash[EARLY_DATABASES] = watched_databases()
    config.add_cleanup(lambda: databases.watch(False))
