"""Calls of a socket's methods: their arguments read, and their results made.

`recv`, `recv_into`, `recvfrom`, `recvmsg` and `SSLSocket.read` want the same thing and say it in
different ways, and so do the methods that send.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sys
import types

from collections.abc import Callable
from collections.abc import Container
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from typing import ClassVar

from pytest_resilience.chaos.descriptors import below
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket
from pytest_resilience.interceptors.sockets.socket_classes import kernel_socket


__all__ = [
    "NOTHING", "Datagram", "DatagramArguments", "DatagramMessage", "ReceiveArguments", "SocketCall",
    "asks_for_bytes", "by_descriptor", "flags_of", "handled", "is_at_once", "is_urgent",
    "message_of", "untaken",
]  # fmt: skip

# The parameters of each method, in order.
_PARAMETERS = {
    "recv": ("size", "flags"),
    "recv_into": ("buffer", "size", "flags"),
    "read": ("size", "buffer"),
    "recvfrom": ("size", "flags"),
    "recvfrom_into": ("buffer", "size", "flags"),
    "recvmsg": ("size", "space", "flags"),
    "recvmsg_into": ("buffers", "space", "flags"),
    "os.read": ("size",),
    "os.readv": ("buffers",),
}
# Of what sends, where that has flags; `sendto` has them only if there is another one after them.
_SENDING_PARAMETERS = {
    "send": ("data", "flags"),
    "sendall": ("data", "flags"),
    "sendmsg": ("buffers", "ancillary", "flags"),
}
_FILLING = ("recv_into", "recvfrom_into")  # which take keywords, though they are written in C
_MOST_WITHOUT_FLAGS = 3  # arguments: the socket, what is sent, and to whom
_OF_DESCRIPTORS = "os."
# As numbers: the operators of enums take ten times as long.
_PEEK, _ALL, _URGENT = int(socket.MSG_PEEK), int(socket.MSG_WAITALL), int(socket.MSG_OOB)
_DONT_WAIT = int(getattr(socket, "MSG_DONTWAIT", 0))  # not on every system
_KEYWORDS = {"bufsize": "size", "buflen": "size", "len": "size", "nbytes": "size"}
_DEFAULTS: dict[str, Any] = {"size": None, "buffer": None, "flags": 0, "space": 0}
_DEFAULT_SIZE = 1024
_NO_BUFFER = bytearray()
_NO_KEYWORDS: Mapping[str, Any] = {}
NOTHING = object()  # where no argument is given
_WITHOUT_BYTES = (
    "recv",
    "recv_into",
    "read",
    "os.read",
    "os.readv",
)  # the others wait until there is something
_RETURNED_TOO: dict[str, tuple[Any, ...]] = {"recvfrom": (None,), "recvmsg": ([], 0, None)}
_RETURNED_TOO |= {f"{name}_into": more for name, more in _RETURNED_TOO.items()}


class SocketCall(functools.partial[Any]):
    """A call of one of a socket's methods: with the socket, and everything that it was given.

    Attributes:
        name: of the method. A tool that has wrapped the method may have left its own.
        is_plain: it receives, and is given what nearly every call gives: a size above 0, or room
            for bytes. There is nothing wrong about it, and there are no flags.
    """

    name: str
    is_plain: bool

    @classmethod
    def of(
        cls,
        name: str,
        method: Callable[..., Any],
        sock: Any,
        given: Any,
        more: tuple[Any, ...],
        *,
        named: Mapping[str, Any] = _NO_KEYWORDS,
    ) -> SocketCall:
        """That of the `method` of this name; `given` is the first argument, or `NOTHING`."""
        call = cls(method, sock, *(() if given is NOTHING else (given,)), *more, **named)
        call.name, call.is_plain = name, False
        if not (more or named):
            if type(given) is int:
                call.is_plain = 0 < given < sys.maxsize and not name.endswith("_into")
            elif name in _FILLING and type(given) is memoryview:
                call.is_plain = given.nbytes > 0 and not given.readonly and given.c_contiguous
            elif name in _FILLING:
                call.is_plain = type(given) is bytearray and bool(given)
        return call


def handled(
    name: str,
    original: Callable[..., Any],
    handle: Callable[[Any, SocketCall], Any],
    passing: Container[int],
) -> Callable[..., Any]:
    """A method that calls `handle` unless its socket may pass: the whole cost where it may.

    `passing`: the `id` of those that may. Nearly everybody gives one argument, and packing it in a
    tuple takes longer than this.
    """

    @functools.wraps(original)
    def taking_keywords(sock: Any, given: Any = NOTHING, /, *more: Any, **named: Any) -> Any:
        __tracebackhide__ = True
        if id(sock) in passing and given is not NOTHING:
            if more or named:
                return original(sock, given, *more, **named)
            return original(sock, given)
        return handle(sock, SocketCall.of(name, original, sock, given, more, named=named))

    if type(original) is not types.MethodDescriptorType or name in _FILLING:
        return taking_keywords

    # A dictionary of keywords is made for each call of a function that takes any.
    @functools.wraps(original)
    def method(sock: Any, given: Any = NOTHING, /, *more: Any) -> Any:
        __tracebackhide__ = True
        if id(sock) in passing and given is not NOTHING:
            return original(sock, given, *more) if more else original(sock, given)
        return handle(sock, SocketCall.of(name, original, sock, given, more))

    return method


def flags_of(call: SocketCall) -> int:
    """The `MSG_…` flags that the method is given; 0 for none."""
    names = _PARAMETERS.get(call.name) or _SENDING_PARAMETERS.get(call.name, ())
    if call.name == "sendto" and len(call.args) > _MOST_WITHOUT_FLAGS:
        names = "data", "flags"
    given = dict(zip(names, call.args[1:], strict=False)) | call.keywords
    return int(given.get("flags", 0))


def is_at_once(call: SocketCall) -> bool:
    """Whether it does not wait: by its socket, as it goes by descriptor, or by MSG_DONTWAIT.

    Where there is a timeout, Python waits despite the flag.
    """
    timeout = call.args[0].gettimeout()
    if call.name.startswith(_OF_DESCRIPTORS):
        return timeout is not None  # Python waits for none of them
    return timeout == 0 or (timeout is None and bool(flags_of(call) & _DONT_WAIT))


def asks_for_bytes(call: SocketCall) -> bool:
    """Whether a receiving method may have to wait for bytes.

    Not if it asks for none, or does not take what it was given: then it shall say so itself. Nor
    for urgent data (MSG_OOB), which the kernel keeps beside all others.
    """
    if not _is_valid(call) or flags_of(call) & _URGENT:
        return False
    return call.name not in _WITHOUT_BYTES or bool(ReceiveArguments(call).size)


def is_urgent(call: SocketCall) -> bool:
    """Whether a receiving method asks for urgent data."""
    return bool(flags_of(call) & _URGENT)


def _is_valid(call: SocketCall) -> bool:
    names = _PARAMETERS.get(call.name)
    if names is None:
        return True
    given = dict(zip(names, call.args[1:], strict=False))
    given |= {_KEYWORDS.get(name, name): value for name, value in call.keywords.items()}
    if hasattr(type(call.args[0]), "pending"):  # TLS takes None for a default
        given = {name: value for name, value in given.items() if value is not None}
    buffers = given.pop("buffers", [given.pop("buffer", _NO_BUFFER)])
    # Another iterable may be one that is gone through once.
    views: Any = (
        or_none(lambda: [memoryview(each) for each in buffers])
        if is_a(buffers, list, tuple)
        else None
    )
    return (
        len(call.args) - 1 <= len(names)
        and views is not None
        and not any(view.readonly for view in views)
        and all(is_a(each, int) and 0 <= each < sys.maxsize for each in given.values())
    )


class ReceiveArguments:
    """The arguments of a receiving method, and the way it returns bytes.

    Attributes:
        size: most bytes that it may return.
        peeks: the bytes stay where they are (MSG_PEEK).
        wants_all: it waits for `size` bytes (MSG_WAITALL), which no socket with a timeout does.
    """

    def __init__(self, call: SocketCall) -> None:
        self._call = call
        self._sock, *given = call.args
        self._names = _PARAMETERS[call.name]
        named = {_KEYWORDS.get(name, name): value for name, value in call.keywords.items()}
        self._given = {**_DEFAULTS, **dict(zip(self._names, given, strict=False)), **named}
        size = self._given["size"]
        buffers = self._given.get("buffers", [self._given["buffer"]])
        self._views = [memoryview(each).cast("B") for each in buffers if each is not None]
        self._fills = bool(self._views) or "buffers" in self._given
        if self._fills:
            self.size: int = size or sum(map(len, self._views))
        else:
            self.size = _DEFAULT_SIZE if size is None else size
        self.peeks = bool(self._given["flags"] & _PEEK)
        all_or_none = bool(self._given["flags"] & _ALL)
        self.wants_all = all_or_none and not self.peeks and self._sock.gettimeout() is None

    def fetch(self, most: int = sys.maxsize, *, takes: bool = False) -> bytes:
        """Receive what is there, `most` bytes at most. Raises what the method raises.

        `takes`: the bytes do not stay where they are, though the call only peeks.
        """
        __tracebackhide__ = True
        size = min(self.size, most)
        views, room = [], size
        for view in self._views:
            views.append(view[:room])
            room -= len(views[-1])
        given = {**self._given, "size": size, "buffers": views, "buffer": next(iter(views), None)}
        given["flags"] &= ~(_ALL | (_PEEK if takes else 0))
        return self.content(self._call.func(self._sock, *(given[name] for name in self._names)))

    def content(self, result: Any) -> bytes:
        """The bytes in what the method has returned."""
        found = result[0] if isinstance(result, tuple) else result
        return b"".join(self._views)[:found] if self._fills else bytes(found)

    def returned(self, data: bytes) -> Any:
        """The result of the method when it has received `data`, of no more than `size` bytes."""
        found, rest = len(data) if self._fills else data, data
        for view in self._views:
            part, rest = rest[: len(view)], rest[len(view) :]
            view[: len(part)] = part
        more = _RETURNED_TOO.get(self._call.name)
        return found if more is None else (found, *more)


def by_descriptor(name: str, function: Callable[..., Any], sock: Any, *given: Any) -> SocketCall:
    """A call of a `function` of `os`, with the socket in the place of its number.

    Raises where it takes something else, or has nothing to send.
    """
    call = SocketCall(lambda sock, *rest: function(sock.fileno(), *rest), sock, *given)
    call.name, call.is_plain = name, False
    if name not in _PARAMETERS and not _size_of(call):
        raise ValueError("nothing")
    return call


def untaken(call: SocketCall, result: Any) -> int:
    """How many bytes of the message a sending method that returned `result` has not taken."""
    if call.name == "sendall" or not is_a(result, int):
        return 0
    return max(0, _size_of(call) - int(result))


def _size_of(call: SocketCall) -> int:
    if call.name == "os.sendfile":
        _, file, offset, count = call.args
        left: int = os.fstat(file).st_size - offset
        return max(0, min(left, int(count)))
    buffers = call.args[1] if call.name in {"sendmsg", "os.writev"} else call.args[1:2]
    return sum(memoryview(each).nbytes for each in buffers)


def message_of(call: SocketCall, *, later: bool = False) -> tuple[Callable[..., int | None], bytes]:
    """The function by which a socket sends some of a message, and the message of this call.

    `later`: it is sent when nobody waits for that call any more, so that it may take its time.
    """
    _, given, *more = call.args
    name, send = call.name, call.func
    if name.startswith(_OF_DESCRIPTORS):
        return _send_plain if later else _write, _bytes_of(call)
    if name == "sendto":
        return functools.partial(_send_with, send, more), bytes(given)
    if name == "sendmsg":
        return functools.partial(_send_buffers, send), b"".join(map(bytes, given))
    if flags := flags_of(call):
        return functools.partial(_send_with, send, [flags]), bytes(given)
    return send, bytes(given)


def _bytes_of(call: SocketCall) -> bytes:
    _, given, *more = call.args
    if call.name == "os.sendfile":
        content: bytes = os.pread(given, _size_of(call), more[0])
        return content
    return b"".join(map(bytes, given)) if call.name == "os.writev" else bytes(given)


def _send_plain(sock: Any, data: bytes) -> int:
    return KernelSocket.send(kernel_socket(sock), data)


def _write(sock: Any, data: bytes) -> int:
    write: Callable[[int, bytes], int] = below(os.write)
    return write(sock.fileno(), data)


def _send_with(
    send: Callable[..., int | None], more: list[Any], sock: Any, data: bytes
) -> int | None:
    return send(sock, data, *more)


def _send_buffers(sendmsg: Callable[..., int], sock: socket.socket, data: bytes) -> int:
    return sendmsg(sock, [data])


@dataclass(frozen=True, slots=True, kw_only=True)
class Datagram:
    """One that was received, with all that `recvmsg` tells of it.

    Attributes:
        data: all of it.
        ancillary: what else the kernel says.
        flags: `MSG_…`.
        where: the address that it comes from.
    """

    data: bytes
    ancillary: list[Any]
    flags: int
    where: Any


class DatagramArguments:
    """The arguments of a method that receives, and the way it returns one datagram.

    Attributes:
        flags: `MSG_…`.
        peeks: the datagram stays where it is (MSG_PEEK).
        is_of_errors: it is about what the kernel reports (MSG_ERRQUEUE), and no datagram.
    """

    _SIZED: ClassVar = {"recv": 1, "recvfrom": 1, "recvmsg": 2}  # where the flags are, from 0
    _FILLING: ClassVar = {"recv_into": 2, "recvfrom_into": 2, "recvmsg_into": 2}

    def __init__(self, call: SocketCall) -> None:
        """Raises where the method would."""
        _, *given = call.args
        named = {_KEYWORDS.get(name, name): value for name, value in call.keywords.items()}
        self._name = call.name
        position = (self._SIZED | self._FILLING)[call.name]
        self.flags = int(named.get("flags", ([*given, 0, 0, 0])[position]))
        self.peeks = bool(self.flags & _PEEK)
        self.is_of_errors = bool(self.flags & getattr(socket, "MSG_ERRQUEUE", 0))
        self._views: list[memoryview] | None = None
        if call.name in self._SIZED:
            self._size = int(given[0] if given else named["size"])
            bytes(min(self._size, 0))  # a negative one is refused
            return
        first = given[0] if given else named["buffer"]
        views = [memoryview(each).cast("B") for each in _several(call.name, first)]
        room = sum(map(len, views))
        size = int(named.get("size", given[1] if len(given) > 1 else 0))
        self._size = room if call.name == "recvmsg_into" else min(size or room, room)
        self._views = views

    def returned(self, datagram: Datagram) -> Any:
        """What the method returns; of a datagram that is too long, its beginning."""
        data = datagram.data[: self._size]
        flags = datagram.flags | (socket.MSG_TRUNC if len(data) < len(datagram.data) else 0)
        beginning: Any = data
        if self._views is not None:
            beginning = len(data)
            for view in self._views:
                part, data = data[: len(view)], data[len(view) :]
                view[: len(part)] = part
        if self._name.startswith("recvmsg"):
            return beginning, datagram.ancillary, flags, datagram.where
        if self._name.startswith("recvfrom"):
            return beginning, datagram.where
        return beginning


def _several(name: str, first: Any) -> list[Any]:
    return list(first) if name == "recvmsg_into" else [first]


class DatagramMessage:
    """One that is to be sent, and to whom.

    Attributes:
        data: all of it.
        where: the address; None for the peer that the socket is connected to.
    """

    __slots__ = ("_ancillary", "_flags", "data", "where")

    def __init__(self, call: SocketCall) -> None:
        """Raises for what no method takes."""
        _, first, *more = call.args
        self.where: Any = None
        self._ancillary: Any = ()
        if call.name == "sendto":
            *more, self.where = more
        if call.name == "sendmsg":
            usual: tuple[Any, ...] = ((), 0, None)
            self._ancillary, flags, self.where = (*more, *usual[len(more) :])
            more = [flags]
        self.data = b"".join(map(bytes, first)) if call.name == "sendmsg" else bytes(first)
        self._flags = int(more[0]) if more else 0

    def send_through(self, sock: KernelSocket) -> None:
        """Send it, as it was to be sent; no caller waits who could be told that it fails."""
        with contextlib.suppress(OSError):
            to = () if self.where is None else (self.where,)
            flags = self._flags | getattr(socket, "MSG_DONTWAIT", 0)
            sock.sendmsg([self.data], self._ancillary, flags, *to)
