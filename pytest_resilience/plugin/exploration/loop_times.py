"""The time of an event loop, which can be moved on, and its timers: of asyncio and of trio."""

from __future__ import annotations

import sys

from collections.abc import Callable
from collections.abc import Container
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from typing import Protocol

from pytest_resilience.plugin.matrix.loop_waits import awaited_in
from pytest_resilience.plugin.matrix.loop_waits import awaited_in_trio
from pytest_resilience.plugin.matrix.loop_waits import deadlines_in_trio
from pytest_resilience.plugin.matrix.loop_waits import delay_in_trio
from pytest_resilience.plugin.matrix.loop_waits import due
from pytest_resilience.stacks import suspended_frames


__all__ = ["LoopTime", "Timer", "loop_time"]

_SLEEP = "_set_result_unless_cancelled"  # what asyncio's timers of sleeps call


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer:
    """Lets a loop do something.

    Attributes:
        when: in the loop's time; of what a fault delays the end of that.
        is_sleep: somebody sleeps until then.
        sleeper: the task that does, if it is known.
        is_of_fault: a fault delays something until then.
    """

    when: float
    is_sleep: bool = False
    sleeper: Any = None
    is_of_fault: bool = False


class LoopTime(Protocol):
    """That of one loop.

    Attributes:
        loop: of asyncio, or what runs the tasks in trio.
    """

    loop: Any

    def now(self) -> float:
        """In seconds."""

    def move(self, seconds: float) -> None:
        """Let it be so much later, for as long as there is the loop."""

    def wake(self) -> None:
        """Have the loop look at its timers; from a signal handler, too."""

    def timers(self) -> list[Timer]:
        """In no order."""

    def awaited(self, but: Container[Any]) -> frozenset[Any] | None:
        """What all tasks `but` some wait for; None if one is about to go a step.

        It is something else after any of them has gone a step.
        """


def loop_time(loop: Any) -> LoopTime | None:
    """None if its time is not that of loops of Python, or a clock that trio was given."""
    if hasattr(loop, "_scheduled"):
        return _AsyncioTime(loop)
    of_machine = getattr(sys.modules.get("trio._core._run"), "SystemClock", None)
    return _TrioTime(loop) if type(getattr(loop, "clock", None)) is of_machine else None


class _AsyncioTime:
    def __init__(self, loop: Any) -> None:
        self.loop = loop

    def now(self) -> float:
        return float(self.loop.time())

    def move(self, seconds: float) -> None:
        if not isinstance(self.loop.time, _MovedTime):
            self.loop.time = _MovedTime(self.loop.time)
        self.loop.time.moved += seconds

    def wake(self) -> None:
        self.loop.call_soon_threadsafe(_nothing)

    def timers(self) -> list[Timer]:
        timers = [each for each in self.loop._scheduled if not each.cancelled()]  # noqa: SLF001
        sleepers = self._sleepers() if any(map(_is_sleep, timers)) else {}
        return [
            Timer(
                when=due(each),
                is_sleep=_is_sleep(each),
                sleeper=sleepers.get(each._args[0]) if _is_sleep(each) else None,  # noqa: SLF001
                is_of_fault=hasattr(_owner(each), "resilience_due"),
            )
            for each in timers
        ]

    def _sleepers(self) -> Mapping[Any, Any]:
        """Each task by the future that it waits for."""
        tasks = sys.modules["asyncio"].all_tasks(self.loop)
        return {getattr(each, "_fut_waiter", None): each for each in tasks}

    def awaited(self, but: Container[Any]) -> frozenset[Any]:
        found = awaited_in(self.loop, but)
        # What the loop has to do need not be a step of a task: it is not as it was, at any look.
        return found | {object()} if self.loop._ready else found  # noqa: SLF001


def _owner(timer: Any) -> Any:
    return getattr(timer._callback, "__self__", None)  # noqa: SLF001


def _is_sleep(timer: Any) -> bool:
    return getattr(timer._callback, "__name__", "") == _SLEEP  # noqa: SLF001  # nothing public tells


def _nothing() -> None:
    """For a loop that is only to look at its timers."""


class _MovedTime:
    """Takes the place of a loop's method, for as long as there is the loop.

    Attributes:
        moved: seconds by which it is ahead.
    """

    def __init__(self, usual: Callable[[], float]) -> None:
        self.moved = 0.0
        self._usual = usual

    def __call__(self) -> float:
        return self._usual() + self.moved


class _TrioTime:
    def __init__(self, runner: Any) -> None:
        self.loop = runner

    def now(self) -> float:
        return float(self.loop.clock.current_time())

    def move(self, seconds: float) -> None:
        clock = self.loop.clock
        self.loop.clock = type(clock)(clock.offset + seconds)  # it has one anyway, from the start

    def wake(self) -> None:
        self.loop.entry_queue.run_sync_soon(_nothing)

    def timers(self) -> list[Timer]:
        scopes = {task._cancel_status: task for task in self.loop.tasks}  # noqa: SLF001  # innermost
        return [
            self._timer(when, scopes.get(scope._cancel_status))  # noqa: SLF001
            for when, scope in deadlines_in_trio(self.loop)
        ]

    def _timer(self, when: float, task: Any) -> Timer:
        """`task`: of which the scope that is cancelled then is the innermost; None if of none."""
        if task is not None and delay_in_trio(task) is not None:
            return Timer(when=when, is_of_fault=True)
        sleeps = task is not None and _sleeps_in_trio(task)
        return Timer(when=when, is_sleep=sleeps, sleeper=task if sleeps else None)

    def awaited(self, but: Container[Any]) -> frozenset[Any] | None:
        is_at_work = any(each._next_send_fn for each in self.loop.tasks)  # noqa: SLF001
        # It goes its step before long, and has gone it at the next look.
        is_at_work = is_at_work or self.loop.entry_queue.size() > 0
        return None if is_at_work else awaited_in_trio(self.loop, but)


def _sleeps_in_trio(task: Any) -> bool:
    code = sys.modules["trio"].sleep_until.__code__
    return any(each.f_code is code for each in suspended_frames(task))
