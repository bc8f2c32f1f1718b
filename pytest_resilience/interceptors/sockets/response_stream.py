"""How an answer is heard, from its first byte to its last: in pieces, altered, or both."""

from __future__ import annotations

import errno
import functools
import io
import os
import socket
import sys

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.faults.payload import Altered
from pytest_resilience.chaos.faults.response import Alteration
from pytest_resilience.chaos.faults.response import InjectedResponse
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import looked


__all__ = ["Call", "Course", "Decrypted", "Ending", "Receipt", "flags_of", "is_sensible"]

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


class Decrypted:
    """One answer to which something happens that its records do not show."""

    def __init__(self, effect: Effect) -> None:
        fault = effect.failure
        made_up = isinstance(fault, InjectedResponse)
        self._script = (
            io.BytesIO(fault.replacement) if isinstance(fault, InjectedResponse) else None
        )
        self._course = None if made_up else Course(effect, began=0.0)

    def read(self, receipt: Receipt) -> Any:
        """What `SSLObject.read` returns; it raises what that raises."""
        if self._course is not None:
            data = self._course.take(receipt.fetch())
            if self._course.ended:
                self._script, self._course = io.BytesIO(), None
            return receipt.deliver(data)
        return receipt.deliver(b"" if self._script is None else self._script.read(receipt.size))


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of what a peer sends, which has come and is not there yet.

    Attributes:
        due: monotonic seconds.
        effect: what holds it up.
    """

    due: float
    effect: Effect


class Course:
    """One answer while it is heard.

    Attributes:
        effect: what happens to it.
        ended: whether no more of it will be heard.
        ready: bytes of a piece that are there, and have not been taken; in TLS of records.
        idle: whether all that the peer has said of it so far has been heard.
    """

    def __init__(self, effect: Effect, began: float, *, encrypted: bool = False) -> None:
        """`began`: monotonic seconds of its first byte. `encrypted`: its bytes are encrypted, and
        are altered elsewhere.
        """
        self.effect = effect
        self.ended = False
        self.ready = 0
        self.idle = False
        failure = effect.failure
        self._altered: Altered | None = None
        if isinstance(failure, Alteration) and not encrypted:
            self._altered = failure.altered()
        self._free = began  # when the line has carried all that it was given
        self._due: float | None = None

    @property
    def piece(self) -> int | None:
        """How many bytes come at a time, at most; None for all there are."""
        pace = self.effect.pace
        return None if pace is None or not self.effect.left() else pace.piece

    def expect(self, size: int, *, idle: bool) -> float:
        """When the next piece, of `size` bytes, is there, in monotonic seconds.

        `idle`: whether it has only just been put on the line.
        """
        if self._due is None:
            began = max(self._free, self.effect.clock.monotonic()) if idle else self._free
            pace = self.effect.pace
            self._due = began if pace is None else began + pace.seconds(size)
        return self._due

    def expect_more(self, size: int, *, idle: bool) -> float:
        """When `size` bytes are there that come on top of all that was expected before."""
        if self._due is None:
            return self.expect(size, idle=idle)
        pace = self.effect.pace
        self._due += 0.0 if pace is None else pace.seconds(size)
        return self._due

    def carry(self) -> None:
        """What was expected is there."""
        if self._due is not None:
            self._free, self._due = self._due, None

    def take(self, data: bytes) -> bytes:
        """What is heard of the next `data`, none for the end of the stream."""
        self.carry()
        if self._altered is None or not self.effect.left():
            return data
        heard = self._altered.alter(data)
        self.ended = self._altered.ended
        if self._altered.spared:
            self._altered = None
            self.effect.uncount()
        return heard
