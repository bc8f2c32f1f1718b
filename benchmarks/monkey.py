"""What a chaos monkey costs: to decide a whole hour, to wait, and to be stopped."""

from __future__ import annotations

import sys
import threading
import time

from figures import Figure
from figures import pin
from figures import show

from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.clock import ManualClock
from pytest_resilience.monkey.events import ExperimentStarted
from pytest_resilience.monkey.monkey import Monkey


REPEATS = 5
HOUR = 3600.0
INTERVAL = 30.0
WAITING = 5.0  # seconds of real time


class Nothing:
    def stop(self) -> None: ...


def start(experiment: ChaosExperiment, *, seed: int) -> Nothing:  # noqa: ARG001  # a Starter's
    return Nothing()


def experiments(count: int, probability: float) -> list[ChaosExperiment]:
    return [
        ChaosExperiment(f"e{number}", "network_latency", probability, 45.0)
        for number in range(count)
    ]


def an_hour(registered: list[ChaosExperiment]) -> tuple[float, list[tuple[float, str, int]]]:
    """Seconds of CPU time to decide an hour, and what was started when, with which seed."""
    clock = ManualClock()
    monkey = Monkey(start, seed=7, clock=clock, background=False, interval=INTERVAL)
    for experiment in registered:
        monkey.register_experiment(experiment)
    began = time.process_time()
    with monkey:
        for _ in range(int(HOUR / INTERVAL)):
            monkey.tick()
            clock.advance(INTERVAL)
    taken = time.process_time() - began
    return taken, [
        (event.at, event.source, event.seed)
        for event in monkey.events
        if isinstance(event, ExperimentStarted)
    ]


def idle_share() -> float:
    """Per cent of a core that a monkey takes while it waits, looked after once a second."""
    monkey = Monkey(start, interval=HOUR, stop_when=[lambda: False])
    monkey.register_experiment(experiments(1, 0.0)[0])
    with monkey:
        time.sleep(0.5)  # what starting costs is not what waiting costs
        began = time.process_time()
        time.sleep(WAITING)
        return 100 * (time.process_time() - began) / WAITING


def stopping(count: int) -> float:
    """Milliseconds until so many running experiments are undone, in the middle of an interval."""
    monkey = Monkey(start, interval=HOUR)
    running = threading.Semaphore(0)
    monkey.listeners.add(
        lambda event: running.release() if isinstance(event, ExperimentStarted) else None
    )
    for experiment in experiments(count, 1.0):
        monkey.register_experiment(experiment)
    monkey.start_chaos_monkey()
    for _ in range(count):
        running.acquire()
    began = time.perf_counter()
    monkey.stop_chaos_monkey()
    return 1000 * (time.perf_counter() - began)


def main() -> int:
    pin()
    registered = experiments(1000, 0.01)
    runs = [an_hour(registered) for _ in range(REPEATS)]
    differing = sum(dealt != runs[0][1] for _, dealt in runs)
    print(f"{len(runs[0][1])} starts of 1000 experiments in an hour, every {INTERVAL:g} s")
    return show(
        [
            Figure(
                what="1000 experiments over a simulated hour",
                value=min(taken for taken, _ in runs),
                target=1.0,
                unit="s",
            ),
            Figure(
                what="    hours of the same seed that were dealt otherwise",
                value=differing,
                target=0,
                unit="x",
            ),
            Figure(what="an idle monkey, of a core", value=idle_share(), target=0.5, unit="%"),
            Figure(
                what="stopping 100 running experiments within an hour's interval",
                value=min(stopping(100) for _ in range(REPEATS)),
                target=200,
                unit="ms",
            ),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
