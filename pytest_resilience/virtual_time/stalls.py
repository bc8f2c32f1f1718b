"""What every thread of a test was doing when time could not go on, and who waits for a lock in C.

Waits for locks in C, which are older than the clock, cannot be parks, but can be told.
"""

from __future__ import annotations

import _queue
import _thread
import ast
import itertools
import linecache
import os
import re
import sys
import threading
import types

from collections.abc import Iterator
from collections.abc import Mapping
from types import FrameType
from typing import Any

from pytest_resilience.stacks import is_library
from pytest_resilience.stacks import is_ours
from pytest_resilience.stacks import suspended_frames
from pytest_resilience.virtual_time.members import Member
from pytest_resilience.virtual_time.members import Members
from pytest_resilience.virtual_time.members import called_by
from pytest_resilience.virtual_time.waiting import CallSite
from pytest_resilience.virtual_time.waiting import Waiter
from pytest_resilience.virtual_time.waiting import is_machinery
from pytest_resilience.virtual_time.waiting import locks_of_tasks


__all__ = [
    "DEADLOCK", "frame_of", "has_a_timeout", "is_deadlock", "is_in_a_lock_of_c", "report",
    "waits_for_ever", "where",
]  # fmt: skip

DEADLOCK = "deadlock: every thread of the test waits, and nothing can wake one"
_COUNTED = re.compile(r"^Task-\d+$")
_WHAT_TO_DO = (
    "A wait in C, or for a lock that is older than the clock, cannot be seen: make the lock in the "
    "test, give every test virtual time (--virtual-time, or the ini option virtual_time), or wait "
    "inside of `with virtual_clock.real():`."
)
# As they are now: with a clock others are made by these names.
_IN_C = (_thread.LockType, _thread.RLock, _queue.SimpleQueue)
_METHODS_IN_C = (types.BuiltinMethodType, types.MethodWrapperType)
_FUNCTIONS_IN_C = (types.MethodDescriptorType, types.WrapperDescriptorType)
_DESCRIPTORS_IN_C = (types.GetSetDescriptorType, types.MemberDescriptorType)


def report(members: Members, parked: dict[int, Waiter], what: str) -> str:
    """`what`, and each thread with its wait, deadline, file and line. Needs the mutex."""
    lines = [what]
    seen = True
    for ident, member in members.inside.items():
        waiter = parked.get(ident)
        if waiter is not None:
            until = "for ever"
            if waiter.deadline is not None:
                until = f"until {waiter.deadline / 1e9:.9g} s"
            state = f"waits in {waiter.waits_in} {until}"
        elif ident in members.outside:
            state = "waits for the real world"
        else:
            seen = False
            frame = frame_of(ident)
            in_lock = frame is not None and is_in_a_lock_of_c(frame)
            what_else = "blocked in a lock of C" if in_lock else "it runs, or is blocked"
            state = f"NOT WAITING HERE: {what_else}"
        lines.append(f"  {_name(member)}: {state}, {where(member.thread)}{_held(waiter, members)}")
        lines += [f"    {task}" for task in _told_tasks(ident)]
    told = "\n".join(lines if seen else [*lines, _WHAT_TO_DO])
    return told.replace(members.folder + os.sep, "")


def _name(member: Member) -> str:
    return f"{member.thread.name} (the test)" if member.is_test else member.name


def _held(waiter: Waiter | None, members: Members) -> str:
    """Which lock it waits for, and who has that."""
    lock = None if waiter is None else waiter.awaited
    if waiter is None or lock is None or lock.made is None:
        return ""
    told = f", for the lock made at {lock.made}"
    if lock.holder is None:
        return told
    ident, place = lock.holder
    member = members.inside.get(ident)
    who = "a thread that is none of the test's" if member is None else _name(member)
    return f"{told}, held by {'itself' if ident == waiter.ident else who}, taken at {place}"


def is_deadlock(parked: dict[int, Waiter]) -> bool:
    """Whether threads or tasks wait for each other's locks, so that nobody can end it.

    Asked when no deadline is set.
    """
    holders: dict[object, object] = {}
    for ident, waiter in parked.items():
        if waiter.awaited is not None and waiter.awaited.holder is not None:
            holders[ident] = waiter.awaited.holder[0]
        for task in _tasks(ident):
            lock = _lock_awaited([*suspended_frames(task)])
            if lock is not None:
                holders[task] = locks_of_tasks[lock][1]
    for first in holders.values():
        who, seen = first, set[object]()
        while who in holders and who not in seen:
            seen.add(who)
            who = holders[who]
        if who in seen:
            return True
    return False


def where(thread: threading.Thread) -> str:
    """`at file:line in function`, of the project's own code if there is any."""
    frame, outside = frame_of(thread.ident or 0), None
    if frame is None:
        return "which has ended"
    while frame is not None and is_library(frame.f_code.co_filename):
        if outside is None and not is_machinery(frame.f_code.co_filename):
            outside = frame
        frame = frame.f_back
    found = frame or outside
    return f"in {called_by(thread)}" if found is None else f"at {CallSite.of(found)}"


def _tasks(ident: int) -> list[Any]:
    """The tasks of the loop that runs in a thread, as they were made."""
    frame, asyncio = frame_of(ident), sys.modules.get("asyncio")
    while frame is not None and frame.f_code.co_name != "_run_once":
        frame = frame.f_back
    if frame is None or asyncio is None:
        return []
    tasks = [each for each in asyncio.all_tasks(frame.f_locals.get("self")) if not each.done()]
    return sorted(tasks, key=lambda task: (len(task.get_name()), task.get_name()))


