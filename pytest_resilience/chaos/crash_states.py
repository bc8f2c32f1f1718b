"""What a disk may hold after a crash, of what was done with files and what was synced.

A trace is a list of steps. Each step has effects that reach the disk by themselves: an entry of a
folder, the size of a file, a piece of its data. After a crash there are some of them and not the
others; a model says which sets of them are legal:

- `KILLED`: the process dies, and the system lives. What was done before is there, nothing after.
- `EXT4`: the system dies, on ext4 with its defaults (`data=ordered`, `auto_da_alloc`). There is one
  journal: entries, and files that become shorter, reach the disk in order, and any fsync commits
  all before it. A file grows only with the data that it grows by (ordered), but later than entries
  that were made after that (delayed allocation), unless it is renamed over another file
  (`auto_da_alloc`). Data written over other data come at any time.
- `POSIX`: the system dies, on a file system of which nothing is known but what POSIX says of fsync.
  Entries, sizes and data come in any order; of one entry, and of one file's sizes, in theirs. An
  fsync of a file is for its size and data, and not for its entry, which is that of the folder.

Sources: Pillai and others, "All File Systems Are Not Created Equal: On the Complexity of Crafting
Crash-Consistent Applications", OSDI 2014: its ALICE calls this an abstract persistence model, and
has the base of `POSIX` for its default; Linux, Documentation/filesystems/ext4 (`data=ordered`,
`auto_da_alloc`) and `ext4_rename`; POSIX.1, fsync(). As ALICE has it, an entry or a rename is whole
or not there. Data are torn where sectors of 512 bytes meet, into three pieces of a write at most,
and where a size is there without its data it reads as zeros. Not modelled are garbage in a file
that has grown, barriers that a disk ignores, and times and rights.

Nothing here does any I/O.
"""

from __future__ import annotations

import enum
import itertools

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import Final


__all__ = [
    "Acknowledged", "CrashModel", "CrashState", "DataWritten", "Disk", "Effect", "EntryMade",
    "EntryRemoved", "Renamed", "Resized", "Step", "Synced", "crash_states", "written",
]  # fmt: skip

SECTOR: Final = 512  # bytes that are written together, or not at all
MOST_UNSYNCED: Final = 8  # effects of which every legal set is tried: 2^8


class CrashModel(enum.Enum):
    """What is known of the file system; see the module."""

    KILLED = "killed"
    EXT4 = "ext4"
    POSIX = "posix"


@dataclass(frozen=True, slots=True)
class EntryMade:
    """An entry `path` leads to file `node`; to a folder of its own where `node` is None."""

    path: str
    node: int | None

    def __str__(self) -> str:
        return f"make {self.path}"


@dataclass(frozen=True, slots=True)
class EntryRemoved:
    """There is no entry `path` any more."""

    path: str

    def __str__(self) -> str:
        return f"remove {self.path}"


@dataclass(frozen=True, slots=True)
class Renamed:
    """The entry `old` is `new` from now on, at once; `replaces` what was there, if anything was."""

    old: str
    new: str
    node: int | None
    replaces: bool

    def __str__(self) -> str:
        return f"rename {self.old} to {self.new}"


@dataclass(frozen=True, slots=True)
class Resized:
    """A file has this size, and `was` of that before: it has grown, or was cut off."""

    node: int
    size: int
    was: int
    path: str

    @property
    def grows(self) -> bool:
        return self.size > self.was

    def __str__(self) -> str:
        return f"size {self.size} of {self.path}"


@dataclass(frozen=True, slots=True)
class DataWritten:
    """A piece of a file's data."""

    node: int
    offset: int
    data: bytes
    path: str

    def __str__(self) -> str:
        return f"bytes {self.offset} to {self.offset + len(self.data)} of {self.path}"


@dataclass(frozen=True, slots=True)
class Synced:
    """A file was synced, or the folder `path`, where `node` is None."""

    path: str
    node: int | None

    def __str__(self) -> str:
        return f"sync {self.path}"


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """From now on somebody relies on it: what is `told` must survive."""

    told: object


Effect = EntryMade | EntryRemoved | Renamed | Resized | DataWritten
Step = Effect | Synced | Acknowledged


