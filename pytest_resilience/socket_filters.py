"""Sockets for which the kernel drops all that comes, as if it was lost on the way."""

from __future__ import annotations

import _socket
import array
import contextlib
import os
import socket
import struct
import sys


__all__ = ["allow_incoming", "drop_incoming", "drops_incoming", "forget", "sees_acks"]

_ATTACH_FILTER, _DETACH_FILTER = 26, 27  # options of sockets for which Python has no names


def _program(*instructions: tuple[int, int, int, int]) -> array.array[int]:
    """A filter (BPF), of instructions: code, jumps if true and if false, and a number."""
    return array.array("B", b"".join(struct.pack("@HBBI", *each) for each in instructions))


_SIZE = struct.calcsize("@HBBI")
_LOAD, _IF_ANY, _RETURN = 0x30, 0x45, 0x06
_FLAGS_AT, _ENDS_OR_BEGINS = 13, 0b111  # in the head of TCP: RST, SYN and FIN
_DROP = _program((_RETURN, 0, 0, 0))
# The kernel keeps the head whatever is returned: it acknowledges what the peer has received. What
# comes with it is cut off, and sent again by the peer.
_KEEP_ACKS = _program(
    (_LOAD, 0, 0, _FLAGS_AT),
    (_IF_ANY, 1, 0, _ENDS_OR_BEGINS),
    (_RETURN, 0, 0, 1),
    (_RETURN, 0, 0, 0),
)

# Whether acknowledgements are seen, by the number of the kernel that two descriptors of one socket
# share. Asked for the filter, the kernel may write more than fits where Python lets it.
_filtered: dict[int, bool] = {}


def drop_incoming(sock: _socket.socket, *, keep_acks: bool = False) -> None:
    """Let the kernel drop all that comes for `sock`, the end as well, as if lost on the way.

    With `keep_acks` it takes acknowledgements, so that more can be
    sent: its peer reads, and keeps silent. Where it cannot, what comes is seen by who polls.
    """
    if sys.platform == "linux":
        program = _KEEP_ACKS if keep_acks else _DROP
        length, address = len(program) // _SIZE, program.buffer_info()[0]
        with contextlib.suppress(OSError):  # closed
            sock.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("@HP", length, address))
            _filtered[_number(sock)] = keep_acks


def allow_incoming(sock: _socket.socket) -> None:
    """Let what comes from now on be received, and what the peer sends again."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # closed, or nothing was dropped
            _filtered.pop(_number(sock), None)
            sock.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)


def forget(sock: _socket.socket) -> None:
    """It is about to be gone, and the kernel gives its number to another."""
    if _filtered:
        with contextlib.suppress(OSError):  # closed
            _filtered.pop(_number(sock), None)


def drops_incoming(sock: _socket.socket) -> bool:
    """Whether what comes for it is dropped just now. Raises OSError if it is closed."""
    return bool(_filtered) and _number(sock) in _filtered


def sees_acks(sock: _socket.socket) -> bool:
    """Whether it is told that what it sends is received. Raises OSError if it is closed."""
    return not _filtered or _filtered.get(_number(sock), True)


def _number(sock: _socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino
