"""The faults of files that are targeted: which file an operation is about, and what is done to it.

Never hit, whatever the glob:

- what pytest, its plugins and tools of tests do (modules named `pytest…`, `_pytest`, `pluggy`,
  `xdist`, `execnet`, `coverage`, `hypothesis`, and this package but for its patterns), with
  functions of the standard library in between: caches, captured output, base folders of
  temporary files, compiled test modules, reports;
- standard input, output and error, pipes, devices, and files that no longer have a name.
"""

from __future__ import annotations

import os
import stat
import sys
import threading

from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.call_site import caller_if_no_tool
from pytest_resilience.chaos.call_site import is_of_a_tool
from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import OPEN
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.types.files import FILE_KINDS
from pytest_resilience.chaos.types.files import DiskError
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.foreign_objects import text_of
from pytest_resilience.interceptors.waiting import wait


__all__ = ["FileTargets", "Names", "error_of"]

Names = tuple[str, ...]

_MOST_REMEMBERED = 4096  # paths
_ABOVE = 3  # functions of ours, at least, from what somebody calls to `_note`
_STANDARD = 2  # the highest descriptor of standard input, output and error
_NO_FILES = ("/dev/", "/proc/", "/sys/")
_FILES_IN_MEMORY = "/dev/shm/"  # noqa: S108  # a file system as any other
_open = os.open  # before it is replaced
_SEES_LINKS = os.access in os.supports_follow_symlinks


