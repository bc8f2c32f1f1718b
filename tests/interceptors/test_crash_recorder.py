from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from pytest_resilience import UnavailableError
from pytest_resilience.chaos.crash_states import CrashModel
from pytest_resilience.interceptors.crash_recorder import CrashRecording
from pytest_resilience.runtime import Runtime
from pytest_resilience.runtime import recording_crashes


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        str(each.relative_to(folder)): each.read_bytes() if each.is_file() else None
        for each in folder.rglob("*")
    }


def write(path: Path) -> None:
    with path.open("w") as file:
        file.write("new")


def append(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        file.write(b" and")
        file.write(b" more")


def patch(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(1)
        file.write(b"N")
        file.truncate(2)


def by_descriptor(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.write(descriptor, b"0123456789")
    os.pwrite(descriptor, b"ab", 4)
    os.writev(descriptor, [b"x", b"y"])
    os.ftruncate(descriptor, 11)
    os.fsync(descriptor)
    os.close(descriptor)


def replace(path: Path) -> None:
    path.with_suffix(".tmp").write_text("replaced")
    path.with_suffix(".tmp").replace(path)


def copy(path: Path) -> None:
    shutil.copyfile(path, path.with_name("copy"))
    shutil.move(path.with_name("copy"), path.with_name("moved"))


def folders(path: Path) -> None:
    path.with_name("a").mkdir()
    (path.with_name("a") / "file").write_text("in a folder")
    path.with_name("a").rename(path.with_name("b"))
    (path.with_name("b") / "file").unlink()
    path.with_name("b").rmdir()
    path.with_name("c").mkdir()


def link(path: Path) -> None:
    os.link(path, path.with_name("link"))
    append(path.with_name("link"))
    path.unlink()


def remove_and_make(path: Path) -> None:
    for text in ("one", "two", "three"):
        path.unlink()
        path.write_text(text)


def sparse(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(10_000)
        file.write(b"far")


DEEDS = [
    write, append, patch, by_descriptor, replace, copy, folders, link, remove_and_make, sparse
]  # fmt: skip


@pytest.mark.parametrize("deed", DEEDS)
def test_the_last_state_of_a_killed_process_is_what_is_there(
    tmp_path: Path, deed: Callable[[Path], None]
) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old text")
    before = tree(tmp_path)
    with recording_crashes(Runtime().engine, tmp_path) as recording:
        deed(path)
    after = tree(tmp_path)
    states = [tree(tmp_path) for _ in recording.states(CrashModel.KILLED)]
    assert (states[0], states[-1]) == (before, after)
    assert tree(tmp_path) == after
    assert all(list(recording.states(model)) for model in ("ext4", "posix"))
    assert tree(tmp_path) == after


def test_what_a_process_that_is_killed_leaves_is_one_of_the_states(tmp_path: Path) -> None:
    """The real event: SIGKILL, after so many operations."""
    source = """
import os, pathlib, signal, sys
path, left = pathlib.Path(sys.argv[1]), int(sys.argv[2])
def step(call, *args):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return call(*args)
file = step(path.with_suffix(".tmp").open, "wb", 0)
step(file.write, b"new ")
step(file.write, b"text")
step(os.fsync, file.fileno())
step(path.with_suffix(".tmp").replace, path)
step(path.with_suffix(".old").unlink)
"""
    really = []
    for killed_after in range(7):
        folder = tmp_path / str(killed_after)
        folder.mkdir()
        (folder / "it.txt").write_text("old")
        (folder / "it.old").write_text("older")
        command = [sys.executable, "-c", source, str(folder / "it.txt"), str(killed_after)]
        subprocess.run(command, check=False, timeout=60)
        really.append(tree(folder))
    folder = tmp_path / "recorded"
    folder.mkdir()
    (folder / "it.txt").write_text("old")
    (folder / "it.old").write_text("older")
    with recording_crashes(Runtime().engine, folder) as recording:
        path = folder / "it.txt"
        with path.with_suffix(".tmp").open("wb", 0) as file:
            file.write(b"new ")
            file.write(b"text")
            os.fsync(file.fileno())
        path.with_suffix(".tmp").replace(path)
        path.with_suffix(".old").unlink()
    states = [tree(folder) for _ in recording.states("killed")]
    assert [each for each in really if each not in states] == []
    assert [each for each in states if each not in really] == []


def test_each_state_lies_in_the_folder_and_what_was_there_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with recording_crashes(Runtime().engine, tmp_path) as recording:
        write(path)
        recording.acknowledge("saved")
    with contextlib.closing(recording.states()) as states:
        state = next(states)
        assert tree(tmp_path) == state.disk.files
    assert path.read_text() == "new"


def test_what_is_written_unseen_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with recording_crashes(Runtime().engine, tmp_path) as recording:
        command = [sys.executable, "-c", f"open({str(path)!r}, 'w').write('unseen')"]
        subprocess.run(command, check=True, timeout=60)
    with pytest.raises(UnavailableError, match=r"file\.txt changed unseen"):
        next(recording.states())
    assert path.read_text() == "unseen"


def test_links_of_the_file_system_are_refused(tmp_path: Path) -> None:
    with recording_crashes(Runtime().engine, tmp_path) as recording:
        (tmp_path / "link").symlink_to("elsewhere")
    with pytest.raises(UnavailableError, match="symbolic link"):
        next(recording.states())


def test_what_is_elsewhere_is_not_recorded(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with recording_crashes(Runtime().engine, tmp_path / "here") as recording:
        write(tmp_path / "file.txt")
        (tmp_path / "here" / "file.txt").write_text("here")
    assert [state.during for state in recording.states("killed")][-1].endswith("of file.txt")
    assert isinstance(recording, CrashRecording)
    assert (tmp_path / "file.txt").read_text() == "new"


@pytest.mark.parametrize("inside", [True, False])
def test_what_is_moved_here_and_was_written_unseen_is_refused(tmp_path: Path, inside: bool) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "file").write_text("old")
    spare = folder / "spare" if inside else tmp_path / "spare"
    with recording_crashes(Runtime().engine, folder) as recording:
        with io.FileIO(spare, "w") as file:
            file.write(b"new")
        spare.replace(folder / "file")
    with pytest.raises(UnavailableError, match="file changed unseen"):
        next(recording.states())


def test_a_sync_is_seen_by_the_name_that_a_module_has_bound_it_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.fsync
    module = ModuleType("syncs")
    vars(module)["sync"] = original
    monkeypatch.setitem(sys.modules, "syncs", module)
    with recording_crashes(Runtime().engine, tmp_path) as recording:
        with (tmp_path / "new").open("w") as file:
            file.write("new")
            file.flush()
            vars(module)["sync"](file.fileno())
        (tmp_path / "new").replace(tmp_path / "file")
    assert vars(module)["sync"] is original
    found = {tree(tmp_path).get("file") for _ in recording.states()}
    assert found == {None, b"new"}
