"""A TCP proxy on loopback with faults in both directions, for what sockets cannot reach.

Drivers in C, subprocesses and programs in other languages are led through it. It works
without pytest, and on its own as `python -m pytest_resilience.proxy`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

from pytest_resilience.proxy.proxy import ChaosProxy
from pytest_resilience.proxy.toxic_types import Toxic


if TYPE_CHECKING:
    from pytest_resilience.proxy.toxiproxy_api.server import ControlServer


__all__ = ["ChaosProxy", "ControlServer", "Toxic"]


def __getattr__(name: str) -> Any:
    """The control, with the HTTP server it needs, for those who ask for it."""
    if name == "ControlServer":
        from pytest_resilience.proxy.toxiproxy_api.server import ControlServer

        return ControlServer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
