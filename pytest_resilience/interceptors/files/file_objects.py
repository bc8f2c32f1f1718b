"""What `open` returns for a file that an experiment is aimed at.

It is built of the same classes as always: a text layer on a buffer on a raw file, and only
the raw one is ours. So an error comes where the real one does: when a buffer is flushed, which
may be as late as `close`.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import sys

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.operation import CREATE
from pytest_resilience.chaos.operation import OPEN
from pytest_resilience.chaos.operation import OPEN_IN_VAIN
from pytest_resilience.chaos.operation import OPEN_TO_WRITE
from pytest_resilience.chaos.operation import READ
from pytest_resilience.chaos.operation import RESIZE
from pytest_resilience.chaos.operation import WRITE
from pytest_resilience.chaos.types.files import ShortWrite
from pytest_resilience.chaos.types.files import TornWrite
from pytest_resilience.interceptors.files.targeted_faults import FileTargets
from pytest_resilience.interceptors.files.targeted_faults import Names
from pytest_resilience.interceptors.files.targeted_faults import error_of


__all__ = ["RawFile", "TornWrites", "as_bytes", "make_stream", "opening_kind"]

_MOST_BLOCK = 8 * 2**20  # of a buffer, since Python 3.14


class TornWrites:
    """The writes through one descriptor: after one that was torn, all of them fail."""

    _effect: Effect | None = None

    def accepted(self, files: FileTargets, names: Names | None, size: int) -> int:
        """How many bytes of a write of `size` are written; raises where that is none."""
        __tracebackhide__ = True
        if self._effect is not None:
            if self._effect.left():
                raise error_of(errno.EIO)
            self._effect = None
        effect = None if names is None else files.apply(WRITE, names)
        fault = None if effect is None else effect.failure
        if isinstance(fault, ShortWrite):
            return fault.taken(size)
        if isinstance(fault, TornWrite):
            self._effect = effect
            if size and not fault.taken(size):
                raise error_of(errno.EIO)
            return fault.taken(size)
        return size


class RawFile(io.FileIO):
    """A file whose operations can wait and fail, once `belong` has told of what it is."""

    _files: FileTargets
    _names: Names | None
    _torn: TornWrites | None = None

    def belong(self, files: FileTargets, names: Names | None) -> None:
        """`names`: None for those of what `opener` has opened."""
        self._files = files
        self._names = names or files.names_of(self.fileno())

    def _apply(self, kind: str) -> None:
        __tracebackhide__ = True
        if self._names is not None:
            self._files.apply(kind, self._names)

    def write(self, data: Any, /) -> int:
        __tracebackhide__ = True
        view = as_bytes(data)
        if not view or self.closed or not self.writable():
            return super().write(data)
        files, names, size = self._files, self._names, view.nbytes
        if files.only_noted:  # nothing is torn any more
            if names is not None:
                files.apply(WRITE, names)
            return super().write(view)
        if self._torn is None:
            self._torn = TornWrites()
        accepted = self._torn.accepted(files, names, size)
        written = super().write(view if accepted == size else view[:accepted])
        files.done(WRITE, names)
        return written

    def truncate(self, size: int | None = None, /) -> int:
        __tracebackhide__ = True
        self._apply(RESIZE)
        size = super().truncate(size)
        self._files.done(RESIZE, self._names)
        return size

    def read(self, size: int | None = -1, /) -> Any:
        __tracebackhide__ = True
        if size is None or size < 0:
            return self.readall()
        self._apply(READ)
        return super().read(size)

    def readall(self) -> Any:
        __tracebackhide__ = True
        self._apply(READ)
        return super().readall()

    def readinto(self, buffer: Any, /) -> Any:
        __tracebackhide__ = True
        self._apply(READ)
        return super().readinto(buffer)


def as_bytes(data: Any) -> memoryview | None:
    """The bytes that a write is given; None where they cannot be written."""
    try:
        return memoryview(data).cast("B")
    except (TypeError, ValueError):  # a text; not contiguous
        return None


def opening_kind(
    file: Any, flags: int, folder: int | None = None, *, is_absent: bool | None = None
) -> str:
    """The kind of operation that opening a file with these flags is.

    `is_absent`: whether it was seen just now that it is not there; None if nobody has looked.
    """
    if is_absent is None:  # mostly nothing is there, and an error takes longer than the look
        is_absent = not os.access(file, os.F_OK, dir_fd=folder)
    if is_absent:
        return CREATE if flags & os.O_CREAT else OPEN_IN_VAIN
    if flags & os.O_EXCL:
        return OPEN_IN_VAIN
    return OPEN_TO_WRITE if flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC) else OPEN


def make_stream(  # noqa: PLR0917  # the order is that of open
    files: FileTargets, original: Callable[..., Any], file: Any, mode: Any = "r",
    buffering: Any = -1, encoding: str | None = None, errors: str | None = None,
    newline: str | None = None, closefd: bool = True, opener: Any = None,
) -> Any:  # fmt: skip
    """As `open`, with a `RawFile` below where an experiment is aimed at the file."""
    __tracebackhide__ = True
    is_text = not (encoding is None and errors is None and newline is None)
    are_known = isinstance(mode, str) and isinstance(buffering, int)
    meaning = _meaning(mode, buffering, is_text) if are_known else None
    only_recording = files.only_recording
    is_looked_at = opener is None or only_recording
    names, is_absent = files.look_at(file) if is_looked_at else (None, None)
    if only_recording and names and meaning is not None:
        for kind in _kinds(file, mode, meaning):
            files.apply(kind, names)
    if only_recording or meaning is None or (names is None and opener is None):
        return original(file, mode, buffering, encoding, errors, newline, closefd, opener)
    is_by_name = not isinstance(file, int)
    if names and is_by_name:
        files.apply(opening_kind(file, meaning.flags, is_absent=is_absent), names, file)
    layer: Any = RawFile(file, meaning.plain, closefd, opener)
    layer.belong(files, names)
    if is_by_name and meaning.plain != "r":
        files.done(CREATE, names)  # or it was made empty
    try:
        if buffering == 0:
            return layer
        line_buffering = buffering == 1 or (buffering < 0 and layer.isatty())
        layer = meaning.buffer(layer, buffering if buffering > 1 else _block_size(layer))
        if meaning.is_binary:
            return layer
        layer = io.TextIOWrapper(layer, io.text_encoding(encoding), errors, newline, line_buffering)
        layer.mode = mode
    except BaseException:
        layer.close()
        raise
    return layer


class _Meaning(NamedTuple):
    """What a mode of `open` says.

    Attributes:
        plain: the mode of the raw file, which knows neither text nor bytes.
        flags: as `os.open` takes them.
        buffer: the class of the layer above that.
        is_binary: there is no text layer.
    """

    plain: str
    flags: int
    buffer: type[Any]
    is_binary: bool


@functools.lru_cache(maxsize=256)
def _meaning(mode: str, buffering: int, is_text: bool) -> _Meaning | None:
    """None for what is not valid, as `open` sees it: it is left for that to refuse.

    `is_text`: it is given what only a text has.
    """
    is_binary, plain = "b" in mode, mode.replace("b", "").replace("t", "")
    is_wrong = (buffering == 1 or is_text) if is_binary else not buffering
    if is_wrong or not _is_mode(mode):
        return None
    return _Meaning(plain, _flags(mode), _buffer(plain), is_binary)


def _is_mode(mode: str) -> bool:
    return (
        set(mode) <= set("rwxa+bt")
        and len(set(mode)) == len(mode)
        and sum(letter in mode for letter in "rwxa") == 1
        and not {"b", "t"} <= set(mode)
    )


def _kinds(file: Any, mode: str, meaning: _Meaning) -> list[str]:
    """The kinds of operation that a file which is opened so can see."""
    opening = [] if isinstance(file, int) else [opening_kind(file, meaning.flags)]
    reading = [READ] if "r" in mode or "+" in mode else []
    writing = [WRITE, RESIZE] if "r" not in mode or "+" in mode else []
    return opening + reading + writing


def _flags(mode: str) -> int:
    flags = {"r": 0, "w": os.O_CREAT | os.O_TRUNC, "a": os.O_CREAT, "x": os.O_CREAT | os.O_EXCL}
    letter = next(each for each in mode if each in flags)
    return flags[letter] | (os.O_WRONLY if letter != "r" else os.O_RDWR if "+" in mode else 0)


def _buffer(mode: str) -> type[Any]:
    if "+" in mode:
        return io.BufferedRandom
    return io.BufferedReader if mode == "r" else io.BufferedWriter


def _block_size(raw: io.FileIO) -> int:
    block: int = raw._blksize  # type: ignore[attr-defined]  # noqa: SLF001  # as `open` does
    if sys.version_info >= (3, 14):
        return max(min(block, _MOST_BLOCK), io.DEFAULT_BUFFER_SIZE)
    return block if block > 1 else io.DEFAULT_BUFFER_SIZE
