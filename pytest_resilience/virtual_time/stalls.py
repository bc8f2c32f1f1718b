"""What every thread of a test was doing when time could not go on."""

from __future__ import annotations

import _thread
import queue
import sys
import threading

from types import FrameType

from pytest_resilience.virtual_time.members import Member
from pytest_resilience.virtual_time.members import Members
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
            state = f"waits in {waiter.waits_in} {until}"
        elif ident in members.outside:
            state = "waits for the real world"
        else:
            seen = False
            state = "NOT WAITING HERE: it runs, or is blocked"
        lines.append(f"  {_name(member)}: {state}, {where(ident)}")
    return "\n".join(lines if seen else [*lines, _WHAT_TO_DO])


def _name(member: Member) -> str:
    return f"{member.thread.name} (the test)" if member.is_test else member.thread.name


def where(ident: int) -> str:
    """`at file:line in function`, of the thread's own code and not of what waits for it."""
    frame = sys._current_frames().get(ident)  # noqa: SLF001  # there is no other way
    own = frame
    while own is not None and _is_machinery(own):
        own = own.f_back
    own = own or frame
    if own is None:
        return "which has ended"
    return f"at {own.f_code.co_filename}:{own.f_lineno} in {own.f_code.co_name}"


def _is_machinery(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return file in {threading.__file__, queue.__file__, _thread.__name__} or file.startswith(
        __file__.removesuffix("stalls.py")
    )