def _told_tasks(ident: int) -> Iterator[str]:
    """Each task that waits in the loop which runs in a thread, in a line."""
    names = {task: _task_name(task, number) for number, task in enumerate(_tasks(ident), 1)}
    for task, name in names.items():
        frames = [*suspended_frames(task)]
        own = [each for each in frames if not is_library(each.f_code.co_filename)] or frames
        at = f", at {CallSite.of(own[-1])}" if own else ""
        yield f"{name}: waits{at}{_awaited(task, frames, names)}"


def _lock_awaited(frames: list[FrameType]) -> Any:
    """The lock of asyncio that a task waits for; None if it is none."""
    lock = frames[-1].f_locals.get("self") if frames else None
    is_lock = isinstance(lock, sys.modules["asyncio"].Lock)
    return lock if is_lock and lock in locks_of_tasks else None


def _awaited(task: Any, frames: list[FrameType], names: dict[Any, str]) -> str:
    """What a task waits for, as far as that is known, and who has it."""
    lock = _lock_awaited(frames)
    if lock is None:
        other = task._fut_waiter  # noqa: SLF001  # nothing public leads to it
        return f", for {names[other]}" if other in names else ""
    made, holder, taken = locks_of_tasks[lock]
    told = f", for the lock made at {made}"
    if taken is None:
        return told
    who = "itself" if holder is task else names.get(holder, "a task that has ended")
    return f"{told}, held by {who}, taken at {taken}"


def _task_name(task: Any, number: int) -> str:
    """Its own name; what comes from a counter of the process is another in each run."""
    name = _COUNTED.sub(f"Task {number}", task.get_name())
    function = getattr(task.get_coro(), "__qualname__", "").rpartition("<locals>.")[2]
    return f"{name} ({function})" if function else name


def frame_of(ident: int) -> FrameType | None:
    """The innermost one of a thread; None if it has ended."""
    return sys._current_frames().get(ident)  # noqa: SLF001  # there is no other way


def is_in_a_lock_of_c(frame: FrameType) -> bool:
    """Whether what a blocked thread's innermost frame calls or enters is a lock or queue in C.

    As far as its line leads there by names, and by what is called `acquire`. What this package
    enters does not count: it holds its own locks for moments only.
    """
    statement = _statement(frame)
    if is_ours(frame.f_code.co_filename) and not _is_a_call(statement):
        return False
    return any(_leads_to_a_lock_of_c(each, frame) for each in _called(statement))


def has_a_timeout(frame: FrameType) -> bool:
    """Whether what a thread's innermost frame calls is given one, as `acquire` and `get` are."""
    call = getattr(_statement(frame), "value", None)
    if not isinstance(call, ast.Call):
        return False
    given = [*call.args[1:], *(each.value for each in call.keywords if each.arg == "timeout")]
    return any(ast.unparse(each) not in {"-1", "None"} for each in given)


def waits_for_ever(frame: FrameType) -> bool:
    """Whether it is certainly given none: what is passed on in a `*` may be one."""
    call = getattr(_statement(frame), "value", None)
    passed_on = isinstance(call, ast.Call) and (
        any(isinstance(each, ast.Starred) for each in call.args)
        or any(each.arg is None for each in call.keywords)
    )
    return not passed_on and not has_a_timeout(frame)


def _leads_to_a_lock_of_c(called: ast.expr, frame: FrameType) -> bool:
    names: list[str] = []
    owner = called
    while isinstance(owner, ast.Attribute):
        names.insert(0, owner.attr)
        owner = owner.value
    if isinstance(owner, ast.Name):
        found = frame.f_locals.get(owner.id, frame.f_globals.get(owner.id))
        while names and not _is_in_c(found) and names[0] in _attributes(found):
            found = _attributes(found)[names.pop(0)]
        if _is_in_c(found) or _is_method_in_c(found):
            return True
        if len(names) < 2:  # all but the method is known
            return False
    return isinstance(called, ast.Attribute) and called.attr == "acquire"


# Not `isinstance` and `getattr`, which ask those that stand for something else.


def _is_in_c(found: Any) -> bool:
    return issubclass(type(found), _IN_C)


def _is_method_in_c(found: Any) -> bool:
    if type(found) in _METHODS_IN_C:
        return _is_in_c(found.__self__)
    return type(found) in _FUNCTIONS_IN_C and found.__objclass__ in _IN_C


def _attributes(owner: Any) -> Mapping[str, Any]:
    """Those that can be read without asking the owner."""
    classes = (vars(each) for each in type(owner).__mro__)
    made_by: Any = next((names["__dict__"] for names in classes if "__dict__" in names), None)
    return made_by.__get__(owner) if type(made_by) in _DESCRIPTORS_IN_C else {}


def _statement(frame: FrameType) -> ast.stmt | None:
    """What stands in the source where a frame is; None if that is no statement by itself."""
    place = next(itertools.islice(frame.f_code.co_positions(), frame.f_lasti // 2, None))
    first, last, begin, end = place  # in lines, and in bytes of these
    if first is None or last is None:
        return None
    lines = linecache.getlines(frame.f_code.co_filename)[first - 1 : last]
    source = [line.encode() for line in lines]
    if not source:
        return None
    source[-1] = source[-1][:end]
    source[0] = source[0][begin:]
    try:
        [found] = ast.parse(b"".join(source)).body
    except (SyntaxError, ValueError):
        return None
    return found


def _is_a_call(found: ast.stmt | None) -> bool:
    return isinstance(getattr(found, "value", None), ast.Call)


def _called(found: ast.stmt | None) -> list[ast.expr]:
    """What a statement calls, or enters."""
    if isinstance(found, ast.With):  # before 3.13 it is where all of it is
        return [item.context_expr for item in found.items]
    call = found.value if isinstance(found, ast.Expr) else None
    called = call.func if isinstance(call, ast.Call) else call
    return [] if called is None else [called]
