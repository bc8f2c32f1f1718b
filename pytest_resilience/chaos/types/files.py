"""The chaos type of files: what a disk, a file system and their limits do to a program."""

from __future__ import annotations

import errno

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from typing import ClassVar

from pytest_resilience.chaos.faults.network import Delay
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.operation import CREATE
from pytest_resilience.chaos.operation import LOCK_FILE
from pytest_resilience.chaos.operation import MAKE
from pytest_resilience.chaos.operation import OPEN
from pytest_resilience.chaos.operation import OPEN_IN_VAIN
from pytest_resilience.chaos.operation import OPEN_TO_WRITE
from pytest_resilience.chaos.operation import READ
from pytest_resilience.chaos.operation import REMOVE
from pytest_resilience.chaos.operation import RENAME
from pytest_resilience.chaos.operation import RESIZE
from pytest_resilience.chaos.operation import SYNC
from pytest_resilience.chaos.operation import WRITE
from pytest_resilience.chaos.parsing import quantities
from pytest_resilience.chaos.parsing.targets import parse_paths
from pytest_resilience.chaos.types.schema import CHILDREN_PARAMETER
from pytest_resilience.chaos.types.schema import DELAY_NAMES
from pytest_resilience.chaos.types.schema import Parameter
from pytest_resilience.chaos.types.schema import TypeSchema
from pytest_resilience.chaos.types.schema import delay_parameters
from pytest_resilience.chaos.types.schema import distribution_of
from pytest_resilience.chaos.types.schema import mode_of
from pytest_resilience.chaos.types.schema import one_of
from pytest_resilience.chaos.types.schema import several_of
from pytest_resilience.chaos.types.schema import trigger_parameters
from pytest_resilience.errors import ConfigurationError


__all__ = [
    "DISK_FAILURE", "FILE_KINDS", "FILE_STEPS", "OPENING_KINDS", "PATH_PARAMETER", "DiskDelay",
    "DiskError", "ShortWrite", "TornWrite",
]  # fmt: skip

MOST_DELAY = 2.0  # seconds at intensity 1

# EMFILE comes before the file is looked for, so opening fails even where there is none.
OPENING_KINDS = frozenset({OPEN, OPEN_IN_VAIN, OPEN_TO_WRITE, CREATE})
_OPENING = OPENING_KINDS - {OPEN_IN_VAIN}
FILE_STEPS = {
    "open": OPENING_KINDS,
    "read": frozenset({READ}),
    "write": frozenset({WRITE}),
    "resize": frozenset({RESIZE}),
    "sync": frozenset({SYNC}),
    "rename": frozenset({RENAME}),
    "make": frozenset({MAKE}),
    "remove": frozenset({REMOVE}),
    "lock": frozenset({LOCK_FILE}),
}
FILE_KINDS = frozenset[str]().union(*FILE_STEPS.values())
_ALL = FILE_KINDS - {OPEN_IN_VAIN}
_CHANGES = frozenset({OPEN_TO_WRITE, CREATE, RESIZE, RENAME, MAKE, REMOVE})
_SPACE = frozenset({CREATE, WRITE, RESIZE, SYNC, RENAME, MAKE})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mode:
    """A way to fail.

    Attributes:
        usual: the kinds of operation it happens to unless said otherwise.
        possible: those it can happen to on a real system.
        code: the error's number; 0 where none is raised.
    """

    usual: frozenset[str]
    possible: frozenset[str]
    code: int = 0


