"""Lets the Python children of this process meet its experiments. See `chaos.engine.Interceptor`.

A process that is started finds in its environment where to ask (folder.py), and a `sitecustomize`
(startup/) that asks. One that is forked goes on in the child's part (child.py).
"""

from __future__ import annotations

import contextlib
import os
import threading

from collections.abc import Sequence
from typing import Any

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.engine import FaultInjected
from pytest_resilience.chaos.forked_children import watch_forks
from pytest_resilience.chaos.operation import KINDS
from pytest_resilience.chaos.seen_operations import UnmatchedOperation
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.events import describe
from pytest_resilience.interceptors.children.child import COUNTED
from pytest_resilience.interceptors.children.child import FAULT
from pytest_resilience.interceptors.children.child import UNMATCHED
from pytest_resilience.interceptors.children.child import Mirror
from pytest_resilience.interceptors.children.child import shown
from pytest_resilience.interceptors.children.folder import VARIABLE
from pytest_resilience.interceptors.children.folder import Member
from pytest_resilience.interceptors.children.folder import add_hook
from pytest_resilience.interceptors.children.folder import hook_of
from pytest_resilience.interceptors.children.folder import remove_hook
from pytest_resilience.interceptors.children.parent import Host
from pytest_resilience.interceptors.children.parent import Start
from pytest_resilience.interceptors.children.parent import Starts
from pytest_resilience.locks import fork_safe


__all__ = ["ChildProcesses"]

_fork = threading.local()  # the number of the child that is about to be made
_MOST_ENDED = 500  # experiments that children still count on


class _Published:
    """The experiments of an engine that its children can see.

    They are written down from the first child on that is about to be started: most suites start
    none.

    Attributes:
        active: by key, as children read them.
        known: those and the others, also those that have ended.
        is_used: whether there has ever been a child.
    """

    def __init__(self, engine: Engine, host: Host) -> None:
        self._engine = engine
        self._host = host
        self._next = 0
        self._last: list[tuple[int, bool]] = []
        self._reading = fork_safe(self, "_reading", threading.Lock)
        self._current: tuple[ActiveExperiment, ...] = ()
        self.active: dict[int, bytes] = {}
        self.known: dict[int, ActiveExperiment] = {}
        self.is_used = False

    def update(self, active: tuple[ActiveExperiment, ...]) -> None:
        """Let children see those of these that are for them, and no others.

        Waits until they have begun what is new.
        """
        self._current = active
        if self.is_used:  # by one, maybe, that has been started and not been heard of yet
            self.flush()

    def flush(self) -> None:
        """Write down what children are to see: there is one, or will be one now."""
        self.is_used = True
        wanted = [each for each in self._current if each.experiment.reaches_children]
        keys = {id(each): key for key, each in self.known.items()}
        new = [each for each in wanted if id(each) not in keys]
        for each in new:
            self._add(each)
        running = [key for key, each in self.known.items() if each in wanted]
        state = [(key, self.known[key].paused) for key in running]
        if state != self._last:
            self._last = state
            self.active = {key: self.active[key] for key in running if key in self.active}
            self._host.publish([*self.active.items()], wait=bool(new))
        self.gather()
        self._settle_old()

    def _settle_old(self) -> None:
        """Of those that ended long ago: others are to have their pages."""
        for key, each in [*self.known.items()]:
            if key > self._next - _MOST_ENDED:
                return
            if key not in self.active:
                each.counts.settle()
                del self.known[key]

    def _add(self, active_experiment: ActiveExperiment) -> None:
        self._next += 1
        key = self._next
        self.known[key] = active_experiment
        active_experiment.counts.share(self._host.pages.at(key))
        a = active_experiment
        try:
            self.active[key] = shown(a.experiment, a.seed, a.started_at)
        except Exception as error:  # it is about objects of this process, and of forked ones
            name, why = a.experiment.name, describe(error)
            a.unmatched.advise(f"Only child processes that are forked can meet {name}: {why}.")

    def gather(self) -> None:
        """Take in what children have told."""
        with self._reading:
            lines = [*self._host.told()]
        for what, key, *more in lines:
            active_experiment = self.known.get(key)
            if active_experiment is not None:  # else it is of an earlier test
                self._take(what, active_experiment, *more)

    def _take(self, what: str, active_experiment: ActiveExperiment, *more: Any) -> None:
        if what == FAULT:
            at, source, kind, target, fault, number, delay, place = more
            event = FaultInjected(
                at=at, source=source, kind=kind, target=target, fault=fault, number=number,
                delay=delay, place=place,
            )  # fmt: skip
            self._engine.listeners.emit(event)
        elif what == UNMATCHED:
            fields, conditions, *known_of = more
            known = None if conditions is None else frozenset(conditions)
            found = UnmatchedOperation(**fields, conditions=known)
            active_experiment.unmatched.adopt(found, *known_of)
        elif what == COUNTED and active_experiment.counted is not None:
            active_experiment.counted.adopt(*more)
        else:
            experiment, (why,) = active_experiment.experiment, more
            advice = f"A child process could not begin {experiment.name}: {why}."
            active_experiment.unmatched.advise(advice)

    def forget(self) -> None:
        """All has ended, and what comes now is too late."""
        self.update(())
        if not self.is_used:
            return
        for each in self.known.values():
            each.counts.settle()
        self.known.clear()
        self._host.forget()


