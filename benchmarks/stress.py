"""Whether pressure is what was asked, how soon it is there, and how soon it is gone.

`python benchmarks/stress.py`; takes half a minute, and wants a machine that does nothing else:
each figure says how busy others were. Where stress-ng is installed, it is asked the same.
"""

from __future__ import annotations

import gc
import shutil
import time

from typing import Any

import psutil

from figures import Figure
from figures import show

from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.types.resources import BUILT_IN
from pytest_resilience.chaos.types.resources import STRESS_NG
from pytest_resilience.chaos.types.resources import PressureReading
from pytest_resilience.runtime import Runtime


LOADS = (0.25, 0.5, 0.75)
SECONDS = 2.0
SIZE = 128  # MiB
REPEATS = 5
MIB = 2**20


def under(kind: str, seconds: float, **parameters: Any) -> tuple[PressureReading, float, float]:
    """What came of a pressure, seconds until it was on, and seconds until it was off."""
    runtime = Runtime()
    began = time.perf_counter()
    running = runtime.start(ChaosExperiment(kind, kind, **parameters), seed=1)
    on = time.perf_counter()
    time.sleep(seconds)
    ending = time.perf_counter()
    running.stop()
    off = time.perf_counter()
    reading = running.pressure
    assert reading is not None
    return reading, on - began, off - ending


def cpu(engine: str) -> list[Figure]:
    figures = []
    for load in LOADS:
        reading, _, _ = under("cpu_stress", SECONDS, cores=1, load=load, engine=engine)
        print(f"  {engine}: {reading}")
        figures.append(
            Figure(
                what=f"cpu_stress {load:.0%} of a core, off by, {engine}",
                value=abs(reading.achieved - load) * 100,
                target=3.0 if engine == BUILT_IN else None,
                unit="points",
            )
        )
    return figures


def memory() -> list[Figure]:
    reading, _, _ = under("memory_stress", 0.1, size=f"{SIZE}MiB")
    process = psutil.Process()
    gc.collect()
    before = psutil.virtual_memory().available, process.memory_info().rss
    under("memory_stress", 0.1, size=f"{SIZE}MiB")
    gc.collect()
    time.sleep(0.2)  # the kernel counts in steps of its own
    after = psutil.virtual_memory().available, process.memory_info().rss
    return [
        Figure(
            what=f"memory_stress {SIZE} MiB: resident size off by",
            value=abs(reading.achieved / (SIZE * MIB) - 1) * 100,
            target=2.0,
            unit="%",
        ),
        Figure(
            what="  resident size of this process after, off by",
            value=abs(after[1] / before[1] - 1) * 100,
            target=5.0,
            unit="%",
        ),
        Figure(
            what="  memory available on the machine after, off by",
            value=abs(after[0] / before[0] - 1) * 100,
            target=5.0,
            unit="%",
        ),
    ]


def soon() -> list[Figure]:
    """The median of several: what the first one of all costs, the next ones do not."""
    figures = []
    for kind, parameters in (
        ("cpu_stress", {"intensity": 1.0}),
        ("memory_stress", {"size": f"{SIZE}MiB"}),
        ("disk_stress", {"size": "16MiB"}),
        ("fd_exhaustion", {"leave": 0}),
        ("thread_exhaustion", {}),
    ):
        runs = [under(kind, 0.05, **parameters)[1:] for _ in range(REPEATS)]
        on = sorted(on for on, _ in runs)[REPEATS // 2]
        off = sorted(off for _, off in runs)[REPEATS // 2]
        figures += [
            Figure(what=f"{kind}: until full pressure", value=on, target=0.3, unit="s"),
            Figure(what=f"{kind}: until it is gone", value=off, target=0.2, unit="s"),
        ]
    return figures


def main() -> int:
    figures = cpu(BUILT_IN)
    if shutil.which("stress-ng"):
        figures += cpu(STRESS_NG)
    else:
        print("  stress-ng is not installed: nothing to compare with")
    return show([*figures, *memory(), *soon()])


if __name__ == "__main__":
    raise SystemExit(main())
