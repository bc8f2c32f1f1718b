"""The proxies of a test, closed when it ends."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import ExitStack
from contextlib import contextmanager
from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.plugin.requested import Defaults
from pytest_resilience.plugin.scope import ChaosScope
from pytest_resilience.proxy.proxy import ChaosProxy


__all__ = ["proxies_of_a_test"]


@contextmanager
def proxies_of_a_test(scope: ChaosScope, defaults: Defaults) -> Iterator[Callable[..., ChaosProxy]]:
    """A maker of proxies whose chance is the test's, and whose faults are among its events.

    Each has an engine of its own: with the session's a client in this process would be hit
    twice, at its socket and on the way.
    """
    with ExitStack() as stack:
        made = 0

        def make(upstream: Any, **options: Any) -> ChaosProxy:
            nonlocal made
            scope.check_open()  # nobody would close it
            made += 1
            clock = options.get("clock", SYSTEM_CLOCK)
            given = {
                "seed": scope.seed_of(f"proxy {made}"),
                "engine": Engine(lambda _: (), services=scope.services, clock=clock),
                "calm": scope.calm,
                "intensity": defaults.intensity,
                **options,
            }
            proxy = ChaosProxy(upstream, **given)
            stack.callback(proxy.close, str(scope.over()))
            scope.include(proxy.forgotten, proxy.spared)
            stack.callback(proxy.engine.listeners.add(scope.note))
            return proxy

        yield make
