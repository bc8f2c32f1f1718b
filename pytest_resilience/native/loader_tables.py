"""Where shared objects keep the addresses of the functions that they call, as the loader knows it.

An object calls a function of another one through a slot of its own, in its global offset table,
which the loader fills. Which slot is whose is in the object's relocations (ELF, 64 bits):

    link_map -> object -> dynamic section -> DT_RELA, DT_JMPREL -> relocation: slot, symbol
                                          -> DT_SYMTAB          -> symbol: name
                                          -> DT_STRTAB          -> "connect"

Source: System V Application Binary Interface, chapter 5, with the supplements for x86-64 and
aarch64; elf.h and link.h of glibc. Of other machines and C libraries nothing is known here.
"""

from __future__ import annotations

import _ctypes
import contextlib
import ctypes
import functools
import mmap
import os
import struct
import sys

from collections.abc import Iterable
from collections.abc import Iterator
from dataclasses import dataclass


__all__ = ["SLOT_TYPES", "LoadedObject", "LoadedObjects", "Slot", "slots", "unsupported"]

_PLTRELSZ, _STRTAB, _SYMTAB, _RELA, _RELASZ, _STRSZ, _JMPREL = 2, 5, 6, 7, 8, 10, 23
_ENTRY = struct.Struct("<qQ")  # of the dynamic section: tag, value
_GNU_HASH, _RELACOUNT = 0x6FFFFEF5, 0x6FFFFFF9
_RELOCATION, _SYMBOL = 24, 24  # bytes of each
_WHERE, _INFO = struct.Struct("<Q"), struct.Struct("<II")  # of a relocation: type, symbol


class _LinkMap(ctypes.Structure):
    """One object in the loader's list: see <link.h>."""


_LinkMap._fields_ = (  # as ctypes wants it of a structure that has pointers to itself
    ("base", ctypes.c_uint64),
    ("path", ctypes.c_char_p),
    ("dynamic", ctypes.c_uint64),
    ("next", ctypes.POINTER(_LinkMap)),
    ("previous", ctypes.POINTER(_LinkMap)),
)


@dataclass(frozen=True, slots=True)
class LoadedObject:
    """A shared object, or the program itself.

    Attributes:
        path: empty for the program.
        base: what is added to the addresses in it.
        dynamic: where its dynamic section is.
    """

    path: str
    base: int
    dynamic: int

    @classmethod
    def of(cls, entry: _LinkMap) -> LoadedObject:
        """As the loader has it."""
        path = (entry.path or b"").decode(errors="surrogateescape")
        return cls(path, entry.base, entry.dynamic)

    def keep(self) -> None:
        """Let nobody unload it any more: its slots are written to."""
        if self.path:
            with contextlib.suppress(OSError):
                _ctypes.dlopen(self.path, os.RTLD_NOLOAD | os.RTLD_NODELETE | os.RTLD_LAZY)


@dataclass(frozen=True, slots=True)
class Slot:
    """Where an object has the address of a function that it calls.

    Attributes:
        function: its name.
        address: of the slot, where a pointer is.
        owner: the object.
    """

    function: str
    address: int
    owner: LoadedObject


class LoadedObjects:
    """Those that the loader has loaded so far.

    The list is read as it stands. To be called for each object (`dl_iterate_phdr`) would be to
    hold the loader's lock while Python changes threads, and another one may want that lock with
    the interpreter's in hand: it is importing something.
    """

    def __init__(self) -> None:
        self._last: _LinkMap | None = None

    def new(self) -> Iterator[LoadedObject]:
        """Those that were loaded since this was asked for the last time."""
        entry = self._last
        if entry is None:
            handle = ctypes.CDLL(None)._handle  # noqa: SLF001  # dlopen(NULL): the first of them
            entry = self._last = _LinkMap.from_address(handle)
            yield LoadedObject.of(entry)
        while entry.next:
            entry = self._last = entry.next.contents
            found = LoadedObject.of(entry)
            if not entry.next:
                found.keep()  # it is where to go on from
            yield found


