"""Calls of `connect` and `getaddrinfo` in shared objects, led through functions of ours.

An object calls what its slot has the address of. While somebody listens, that is a function of
ours, which asks the listeners and then calls what was there. Python's own sockets are left out:
they are reached where Python calls them, with all that is known there.

A call may be on its way through a function of ours, in any thread, when the slots are given back.
So these functions are never freed, and do nothing but pass on when nobody listens.
"""

from __future__ import annotations

import _socket
import bisect
import ctypes
import functools
import logging
import mmap
import os
import sys
import threading
import time

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from typing import Protocol

from pytest_resilience.chaos.faults.network import os_error
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.locks import fork_safe
from pytest_resilience.native.loader_tables import LoadedObjects
from pytest_resilience.native.loader_tables import Slot
from pytest_resilience.native.loader_tables import slots


__all__ = ["Call", "Listener", "Slots", "all_slots"]

_logger = logging.getLogger("pytest_resilience.native")

_POINTER = ctypes.c_void_p
# int connect(int fd, const struct sockaddr *address, socklen_t length)
_Connect = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, _POINTER, ctypes.c_uint32, use_errno=True)
# int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
#                 struct addrinfo **result)
_GetAddrInfo = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, _POINTER, _POINTER, use_errno=True
)
_FUNCTIONS: dict[str, Any] = {"connect": _Connect, "getaddrinfo": _GetAddrInfo}
# The C library's own parts call each other; so does what resolves names in its place.
_OWN = ("libc.so", "ld-linux", "libresolv", "libnss_", "libpthread")
_PAGE = mmap.PAGESIZE
_SOON = 0.001  # seconds between looks at a thread
_library = ctypes.CDLL(None, use_errno=True)

Call = Callable[..., int]


class Listener(Protocol):
    """Is asked when code in C calls one of the functions, in whatever thread that is.

    `proceed` calls the C library's function, or the next listener, with the arguments that it is
    given. What is returned is what the caller gets; `errno` is that of ctypes.
    """

    def connect(self, proceed: Call, descriptor: int, address: int, length: int) -> int: ...

    def getaddrinfo(
        self, proceed: Call, node: bytes | None, service: bytes | None, hints: int, result: int
    ) -> int: ...


@dataclass(slots=True)
class _Place:
    """One slot, and what is done to it.

    Attributes:
        pointer: what is in it.
        read_only: whether it cannot be written: the loader can make it so when it is filled.
        found: what was in it the last time.
        ours: what was put there in its place.
        taken: whether ours is there.
    """

    slot: Slot
    pointer: ctypes.c_uint64
    read_only: bool
    found: int = 0
    ours: int = 0
    taken: bool = False


class Slots:
    """The slots of all objects of this process. There is one of these."""

    def __init__(self) -> None:
        self._objects = LoadedObjects()
        self._known: list[_Place] = []
        self._unprotected: list[_Place] = []
        self._functions: dict[tuple[str, int], Any] = {}  # by name, and what they lead to
        self._listeners: tuple[Listener, ...] = ()
        self._lock = fork_safe(self, "_lock", threading.RLock)

    def listen(self, listener: Listener) -> None:
        """Ask `listener` from now on, before those that are there; harmless when repeated."""
        with self._lock:
            if listener not in self._listeners:
                self._listeners = (listener, *self._listeners)
            self.refresh()

    def stop(self, listener: Listener) -> None:
        """Ask it no more; harmless when repeated."""
        with self._lock:
            self._listeners = tuple(each for each in self._listeners if each is not listener)
            if not self._listeners:
                self._give_back()

    def refresh(self) -> None:
        """Reach what was loaded meanwhile."""
        with self._lock:
            self._look_for_new()
            if self._listeners:
                for place in self._known:
                    if not place.taken:
                        self._take(place)

    def _look_for_new(self) -> None:
        new: list[Slot] = []
        for owner in self._objects.new():
            found = [] if _is_left_out(owner.path) else slots(owner, _FUNCTIONS)
            if found:
                owner.keep()
                new += found
        if new:
            read_only = _read_only([each.address for each in new])
            self._known += [
                _Place(each, ctypes.c_uint64.from_address(each.address), each.address in read_only)
                for each in new
            ]

    def _take(self, place: _Place) -> None:
        if place.read_only:
            try:
                _protect(place.slot.address, mmap.PROT_READ | mmap.PROT_WRITE)
            except OSError:  # a system that allows nobody to do that: this one is not reached
                return
            place.read_only = False
            self._unprotected.append(place)
        found = place.pointer.value
        if found != place.found:
            function = self._function(place.slot.function, _leads_to(place.slot, found))
            place.found, place.ours = found, _address_of(function)
        place.taken = True  # first: an interrupt must not lose it
        place.pointer.value = place.ours

    def _give_back(self) -> None:
        """Put back what was found, but where another tool has put its own on top since.

        That one calls ours, which only passes on.
        """
        for place in self._known:
            if place.taken and place.pointer.value == place.ours:
                place.pointer.value = place.found
            place.taken = False

    def protect(self) -> None:
        """Make those read-only again that were; for each test it would take longer than the rest.

        Nothing is done as long as somebody listens.
        """
        with self._lock:
            while self._unprotected and not self._listeners:
                place = self._unprotected.pop()
                _protect(place.slot.address, mmap.PROT_READ)
                for each in self._known:  # others are on the same page
                    if each.slot.address // _PAGE == place.slot.address // _PAGE:
                        each.read_only = True

    def _function(self, name: str, leads_to: int) -> Any:
        """Ours, to be called in the place of what is at an address."""
        known = self._functions.get((name, leads_to))
        if known is None:
            kind = _FUNCTIONS[name]
            known = self._functions[name, leads_to] = kind(self._asking(name, kind(leads_to)))
        return known

    def _asking(self, name: str, original: Call) -> Call:
        def call(*args: Any) -> int:
            proceed = original
            for listener in reversed(self._listeners):
                proceed = _bound(getattr(listener, name), proceed)
            try:
                return proceed(*args)
            except BaseException as error:
                # There is no way for it through the C code that called.
                if isinstance(error, Exception):
                    _logger.exception("a call in C passes without faults")
                else:
                    _interrupt_later(type(error))
                return original(*args)

        return call


