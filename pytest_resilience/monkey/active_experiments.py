"""The experiments a monkey has running: started and undone, each on its own."""

from __future__ import annotations

import logging
import math
import threading

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from typing import Protocol

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.clock import Clock
from pytest_resilience.events import Event
from pytest_resilience.events import describe
from pytest_resilience.locks import fork_safe
from pytest_resilience.monkey.events import ExperimentEnded
from pytest_resilience.monkey.events import ExperimentFailed
from pytest_resilience.monkey.events import ExperimentHeldBack
from pytest_resilience.monkey.events import ExperimentStarted


__all__ = ["Running", "RunningExperiments", "Starter"]

_PATIENCE = 5.0  # seconds of real time for a start or an end that is under way elsewhere
_logger = logging.getLogger("pytest_resilience.monkey")


class Starter(Protocol):
    """Starts experiments, as `Runtime.start` does."""

    def __call__(self, experiment: ChaosExperiment, *, seed: int) -> ActiveExperiment:
        """Start it; `seed` decides all chance in it."""


@dataclass(slots=True, kw_only=True, eq=False)
class Running:
    """One experiment that runs.

    Attributes:
        experiment: which.
        started_at, ends_at: monotonic seconds.
        start_time: seconds since 1970-01-01 UTC.
        reason: why it will end at `ends_at`.
        active: what was started; None until it is.
    """

    experiment: ChaosExperiment
    started_at: float
    ends_at: float
    start_time: float
    reason: str
    active: ActiveExperiment | None = None


class RunningExperiments:
    """Starts and ends experiments, from any threads. No lock is held while either happens.

    Attributes:
        failures: how many starts and ends have failed.
    """

    def __init__(self, start: Starter, *, clock: Clock, tell: Callable[[Event], None]) -> None:
        """`tell` is given every event."""
        self.failures = 0
        self._start = start
        self._clock = clock
        self._tell = tell
        self._closed = False
        self._by_name: dict[str, Running] = {}
        # Being started or ended just now, and in which thread.
        self._busy: dict[Running, int] = {}
        self._changed = fork_safe(self, "_changed", lambda: threading.Condition(threading.Lock()))

    def start(
        self,
        experiment: ChaosExperiment,
        *,
        seed: int,
        allowed: float = math.inf,
        most: int | None = None,
    ) -> None:
        """Start it for its duration, at most `allowed` seconds.

        Does nothing if it runs already, and holds it back if as many as `most` run.
        Its failure is an event.
        """
        now = self._clock.monotonic()
        running = Running(
            experiment=experiment,
            started_at=now,
            ends_at=now + min(experiment.duration, allowed),
            start_time=self._clock.time(),
            reason="its time was over" if experiment.duration <= allowed else "its window closed",
        )
        if not self._reserve(running, most):
            return
        try:
            running.active = self._start(experiment, seed=seed)
        except Exception as error:
            self._drop(running)
            self._failed(running, "start", error)
        except BaseException:  # an interrupt
            self._drop(running)
            raise
        else:
            self._settle(running, seed)

    def _reserve(self, running: Running, most: int | None) -> bool:
        name = running.experiment.name
        with self._changed:
            if self._closed or name in self._by_name:
                return False
            full = most is not None and len(self._by_name) >= most
            if not full:
                self._by_name[name] = running
                self._busy[running] = threading.get_ident()
        if full and most is not None:
            self._tell(ExperimentHeldBack(at=running.started_at, source=name, most=most))
        return not full

    def _drop(self, running: Running) -> None:
        with self._changed:
            if self._by_name.get(running.experiment.name) is running:
                del self._by_name[running.experiment.name]
            self._done(running)

    def _done(self, running: Running) -> None:
        self._busy.pop(running, None)
        self._changed.notify_all()

    def _settle(self, running: Running, seed: int) -> None:
        """Keep what was started, or undo it if everything was ended in the meantime."""
        with self._changed:
            kept = self._by_name.get(running.experiment.name) is running
            if kept:
                self._done(running)
        if kept:
            self._tell(
                ExperimentStarted(
                    at=running.started_at,
                    source=running.experiment.name,
                    what=str(running.experiment),
                    seed=seed,
                    ends_at=running.ends_at,
                )
            )
        else:
            self._undo(running, "stopped while it started")

    def _undo(self, running: Running, reason: str) -> None:
        """Stop what nobody else can find any more."""
        try:
            if running.active is not None:
                running.active.stop()
        except Exception as error:
            self._failed(running, "stop", error)
        else:
            now = self._clock.monotonic()
            lasted = now - running.started_at
            name = running.experiment.name
            self._tell(ExperimentEnded(at=now, source=name, lasted=lasted, reason=reason))
        finally:
            with self._changed:
                self._done(running)

    def _failed(self, running: Running, doing: Literal["start", "stop"], error: Exception) -> None:
        self.failures += 1
        name = running.experiment.name
        _logger.error("%s: cannot %s it: %s", name, doing, describe(error), exc_info=error)
        now = self._clock.monotonic()
        self._tell(ExperimentFailed(at=now, source=name, doing=doing, error=describe(error)))

    def end_due(self) -> None:
        """End those whose time is over."""
        now = self._clock.monotonic()
        for running in self._take(lambda each: each.ends_at <= now):
            self._undo(running, running.reason)

    def close(self, reason: str) -> None:
        """End all and start none any more; returns when everything is undone.

        What another thread is starting or ending at this moment is waited for, 5 s at most.
        An interrupt does not keep the others from being ended.
        """
        with self._changed:
            self._closed = True
        taken = self._take(lambda _: True)
        interrupt: BaseException | None = None
        for running in taken:
            try:
                self._undo(running, reason)
            except BaseException as error:
                interrupt = error
        self._wait()
        if interrupt is not None:
            raise interrupt

    def _take(self, chosen: Callable[[Running], bool]) -> list[Running]:
        """Take those out that are chosen and no other thread is about to start, oldest first."""
        me = threading.get_ident()
        taken = []
        with self._changed:
            for name, running in list(self._by_name.items()):
                if not chosen(running):
                    continue
                # An interrupt may have cut this thread's own start off after it was done.
                mine = self._busy.get(running) == me and running.active is not None
                if running not in self._busy or mine:
                    del self._by_name[name]
                    self._busy[running] = me
                    taken.append(running)
                elif self._closed:  # whoever starts it will see that it is gone
                    del self._by_name[name]
        return taken

    def _wait(self) -> None:
        me = threading.get_ident()
        with self._changed:
            settled = self._changed.wait_for(
                lambda: all(thread == me for thread in self._busy.values()), _PATIENCE
            )
            late = [running.experiment.name for running in self._busy]
        if not settled:
            _logger.error("%s: under way for %g s, undone as soon as it can be", late, _PATIENCE)

    def next_end(self) -> float:
        """Monotonic seconds when the next one ends; infinite if none runs."""
        with self._changed:
            ends = (each.ends_at for each in self._by_name.values() if each not in self._busy)
            return min(ends, default=math.inf)

    def all(self) -> tuple[Running, ...]:
        """Those that run, oldest first; without those that are just being started."""
        with self._changed:
            return tuple(each for each in self._by_name.values() if each not in self._busy)
