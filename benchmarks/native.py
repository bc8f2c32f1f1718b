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

# What the calls of a client pay where experiments of the run may be about its connection.
CALLS = """
import concurrent.futures, json, sys, time
import grpc
from pytest_resilience import ChaosExperiment
from pytest_resilience.runtime import new_engine

handler = grpc.unary_unary_rpc_method_handler(lambda request, context: b"4")
server = grpc.server(concurrent.futures.ThreadPoolExecutor())
service = grpc.method_handlers_generic_handler("shop.Prices", {"Price": handler})
server.add_generic_rpc_handlers([service])
port = server.add_insecure_port("127.0.0.1:0")
server.start()
target = "127.0.0.1" if sys.argv[1] == "led" else "127.0.0.9"
engine = new_engine()
engine.watch(True, expected=[ChaosExperiment("x", "network_latency", target=target)])
with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
    call = channel.unary_unary("/shop.Prices/Price")
    call(b"tea", wait_for_ready=True)
    seconds = []
    for _ in range(2000):
        began = time.perf_counter()
        call(b"tea")
        seconds.append(time.perf_counter() - began)
server.stop(0).wait()
engine.watch(False)
print(json.dumps([sorted(seconds)[1000]]))
"""


def medians(program: str, *args: str) -> list[float]:
    """Those of what several processes print."""
    command = [sys.executable, "-c", program, *args]
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        for _ in range(RUNS)
    ]
    return [statistics.median(each) for each in zip(*runs, strict=True)]


def measure() -> Iterator[Figure]:
    first, again, slots = medians(PROGRAM)
    yield Figure(what="slots of objects that connect", value=slots, target=None, unit="slots")
    yield Figure(what="reach them the first time", value=first * 1e3, target=80, unit="ms")
    yield Figure(
        what="reach them, and give them back, after that", value=again * 1e3, target=15, unit="ms"
    )
    (alone,), (led,) = medians(CALLS, "alone"), medians(CALLS, "led")
    yield Figure(
        what="a call of grpc that no experiment of the run can hit", value=alone * 1e6, target=None,
        unit="us",
    )  # fmt: skip
    yield Figure(
        what="one that some may hit later, so that it is led through us", value=led * 1e6,
        target=None, unit="us",
    )  # fmt: skip


def main() -> int:
    pin()
    return show([*measure()])


if __name__ == "__main__":
    sys.exit(main())
