"""What the interceptor of files costs where no experiment is aimed, and how exact delays are.

Each pair is measured one right after the other, in this order and that, and the median of the
ratios is shown.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time

from collections.abc import Callable
from pathlib import Path

from figures import Figure
from figures import pin
from figures import show

from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.files.interceptor import FileInterceptor


PAIRS = 301
TURNS = 50
DELAYS = (0.005, 0.02, 0.1)


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    for _ in range(TURNS):
        call()
    return (time.perf_counter() - began) / TURNS


def compared(
    engine: Engine, experiment: ChaosExperiment, call: Callable[[], object]
) -> list[float]:
    """Ratio with / without, and the seconds that are added."""
    ratios, added = [], []
    for _ in range(PAIRS):
        before = seconds(call)
        active_experiment = engine.start(experiment, seed=1, must_fire=False)
        call()  # the first look at a path is remembered
        during = seconds(call)
        active_experiment.stop()
        after = seconds(call)
        ratios.append(2 * during / (before + after))
        added.append(during - (before + after) / 2)
    return [statistics.median(ratios), statistics.median(added)]


def unmatched(engine: Engine, folder: Path) -> list[Figure]:
    elsewhere = ChaosExperiment("disk", "disk_failure", path=str(folder / "elsewhere"), rate=1)
    name, path = str(folder / "file"), folder / "file"
    path.write_text("x")
    descriptor = os.open(path, os.O_WRONLY)

    def write() -> None:
        with open(name, "w") as file:
            file.write("x")

    rows: list[tuple[str, Callable[[], object], float | None]] = [
        ("open + write + close", write, 1.1),
        ("open + read + close (Path.read_text)", path.read_text, 1.1),
        ("os.write to a descriptor", lambda: os.pwrite(descriptor, b"x", 0), None),
    ]
    figures = []
    for what, call, target in rows:
        ratio, added = compared(engine, elsewhere, call)
        figures += [
            Figure(what=f"unmatched {what}, with / without", value=ratio, target=target, unit="x"),
            Figure(
                what=f"    added to unmatched {what}", value=added * 1e6, target=None, unit="us"
            ),
        ]
    os.close(descriptor)
    return figures


def delays(engine: Engine, folder: Path) -> list[Figure]:
    figures = []
    with open(folder / "slow", "wb", 0) as plain:
        descriptor = plain.fileno()
        for delay in DELAYS:
            slow = ChaosExperiment(
                "disk", "disk_failure", path=str(folder / "slow"), delay=delay, rate=1
            )
            active_experiment = engine.start(slow, seed=1)
            taken, slept = [], []
            for _ in range(41):
                began = time.perf_counter()
                os.write(descriptor, b"x")
                written = time.perf_counter()
                time.sleep(delay)
                slept.append(time.perf_counter() - written)
                taken.append(written - began)
            active_experiment.stop()
            over = (statistics.median(taken) - delay) * 1e3
            bare = (statistics.median(slept) - delay) * 1e3
            what = f"slow write, {delay * 1e3:g} ms asked, over"
            figures += [
                Figure(what=what, value=over, target=0.5, unit="ms"),
                Figure(what="    time.sleep of as long, over", value=bare, target=None, unit="ms"),
            ]
    return figures


def main() -> int:
    pin()
    print(f"Python {sys.version.partition(' ')[0]}")
    engine = Engine(lambda engine: [FileInterceptor(engine)])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return show([*unmatched(engine, folder), *delays(engine, folder)])


if __name__ == "__main__":
    sys.exit(main())
