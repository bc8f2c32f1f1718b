from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
import time

from collections.abc import Iterator

import pytest
import requests

from pytest_resilience import ChaosExperiment
from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import Event
from pytest_resilience import FaultInjected
from pytest_resilience.monkey.events import ExperimentStarted
from pytest_resilience.monkey.events import MonkeyStopped
from pytest_resilience.monkey.schedule import FixedSequence
from pytest_resilience.monkey.steady_state import Verdict
from pytest_resilience.monkey.stop_conditions import BreakerOpens
from pytest_resilience.runtime import ChaosMonkey
from pytest_resilience.runtime import Runtime
from pytest_resilience.runtime import default_runtime
from tests.health_server import health_server


PATIENCE = 30  # seconds


@pytest.fixture
def url() -> Iterator[str]:
    with health_server() as port:
        yield f"http://127.0.0.1:{port}/health"


def patched() -> dict[str, object]:
    names = ("connect", "connect_ex", "recv", "recv_into", "send", "sendall")
    return {
        **{name: getattr(socket.socket, name) for name in names},
        "getaddrinfo": socket.getaddrinfo,
    }


def get(url: str) -> tuple[str, float]:
    began = time.monotonic()
    answer = requests.get(url, timeout=PATIENCE)
    return answer.text, time.monotonic() - began


def test_a_monkey_slows_and_refuses_real_requests_and_undoes_everything(url: str) -> None:
    untouched = patched()
    target = url.split("/")[2]
    runtime = Runtime()
    monkey = ChaosMonkey(
        runtime.start,
        schedule=FixedSequence([(0, "slow"), (0, "slower"), (3600, "gone")]),
        background=False,
    )
    for name, delay in (("slow", "20ms"), ("slower", "30ms")):
        monkey.register_experiment(
            ChaosExperiment(name, "network_latency", duration=600, delay=delay, target=target)
        )
    monkey.register_experiment(ChaosExperiment("gone", "network_failure", rate=1, target=target))
    text, quick = get(url)
    with monkey:
        monkey.tick()
        assert len(monkey.get_active_experiments()) == 2
        text, slow = get(url)
        assert text == "well"
        assert slow >= 0.1  # a round trip to connect, another for the answer
    assert patched() == untouched
    text, quick = get(url)
    assert text == "well"
    assert quick < slow
    assert runtime.engine.active == ()


def test_a_service_outside_pytest_is_refused_and_left_as_it_was(url: str) -> None:
    """In a process of its own that never sees pytest, with a monkey in the background."""
    program = """
import sys, threading
import requests
from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.monkey.events import ExperimentStarted
from pytest_resilience.runtime import ChaosMonkey

started = threading.Event()
monkey = ChaosMonkey(seed=7)
monkey.listeners.add(lambda event: started.set() if isinstance(event, ExperimentStarted) else None)
monkey.register_experiment(ChaosExperiment("gone", "network_failure", 1.0, rate=1))
print(requests.get(sys.argv[1]).text)
with monkey:
    assert started.wait(30)
    try:
        requests.get(sys.argv[1], timeout=30)
    except requests.ConnectionError as error:
        print("Connection refused" in str(error))
print(requests.get(sys.argv[1]).text)
print("pytest" in sys.modules, threading.active_count() <= 2)
"""
    shown = subprocess.run(
        [sys.executable, "-c", program, url],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert shown.stderr == ""
    assert shown.stdout.split("\n") == ["well", "True", "well", "False True", ""]


def test_a_breaker_of_the_service_ends_the_chaos_that_opened_it(url: str) -> None:
    target = url.split("/")[2]
    breaker = CircuitBreaker(CircuitBreakerConfig(failure_threshold=3), name="health")
    runtime = Runtime()
    faults: list[Event] = []
    runtime.engine.listeners.add(faults.append)
    started, over = threading.Event(), threading.Event()
    monkey = ChaosMonkey(
        runtime.start, stop_when=[BreakerOpens(breaker)], interval="1h", check_every="1h"
    )

    def hear(event: Event) -> None:
        if isinstance(event, ExperimentStarted):
            started.set()
        if isinstance(event, MonkeyStopped):
            over.set()

    monkey.listeners.add(hear)
    monkey.register_experiment(
        ChaosExperiment("gone", "network_failure", 1.0, rate=1, target=target)
    )
    with monkey:
        assert started.wait(PATIENCE)
        for _ in range(3):
            with pytest.raises(requests.ConnectionError):
                breaker.call(requests.get, url, timeout=PATIENCE)
        assert over.wait(PATIENCE)
        assert get(url)[0] == "well"
    assert monkey.verdict is Verdict.ABORTED
    assert [event.fault for event in faults if isinstance(event, FaultInjected)] == ["refusal"] * 3


def test_the_error_is_that_of_a_port_where_nobody_listens(url: str) -> None:
    runtime = Runtime()
    target = url.split("/")[2]
    handle = runtime.start(
        ChaosExperiment("gone", "network_failure", rate=1, target=target), seed=1
    )
    host, _, port = target.partition(":")
    with pytest.raises(ConnectionRefusedError) as injected:
        socket.create_connection((host, int(port)))
    handle.stop()
    handle.stop()
    assert (handle.matched, handle.hits) == (1, 1)
    assert injected.value.errno == errno.ECONNREFUSED
    assert injected.value.strerror == os.strerror(errno.ECONNREFUSED)


def test_all_monkeys_of_a_process_share_one_engine() -> None:
    assert default_runtime() is default_runtime()
    one, other = ChaosMonkey(seed=1, background=False), ChaosMonkey(seed=2, background=False)
    for monkey in (one, other):
        monkey.register_experiment(
            ChaosExperiment("slow", "network_latency", 1.0, target="nowhere.invalid")
        )
    untouched = patched()
    with one:
        one.tick()
        with other:
            other.tick()
            assert len(default_runtime().engine.active) == 2
        assert len(default_runtime().engine.active) == 1
        assert patched() != untouched
    assert default_runtime().engine.active == ()
    assert patched() == untouched


def test_a_monkey_takes_the_seeds_constructor() -> None:
    assert repr(ChaosMonkey()).startswith("<ChaosMonkey 'chaos monkey' stopped active=0 seed=")
