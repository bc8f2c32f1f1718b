"""What is sent by the number of a descriptor: `os.sendfile`, `os.write` and `os.writev`.

`socket.sendfile` and asyncio's `sock_sendfile` and `sendfile` are made of the first, and say which
socket it is. Else it has to be known: connected, or used otherwise, since the experiment began.
"""

from __future__ import annotations

import functools
import os
import sys

from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.operation import SEND
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.sockets.connections import ConnectionTable
from pytest_resilience.interceptors.sockets.effects import speaks_tls
from pytest_resilience.interceptors.sockets.socket_calls import SocketCall
from pytest_resilience.interceptors.sockets.socket_calls import by_descriptor
from pytest_resilience.interceptors.sockets.socket_classes import socket_classes
from pytest_resilience.patching import Patches


__all__ = ["DescriptorSends"]

_PARAMETERS = ("out_fd", "in_fd", "offset", "count")  # of `os.sendfile`, on every system


class DescriptorSends:
    """The functions of `os` that send, while they are replaced."""

    def __init__(
        self,
        connections: ConnectionTable,
        send: Callable[[Any, SocketCall], Any],
        patches: Patches,
    ) -> None:
        """`send`: does a call of a socket."""
        self._connections = connections
        self._send = send
        self._patches = patches

    def install(self) -> None:
        loops = sys.modules.get("asyncio.base_events")
        replace = functools.partial(self._replace, loops)
        self._patches.again("descriptors", (self, os, loops, *socket_classes()), replace)

    def remove(self) -> None:
        """Nothing is targeted any more: then all of them only pass on."""

    def _replace(self, loops: Any) -> None:
        for name in filter(functools.partial(hasattr, os), ("write", "writev")):
            self._patches.replace(os, name, functools.partial(self._writing, f"os.{name}"))
        if hasattr(os, "sendfile"):
            self._patches.replace(os, "sendfile", self._sending_files)
        for each in socket_classes():
            self._patches.replace(each, "sendfile", self._knowing)
        if loops is not None:
            self._patches.replace(loops.BaseEventLoop, "sock_sendfile", self._knowing_in_loop)

    def _writing(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        targeted = self._connections.targeted

        # Files are written by it as well. A dictionary of keywords would be made for each call.
        @functools.wraps(original)
        def write(*args: Any) -> Any:
            __tracebackhide__ = True
            if not args or args[0] not in targeted:
                return original(*args)
            return self._do(name, original, *args)

        return write

    def _sending_files(self, original: Callable[..., Any]) -> Callable[..., Any]:
        targeted = self._connections.targeted

        @functools.wraps(original)
        def sendfile(*args: Any, **named: Any) -> Any:
            __tracebackhide__ = True
            if named and named.keys() <= {*_PARAMETERS}:
                args = (*args, *(named.pop(each) for each in _PARAMETERS if each in named))
            if named or not args or args[0] not in targeted:
                return original(*args, **named)
            return self._do("os.sendfile", original, *args)

        return sendfile

    def _do(self, name: str, original: Callable[..., Any], number: int, *given: Any) -> Any:
        __tracebackhide__ = True
        connection = self._connections.targeted_at(number)
        sock = None if connection is None else connection.owner()
        if sock is None or speaks_tls(sock):
            return original(number, *given)
        if name == "os.sendfile" and len(given) == len(_PARAMETERS) - 1 and given[1] is None:
            return self._send_on(original, sock, number, *given)
        call = or_none(by_descriptor, name, original, sock, *given)
        return original(number, *given) if call is None else self._send(sock, call)

    def _send_on(
        self, original: Callable[..., Any], sock: Any, number: int, file: int, *more: Any
    ) -> Any:
        """Send of a file from where that is, and leave it where what is sent has ended."""
        __tracebackhide__ = True
        at = or_none(os.lseek, file, 0, os.SEEK_CUR)
        call = or_none(by_descriptor, "os.sendfile", original, sock, file, at, more[-1])
        if at is None or call is None:
            return original(number, file, *more)
        sent = self._send(sock, call)
        os.lseek(file, at + sent, os.SEEK_SET)
        return sent

    def _knowing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def sendfile(sock: Any, *args: Any, **named: Any) -> Any:
            __tracebackhide__ = True
            or_none(self._connections.of, sock, SEND)
            return original(sock, *args, **named)

        return sendfile

    def _knowing_in_loop(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def sock_sendfile(loop: Any, sock: Any, *args: Any, **named: Any) -> Any:
            or_none(self._connections.of, sock, SEND)
            return original(loop, sock, *args, **named)

        return sock_sendfile
