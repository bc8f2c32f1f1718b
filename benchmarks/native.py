"""What it takes to reach clients in C: `python benchmarks/native.py`, with the `test` extra.

Each first time is one of a process of its own, which has loaded what a suite of them loads.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

from collections.abc import Iterator

from figures import Figure
from figures import pin
from figures import show


RUNS = 7
PROGRAM = """
import json, time
import confluent_kafka, curl_cffi, grpc, psycopg, psycopg2, pycurl, uvloop
from pytest_resilience import ChaosExperiment
from pytest_resilience.native.slots import all_slots

class Passing:
    def connect(self, proceed, *args): return proceed(*args)
    def getaddrinfo(self, proceed, *args): return proceed(*args)

def seconds(call):
    began = time.perf_counter()
    call()
    return time.perf_counter() - began

slots, listener = all_slots(), Passing()
first = seconds(lambda: slots.listen(listener))
slots.stop(listener)
again = []
for _ in range(200):
    again.append(seconds(lambda: slots.listen(listener)))
    again[-1] += seconds(lambda: slots.stop(listener))
print(json.dumps([first, sorted(again)[100], len(slots._known)]))
"""


def measure() -> Iterator[Figure]:
    runs = [
        json.loads(
            subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True).stdout
        )
        for _ in range(RUNS)
    ]
    first, again, slots = (statistics.median(each) for each in zip(*runs, strict=True))
    yield Figure(what="slots of objects that connect", value=slots, target=None, unit="slots")
    yield Figure(what="reach them the first time", value=first * 1e3, target=80, unit="ms")
    yield Figure(
        what="reach them, and give them back, after that", value=again * 1e3, target=15, unit="ms"
    )


def main() -> int:
    pin()
    return show([*measure()])


if __name__ == "__main__":
    sys.exit(main())
