"""What every thread of a test was doing when time could not go on."""

from __future__ import annotations

import sys

from collections.abc import Iterator
from types import FrameType
from typing import Any

from pytest_resilience.virtual_time.members import Member
from pytest_resilience.virtual_time.members import Members
from pytest_resilience.virtual_time.places import Place
from pytest_resilience.virtual_time.places import is_machinery
from pytest_resilience.virtual_time.places import is_of_libraries
from pytest_resilience.virtual_time.places import task_holders
from pytest_resilience.virtual_time.waiting import Waiter


__all__ = ["report", "where"]

_WHAT_TO_DO = (
    "A wait in C, or for a lock that is older than the clock, cannot be seen: make the lock in the "
    "test, or wait inside of `with virtual_clock.real():`."
)


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
            state = f"waits in {waiter.waits_in} {until}{_held(waiter, members)}"
        elif ident in members.outside:
            state = "waits for the real world"
        else:
            seen = False
            state = "NOT WAITING HERE: it runs, or is blocked"
        lines.append(f"  {_name(member)}: {state}, {where(ident)}")
        lines += [f"    {task}" for task in _told_tasks(_frame_of(ident))]
    return "\n".join(lines if seen else [*lines, _WHAT_TO_DO])


def _name(member: Member) -> str:
    return f"{member.thread.name} (the test)" if member.is_test else member.thread.name


def _held(waiter: Waiter, members: Members) -> str:
    """Which lock it waits for, and who has that."""
    lock = waiter.awaited
    if lock is None or lock.made is None:
        return ""
    told = f" for the one made at {lock.made}"
    if lock.holder is None:
        return told
    ident, place = lock.holder
    member = members.inside.get(ident)
    who = "a thread that has ended" if member is None else _name(member)
    return f"{told}, held by {'itself' if ident == waiter.ident else who}, taken at {place}"


def _frame_of(ident: int) -> FrameType | None:
    return sys._current_frames().get(ident)  # noqa: SLF001  # there is no other way


def where(ident: int) -> str:
    """`at file:line in function`, of the project's own code if there is any."""
    frame, outside = _frame_of(ident), None
    innermost = frame
    while frame is not None and is_of_libraries(frame.f_code.co_filename):
        if outside is None and not is_machinery(frame.f_code.co_filename):
            outside = frame
        frame = frame.f_back
    found = frame or outside or innermost
    return "which has ended" if found is None else f"at {Place.of(found)}"


def _told_tasks(frame: FrameType | None) -> Iterator[str]:
    """Each task that waits in the loop which runs in a thread with this frame, in a line."""
    while frame is not None and frame.f_code.co_name != "_run_once":
        frame = frame.f_back
    asyncio = sys.modules.get("asyncio")
    if frame is None or asyncio is None:
        return
    tasks = [each for each in asyncio.all_tasks(frame.f_locals.get("self")) if not each.done()]
    lines = sorted(_told(each) for each in tasks)
    yield from lines


def _told(task: Any) -> str:
    frames = [*_suspended(task)]
    own = [each for each in frames if not is_of_libraries(each.f_code.co_filename)] or frames
    at = f", at {Place.of(own[-1])}" if own else ""
    return f"task {_task_name(task)} waits{_awaited(task, frames)}{at}"


def _awaited(task: Any, frames: list[FrameType]) -> str:
    """What a task waits for, as far as that is known, and who has it."""
    asyncio = sys.modules["asyncio"]
    lock = frames[-1].f_locals.get("self") if frames else None
    if isinstance(lock, asyncio.Lock) and lock in task_holders:
        holder, place = task_holders[lock]
        who = "itself" if holder is task else f"task {_task_name(holder)}"
        return f" for a lock that {who} holds, taken at {place}"
    other = task._fut_waiter  # noqa: SLF001  # nothing public leads to it
    if isinstance(other, asyncio.Task):
        return f" for the task {_task_name(other)}"
    return ""


def _task_name(task: Any) -> str:
    """Its own name, or that of its function: others are from a counter of the process."""
    if task is None:
        return "that has ended"
    name = task.get_task_name()
    coroutine = task.get_coro()
    function = getattr(coroutine, "__qualname__", "").rpartition("<locals>.")[2]
    return f"{function} ({name})" if function else str(name)


def _suspended(task: Any) -> Iterator[FrameType]:
    """The frames of a task, down to what it is suspended in."""
    coroutine = task.get_coro()
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if not isinstance(frame, FrameType):
            return
        yield frame
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