_SLOW, _SHORT, _TORN = "slow_write", "short_write", "torn_write"
_WRITING = frozenset({WRITE})
_MODES = {
    "disk_full": _Mode(usual=_WRITING, possible=_SPACE, code=errno.ENOSPC),
    "quota_exceeded": _Mode(usual=_WRITING, possible=_SPACE, code=errno.EDQUOT),
    "io_error": _Mode(usual=_WRITING, possible=_ALL, code=errno.EIO),
    "read_only": _Mode(usual=_CHANGES, possible=_CHANGES | {WRITE, SYNC}, code=errno.EROFS),
    "permission_denied": _Mode(
        usual=_OPENING | _CHANGES, possible=_OPENING | _CHANGES, code=errno.EACCES
    ),
    "too_many_open_files": _Mode(usual=OPENING_KINDS, possible=OPENING_KINDS, code=errno.EMFILE),
    "failed_fsync": _Mode(usual=frozenset({SYNC}), possible=frozenset({SYNC}), code=errno.EIO),
    "failed_rename": _Mode(usual=frozenset({RENAME}), possible=frozenset({RENAME}), code=errno.EIO),
    "locked": _Mode(
        usual=frozenset({LOCK_FILE}), possible=frozenset({LOCK_FILE}), code=errno.EAGAIN
    ),
    _SHORT: _Mode(usual=_WRITING, possible=_WRITING),
    _TORN: _Mode(usual=_WRITING, possible=_WRITING),
    _SLOW: _Mode(usual=_WRITING, possible=_ALL),
}
_BY_CODE = {
    "ENOSPC": "disk_full",
    "EDQUOT": "quota_exceeded",
    "EIO": "io_error",
    "EROFS": "read_only",
    "EACCES": "permission_denied",
    "EMFILE": "too_many_open_files",
    "EAGAIN": "locked",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskError(Fault):
    """The operation is refused.

    Attributes:
        at: the kinds of operation.
        code: the number of the error, as in `errno`.
    """

    at: frozenset[str]
    code: int

    @property
    def kinds(self) -> frozenset[str]:
        return self.at

    def __str__(self) -> str:
        return f"{errno.errorcode[self.code]} at {_named(self.at)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskDelay(Delay):
    """The operation takes `delay` seconds longer."""

    at: frozenset[str] = _WRITING

    @property
    def kinds(self) -> frozenset[str]:
        return self.at

    def __str__(self) -> str:
        return f"{_named(self.at)} slower by {self.length}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _PartialWrite(Fault):
    """Base of writes that take less than they are given.

    Attributes:
        bytes_written: how much is taken; None for half.
    """

    kinds: ClassVar[frozenset[str]] = _WRITING
    name: ClassVar[str]
    least: ClassVar[int] = 0
    bytes_written: int | None = None

    def taken(self, size: int) -> int:
        """How many bytes of a write of `size` bytes are written."""
        wanted = size // 2 if self.bytes_written is None else self.bytes_written
        return min(size, max(self.least, wanted))

    def __str__(self) -> str:
        much = self.bytes_written
        return f"{self.name}, {'half of it' if much is None else quantities.format_bytes(much)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortWrite(_PartialWrite):
    """A write takes less than it was given, and says so: what is left is the caller's to write."""

    name: ClassVar[str] = "short write"
    least: ClassVar[int] = 1  # a write that takes nothing is no short write


@dataclass(frozen=True, slots=True, kw_only=True)
class TornWrite(_PartialWrite):
    """The first bytes of a write reach the file, and no more does through the same descriptor.

    As on a real system the write that is torn says how much it has taken, where that is
    anything, and the next one raises EIO.
    """

    name: ClassVar[str] = "torn write"


def _named(kinds: frozenset[str]) -> str:
    """Kinds of operation, for people."""
    return "/".join(step for step, those in FILE_STEPS.items() if those & kinds)


def _mode(name: str, value: Any) -> str:
    text = value.strip() if isinstance(value, str) else value
    if isinstance(text, str) and text.upper() in _BY_CODE:
        return _BY_CODE[text.upper()]
    return one_of([*_MODES, *_BY_CODE])(name, text)


def _kinds(mode: str, steps: tuple[str, ...] | None) -> frozenset[str]:
    """The kinds of operation at `steps` that a mode happens to. Raises ConfigurationError."""
    known = _MODES[mode]
    if steps is None:
        return known.usual
    for step in steps:
        if not FILE_STEPS[step] & known.possible:
            able = [name for name, kinds in FILE_STEPS.items() if kinds & known.possible]
            raise ConfigurationError(f"at={step!r}: {mode} happens to {', '.join(able)} only")
    return frozenset[str]().union(*(FILE_STEPS[step] for step in steps)) & known.possible


def _faults(given: Mapping[str, Any], intensity: float) -> tuple[Fault, ...]:
    mode = mode_of(given, _MODES_OF, otherwise="disk_full")
    kinds, size = _kinds(mode, given.get("at")), given.get("bytes_written")
    if mode == _SLOW:
        delay = given.get("delay", intensity * MOST_DELAY)
        return (DiskDelay(delay=delay, distribution=distribution_of(given, delay), at=kinds),)
    if mode == _SHORT:
        return (ShortWrite(bytes_written=size),)
    if mode == _TORN:
        return (TornWrite(bytes_written=size),)
    return (DiskError(at=kinds, code=_MODES[mode].code),)


_DELAYS = delay_parameters(f"intensity x {MOST_DELAY:g}s", "what each slow operation takes longer")
_MODES_OF = {"bytes_written": (_TORN, _SHORT), **dict.fromkeys(DELAY_NAMES, (_SLOW,))}

PATH_PARAMETER = Parameter(
    name="path", unit="globs of files, several between |", default="every file",
    parse=parse_paths, help="whose operations are meant, e.g. 'data/**/*.json'",
)  # fmt: skip

DISK_FAILURE = TypeSchema(
    summary="files cannot be opened, written, synced or renamed, with the system's own error",
    parameters=(
        Parameter(
            name="mode", unit=f"{', '.join(_MODES)}, or an error's name", default="disk_full",
            parse=_mode, help="what is the matter",
        ),
        Parameter(
            name="at", unit=f"{', '.join(FILE_STEPS)}, several between |",
            default="as fits the mode", parse=several_of(FILE_STEPS), help="which operations fail",
        ),
        PATH_PARAMETER,
        Parameter(
            name="bytes_written", unit="bytes, or B, KiB, MiB", default="half",
            parse=quantities.size, help="how much of a short or torn write reaches the file",
        ),
        *_DELAYS,
        *trigger_parameters(rate="1 in a test; by flag or profile intensity"),
        CHILDREN_PARAMETER,
    ),
    faults=_faults,
    rate=lambda _given, intensity: intensity,
)  # fmt: skip
