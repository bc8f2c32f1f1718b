"""A process with experiments, and children that do what they are told."""

from __future__ import annotations

import contextlib
import subprocess
import sys

from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

from pytest_resilience import ChaosExperiment
from pytest_resilience import FaultInjected
from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.children.interceptor import ChildProcesses
from pytest_resilience.runtime import new_engine


NAME = "localhost"  # which is looked up in a file: no server of names is asked
LISTENER = """
import os, socket, sys
def ask(name="localhost"):
    try:
        socket.getaddrinfo(name, 80)
    except OSError as error:
        return error.errno
for line in sys.stdin:
    print(repr(eval(line)), flush=True)
"""
DO = f"import socket\ntry: socket.getaddrinfo('{NAME}', 80)\nexcept OSError as e: print(e.errno)"
FAILED = -3  # socket.EAI_AGAIN, by the experiment; without one the name is found


class Child:
    """A child that evaluates what it is told, until the block ends."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def __call__(self, expression: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{expression}\n")
        self.process.stdin.flush()
        return eval(self.process.stdout.readline())

    @property
    def fails(self) -> bool:
        """Whether it meets the experiment of `Family.fail`."""
        return bool(self("ask()") == FAILED)


class Family:
    """An engine, and what reaches the children of this process.

    Attributes:
        events: that there were, here and in children.
    """

    def __init__(self, *, native: bool = True) -> None:
        self.children = ChildProcesses("", native=native)
        self.engine: Engine = new_engine(children=self.children, native=native)
        self.events: list[FaultInjected] = []
        self.engine.listeners.add(self.events.append)

    def start(self, kind: str, *, seed: int = 1, **given: Any) -> ActiveExperiment:
        return self.engine.start(ChaosExperiment(kind, kind, **given), seed=seed)

    def fail(self, *, seed: int = 1, **given: Any) -> ActiveExperiment:
        """Names do not resolve."""
        usual = {"mode": "dns", "target": NAME, "rate": 1}
        return self.start("network_failure", seed=seed, **(usual | given))

    @contextlib.contextmanager
    def failing(self, **given: Any) -> Iterator[ActiveExperiment]:
        active_experiment = self.fail(**given)
        try:
            yield active_experiment
        finally:
            active_experiment.stop()

    @contextlib.contextmanager
    def child(self, *options: str, env: Mapping[str, str] | None = None) -> Iterator[Child]:
        """One that lives for the block, started while experiments are awaited."""
        self.expect(True)
        command = [sys.executable, *options, "-c", LISTENER]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        ) as process:
            try:
                child = Child(process)
                assert child("1") == 1  # it has begun
                yield child
            finally:
                process.kill()

    def expect(self, awaited: bool) -> None:
        self.children.awaited = awaited
        self.engine.refresh(self.children)

    def close(self) -> None:
        for each in self.engine.active:
            each.stop()
        self.expect(False)
        self.children.close()
