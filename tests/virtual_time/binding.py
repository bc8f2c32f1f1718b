"""Modules that have bound what virtual time replaces to names of their own."""

from __future__ import annotations

import sys
import types

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def binding(source: str) -> Iterator[Any]:
    """A module that has been imported, with this source."""
    module = types.ModuleType("binds_names")
    exec(source, module.__dict__)
    sys.modules["binds_names"] = module
    try:
        yield module
    finally:
        del sys.modules["binds_names"]
