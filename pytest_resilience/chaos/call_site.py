"""The line of the user's code that an operation comes from.

Mostly it is on the stack. But an event loop delivers data in a callback, and leaves name
resolution to a thread: there the line is that where a task is suspended. The task is found by
following references in memory from the objects of the loop. Nothing here asks the file system,
for an event loop may be waiting.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import weakref

from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass
from dataclasses import field
from functools import lru_cache
from types import BuiltinFunctionType
from types import CodeType
from types import CoroutineType
from types import FrameType
from types import FunctionType
from types import GeneratorType
from types import ModuleType
from typing import Any
from typing import cast

from pytest_resilience.clock import running_loop
from pytest_resilience.stacks import is_library
from pytest_resilience.stacks import is_tool
from pytest_resilience.stacks import shown_file
from pytest_resilience.stacks import suspended_frames


__all__ = [
    "LOOP", "caller", "caller_if_no_tool", "control_role", "current_task",
    "current_task_of_user", "is_awaited", "is_of_a_tool", "running_steps", "tasks_behind",
    "user_frames",
]  # fmt: skip

_RUNNERS = tuple(f"{os.sep}{name}{os.sep}" for name in ("_pytest", "pluggy"))
# The functions by which loops give control to whatever they run, and threads to one job.
LOOP, _WORKER = "a loop", "a thread"
_CONTROL = {
    "_run": (os.path.join("asyncio", "events.py"), LOOP),
    "unrolled_run": (os.path.join("trio", "_core", "_run.py"), LOOP),
    "run": (os.path.join("concurrent", "futures", "thread.py"), _WORKER),
    "_handle_job": (os.path.join("trio", "_core", "_thread_cache.py"), _WORKER),
}
_HIDING = "__tracebackhide__"
_MOST_CODES = 4096  # that are remembered
_MOST_LOOKED_AT = 300  # objects, on the way to a task
_WITHOUT_REFERENCES = frozenset({bool, bytearray, bytes, float, int, str, type(None)})
_NOT_FOLLOWED = (  # to everything there is
    BaseException, CodeType, Context, CoroutineType, FrameType, GeneratorType, ModuleType, type,
)  # fmt: skip


_roles: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()


def caller(folder: str = "", loop_objects: tuple[object, ...] = (), *, above: int = 0) -> str:
    """`file:line in function` of the nearest frame that is no library's; '' if there is none.

    Nor one that pytest hides, of the interceptor of a plugin for one.
    `folder` is left out of the names of files in it. `loop_objects` may lead to the task that
    waits for what is done here. `above`: so many frames that are no user's are left out, which
    need not be made then. Takes 1 to 100 µs, so it is asked only for what is recorded.
    """
    # inspect's way is 100 times slower
    frame: FrameType | None = sys._getframe(1 + above)  # noqa: SLF001
    return _site(frame, folder, loop_objects, whose=False) or ""


def caller_if_no_tool(folder: str = "", *, above: int = 0) -> str | None:
    """As `caller`; None where it is done by a tool, see `is_of_a_tool`."""
    frame = sys._getframe(1 + above)  # noqa: SLF001  # as above
    while True:  # what is nearly always so takes the least
        known = _codes.get(id(frame.f_code)) or _learn(frame)
        if known.is_plainly_of_user:
            return known.sites.get((frame.f_lasti, folder)) or known.site(frame, folder)
        if known.says_something or frame.f_back is None:
            return _site(frame, folder, (), whose=None)
        frame = frame.f_back


def is_of_a_tool(frame: FrameType | None) -> bool:
    """A tool does it: the nearest module that is not of the standard library is a tool's."""
    while frame is not None:
        known = _codes.get(id(frame.f_code)) or _learn(frame)
        if known.is_tool is not None:
            return known.is_tool
        frame = frame.f_back
    return False