class ChildProcesses:
    """Reaches the children of this process.

    It is open, that is, children are led to its folder, while an experiment is active that is for
    them, while operations are recorded, and while experiments are awaited.

    Attributes:
        kinds: of operations that are intercepted in children.
        awaited: whether experiments may begin while what is started now still runs.
    """

    kinds = KINDS

    def __init__(self, place: str, *, native: bool) -> None:
        """`place`: the folder of call sites. `native`: reach clients in C as well."""
        self.awaited = False
        self._engine: Engine  # see `of`
        self._settings = place, native
        self._host: Host | None = None
        self._published: _Published | None = None
        self._is_member = False  # of its parent: it is a forked child
        self._starts = Starts(self._next_number, self._starting, self._started)
        self._before: tuple[ActiveExperiment, ...] = ()
        self._children = 0  # since it is open
        self._outer = os.environ.get(VARIABLE)  # of whom this process is a child itself

    def of(self, engine: Engine) -> ChildProcesses:
        """Let children meet the experiments of this engine."""
        self._engine = engine
        watch_forks(self)
        return self

    def install(self) -> None:
        """Before what is active runs, lead children here."""
        if not self._is_as_it_should_be:
            with limits_lifted(), contextlib.suppress(OSError):
                self._open_or_close()

    def refresh(self) -> None:
        """Let children run what is active now."""
        if not self._is_as_it_should_be or (self._starts.folder and self._is_met):
            # What fails for want of space leaves children as they were.
            with limits_lifted(), contextlib.suppress(OSError):
                self._open_or_close()
                self._publish()
        elif self._starts.folder:
            self._publish()  # which nobody reads, so that nothing is written

    @property
    def _is_met(self) -> bool:
        """Whether children have been started."""
        used = self._published is not None and self._published.is_used
        return used or bool(self._starts.seen)

    def remove(self) -> bool:
        """Nothing is active: leave children alone, unless something is awaited."""
        self.refresh()
        return bool(self._starts.folder)

    def prepare(self) -> None:
        """Make what is needed as long as this process lives."""
        if self._host is None and not self._is_member:
            # Where there can be none, children are out of reach, and the advice says so.
            with contextlib.suppress(OSError):
                place, native = self._settings
                self._host = Host(place, native=native)
                self._published = _Published(self._engine, self._host)

    @property
    def are_there(self) -> bool:
        """Whether there are children for which who starts an experiment may have to wait."""
        used = self._published is not None and self._published.is_used
        return used and self._host is not None and bool(self._host.members())

    def gather(self) -> None:
        """Take in what children have told so far."""
        if self._published is not None and self._published.is_used:
            self._published.gather()

    def close(self) -> None:
        """Let children go on without this process."""
        self.awaited = False
        if self._host is not None:
            self._close()
            self._host.close()
            self._host = self._published = None

    def _publish(self) -> None:
        published = self._published
        if published is not None and self._starts.folder:
            active = self._engine.active
            if self._starts.seen:
                self._note_unreached([each for each in self._before if each not in active])
            self._before = active
            published.update(active)

    @property
    def _is_needed(self) -> bool:
        engine = self._engine
        if self.awaited or engine.recorder is not None:
            return True
        return any(each.experiment.reaches_children for each in engine.active)

    @property
    def _is_as_it_should_be(self) -> bool:
        """Whether there is nothing to open or to close; asked several times in each test."""
        if self._is_needed:
            return bool(self._starts.folder)
        # Others may have put it back.
        return not self._starts.folder and hook_of(os.environ) == self._outer

    def _open_or_close(self) -> None:
        if self._is_member:
            return
        if self._is_needed:
            self.prepare()
            if self._host is not None and not self._starts.folder:
                self._starts.install(self._host.folder)
                add_hook(os.environ, f"{self._host.folder}:0")
        elif self._starts.folder:
            self._close()
        else:
            self._remove_hook()  # which others may have put back

    def _close(self) -> None:
        self._note_unreached(self._before)
        self._before = ()
        if self._published is not None:
            self._published.forget()
        self._starts.remove()
        self._children = 0
        self._remove_hook()

    def _remove_hook(self) -> None:
        if self._host is not None:
            remove_hook(os.environ)
            if self._outer is not None:
                add_hook(os.environ, self._outer)

    def _next_number(self) -> str:
        """One that no child has that still lives; it is about to be made."""
        self._starting()
        taken = () if self._host is None else self._host.members()
        while True:
            self._children += 1
            if str(self._children) not in taken:
                return str(self._children)

    def _starting(self) -> None:
        """A process is about to be started, or forked."""
        if self._published is not None:
            with limits_lifted(), contextlib.suppress(OSError):
                self._published.flush()

    def _started(self, start: Start) -> None:
        recorder = self._engine.recorder
        if recorder is not None:
            if start.is_python and start.number:
                recorder.forked()  # what it does is not seen here
            else:
                recorder.note(start.operation())

    def _note_unreached(self, ended: Sequence[ActiveExperiment]) -> None:
        """For experiments that have ended: which processes they could not reach."""
        starts = [each for each in self._starts.seen if each.is_of_test]
        if not starts or not ended:
            return
        members = set() if self._host is None else set(self._host.members())
        for each in ended:
            for start in starts:
                if each.experiment.spares_children:
                    each.unmatched.note(start.spared())
                elif each.experiment.reaches_children and start.number not in members:
                    each.unmatched.note(start.operation())

    def before_fork(self) -> None:
        """A child of this process is about to be made."""
        _fork.number = self._next_number() if self._starts.folder else ""

    def after_fork(self) -> None:
        """This process is the child."""
        host, published, folder = self._host, self._published, self._starts.folder
        self._host = self._published = None  # they are the parent's
        if host is None or published is None:
            return
        host.leave()
        if not folder:
            return
        self._engine.after_fork()  # which may not have been told yet
        for each in self._engine.active:
            if each.experiment.spares_children:
                each.stop()
        self._is_member = True
        member = Member(host.folder, _fork.number)
        mirror = Mirror(self._engine, member, host.pages)
        mirror.adopt(published.known, published.active)
        member.go_on(mirror)
        self._starts.of_child(member.next_number)
