"""Tasks that come to wait for a connection while an outage goes on, and ask for nothing.

Who waits when it begins meets it then, and who sends by sending (see `Outages`). But a task that
awaits what comes unasked calls nothing of its connection. So who does is looked up when its loop is
about to wait, for by then each of its tasks has come to where it waits.
"""

from __future__ import annotations

import functools
import selectors

from collections.abc import Callable
from typing import Any

from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import running_loop
from pytest_resilience.patching import Patches


__all__ = ["LateWaits"]

_SHARE = 20  # for each second of looking so many pass without
_SHORT = 0.0005  # seconds: who has looked no longer may do so again


class LateWaits:
    """See the module."""

    def __init__(self, strike: Callable[[Any], bool], patches: Patches) -> None:
        """`strike` strikes those of a loop, and returns whether there were any."""
        self._wanted = self._installed = False
        self._strike = strike
        self._patches = patches
        self._rests_until = 0.0  # looking takes its time

    def refresh(self, *, wanted: bool) -> None:
        """Whether an outage goes on."""
        self._wanted = wanted
        if wanted and not self._installed:
            self._installed = True
            self._patches.again("late waits", (self, selectors), self._replace)

    def remove(self) -> None:
        """Only pass on, from now on; who has made the patches takes them out."""
        self._wanted = self._installed = False

    def _replace(self) -> None:
        for name in ("SelectSelector", "PollSelector", "EpollSelector", "DevpollSelector"):
            if hasattr(selectors, name):
                self._patches.replace(getattr(selectors, name), "select", self._looking)

    def _looking(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def select(selector: Any, timeout: Any = None) -> Any:
            __tracebackhide__ = True
            if self._wanted and (timeout is None or timeout) and self._strikes(selector):
                timeout = 0  # the loop has something to do
            return original(selector, timeout)

        return select

    def _strikes(self, selector: Any) -> bool:
        """Whether the loop that waits by this selector has tasks that are struck now."""
        loop: Any = running_loop()
        if loop is None or getattr(loop, "_selector", None) is not selector:
            return False
        began = MACHINE_CLOCK.monotonic()
        if began < self._rests_until:
            loop.call_later(self._rests_until - began, int)  # it may wait for ever
            return False
        struck = self._strike(loop)
        took = MACHINE_CLOCK.monotonic() - began
        self._rests_until = began + took * _SHARE if took > _SHORT else 0.0
        return struck