def slots(owner: LoadedObject, functions: Iterable[str]) -> list[Slot]:
    """The slots of an object for these functions."""
    if not owner.dynamic or "linux-vdso" in owner.path:
        return []
    tables = dict(_dynamic(owner))
    if not {_SYMTAB, _STRTAB, _STRSZ} <= tables.keys():
        return []
    # Large objects have a hundred thousand relocations, few of them of functions: so tables are
    # read in one piece, looked through by what is written in C, and left alone if they may be.
    text = ctypes.string_at(tables[_STRTAB], tables[_STRSZ])
    offsets = {at: name for name in functions for at in _places(text, name.encode() + b"\0")}
    if not offsets:
        return []
    plain = tables.get(_RELACOUNT, 0) * _RELOCATION  # bytes of those that come first: of no symbol
    relocations = [
        ctypes.string_at(tables[table] + first, tables[size] - first)
        for table, size, first in ((_RELA, _RELASZ, plain), (_JMPREL, _PLTRELSZ, 0))
        if tables.get(table) and tables.get(size)
    ]
    raw = ctypes.string_at(tables[_SYMTAB], _imported(tables, relocations) * _SYMBOL)
    symbols = memoryview(raw).cast("I")[:: _SYMBOL // 4].tolist()
    named = {number: offsets[at] for number, at in enumerate(symbols) if at in offsets}
    return [slot for each in relocations for slot in _slots_in(owner, each, named)]


def _dynamic(owner: LoadedObject) -> Iterator[tuple[int, int]]:
    at, addresses = owner.dynamic, {_STRTAB, _SYMTAB, _RELA, _JMPREL, _GNU_HASH}
    while True:
        # Nothing tells how long it is, and behind the last page may be no memory.
        entries = max((mmap.PAGESIZE - at % mmap.PAGESIZE) // _ENTRY.size, 1)
        raw = ctypes.string_at(at, entries * _ENTRY.size)
        for tag, value in _ENTRY.iter_unpack(raw):
            if not tag:
                return
            in_file = tag in addresses and value < owner.base  # the loader changes most
            yield tag, value + owner.base if in_file else value
        at += len(raw)


def _places(text: bytes, part: bytes) -> Iterator[int]:
    """Everywhere: linkers let "connect" be the end of "mysql_connect"."""
    at = text.find(part)
    while at >= 0:
        yield at
        at = text.find(part, at + 1)


def _imported(tables: dict[int, int], relocations: list[bytes]) -> int:
    """How many symbols come first that are of others.

    Nothing tells how many there are at all, and behind the last may be no memory.
    """
    if _GNU_HASH in tables:
        first_own: int = ctypes.c_uint32.from_address(tables[_GNU_HASH] + 4).value
        if first_own > 1:  # else it has none of its own, and does not say where they would begin
            return first_own
    infos = (each for raw in relocations for each in memoryview(raw).cast("Q")[1::3].tolist())
    return max((each >> 32 for each in set(infos)), default=-1) + 1


def _slots_in(owner: LoadedObject, raw: bytes, named: dict[int, str]) -> Iterator[Slot]:
    """Those that one table of relocations fills for the symbols with these numbers."""
    for number, name in named.items():
        for kind in SLOT_TYPES[os.uname().machine]:
            for at in _places(raw, _INFO.pack(kind, number)):
                if at % _RELOCATION == _WHERE.size:
                    (place,) = _WHERE.unpack_from(raw, at - _WHERE.size)
                    yield Slot(name, owner.base + place, owner)


# By machine: the types of relocations that fill a slot of a function (JUMP_SLOT, GLOB_DAT).
SLOT_TYPES = {"x86_64": frozenset({7, 6}), "aarch64": frozenset({1026, 1025})}


@functools.cache
def unsupported() -> str:
    """Why clients in C cannot be reached on this machine; empty if they can."""
    machine = os.uname().machine if hasattr(os, "uname") else ""
    if sys.platform != "linux" or machine not in SLOT_TYPES or sys.maxsize < 2**32:
        return f"on {sys.platform} ({machine}) they cannot be reached in this process"
    names = getattr(os, "confstr_names", {})
    if "CS_GNU_LIBC_VERSION" not in names or not os.confstr("CS_GNU_LIBC_VERSION"):
        return "with another C library than glibc they cannot be reached in this process"
    return ""
