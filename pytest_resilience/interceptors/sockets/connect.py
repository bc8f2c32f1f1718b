"""Connecting in an event loop, which awaits it: held up first, and decided before it begins."""

from __future__ import annotations

import errno
import socket

from collections.abc import Awaitable
from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.interceptors.foreign_objects import looked
from pytest_resilience.interceptors.sockets.connections import Links


__all__ = ["Dialing"]


class Dialing:
    """What happens to connects that loops begin.

    Attributes:
        decided: by the `id` of the socket, as long as they are tried.
    """

    def __init__(self, engine: Engine, links: Links) -> None:
        self.decided: dict[int, Effect | None] = {}
        self._engine = engine
        self._links = links
        self._retired = False

    def watch(self) -> None:
        self._retired = False

    def retire(self) -> None:
        self._retired = True

    async def connect(
        self,
        sock: socket.socket,
        address: Any,
        *,
        pause: Callable[[Effect], Awaitable[None]],
        proceed: Callable[[], Awaitable[None]],
        failed: str,
    ) -> None:
        """`proceed` to connect to `address`, after the `pause` that there has to be.

        Past the end of a silence raises TimeoutError with the text `failed`.
        """
        __tracebackhide__ = True
        link = None if self._retired else looked(self._links.opened, sock, address)
        if link is None or link.calm:
            await proceed()
            return
        effect = self._engine.decide(link.operation(CONNECT))
        if effect is not None and effect.delay:
            await pause(effect)
            if effect.delay == float("inf") and not effect.transient:
                raise TimeoutError(errno.ETIMEDOUT, failed)
        self.decided[id(sock)] = effect
        try:
            await proceed()
        finally:
            self.decided.pop(id(sock), None)