def _site(
    frame: FrameType | None, folder: str, loop_objects: tuple[object, ...], *, whose: bool | None
) -> str | None:
    """For `caller` and `caller_if_no_tool`. `whose`: whether it is a tool's, if that is known."""
    site: str | None = None
    while frame is not None and (site is None or whose is None):
        known = _codes.get(id(frame.f_code)) or _learn(frame)
        if whose is None:
            whose = known.is_tool
            if whose:
                return None
        role = known.role  # as that of few: mostly it is a library's
        if role and site is None:
            if role == _OF_USER and not (known.may_hide and _is_hidden(frame)):
                site = known.site(frame, folder)
            elif role == _OF_RUNNER:
                site = _greenlet_site(folder)
            elif role == _GIVES_CONTROL:
                site = _waiting_site(frame, folder, loop_objects) or None
        frame = frame.f_back
    return _greenlet_site(folder) if site is None else site


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of the frames of one piece of code: one look at each, for there are many.

    Attributes:
        code: it is kept, so that its id stays its own.
        role: what `caller` makes of it.
        is_tool: see `stacks.is_tool`.
        may_hide: whether pytest may leave its frames out of tracebacks.
        is_plainly_of_user: it is the user's, whatever else is on the stack.
        says_something: whether it matters that it is on a stack.
        sites: by instruction and folder.
    """

    code: CodeType
    role: str
    is_tool: bool | None
    may_hide: bool
    is_plainly_of_user: bool
    says_something: bool
    sites: dict[tuple[int, str], str] = field(default_factory=dict)

    def site(self, frame: FrameType, folder: str) -> str:
        """Where one of its frames is."""
        at = frame.f_lasti, folder
        found = self.sites.get(at)
        if found is None:
            found = self.sites[at] = _format(frame, folder)
        return found


_codes: dict[int, _Known] = {}


def _learn(frame: FrameType) -> _Known:
    code = frame.f_code
    if len(_codes) >= _MOST_CODES:
        _codes.clear()
    role, may_hide = _role_of_file(code.co_filename), _HIDING in code.co_varnames
    tool = is_tool(frame.f_globals.get("__name__") or "")
    known = _codes[id(code)] = _Known(
        code, role, tool, may_hide,
        is_plainly_of_user=role == _OF_USER and tool is False and not may_hide,
        says_something=bool(role) or tool is not None,
    )  # fmt: skip
    return known


def _is_hidden(frame: FrameType) -> bool:
    """Whether a function of the user's is left out of tracebacks by pytest, and so here."""
    return frame.f_locals.get(_HIDING) is True


def _waiting_site(frame: FrameType, folder: str, loop_objects: tuple[object, ...]) -> str:
    """The user's line that waits, if `frame` is a loop's or a worker's, which nobody has called."""
    role = control_role(frame.f_code)
    if role == LOOP:
        return _task_site(loop_objects, folder) or _task_site((current_task(),), folder)
    if role == _WORKER:
        # It is there, but not for long. From its future it is not far to whoever waits for it;
        # what it calls leads to more than is looked at.
        job = tuple(getattr(each, "future", each) for each in frame.f_locals.values())
        return _task_site(job, folder) or _running_site(folder)
    return ""


def _running_site(folder: str) -> str:
    """The user's line that the one loop of another thread runs just now; '' if there are several.

    A worker can begin before the task that has asked for it waits: until then nothing of what
    the worker has leads to the task.
    """
    running = list(running_steps())
    if len(running) != 1:
        return ""
    [(step, frame)] = running
    return _task_site((step,), folder) if frame is None else _format(frame, folder)


def running_steps() -> Iterator[tuple[object, FrameType | None]]:
    """What each loop of asyncio runs just now, and the innermost frame of the user's in that.

    It may be a step of a task, which a task of the user's may await.
    """
    for innermost in sys._current_frames().values():  # noqa: SLF001  # there is no other way
        found, frame = None, cast("FrameType | None", innermost)
        while frame is not None and control_role(frame.f_code) != LOOP:
            if found is None and not is_library(frame.f_code.co_filename):
                found = frame
            frame = frame.f_back
        if frame is not None:
            yield frame.f_locals.get("self"), found


