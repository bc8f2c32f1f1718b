"""A time limit on a test: what hangs is ended, and known to have hung."""

from __future__ import annotations

import signal
import threading
import time

from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


__all__ = ["DeadlineError", "deadline"]


_AGAIN = 0.5  # seconds


class DeadlineError(BaseException):
    """The test took too long. Not an Exception: code that survives anything would catch it."""


@contextmanager
def deadline(seconds: float) -> Iterator[bool]:
    """Raise DeadlineError in the block after so many seconds; gives whether that can be done.

    It is done by SIGALRM, so in the main thread alone, where it reaches blocking calls too. A
    timer that somebody else has set goes on afterwards.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(
        signal, "setitimer"
    ):
        yield False
        return

    inside = True

    def expired(_number: int, _frame: FrameType | None) -> None:
        if inside:
            raise DeadlineError(f"it was still running after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, expired)
    began = time.monotonic()
    # Again and again: raised in a destructor or a callback it would reach nobody.
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
    try:
        yield True
    finally:
        inside = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:  # at its time, or at once if that is over
            rest = left - (time.monotonic() - began)
            signal.setitimer(signal.ITIMER_REAL, max(rest, 1e-6), interval)
