"""Servers that benchmarks ask, each in a process of its own."""

from __future__ import annotations

import contextlib
import subprocess
import sys

from collections.abc import Iterator


__all__ = ["serving"]


@contextlib.contextmanager
def serving(program: str, *arguments: str) -> Iterator[int]:
    """The port that a program of Python prints when it is ready; killed in the end."""
    command = [sys.executable, "-c", program, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()