def current_task_of_user() -> Any:
    """The nearest task with code of the user's that runs here, or waits for the one that does.

    None if no event loop runs here.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  # as above
    current = current_task()
    while frame is not None and control_role(frame.f_code) != LOOP:
        if not is_library(frame.f_code.co_filename):
            return current
        frame = frame.f_back
    return next((task for task in tasks_behind(current) if user_frames(task)), current)


_OF_USER, _OF_RUNNER, _GIVES_CONTROL, _OF_LIBRARY = "user", "runner", "control", ""


@lru_cache(maxsize=4096)
def _role_of_file(filename: str) -> str:
    """What `caller` makes of the frames of a file."""
    if _is_runner(filename):
        return _OF_RUNNER
    if not is_library(filename):
        return _OF_USER
    ends = tuple(end for end, _ in _CONTROL.values())
    return _GIVES_CONTROL if filename.endswith(ends) else _OF_LIBRARY


@lru_cache(maxsize=4096)
def _is_runner(filename: str) -> bool:
    """Whether a file is of pytest: its callers are no code under test."""
    return any(each in filename for each in _RUNNERS)


def control_role(code: CodeType) -> str:
    """LOOP or _WORKER where it gives control to what nobody has called, else ''."""
    end, role = _CONTROL.get(code.co_name, ("", ""))
    return role if code.co_filename.endswith(end) else ""


def _format(frame: FrameType, folder: str) -> str:
    code = frame.f_code
    return f"{shown_file(code.co_filename, folder)}:{frame.f_lineno} in {code.co_name}"


def current_task() -> object:
    """The task that runs here, of asyncio or trio."""
    task: object
    if running_loop() is not None:  # asked first, for it raises nothing: mostly no loop runs
        with contextlib.suppress(Exception):  # there are loops of many makes
            task = sys.modules["asyncio"].current_task()
            return task
    if "trio.lowlevel" in sys.modules:
        with contextlib.suppress(Exception):  # no loop of its runs here
            task = sys.modules["trio.lowlevel"].current_task()
            return task
    return None


def is_awaited(thing: object) -> bool:
    """Whether a task waits for something that `thing` leads to."""
    return any(True for _ in tasks_behind(thing))


def _task_site(objects: tuple[object, ...], folder: str) -> str:
    """The line where the first task that one of the objects leads to is suspended."""
    found = (user_frames(task) for each in objects for task in tasks_behind(each))
    frames: list[FrameType] = next(filter(None, found), [])
    return _format(frames[-1], folder) if frames else ""


def tasks_behind(start: object) -> Iterator[Any]:
    """The tasks that wait for something, the nearest first; `start` may be one itself.

    A task that waits has left a callback with what it waits for, so the references of that lead
    to the task. In trio a task waits for those that it has started.
    """
    seen = set[int]()
    queue = deque([start])
    while queue and len(seen) < _MOST_LOOKED_AT:
        found: Any = queue.popleft()
        kind = type(found)
        if kind in _WITHOUT_REFERENCES or id(found) in seen:
            continue
        seen.add(id(found))
        role = _roles.get(kind)
        if role is None:
            role = _roles[kind] = _role(kind)
        if role == "trio":
            yield found
            nursery = found.parent_nursery
            queue.append(None if nursery is None else nursery.parent_task)
        elif role != "ignored":
            if role == "task":
                yield found
            queue.extend(_referents(found))


def _role(kind: type) -> str:
    """How to treat objects of a type on the way to a task: "task", "trio", "ignored" or ""."""

    def known(module: str, name: str) -> Any:
        return getattr(sys.modules.get(module), name, ())

    if issubclass(kind, known("asyncio", "Task")):
        return "task"
    if issubclass(kind, known("trio.lowlevel", "Task")):
        return "trio"
    ignored = issubclass(kind, (*_NOT_FOLLOWED, known("asyncio", "AbstractEventLoop")))
    return "ignored" if ignored else ""


def _referents(found: Any) -> Sequence[Any]:
    """The objects that it refers to, without calling any of its code."""
    kind = type(found)
    if kind is FunctionType:  # its globals would be everything
        return found.__closure__ or ()
    if kind is BuiltinFunctionType:
        return (found.__self__,)
    if kind is weakref.ref:
        return (found(),)
    return gc.get_referents(found)


def user_frames(task: Any) -> list[FrameType]:
    """The frames of a suspended task that are the user's code, the innermost last."""
    with contextlib.suppress(Exception):  # there are tasks of many makes
        return [each for each in suspended_frames(task) if not is_library(each.f_code.co_filename)]
    return []


def _greenlet_site(folder: str) -> str:
    """The line where the current greenlet was started, which has no code of the user's itself."""
    gevent = sys.modules.get("gevent")
    current = getattr(gevent, "getcurrent", None)
    frame = None if current is None else getattr(current(), "spawning_stack", None)
    while frame is not None and not _is_runner(frame.f_code.co_filename):
        if not is_library(frame.f_code.co_filename):
            return _format(frame, folder)
        frame = frame.f_back
    return ""
