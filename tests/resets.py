"""A peer that does not end its connection in good order."""

from __future__ import annotations

import socket
import struct

from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket


__all__ = ["reset_when_closed"]


def reset_when_closed(connection: KernelSocket) -> None:
    """Let the close of `connection` be a reset (RST): nothing is waited for, and all is lost."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
