"""A worker process, as its parent sees it: started, ready, ended."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys

from pathlib import Path
from typing import Any

from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.errors import UnavailableError


__all__ = ["Worker"]

_PATIENCE = 30.0  # seconds until it is ready, in the worst case
_GRACE = 1.0  # seconds from being told to end until it is killed
_ROOT = str(Path(__file__).parents[2])
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from pytest_resilience.stress import worker_main; worker_main.main()"
)


class Worker:
    """A process that does one job of `worker_main` until it is closed, or this process is gone.

    Attributes:
        pid: its process id.
        ready: what it said when it was; empty before.
    """

    def __init__(self, job: str, **settings: Any) -> None:
        """Start it; `wait` tells when it is ready."""
        command = [sys.executable, "-I", "-S", "-c", _BOOT, _ROOT, job, json.dumps(settings)]
        self._process = subprocess.Popen(  # noqa: S603  # ourselves
            [*command, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self.pid = self._process.pid
        self._owner = os.getpid()
        self.ready: dict[str, Any] = {}
        self._unread = b""

    def wait(self) -> None:
        """Wait until it is at work. Raises UnavailableError if it cannot be; then close it."""
        message = self._message(_PATIENCE)
        if "ready" not in message:
            reason = message.get("error", "it ended, or did not begin in time")
            raise UnavailableError(f"a stress worker could not begin: {reason}")
        self.ready = message

    def _message(self, seconds: float) -> dict[str, Any]:
        """The next thing that it says; empty if it says nothing more."""
        assert self._process.stdout is not None
        poller = select.poll()  # `select` cannot see descriptors above 1023
        poller.register(self._process.stdout, select.POLLIN | select.POLLHUP)
        until = MACHINE_CLOCK.monotonic() + seconds
        while b"\n" not in self._unread:
            left = max(0.0, until - MACHINE_CLOCK.monotonic())
            readable = poller.poll(left * 1000)
            more = os.read(self._process.stdout.fileno(), 4096) if readable else b""
            if not more:
                return {}
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> dict[str, Any]:
        """End it, once: what it said at last; empty if it had to be killed, or had ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if os.getpid() != self._owner:
            return {}  # in a forked child: the worker is its parent's
        with limits_lifted():
            self._process.stdin.close()
        last = self._message(_GRACE)
        try:
            self._process.wait(_GRACE if last else 0.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with limits_lifted():
            self._process.stdout.close()
        return last
