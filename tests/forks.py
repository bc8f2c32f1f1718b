"""What a forked process makes of something."""

from __future__ import annotations

import os
import signal

from collections.abc import Callable


_PATIENCE = 60  # seconds; a lock that another thread held at the fork would hang it for ever


def in_fork(do: Callable[[], int]) -> int:
    """The exit status of a child that ends with what `do` returns: 99 if that raises."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            signal.alarm(_PATIENCE)
            status = do()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
