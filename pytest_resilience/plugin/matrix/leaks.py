"""Resources that a run of a test leaks: threads, sockets, files."""

from __future__ import annotations

import gc
import os
import stat
import threading

from dataclasses import dataclass

from pytest_resilience.clock import MACHINE_CLOCK


__all__ = ["LeakedResources", "Snapshot"]


_PATIENCE = 5  # times that threads are waited for


@dataclass(frozen=True, slots=True)
class LeakedResources:
    """How many more there are after a run than before it, by kind."""

    threads: int = 0
    sockets: int = 0
    files: int = 0

    def more_than(self, other: LeakedResources) -> str:
        """The resources beyond those that another run leaks, in words; "" if there are none."""
        found = []
        for name in self.__slots__:
            more = getattr(self, name) - max(0, getattr(other, name))
            if more > 0:
                found.append(f"{more} {name if more > 1 else name[:-1]}")
        return ", ".join(found)


class Snapshot:
    """The threads, sockets and files before a run."""

    def __init__(self) -> None:
        self._threads = set(threading.enumerate())
        self._open = _descriptors()

    def leaked(self, baseline: LeakedResources | None = None) -> LeakedResources:
        """The resources that are there now and were not; counted twice if more than `baseline`."""
        found = self._compare()
        if found.more_than(baseline or LeakedResources()):
            gc.collect()  # what only a cycle keeps open is closed
            for _ in range(_PATIENCE):
                found = self._compare()
                if not found.more_than(baseline or LeakedResources()):
                    return found
                self._await_threads()
            found = self._compare()
        return found

    def _await_threads(self) -> None:
        """Give those that are just ending the time to close what they have."""
        me = threading.current_thread()
        # Nobody can join one that is just being started.
        ending = [
            each
            for each in set(threading.enumerate()) - self._threads
            if each is not me and each.is_alive()
        ]
        for each in ending:
            each.join(0.05)
        if not ending and threading.active_count() > 1:
            # Another one, such as that of a server, may be about to start it, or to close a socket.
            MACHINE_CLOCK.sleep(0.05)

    def _compare(self) -> LeakedResources:
        now, before = _descriptors(), self._open
        opened = [
            each
            for number, each in now.items()
            if number not in before or not os.path.samestat(each, before[number])
        ]
        sockets = sum(stat.S_ISSOCK(each.st_mode) for each in opened)
        return LeakedResources(
            threads=len(set(threading.enumerate()) - self._threads),
            sockets=sockets,
            files=len(opened) - sockets,
        )


def _descriptors() -> dict[int, os.stat_result]:
    """The open file descriptors, and what each stands for; none where that cannot be known."""
    found = {}
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return {}
    for number in map(int, names):
        try:
            found[number] = os.fstat(number)  # takes a fifth of the time to read the link
        except OSError:  # the one that it took to look
            continue
    return found
