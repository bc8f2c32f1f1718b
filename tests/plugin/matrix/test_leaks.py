from __future__ import annotations

import threading

from pytest_resilience.plugin.matrix.leaks import Snapshot


def test_a_thread_that_is_just_being_started_counts_and_is_not_waited_for() -> None:
    before = Snapshot()
    thread = threading.Thread(target=len)
    # As `Thread.start` does it, until the thread runs: it is listed, and cannot be joined.
    threading._limbo[thread] = thread  # type: ignore[attr-defined]
    try:
        assert thread in threading.enumerate()
        assert before.leaked().threads == 1
    finally:
        del threading._limbo[thread]  # type: ignore[attr-defined]
    assert before.leaked().threads == 0
