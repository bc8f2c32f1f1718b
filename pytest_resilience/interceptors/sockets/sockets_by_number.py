"""Sockets that are used by the number of their descriptor alone, as `os.read` and `os.write` do.

Of these no object is seen: it was let go of (`detach`), or was not used since anybody looks.
"""

from __future__ import annotations

import os

from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket
from pytest_resilience.interceptors.sockets.socket_classes import ends_of


__all__ = ["SocketsByNumber"]


class SocketsByNumber:
    """The objects that are used in their place.

    Attributes:
        passing: the numbers of what no experiment has for a target, be it a socket or a file. One
            leaves when a connection with that number is a target, until the active experiments
            change.
    """

    def __init__(self) -> None:
        self.passing: set[int] = set()
        # Nobody else keeps them. What a connection is used by afterwards may be another object.
        self._made: dict[int, _SocketByNumber] = {}

    def make(self, descriptor: int) -> KernelSocket:
        """One for what has that number now. Raises OSError if it is no socket."""
        made = self._made[descriptor] = _SocketByNumber(descriptor)
        return made

    def is_gone(self, sock: KernelSocket, ends: object) -> bool:
        """Whether `sock` is one of these, and its number is not that of this connection any more.

        Nobody tells of a close by number.
        """
        return type(sock) is _SocketByNumber and ends_of(sock) != ends

    def moved(self, sock: KernelSocket, ends: object) -> object:
        """The `ends` of a connection after a call: a fault may have put another in its place."""
        return ends_of(sock) or ends if type(sock) is _SocketByNumber else ends

    def forget(self) -> None:
        """Nothing is intercepted any more."""
        self.passing.clear()
        self._made.clear()


class _SocketByNumber(KernelSocket):
    """Does not close its descriptor, which is somebody else's, nor change whether that blocks."""

    def __init__(self, descriptor: int) -> None:
        blocking = os.get_blocking(descriptor)
        super().__init__(fileno=descriptor)
        self.settimeout(None)  # where there is a default for new ones
        os.set_blocking(descriptor, blocking)

    def __del__(self) -> None:
        self.detach()

    def gettimeout(self) -> float | None:
        """As whoever has the number meets it."""
        return None if os.get_blocking(self.fileno()) else 0.0
