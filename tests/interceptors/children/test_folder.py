"""What a child hears of its parent while it forks."""

from __future__ import annotations

import os
import threading

from pathlib import Path

from pytest_resilience.interceptors.children.folder import _Pipe
from pytest_resilience.interceptors.children.folder import _Watch
from tests.interceptors.children.family import Family


def test_news_that_is_read_as_a_fork_begins_is_seen_to_after_it(tmp_path: Path) -> None:
    for name in ("wakes", "answers"):
        os.mkfifo(tmp_path / name)
    wakes = _Pipe(f"{tmp_path}/wakes", os.O_RDWR)
    answers = _Pipe(f"{tmp_path}/answers", os.O_RDWR)
    read, heard = threading.Event(), threading.Event()

    class Reader(_Watch):
        def _is_there(self) -> bool:
            is_there = super()._is_there()
            if not read.is_set():
                self._stopping = True  # as if `stop` began here
                read.set()
            return is_there

    watch = Reader(wakes, answers, lambda _: heard.set())
    try:
        watch.start()
        wakes.write(b".")
        assert read.wait(60)
        with watch._idle:  # once its thread has ended
            assert not heard.is_set()
        watch.start()
        assert heard.wait(60)
        watch.stop()
    finally:
        watch.close()


def test_a_fork_meets_what_began_before_it_was_a_member(family: Family) -> None:
    """`publish` tells who is a member by then: here, nobody is told at all."""
    fork = "os.waitstatus_to_exitcode(os.waitpid(os.fork() or os._exit(-(ask() or 0)), 0)[1])"
    with family.failing(), family.child() as child:
        assert child.fails  # so it has all that it needs
        family.engine.active[0].stop()
        host = family.children._host
        assert host is not None
        wake = host._wake
        host._wake = lambda name, data=b".": wake(name, b"")  # type: ignore[method-assign]
        host.patience = 0
        with family.failing() as running:
            assert child(fork) == 3
        assert running.hits == 1
