"""What is done by the number of a descriptor: `os.read`, `os.write` and their like, `os.sendfile`.

Files and pipes are used by these as well: their numbers pass once they have been looked at.
`multiprocessing.connection` has bound them to its own methods, and uses nothing else.
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


__all__ = ["DescriptorCalls"]

_PARAMETERS = ("out_fd", "in_fd", "offset", "count")  # of `os.sendfile`, on every system

_Handle = Callable[[Any, SocketCall], Any]


class DescriptorCalls:
    """The functions of `os` that receive or send, while they are replaced."""

    def __init__(
        self,
        connections: ConnectionTable,
        patches: Patches,
        receive: _Handle,
        send: _Handle,
    ) -> None:
        """`receive` and `send`: each does a call of a socket."""
        self._connections = connections
        self._patches = patches
        self._receive = receive
        self._send = send
        self._installed = False

    def install(self) -> None:
        self._installed = True
        loops = sys.modules.get("asyncio.base_events")
        pipes = sys.modules.get("multiprocessing.connection") if os.name == "posix" else None
        replace = functools.partial(self._replace, loops, pipes)
        self._patches.again("descriptors", (self, os, loops, pipes, *socket_classes()), replace)

    def remove(self) -> None:
        """All of them only pass on."""
        self._installed = False

    def _replace(self, loops: Any, pipes: Any) -> None:
        handles = {"read": self._receive, "readv": self._receive}
        handles |= {"write": self._send, "writev": self._send}
        for name, handle in handles.items():
            if hasattr(os, name):
                replacing = functools.partial(self._passing, f"os.{name}", handle)
                self._patches.replace(os, name, replacing)
        if hasattr(os, "sendfile"):
            self._patches.replace(os, "sendfile", self._sending_files)
        for each in socket_classes():
            self._patches.replace(each, "sendfile", self._knowing)
        if loops is not None:
            self._patches.replace(loops.BaseEventLoop, "sock_sendfile", self._knowing_in_loop)
        if pipes is not None:
            self._patches.replace(pipes.Connection, "_recv", functools.partial(_by, "read"))
            self._patches.replace(pipes.Connection, "_send", functools.partial(_by, "write"))
            self._patches.replace(pipes.Connection, "fileno", self._knowing_number)

    def _passing(
        self, name: str, handle: _Handle, original: Callable[..., Any]
    ) -> Callable[..., Any]:
        passing = self._connections.by_number.passing

        # A dictionary of keywords would be made for each call: they take none.
        @functools.wraps(original)
        def function(*args: Any) -> Any:
            __tracebackhide__ = True
            if not args or args[0] in passing:  # this is all that it costs
                return original(*args)
            return self._do(name, handle, original, *args)

        return function

    def _sending_files(self, original: Callable[..., Any]) -> Callable[..., Any]:
        passing = self._connections.by_number.passing

        @functools.wraps(original)
        def sendfile(*args: Any, **named: Any) -> Any:
            __tracebackhide__ = True
            if named and named.keys() <= {*_PARAMETERS}:
                args = (*args, *(named.pop(each) for each in _PARAMETERS if each in named))
            if named or not args or args[0] in passing:
                return original(*args, **named)
            return self._do("os.sendfile", self._send, original, *args)

        return sendfile

    def _do(
        self,
        name: str,
        handle: _Handle,
        original: Callable[..., Any],
        number: object,
        *given: Any,
    ) -> Any:
        __tracebackhide__ = True
        connection = self._known(number)
        sock: Any = None if connection is None else connection.owner()
        if connection is None or sock is None or speaks_tls(sock):
            return original(number, *given)
        try:
            if name == "os.sendfile" and len(given) == len(_PARAMETERS) - 1 and given[1] is None:
                return self._send_on(original, sock, *given)
            call = or_none(by_descriptor, name, original, sock, *given)
            return original(number, *given) if call is None else handle(sock, call)
        finally:
            connection.ends = self._connections.by_number.moved(sock, connection.ends)

    def _known(self, number: object) -> Any:
        """The connection that an experiment has for a target; None if it is none."""
        if not self._installed or type(number) is not int:
            return None
        return or_none(self._connections.used_by_number, number)

    def _send_on(
        self, original: Callable[..., Any], sock: Any, file: int, _: None, count: Any
    ) -> Any:
        """Send of a file from where that is, and leave it where what is sent has ended."""
        __tracebackhide__ = True
        at = or_none(os.lseek, file, 0, os.SEEK_CUR)
        call = or_none(by_descriptor, "os.sendfile", original, sock, file, at, count)
        if at is None or call is None:
            return original(sock.fileno(), file, None, count)
        sent = self._send(sock, call)
        os.lseek(file, at + sent, os.SEEK_SET)
        return sent

    def _knowing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def sendfile(sock: Any, *args: Any, **named: Any) -> Any:
            __tracebackhide__ = True
            self._connections.of(sock, SEND)
            return original(sock, *args, **named)

        return sendfile

    def _knowing_in_loop(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def sock_sendfile(loop: Any, sock: Any, *args: Any, **named: Any) -> Any:
            self._connections.of(sock, SEND)
            return original(loop, sock, *args, **named)

        return sock_sendfile

    def _knowing_number(self, original: Callable[..., int]) -> Callable[..., int]:
        """Whoever asks for the number is about to poll it."""

        @functools.wraps(original)
        def fileno(pipe: Any) -> int:
            number = original(pipe)
            self._known(number)
            return number

        return fileno


def _by(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """A method that uses the function of `os` that is there now, and not one from before."""

    @functools.wraps(original)
    def method(pipe: Any, message: Any) -> Any:
        __tracebackhide__ = True
        return original(pipe, message, getattr(os, name))

    return method
