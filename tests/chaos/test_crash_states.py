from __future__ import annotations

import itertools

from collections.abc import Sequence

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience.chaos import crash_states as module
from pytest_resilience.chaos.crash_states import SECTOR
from pytest_resilience.chaos.crash_states import Acknowledged
from pytest_resilience.chaos.crash_states import CrashModel
from pytest_resilience.chaos.crash_states import DataWritten
from pytest_resilience.chaos.crash_states import Disk
from pytest_resilience.chaos.crash_states import Effect
from pytest_resilience.chaos.crash_states import EntryMade
from pytest_resilience.chaos.crash_states import EntryRemoved
from pytest_resilience.chaos.crash_states import Renamed
from pytest_resilience.chaos.crash_states import Resized
from pytest_resilience.chaos.crash_states import Step
from pytest_resilience.chaos.crash_states import Synced
from pytest_resilience.chaos.crash_states import crash_states
from pytest_resilience.chaos.crash_states import written


KILLED, EXT4, POSIX = CrashModel.KILLED, CrashModel.EXT4, CrashModel.POSIX
OLD, NEW = b"old", b"newer"
ZEROS = bytes(len(NEW))
BEFORE = Disk(entries={"conf": 1}, sizes={1: len(OLD)}, data={1: OLD})

OVERWRITE: tuple[Step, ...] = (
    Resized(1, 0, len(OLD), "conf"), *written(1, "conf", 0, NEW, 0)
)  # fmt: skip
TEMPORARY = (EntryMade("temp", 2), *written(2, "temp", 0, NEW, 0))
SYNC, RENAME, SYNC_FOLDER = Synced("temp", 2), Renamed("temp", "conf", 2, True), Synced("", None)


def found(trace: Sequence[Step], model: CrashModel, name: str = "conf") -> set[bytes | None]:
    return {state.disk.files.get(name) for state in crash_states(BEFORE, trace, model)}


@pytest.mark.parametrize(
    ("trace", "killed", "ext4", "posix"),
    [
        (OVERWRITE, {OLD, b"", NEW}, {OLD, b"", NEW}, {OLD, b"", ZEROS, NEW, NEW[:3]}),
        ((*TEMPORARY, RENAME), {OLD, NEW}, {OLD, NEW}, {OLD, b"", ZEROS, NEW}),
        ((*TEMPORARY, SYNC, RENAME), {OLD, NEW}, {OLD, NEW}, {OLD, NEW}),
    ],
    ids=["overwritten", "renamed", "synced and renamed"],
)
def test_ways_to_save_a_file(
    trace: Sequence[Step], killed: set[bytes], ext4: set[bytes], posix: set[bytes]
) -> None:
    assert found(trace, KILLED) == killed
    assert found(trace, EXT4) == ext4
    assert found(trace, POSIX) == posix


def test_a_new_name_may_come_before_the_data_on_ext4() -> None:
    """What `auto_da_alloc` is not for: nothing is replaced."""
    trace = (*TEMPORARY, Renamed("temp", "fresh", 2, False))
    assert found(trace, EXT4, "fresh") == {None, b"", NEW}


@pytest.mark.parametrize("model", CrashModel)
def test_what_was_synced_survives(model: CrashModel) -> None:
    trace = (*TEMPORARY, SYNC, RENAME, SYNC_FOLDER, Acknowledged("saved"))
    told = [s for s in crash_states(BEFORE, trace, model) if s.acknowledged == ("saved",)]
    assert [state.disk.files for state in told] == [{"conf": NEW}]


def test_without_a_sync_of_the_folder_the_rename_may_be_lost() -> None:
    trace = (*TEMPORARY, SYNC, RENAME, Acknowledged("saved"))
    told = [s for s in crash_states(BEFORE, trace, POSIX) if s.acknowledged]
    assert {state.disk.files["conf"] for state in told} == {OLD, NEW}
    assert "crash after rename temp to conf, lost: rename temp to conf" in map(str, told)


def test_on_ext4_an_fsync_commits_all_entries_before_it() -> None:
    trace = (EntryMade("a", 2), EntryMade("b", 3), Synced("b", 3), Acknowledged("b"))
    last = [s.disk.files for s in crash_states(BEFORE, trace, EXT4) if s.acknowledged]
    assert last == [{"conf": OLD, "a": b"", "b": b""}]
    weaker = [s.disk.files for s in crash_states(BEFORE, trace, POSIX) if s.acknowledged]
    assert {"conf": OLD} in weaker


def test_a_write_is_torn_where_sectors_meet() -> None:
    data = b"x" * (3 * SECTOR)
    pieces = [each for each in written(1, "conf", 10, data, 0) if isinstance(each, DataWritten)]
    ends = [(each.offset, each.offset + len(each.data)) for each in pieces]
    assert ends == [(10, SECTOR), (SECTOR, 3 * SECTOR), (3 * SECTOR, 3 * SECTOR + 10)]
    assert b"".join(each.data for each in pieces) == data


