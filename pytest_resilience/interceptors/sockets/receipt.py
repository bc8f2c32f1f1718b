"""One call of a method of a socket that receives, taken apart."""

from __future__ import annotations

import errno
import functools
import os
import socket
import sys

from collections.abc import Callable
from typing import Any

from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import looked


__all__ = ["Call", "Receipt", "flags_of", "is_sensible"]

# What each method is given, in order. The two that are missing fill several buffers, or
# one and an address: nobody reads a stream like that.
_GIVEN = {
    "recv": ("size", "flags"),
    "recv_into": ("buffer", "size", "flags"),
    "read": ("size", "buffer"),
    "recvfrom": ("size", "flags"),
    "recvmsg": ("size", "space", "flags"),
}
_BY_KEYWORD = {"bufsize": "size", "buflen": "size", "len": "size", "nbytes": "size"}
_OTHERWISE: dict[str, Any] = {"size": None, "buffer": None, "flags": 0, "space": 0}
_USUAL_SIZE = 1024
_A_BUFFER = bytearray()
_MORE: dict[str, tuple[Any, ...]] = {"recvfrom": (None,), "recvmsg": ([], 0, None)}


class Call(functools.partial[Any]):
    """One of a socket's methods, with the socket and everything that it was given.

    Attributes:
        name: of the method. A tool that has wrapped it may have left its own.
    """

    name: str

    @classmethod
    def of(cls, name: str, method: Callable[..., Any], *args: Any, **named: Any) -> Call:
        """The call of a method of this name."""
        call = cls(method, *args, **named)
        call.name = name
        return call


def flags_of(call: Call) -> int:
    """The `MSG_…` flags that one of a socket's receiving methods is given; 0 for none."""
    if len(call.args) <= 2 and not call.keywords:  # the socket and a size
        return 0
    names = _GIVEN.get(call.name, ())
    given = dict(zip(names, call.args[1:], strict=False)) | call.keywords
    return int(given.get("flags", 0))


def is_sensible(call: Call) -> bool:
    """Whether the method takes what it was given; if not, it is to say so itself, and at once."""
    names = _GIVEN.get(call.name)
    if names is None:
        return True
    given = dict(zip(names, call.args[1:], strict=False))
    given |= {_BY_KEYWORD.get(name, name): value for name, value in call.keywords.items()}
    if hasattr(type(call.args[0]), "pending"):  # TLS takes nothing for what it usually is
        given = {name: value for name, value in given.items() if value is not None}
    view: Any = looked(lambda: memoryview(given.pop("buffer", _A_BUFFER)))
    return (
        len(call.args) - 1 <= len(names)
        and view is not None
        and not view.readonly
        and all(is_a(each, int) and 0 <= each < sys.maxsize for each in given.values())
    )


class Receipt:
    """Who calls wants `size` bytes at most, as its method gives them.

    Attributes:
        size: in bytes.
        peeks: whether what is received stays where it is.
        wants_all: whether no less will do.
    """

    def __init__(self, call: Call) -> None:
        """`call` is the real method with the socket and everything that it was given.

        Raises ConnectionResetError for a method that does not read a stream.
        """
        self._call = call
        self._sock, *given = call.args
        self._name = call.name
        if self._name not in _GIVEN:
            raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        named = {_BY_KEYWORD.get(name, name): value for name, value in call.keywords.items()}
        self._given = {**_OTHERWISE, **dict(zip(_GIVEN[self._name], given, strict=False)), **named}
        buffer = self._given["buffer"]
        self._view = None if buffer is None else memoryview(buffer).cast("B")
        size = self._given["size"]
        if self._view is not None:
            self.size: int = size or len(self._view)
        else:
            self.size = _USUAL_SIZE if size is None else size
        self.peeks = bool(self._given["flags"] & socket.MSG_PEEK)
        self.wants_all = bool(self._given["flags"] & socket.MSG_WAITALL)

    def fetch(self, most: int | None = None) -> bytes:
        """Receive for real, `most` bytes at most. Raises what the real method raises."""
        __tracebackhide__ = True
        size = self.size if most is None else min(self.size, most)
        view = None if self._view is None else self._view[:size]
        given = {**self._given, "size": size, "buffer": view}
        found = self._call.func(self._sock, *(given[name] for name in _GIVEN[self._name]))
        return self.content(found)

    def content(self, result: Any) -> bytes:
        """The bytes in what the real method has returned."""
        if self._view is not None:
            return bytes(self._view[:result])
        return bytes(result[0] if isinstance(result, tuple) else result)

    def deliver(self, data: bytes) -> Any:
        """What the method returns when `data`, no more than `size`, is received."""
        if self._view is not None:
            self._view[: len(data)] = data
            return len(data)
        more = _MORE.get(self._name)
        return data if more is None else (data, *more)