class FileTargets:
    """Finds out which files active experiments are aimed at, and applies their faults.

    What a path means is looked up once, and remembered until `forget`: after that an
    operation is matched by the engine alone.

    Attributes:
        untargeted: paths, as they were given, at which no experiment is aimed.
        only_recording: no experiment is about files, so that what is done with them is only noted.
        only_noted: no experiment does anything, for now, so that all is only noted.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._removed = False
        self._deciding: set[int] = set()  # threads
        self.refresh()

    def refresh(self) -> None:
        """Other experiments are active."""
        self._trace = self._engine.file_trace
        aimed = any(each.kinds & FILE_KINDS for each in self._engine.active)
        self.only_recording = self._trace is None and not aimed
        idle = all(each.experiment.only_observes for each in self._engine.active)
        self.only_noted = self._trace is None and idle and self._engine.recorder is not None
        self._all_seen = self.only_noted and aimed
        self.forget()

    def forget(self) -> None:
        """To be called when paths mean something else: other experiments, links, another folder."""
        # Replaced, not emptied: another thread may be about to add what held before.
        self.untargeted: set[str] = set()
        self._targeted: dict[str, Names] = {}
        self._folders: dict[str, Names] = {}

    def remove(self) -> None:
        """From now on no file is targeted."""
        self._removed = True
        self._trace = None
        self.forget()

    def names_at(self, path: Any, folder: int | None = None) -> Names | None:
        """The names of the file at `path`; None if no experiment is aimed at it.

        `path` is what functions of `os` take, a descriptor included; `folder` the `dir_fd`
        that a relative one begins at.
        """
        return self.look_at(path, folder)[0]

    def look_at(self, path: Any, folder: int | None = None) -> tuple[Names | None, bool | None]:
        """As `names_at`, and whether nothing is at `path`; None if that was not seen just now."""
        if isinstance(path, int):
            return self.names_of(path), None
        given = path if type(path) is str else text_of(or_none(os.fsdecode, path))
        if not given:
            return None, None  # the function itself will say so
        if folder is not None:
            names = _names(given, folder)
            return names if names is not None and self._is_target(names) else None, None
        return self._look_up(given, self._in_folder)

    def names_of(self, descriptor: Any) -> Names | None:
        """The name of the file behind a descriptor; None if no experiment is aimed at it."""
        if self._removed:
            return None
        try:
            number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
            name = os.readlink(f"/proc/self/fd/{number}")
        except (AttributeError, OSError, ValueError):
            return None  # the function itself will say so; or there is no /proc
        if name in self.untargeted or number <= _STANDARD:
            return None
        if not name.startswith("/") or name.endswith(" (deleted)"):
            return None
        return self._look_up(name, _alone)[0]  # all its links are resolved

    def _in_folder(self, given: str) -> tuple[Names | None, bool | None]:
        """For `look_at`. The links on the way to a folder are resolved once, until `forget`."""
        folder, _, name = given.rpartition("/")
        is_plain = folder.startswith("/") and not folder.endswith("/") and "/.." not in folder
        if not is_plain or name in {"", ".", ".."}:
            return _names(given, None), None
        folders = self._folders.get(folder)
        if folders is None:
            folders = _names_of_folder(folder)
            if folders is None:
                return None, None
            self._folders[folder] = folders
        names = (
            (f"{folders[0].rstrip('/')}/{name}",)
            if len(folders) == 1
            else tuple([f"{each.rstrip('/')}/{name}" for each in folders])
        )
        try:
            # Mostly it is not there, and an error takes longer than the look.
            if _SEES_LINKS and not os.access(names[-1], os.F_OK, follow_symlinks=False):
                is_absent = True
            elif stat.S_ISLNK(os.lstat(names[-1]).st_mode):
                return _names(given, None), None
            else:
                is_absent = False
        except OSError:
            is_absent = True
        except ValueError:  # a NUL in the name
            return None, None
        return names, is_absent if len(names) == 1 else None  # a link may lead elsewhere by now

    def _look_up(
        self, key: str, find: Callable[[str], tuple[Names | None, bool | None]]
    ) -> tuple[Names | None, bool | None]:
        untargeted, targeted = self.untargeted, self._targeted
        if key in untargeted:
            return None, None
        if key in targeted:
            return targeted[key], None
        names, is_absent = find(key)
        is_target = names is not None and self._is_target(names)
        if not self._engine.is_recording(FILE_KINDS):
            if len(untargeted) + len(targeted) >= _MOST_REMEMBERED:
                self.forget()
            elif is_target and names is not None:
                targeted[key] = names
            else:
                untargeted.add(key)
        return names if is_target else None, is_absent

    def _is_target(self, names: Names) -> bool:
        if self._removed or _is_no_file(names[-1]):
            return False
        if self._all_seen:
            return True
        found = self._trace is not None and self._trace.covers(names[-1])
        for active_experiment in self._engine.active:
            experiment = active_experiment.experiment
            if experiment.kinds.isdisjoint(FILE_KINDS):
                continue
            if experiment.only_observes:
                found = True
                continue
            operation = Operation(OPEN, names[0], names)
            if experiment.matches_target(operation):
                found = True
            elif not is_of_a_tool(sys._getframe(1)):  # noqa: SLF001  # as in chaos.call_site
                active_experiment.unmatched.note(operation)
        return found or self._engine.is_recording(FILE_KINDS)

    def may_concern(self) -> bool:
        """Whether what is done here may be hit or traced: it is a look at who does it."""
        return self._trace is not None or not is_of_a_tool(sys._getframe(1))  # noqa: SLF001  # as in chaos.call_site

    def apply(self, kind: str, names: Names, *given: Any) -> Effect | None:
        """Let an operation on a file wait or fail, as its experiments say.

        Raises the system's error with the file names `given`. Returns the effect on what a
        write writes; None if there is none.
        """
        __tracebackhide__ = True
        if self.only_noted:
            self._note(kind, names)
            return None
        thread = threading.get_ident()
        # A thread that decides already writes for a listener, or for a file that is forgotten
        # and flushed by the garbage collector: deciding again could wait for itself for ever.
        if thread in self._deciding or is_of_a_tool(sys._getframe(1)):  # noqa: SLF001  # as above
            return None
        began = self._engine.clock.monotonic()
        self._deciding.add(thread)
        try:
            effect = self._engine.decide(Operation(kind, names[0], names))
            if effect is not None and effect.delay:
                # What it took to decide is part of the delay: it is as much as 0.4 ms.
                spent = effect.clock.monotonic() - began
                effect.add_delay(spent + wait(effect.clock, effect.delay - spent, effect.left))
        finally:
            self._deciding.discard(thread)
        if effect is not None and isinstance(effect.failure, DiskError):
            raise error_of(effect.failure.code, *given)
        return effect

    def _note(self, kind: str, names: Names) -> None:
        """Tell the recorder alone: all experiments only observe."""
        recorder = self._engine.recorder
        if recorder is None:
            return
        try:
            place = caller_if_no_tool(self._engine.folder, above=_ABOVE)
        except Exception:  # it goes through the objects of many libraries
            place = ""
        if place is not None:
            recorder.note_file(kind, names, place)

    def done(self, kind: str, *of: Names | None) -> None:
        """An operation was done: it may be traced. Of a rename, from the first to the second."""
        trace = self._trace
        if trace is not None:
            paths = [names[-1] for names in of if names is not None]
            if any(trace.covers(path) for path in paths):
                trace.done(kind, *paths)


def _alone(name: str) -> tuple[Names, None]:
    return (name,), None


def error_of(code: int, *given: Any) -> OSError:
    """The error that a system call fails with, and the names of files it was given."""
    names = [os.fspath(each) if isinstance(each, os.PathLike) else each for each in given]
    if len(names) == 2:
        return OSError(code, os.strerror(code), names[0], None, names[1])
    return OSError(code, os.strerror(code), *names)


def _names(given: str, folder: int | None) -> Names | None:
    """As it was given, but absolute, and with every link resolved."""
    try:
        if folder is not None and not os.path.isabs(given):
            given = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), given)
        return tuple(dict.fromkeys((os.path.abspath(given), os.path.realpath(given))))
    except (OSError, ValueError):  # the current folder is gone; a NUL in the name
        return None


def _names_of_folder(path: str) -> Names | None:
    """As `_names`, of an absolute path; the system resolves links in a tenth of the time."""
    try:
        descriptor = _open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (AttributeError, OSError, ValueError):  # not on Linux; it is none
        return _names(path, None)
    try:
        real = os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:  # there is no /proc
        return _names(path, None)
    finally:
        os.close(descriptor)
    return (path,) if real == path else tuple(dict.fromkeys((os.path.abspath(path), real)))


def _is_no_file(path: str) -> bool:
    return path.startswith(_NO_FILES) and not path.startswith(_FILES_IN_MEMORY)
