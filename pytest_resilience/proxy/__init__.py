"""A TCP proxy on loopback with faults in both directions, for what sockets cannot reach.

Drivers in C, subprocesses and programs in other languages are led through it. It works
without pytest, and on its own as `python -m pytest_resilience.proxy`.
"""

from __future__ import annotations

from pytest_resilience.proxy.control import ControlServer
from pytest_resilience.proxy.proxy import ChaosProxy
from pytest_resilience.proxy.toxics import Toxic


__all__ = ["ChaosProxy", "ControlServer", "Toxic"]