@functools.cache
def all_slots() -> Slots:
    """Those of this process: engines share them, or each would put the other's away."""
    return Slots()


def _bound(ask: Call, proceed: Call) -> Call:
    return lambda *args: ask(proceed, *args)


def _interrupt_later(error: type[BaseException]) -> None:
    """Raise what has interrupted this thread, such as a timeout of the test, once more.

    Not here, where it would be lost again, but when this thread has left the call in C.
    """
    me = threading.get_ident()

    def interrupt() -> None:
        while _is_called_in_c(me):
            time.sleep(_SOON)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(me), ctypes.py_object(error))

    with limits_lifted():
        threading.Thread(target=interrupt, name="pytest-resilience interrupt", daemon=True).start()


def _is_called_in_c(thread: int) -> bool:
    """Whether a function of ours is running there."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001  # public, says its documentation
    while frame is not None:
        if frame.f_code.co_filename == __file__:
            return True
        frame = frame.f_back
    return False


def _is_left_out(path: str) -> bool:
    own = getattr(_socket, "__file__", "")  # of a Python that has it built in, that is the program
    program = not path or os.path.basename(path).startswith("libpython")
    return path == own or (not own and program) or os.path.basename(path).startswith(_OWN)


def _leads_to(slot: Slot, found: int) -> int:
    """What is to be called in the end, where the slot has this address.

    As long as an object has never called it, that is a part of the object itself, which has the
    loader look for the function.
    """
    real = _address_of(getattr(_library, slot.function))
    if found == real or _place_of(found) == _place_of(slot.owner.dynamic):
        return real
    return found  # another tool's


def _address_of(function: Any) -> int:
    return ctypes.cast(function, _POINTER).value or 0


class _DlInfo(ctypes.Structure):
    _fields_ = (
        ("path", ctypes.c_char_p),
        ("base", _POINTER),
        ("symbol", ctypes.c_char_p),
        ("address", _POINTER),
    )


def _place_of(address: int) -> int | None:
    """Where the object begins in which an address is."""
    info = _DlInfo()
    found = _library.dladdr(_POINTER(address), ctypes.byref(info))
    base: int | None = info.base
    return base if found else None


def _read_only(addresses: list[int]) -> set[int]:
    """Those that cannot be written: the loader can make slots so when they are filled."""
    with open("/proc/self/maps", "rb") as file:  # below what is intercepted
        lines = [line.split(maxsplit=2)[:2] for line in file]
    begins = [int(where.partition(b"-")[0], 16) for where, _ in lines]  # in order
    return {each for each in addresses if lines[bisect.bisect(begins, each) - 1][1][1:2] != b"w"}


def _protect(address: int, protection: int) -> None:
    page = address & ~(_PAGE - 1)
    if _library.mprotect(_POINTER(page), ctypes.c_size_t(_PAGE), protection):
        code = ctypes.get_errno()
        raise os_error(code)
