"""Many calls of one pattern, from many threads and event loops at once.

Some fail, some are cancelled, some wait; listeners come and go, and some of them fail; meanwhile
the process forks, and the pattern has to work in the children. What must hold in the end is
counted from outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import random
import sys
import threading
import time
import warnings

from abc import ABC
from abc import abstractmethod
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pytest_resilience import Event


__all__ = ["THREADS", "CallFailedError", "Story", "aoutcome_of", "outcome_of", "soak"]

THREADS = 32
LOOPS = 8  # of the threads, which run an event loop each
TASKS = 16  # of a loop at once
FORKS = 3
LONGEST = 60  # seconds: a child that takes longer hangs


class CallFailedError(Exception):
    """What the functions that are called raise."""


class Story(ABC):
    """One object of a pattern, and how it is used.

    Attributes:
        share: the part of the calls that is made, where each takes long.
        failing: the part of the calls that fails.
        heard: every event.
        ended: a word for each call that has ended; appending is one step of the interpreter.
    """

    share = 1.0
    failing = 0.1

    def __init__(self) -> None:
        self.heard: list[Event] = []
        self.ended: list[str] = []

    @property
    @abstractmethod
    def listeners(self) -> Any:
        """Of the pattern; None if it has none."""

    @abstractmethod
    def call(self, chance: random.Random) -> None:
        """A call of any kind; says how it has ended, and raises what is unexpected."""

    @abstractmethod
    async def acall(self, chance: random.Random) -> None:
        """The same in a loop, to be cancelled at any point."""

    @abstractmethod
    def in_child(self) -> None:
        """What must work in a forked child."""

    @abstractmethod
    def check(self) -> None:
        """What must hold when all calls have ended."""

    def work(self, chance: random.Random) -> str:
        if chance.random() < self.failing:
            raise CallFailedError
        return "fine"

    async def awork(self, chance: random.Random) -> str:
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        return self.work(chance)

    def count(self, word: str) -> int:
        return self.ended.count(word)


def soak(story: Story, calls: int) -> None:
    """Have each thread make so many calls; raise the first error of any."""
    calls = max(1, int(calls * story.share))
    together = threading.Barrier(THREADS + 1, timeout=LONGEST)

    def thread(number: int) -> None:
        chance = random.Random(number)
        together.wait()
        if number < LOOPS:
            asyncio.run(_loop(story, chance, calls))
            return
        for _ in range(calls):
            story.call(chance)
            if story.listeners is not None and chance.random() < 0.01:
                story.listeners.add(_poor_listener)()

    if story.listeners is not None:
        story.listeners.add(_poor_listener)
        story.listeners.add(story.heard.append)
    with _quiet(), _hasty_switches(), ThreadPoolExecutor(THREADS) as threads:
        running = [threads.submit(thread, number) for number in range(THREADS)]
        together.wait()
        for _ in range(FORKS):
            time.sleep(0.01)
            _fork(story.in_child)
        for each in running:
            each.result()
    story.check()


def _poor_listener(_: Event) -> None:
    if random.random() < 0.1:
        raise CallFailedError


async def _loop(story: Story, chance: random.Random, calls: int) -> None:
    for begun in range(0, calls, TASKS):
        tasks = [asyncio.create_task(story.acall(chance)) for _ in range(min(TASKS, calls - begun))]
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        for task in tasks:
            if chance.random() < 0.3:
                task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, asyncio.CancelledError):
                story.ended.append("cancelled")
            elif outcome is not None:
                raise outcome


def _fork(do: Callable[[], object]) -> None:
    """Do it in a child. Raises AssertionError where it fails or hangs there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there are threads: it is about them
        child = os.fork()
    if child == 0:
        status = 1
        try:
            faulthandler.dump_traceback_later(LONGEST, exit=True)
            do()
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, "a forked child failed, or hangs; what it did is in stderr"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing is logged: a file that a thread writes to at the fork is locked in the child.

    That is Python's own `io.BufferedWriter`, of any handler with a file.
    """
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _hasty_switches() -> Iterator[None]:
    """Threads take turns a thousand times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def outcome_of(call: Callable[[], Any], *refusals: type[Exception]) -> str:
    """How a call ends, in a word."""
    try:
        result = call()
    except CallFailedError:
        return "failed"
    except refusals as refusal:
        return type(refusal).__name__
    assert result == "fine", result
    return "fine"


async def aoutcome_of(call: Callable[[], Awaitable[Any]], *refusals: type[Exception]) -> str:
    try:
        result = await call()
    except CallFailedError:
        return "failed"
    except refusals as refusal:
        return type(refusal).__name__
    assert result == "fine", result
    return "fine"