def written(node: int, path: str, offset: int, data: bytes, size: int) -> Iterator[Effect]:
    """The effects of a write to a file of `size` bytes: its pieces, and that it grows."""
    end = offset + len(data)
    cuts = {offset, -(-(offset + 1) // SECTOR) * SECTOR, (end - 1) // SECTOR * SECTOR, end}
    for begin, stop in itertools.pairwise(sorted(cut for cut in cuts if offset <= cut <= end)):
        yield DataWritten(node, begin, data[begin - offset : stop - offset], path)
    if end > size:
        yield Resized(node, end, size, path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """What a disk holds.

    Attributes:
        entries: by their paths, which files they are; None for folders.
        sizes: of the files, also of those that have no entry.
        data: of the files. What is beyond the size cannot be read, what is missing reads as zeros.
    """

    entries: Mapping[str, int | None] = field(default_factory=dict)
    sizes: Mapping[int, int] = field(default_factory=dict)
    data: Mapping[int, bytes] = field(default_factory=dict)

    def after(self, effects: Iterable[Effect]) -> Disk:
        """The disk when these have come to it, in order."""
        entries, sizes, data = dict(self.entries), dict(self.sizes), dict(self.data)
        for effect in effects:
            match effect:
                case EntryMade(path, node):
                    entries[path] = node
                case EntryRemoved(path):
                    entries.pop(path, None)
                case Renamed(old, new):
                    _rename(entries, old, new)
                case Resized(node, size):
                    sizes[node] = size
                    if not effect.grows:
                        data[node] = data.get(node, b"")[:size]
                case DataWritten(node, offset, piece):
                    there = data.get(node, b"").ljust(offset, b"\0")
                    data[node] = there[:offset] + piece + there[offset + len(piece) :]
        return Disk(entries=entries, sizes=sizes, data=data)

    def content(self, node: int) -> bytes:
        """What can be read of a file."""
        size = self.sizes.get(node, 0)
        return self.data.get(node, b"")[:size].ljust(size, b"\0")

    @property
    def files(self) -> dict[str, bytes]:
        """What can be read, by path. What has lost its folder cannot be found."""
        return {
            path: self.content(node)
            for path, node in self.entries.items()
            if node is not None and self._is_found(path)
        }

    @property
    def folders(self) -> list[str]:
        found = (path for path, node in self.entries.items() if node is None)
        return sorted(path for path in found if self._is_found(path))

    def _is_found(self, path: str) -> bool:
        parent = path.rpartition("/")[0]
        return not parent or (
            parent in self.entries and self.entries[parent] is None and self._is_found(parent)
        )


def _rename(entries: dict[str, int | None], old: str, new: str) -> None:
    for path in [path for path in entries if path == old or path.startswith(f"{old}/")]:
        entries[new + path[len(old) :]] = entries.pop(path)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CrashState:
    """What the disk may hold after a crash.

    Attributes:
        disk: what it holds.
        during: what was done last before the crash.
        lost: what had been done and is not there.
        acknowledged: what somebody relied on when it happened.
        steps: how many steps of the trace it takes: with the last, the disk can be like that.
    """

    disk: Disk
    during: str
    lost: tuple[str, ...]
    acknowledged: tuple[object, ...]
    steps: int

    def __str__(self) -> str:
        lost = ", ".join(self.lost) or "nothing"
        return f"crash after {self.during}, lost: {lost}"

    def __repr__(self) -> str:  # what pytest shows of it
        return f"<{self}>"


def crash_states(
    before: Disk, trace: Sequence[Step], model: CrashModel = CrashModel.POSIX
) -> Iterator[CrashState]:
    """Each state once. Where no more than `MOST_UNSYNCED` effects are not synced, all legal ones.

    Of more, as ALICE does: each prefix of them; all but one; and one alone; each with what the
    model demands.
    """
    seen = set()
    numbers = [
        at for at, step in enumerate(trace, 1) if not isinstance(step, (Synced, Acknowledged))
    ]
    for point in _points(trace, model):
        issued = _Issued.of(trace[:point], model)
        told = tuple(each.told for each in trace[:point] if isinstance(each, Acknowledged))
        during = str(issued.effects[-1]) if issued.effects else "nothing"
        for kept in issued.legal_sets():
            disk = before.after(issued.effects[at] for at in sorted(kept))
            key = (*sorted(disk.files.items()), *disk.folders, len(told))
            if key not in seen:
                seen.add(key)
                lost = [each for at, each in enumerate(issued.effects) if at not in kept]
                yield CrashState(
                    disk=disk,
                    during=during,
                    lost=tuple(map(str, lost)),
                    acknowledged=told,
                    steps=numbers[max(kept)] if kept else 0,
                )


def _points(trace: Sequence[Step], model: CrashModel) -> Iterator[int]:
    """Where a crash has states that one at a later point has not.

    Until something is synced or acknowledged, more is done and nothing more is demanded. A process
    is killed between any two steps.
    """
    killed = model is CrashModel.KILLED
    for at, step in enumerate(trace):
        demands_more = isinstance(step, (Synced, Acknowledged))
        if demands_more or (killed and not (at and _is_rest(step, trace[at - 1]))):
            yield at
    yield len(trace)


def _is_rest(step: Step, before: Step) -> bool:
    """Whether it is of the same write as the step before."""
    return (
        isinstance(before, DataWritten)
        and isinstance(step, (DataWritten, Resized))
        and step.node == before.node
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Issued:
    """The effects of all that was done, those that are durable, and what each demands.

    Attributes:
        effects: in order.
        durable: the numbers of those that are there for certain.
        demands: by the number of one, those without which it is not there.
    """

    effects: Sequence[Effect]
    durable: frozenset[int]
    demands: Sequence[frozenset[int]]

    @classmethod
    def of(cls, trace: Sequence[Step], model: CrashModel) -> _Issued:
        effects: list[Effect] = []
        demands: list[frozenset[int]] = []
        durable = frozenset[int]()
        demanded = {CrashModel.POSIX: _by_posix, CrashModel.EXT4: _by_ext4}.get(model, _by_order)
        for step in trace:
            if isinstance(step, Synced):
                synced = (at for at, each in enumerate(effects) if _is_synced(each, step, model))
                durable = _closed(durable.union(synced), demands)
            elif not isinstance(step, Acknowledged):
                demands.append(frozenset(demanded(effects, step)))
                effects.append(step)
        if model is CrashModel.KILLED:
            durable = frozenset(range(len(effects)))
        return cls(effects=effects, durable=durable, demands=demands)

    def legal_sets(self) -> Iterator[frozenset[int]]:
        """Of the numbers of the effects that are there; see `crash_states`."""
        open_ = [at for at in range(len(self.effects)) if at not in self.durable]
        if len(open_) <= MOST_UNSYNCED:
            for chosen in itertools.product((False, True), repeat=len(open_)):
                kept = self.durable.union(itertools.compress(open_, chosen))
                if _closed(kept, self.demands) == kept:
                    yield kept
            return
        for at in range(len(open_) + 1):
            yield _closed(self.durable.union(open_[:at]), self.demands)
        for at in open_:
            yield _closed(self.durable | {at}, self.demands)
            yield frozenset(range(len(self.effects))) - _demanding(at, self.demands)


def _closed(kept: frozenset[int], demands: Sequence[frozenset[int]]) -> frozenset[int]:
    """`kept`, with all that it demands. Demanded is only what comes before."""
    found = set(kept)
    for at in range(len(demands) - 1, -1, -1):
        if at in found:
            found |= demands[at]
    return frozenset(found)


def _demanding(lost: int, demands: Sequence[frozenset[int]]) -> set[int]:
    """`lost`, and all that is not there without it."""
    found = {lost}
    for at in range(lost + 1, len(demands)):
        if demands[at] & found:
            found.add(at)
    return found


def _is_synced(effect: Effect, synced: Synced, model: CrashModel) -> bool:
    """Whether it is made durable; what it demands is so as well."""
    if model is CrashModel.EXT4 and not _is_allocated_later(effect):
        return True  # the journal is committed
    if synced.node is not None:
        return isinstance(effect, (Resized, DataWritten)) and effect.node == synced.node
    paths = _paths(effect)
    return any(path.rpartition("/")[0] == synced.path for path in paths)


def _paths(effect: Effect) -> tuple[str, ...]:
    """The entries that it is about."""
    match effect:
        case EntryMade(path, _) | EntryRemoved(path):
            return (path,)
        case Renamed(old, new):
            return (old, new)
    return ()


def _by_order(effects: Sequence[Effect], _: Effect) -> Iterator[int]:
    if effects:
        yield len(effects) - 1


def _by_posix(effects: Sequence[Effect], effect: Effect) -> Iterator[int]:
    """What is about the same entry, or about a file's size, comes in order."""
    paths = _paths(effect)
    for at, earlier in enumerate(effects):
        if any(_is_about(path, of) for path in paths for of in _paths(earlier)) or (
            isinstance(effect, Resized)
            and isinstance(earlier, Resized)
            and earlier.node == effect.node
        ):
            yield at


def _is_about(path: str, of: str) -> bool:
    """Whether an entry is the same as another, or its folder, or in it."""
    return path == of or path.startswith(f"{of}/") or of.startswith(f"{path}/")


def _is_allocated_later(effect: Effect) -> bool:
    """Whether ext4 writes it when it likes, and not with its journal."""
    return isinstance(effect, DataWritten) or (isinstance(effect, Resized) and effect.grows)


def _by_ext4(effects: Sequence[Effect], effect: Effect) -> Iterator[int]:
    """One journal, ordered data, delayed allocation; see the module."""
    for at, earlier in enumerate(effects):
        if isinstance(effect, DataWritten):
            if _is_cut_before(effect, earlier):
                yield at
        elif _is_allocated_later(effect):
            if _is_before_growth(effect, earlier):
                yield at
        elif not _is_allocated_later(earlier) or _is_forced_by(effect, earlier):
            yield at


def _is_cut_before(data: DataWritten, earlier: Effect) -> bool:
    """What was cut off is gone: what is written there later goes to other sectors."""
    return (
        isinstance(earlier, Resized)
        and earlier.node == data.node
        and not earlier.grows
        and earlier.size < data.offset + len(data.data)
    )


def _is_before_growth(growth: Effect, earlier: Effect) -> bool:
    """The data that a file grows by, and the sizes that it had."""
    assert isinstance(growth, Resized)
    if isinstance(earlier, Resized):
        return earlier.node == growth.node
    return (
        isinstance(earlier, DataWritten)
        and earlier.node == growth.node
        and earlier.offset + len(earlier.data) > growth.was
    )


def _is_forced_by(effect: Effect, earlier: Effect) -> bool:
    """A file that is renamed over another is written first; one that is cut off had its size."""
    match effect, earlier:
        case Renamed(_, _, node, True), Resized() | DataWritten():
            return node == earlier.node
        case Resized(node), Resized():
            return node == earlier.node
    return False
