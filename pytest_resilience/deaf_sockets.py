"""Sockets for which the kernel drops all that comes, as if it was lost on the way."""

from __future__ import annotations

import _socket
import array
import contextlib
import os
import socket
import struct
import sys


__all__ = ["deafen", "hear", "is_deaf"]

_ATTACH_FILTER, _DETACH_FILTER = 26, 27  # options of sockets for which Python has no names
_DROP = array.array("B", struct.pack("@HBBI", 6, 0, 0, 0))  # a filter: return 0 bytes

# By the kernel's number, which two descriptors of one socket share. Asked for the filter, the
# kernel may write more than fits where Python lets it.
_deaf: set[int] = set()


def deafen(sock: _socket.socket) -> None:
    """Let the kernel drop all that comes for `sock`, the end as well, as if lost on the way.

    Where it cannot, what comes is seen by who polls.
    """
    if sys.platform == "linux":
        program = struct.pack("@HP", 1, _DROP.buffer_info()[0])
        with contextlib.suppress(OSError):  # closed
            sock.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, program)
            _deaf.add(_number(sock))


def hear(sock: _socket.socket) -> None:
    """Take what comes from now on, and what the peer sends again."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # closed, or it was not deaf
            _deaf.discard(_number(sock))
            sock.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)


def is_deaf(sock: _socket.socket) -> bool:
    """Whether that is so just now. Raises OSError if it is closed."""
    return bool(_deaf) and _number(sock) in _deaf


def _number(sock: _socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino
