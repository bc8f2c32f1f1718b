"""Other orders of a test's threads and tasks, in virtual time.

One thread runs at a time there, until it waits; who was woken first goes on first. From that order
a schedule deviates where it says `later`: who does that operation goes on after all others have
done what they can, without that time passes. An operation that is done by a task, which awaits it,
delays the task; any other the thread. Both can really happen: whatever is asked for may take long.
"""

from __future__ import annotations

import functools
import sys

from typing import Any

from pytest_resilience.chaos.call_site import current_loop
from pytest_resilience.chaos.cancelling import cancellation_of
from pytest_resilience.chaos.operation import SLEEP
from pytest_resilience.chaos.operation import CallSite
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.exploration.operation_log import OperationLog
from pytest_resilience.exploration.schedule import Step
from pytest_resilience.plugin.exploration.wakeups import Wakeups
from pytest_resilience.virtual_time.scheduler import current
from pytest_resilience.virtual_time.tasks import let_others_go_first


__all__ = ["Orders"]


class Orders:
    """The others of one run: lets them go first in virtual time, and tells a log what they do.

    Attributes:
        log: of the run.
        in_vain: see `exploration.operation_log.Others`.
    """

    def __init__(self) -> None:
        self.log: OperationLog | None = None
        self.in_vain: set[Step] = set()
        self._wakeups = Wakeups()

    def at(self, kind: str, target: str, place: str = "") -> None:
        """See `virtual_time.run_queue.Order`."""
        if self.log is not None and self.log.is_open:
            site = CallSite(place=place)
            operation = Operation(
                kind=f"thread.{kind}", target=target, names=(target,), call_site=site
            )
            self.log.observe(operation)

    def is_possible(self, operation: Operation) -> bool:
        """See `exploration.operation_log.Others`."""
        scheduler = current()
        if scheduler is None or scheduler.run_queue.order is not self or scheduler.is_held_here:
            return False
        if scheduler.others_can_go():
            return True
        task = _task_of(operation)
        return task is not None and len(sys.modules["asyncio"].all_tasks(task.get_loop())) > 1

    def begin(self, operation: Operation, step: Step) -> None:
        """See `exploration.operation_log.Others`."""
        scheduler = current()
        if scheduler is None or scheduler.is_held_here:
            return
        task = _task_of(operation)
        if task is not None:
            let_others_go_first(task, functools.partial(self.in_vain.add, step))
        elif not scheduler.give_way():
            self.in_vain.add(step)

    def watch(self, operation: Operation, number: int) -> None:
        """See `exploration.operation_log.Others`."""
        if self.log is not None:
            self._wakeups.watch(self.log, operation, number)


def _task_of(operation: Operation) -> Any:
    """The task of this thread's loop that awaits an operation; None if it is the thread's."""
    loop = current_loop()
    if loop is None or (operation.kind == SLEEP and operation.target == "thread"):
        return None
    awaiting = cancellation_of(operation.call_site.loop_objects)
    if awaiting is None or not hasattr(awaiting.task, "get_loop"):
        return None
    return awaiting.task if awaiting.task.get_loop() is loop else None
