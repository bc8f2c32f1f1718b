"""Which file an operation is about, who does it, and whether an experiment is aimed at it.

Never hit, whatever the glob:

- what pytest, its plugins and tools of tests do (modules named `pytest…`, `_pytest`, `pluggy`,
  `xdist`, `execnet`, `coverage`, `hypothesis`, and this package but for its patterns), with
  functions of the standard library in between: caches, captured output, base folders of
  temporary files, compiled test modules, reports;
- standard input, output and error, pipes, devices, and files that no longer have a name.
"""

from __future__ import annotations

import os
import sys
import threading

from functools import lru_cache
from types import FrameType
from typing import Any

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CREATE
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
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.types.files import DiskError
from pytest_resilience.interceptors.foreign_objects import looked
from pytest_resilience.interceptors.foreign_objects import text_of
from pytest_resilience.interceptors.waiting import wait


__all__ = ["FILE_KINDS", "AimedFiles", "Names", "error_of"]

FILE_KINDS = frozenset(
    {OPEN, OPEN_IN_VAIN, OPEN_TO_WRITE, CREATE, READ, WRITE, RESIZE, SYNC, RENAME, MAKE, REMOVE}
)

Names = tuple[str, ...]

_MOST = 4096  # verdicts remembered
_STANDARD = 2  # the highest descriptor of standard input, output and error
_NO_FILES = ("/dev/", "/proc/", "/sys/")
_TOOLS = frozenset({"_pytest", "pluggy", "xdist", "execnet", "coverage", "hypothesis"})
# These call what a test gives them: whose operation it is, is said by who calls them.
_BETWEEN = ("pytest_resilience.patterns.", "_pytest.raises", "_pytest.python_api")


class AimedFiles:
    """Finds the files that active experiments are aimed at, and lets happen what happens.

    Attributes:
        verdicts: whether a path, as it was given, concerns anybody; replaced and not emptied
            when that may have changed, so that no late verdict of before gets into it.
    """

    def __init__(self, engine: Engine) -> None:
        self.verdicts: dict[str, bool] = {}
        self._engine = engine
        self._retired = False
        self._asking: set[int] = set()

    @property
    def aside(self) -> bool:
        """Whether no experiment is about files: what is done with them is only noted."""
        return not any(each.kinds & FILE_KINDS for each in self._engine.active)

    def forget(self) -> None:
        """What paths mean has changed: other experiments, links, or another current folder."""
        self.verdicts = {}

    def retire(self) -> None:
        """From now on nothing concerns anybody."""
        self._retired = True
        self.forget()

    def at(self, path: Any, folder: int | None = None) -> Names | None:
        """The names of the file at `path`, if it concerns anybody.

        `path` is what functions of `os` take, a descriptor included; `folder` the `dir_fd`
        that a relative one begins at.
        """
        if isinstance(path, int):
            return self.open_as(path)
        given = path if type(path) is str else text_of(looked(os.fsdecode, path))
        if not given:
            return None  # the function itself will say so
        verdicts = self.verdicts
        if folder is None and verdicts.get(given) is False:
            return None
        names = None if self._retired else _names(given, folder)
        concerns = names is not None and self._concerns(names)
        if folder is None and not self._engine.curious(FILE_KINDS):
            _remember(verdicts, given, concerns)
        return names if concerns else None

    def open_as(self, descriptor: Any) -> Names | None:
        """The name of the file behind a descriptor, if it concerns anybody."""
        if self._retired:
            return None
        try:
            number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
            name = os.readlink(f"/proc/self/fd/{number}")
        except (AttributeError, OSError, ValueError):
            return None  # the function itself will say so; or there is no /proc
        if number <= _STANDARD or not name.startswith("/") or name.endswith(" (deleted)"):
            return None
        verdicts = self.verdicts
        concerns = verdicts.get(name)
        if concerns is None:
            concerns = self._concerns((name,))
            if not self._engine.curious(FILE_KINDS):
                _remember(verdicts, name, concerns)
        return (name,) if concerns else None

    def _concerns(self, names: Names) -> bool:
        if names[-1].startswith(_NO_FILES):
            return False
        operation = Operation(kind=OPEN, target=names[0], names=names)
        found = self._engine.curious(FILE_KINDS)
        for active_experiment in self._engine.active:
            if active_experiment.kinds & FILE_KINDS:
                if active_experiment.experiment.matches_target(operation):
                    found = True
                elif not _of_a_tool(sys._getframe(1)):  # noqa: SLF001  # as in chaos.place
                    active_experiment.saw(operation)
        return found

    def ask(self, kind: str, names: Names, *given: Any) -> Effect | None:
        """Let an operation on a file wait or fail, as its experiments say.

        Raises the system's error with the file names `given`. Returns what a write has yet to
        see to; None if that is nothing.
        """
        __tracebackhide__ = True
        thread = threading.get_ident()
        # A thread that asks already writes for a listener, or for a file that is forgotten and
        # flushed by the garbage collector: asking again could wait for itself without an end.
        if thread in self._asking or _of_a_tool(sys._getframe(1)):  # noqa: SLF001  # as above
            return None
        self._asking.add(thread)
        try:
            effect = self._meet(Operation(kind=kind, target=names[0], names=names))
        finally:
            self._asking.discard(thread)
        if effect is not None and isinstance(effect.failure, DiskError):
            raise error_of(effect.failure.code, *given)
        return effect

    def _meet(self, operation: Operation) -> Effect | None:
        began = self._engine.clock.monotonic()
        effect = self._engine.decide(operation)
        if effect is not None and effect.delay:
            # What it took to find that out is part of the delay: it is as much as 0.4 ms.
            spent = effect.clock.monotonic() - began
            effect.add_delay(spent + wait(effect.clock, effect.delay - spent, effect.left))
        return effect


def _remember(verdicts: dict[str, bool], name: str, concerns: bool) -> None:
    if len(verdicts) >= _MOST:
        verdicts.clear()
    verdicts[name] = concerns


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


def _of_a_tool(frame: FrameType | None) -> bool:
    """Whether the nearest module that is not of the standard library is one of a tool."""
    while frame is not None:
        role = _role(frame.f_globals.get("__name__") or "")
        if role is not None:
            return role
        frame = frame.f_back
    return False


@lru_cache(maxsize=4096)
def _role(module: str) -> bool | None:
    """Whether a module is a tool; None where that depends on who calls it."""
    if module.startswith((*_BETWEEN, "pytest_resilience.interceptors.files")):
        return None
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return None
    return top in _TOOLS or top.startswith("pytest")