def test_what_has_lost_its_folder_is_not_found() -> None:
    trace = (EntryMade("folder", None), EntryMade("folder/file", 2))
    names = [(*s.disk.folders, *s.disk.files) for s in crash_states(Disk(), trace, POSIX)]
    assert sorted(names) == [(), ("folder",), ("folder", "folder/file")]


def test_a_folder_is_renamed_with_what_is_in_it() -> None:
    disk = Disk().after([
        EntryMade("old", None), EntryMade("old/file", 2), *written(2, "old/file", 0, NEW, 0),
        Renamed("old", "new", None, False),
    ])  # fmt: skip
    assert (disk.folders, disk.files) == (["new"], {"new/file": NEW})


# Traces of a program that works: what it changes is there.
DEEDS = ("write", "append", "cut", "make", "rename", "replace", "remove", "sync", "sync folder")


@st.composite
def traces(draw: st.DrawFn) -> list[Step]:
    steps: list[Step] = []
    disk, nodes = BEFORE, itertools.count(2)

    def add(*effects: Effect) -> None:
        nonlocal disk
        steps.extend(effects)
        disk = disk.after(effects)

    for deed in draw(st.lists(st.sampled_from(DEEDS), max_size=5)):
        path = draw(st.sampled_from(sorted(disk.entries))) if disk.entries else ""
        node = disk.entries.get(path)
        if deed == "sync folder":
            steps.append(Synced("", None))
        elif deed == "make":
            add(EntryMade(f"file {next(nodes)}", next(nodes)))
        elif node is None:
            continue
        elif deed == "sync":
            steps.append(Synced(path, node))
        elif deed == "remove":
            add(EntryRemoved(path))
        elif deed == "cut":
            add(Resized(node, 1, max(2, disk.sizes.get(node, 0)), path))
        elif deed in {"rename", "replace"}:
            others = sorted(disk.entries.keys() - {path})
            new = others[0] if deed == "replace" and others else f"file {next(nodes)}"
            add(Renamed(path, new, node, new in disk.entries))
        else:
            size = disk.sizes.get(node, 0)
            add(*written(node, path, size if deed == "append" else 0, b"ab", size))
    return steps


def contents(trace: Sequence[Step], model: CrashModel) -> set[frozenset[tuple[str, bytes]]]:
    return {frozenset(s.disk.files.items()) for s in crash_states(BEFORE, trace, model)}


@given(traces())
def test_who_knows_less_has_to_expect_more(trace: list[Step]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_UNSYNCED", 12)
        killed, ext4, posix = (contents(trace, model) for model in (KILLED, EXT4, POSIX))
    assert killed <= ext4 <= posix


@given(traces(), st.sampled_from(CrashModel))
def test_all_of_it_may_have_come(trace: list[Step], model: CrashModel) -> None:
    effects = [each for each in trace if not isinstance(each, (Synced, Acknowledged))]
    assert frozenset(BEFORE.after(effects).files.items()) in contents(trace, model)


@given(traces())
def test_some_of_the_sets_are_legal_ones(trace: list[Step]) -> None:
    """Where there are too many to try all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_UNSYNCED", 12)
        every = {model: contents(trace, model) for model in CrashModel}
        patch.setattr(module, "MOST_UNSYNCED", 0)
        for model in CrashModel:
            assert contents(trace, model) <= every[model]


@given(traces(), st.sampled_from([EXT4, POSIX]))
def test_nothing_is_lost_of_what_is_synced_at_once(trace: list[Step], model: CrashModel) -> None:
    """Then a crash of the system is no more than one of the process."""
    synced: list[Step] = []
    for step in trace:
        synced.append(step)
        if isinstance(step, (DataWritten, Resized)):
            synced.append(Synced(step.path, step.node))
        elif not isinstance(step, Synced):
            synced.append(Synced("", None))
    last = list(crash_states(BEFORE, [*synced, Acknowledged("all")], model))[-1]
    effects = [each for each in trace if not isinstance(each, (Synced, Acknowledged))]
    assert last.disk.files == BEFORE.after(effects).files


@given(traces(), st.sampled_from(CrashModel))
def test_as_many_steps_as_it_says_are_enough_for_a_state(
    trace: list[Step], model: CrashModel
) -> None:
    def disks(steps: int) -> list[tuple[dict[str, bytes], list[str]]]:
        states = crash_states(BEFORE, trace[:steps], model)
        return [(state.disk.files, state.disk.folders) for state in states]

    for state in crash_states(BEFORE, trace, model):
        assert (state.disk.files, state.disk.folders) in disks(state.steps)
