"""Sockets for which the kernel drops all that comes, as if it was lost on the way."""

from __future__ import annotations

import _socket
import array
import contextlib
import os
import socket
import struct
import sys


__all__ = ["deafen", "forget", "hear", "hears_receipts", "is_deaf"]

_ATTACH_FILTER, _DETACH_FILTER = 26, 27  # options of sockets for which Python has no names


def _program(*instructions: tuple[int, int, int, int]) -> array.array[int]:
    """A filter (BPF), of instructions: code, jumps if true and if false, and a number."""
    return array.array("B", b"".join(struct.pack("@HBBI", *each) for each in instructions))


_SIZE = struct.calcsize("@HBBI")
_LOAD, _IF_ANY, _RETURN = 0x30, 0x45, 0x06
_FLAGS_AT, _ENDS_OR_BEGINS = 13, 0b111  # in the head of TCP: RST, SYN and FIN
_DROP = _program((_RETURN, 0, 0, 0))
# The kernel keeps the head whatever is returned, and it says what the peer has received. What
# comes with it is cut off, and sent again by the peer.
_TAKE_RECEIPTS = _program(
    (_LOAD, 0, 0, _FLAGS_AT),
    (_IF_ANY, 1, 0, _ENDS_OR_BEGINS),
    (_RETURN, 0, 0, 1),
    (_RETURN, 0, 0, 0),
)

# By the kernel's number, which two descriptors of one socket share, whether they hear of receipts.
# Asked for the filter, the kernel may write more than fits where Python lets it.
_deaf: dict[int, bool] = {}


def deafen(sock: _socket.socket, *, receipts: bool = False) -> None:
    """Let the kernel drop all that comes for `sock`, the end as well, as if lost on the way.

    With `receipts` it takes of a connection that what was sent is received, so that more can be
    sent: its peer reads, and keeps silent. Where it cannot, what comes is seen by who polls.
    """
    if sys.platform == "linux":
        program = _TAKE_RECEIPTS if receipts else _DROP
        length, address = len(program) // _SIZE, program.buffer_info()[0]
        with contextlib.suppress(OSError):  # closed
            sock.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("@HP", length, address))
            _deaf[_number(sock)] = receipts


def hear(sock: _socket.socket) -> None:
    """Take what comes from now on, and what the peer sends again."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # closed, or it was not deaf
            _deaf.pop(_number(sock), None)
            sock.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)


def forget(sock: _socket.socket) -> None:
    """It is about to be gone, and the kernel gives its number to another."""
    if _deaf:
        with contextlib.suppress(OSError):  # closed
            _deaf.pop(_number(sock), None)


def is_deaf(sock: _socket.socket) -> bool:
    """Whether that is so just now. Raises OSError if it is closed."""
    return bool(_deaf) and _number(sock) in _deaf


def hears_receipts(sock: _socket.socket) -> bool:
    """Whether it is told that what it sends is received. Raises OSError if it is closed."""
    return not _deaf or _deaf.get(_number(sock), True)


def _number(sock: _socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino
