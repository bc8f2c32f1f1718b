"""What is too much is refused before anything is done."""

from __future__ import annotations

from typing import Any

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ChaosExperiment
from pytest_resilience import ConfigurationError
from pytest_resilience.chaos.types.resources import CpuLoad
from pytest_resilience.runtime import Caps
from pytest_resilience.runtime import Runtime
from pytest_resilience.stress import machine
from pytest_resilience.stress import stressors


@pytest.fixture(autouse=True)
def a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpus", lambda: 4.0)
    monkeypatch.setattr(machine, "available_memory", lambda: 1000 * 2**20)
    monkeypatch.setattr(machine, "disk_space", lambda _: (100 * 2**20, 1000 * 2**20))


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        (
            "cpu_stress",
            {"cores": 5, "load": 1},
            "5 CPUs are more than the 4 of 4 that chaos_max_cpu = 100% allows",
        ),
        ("cpu_stress", {"cores": 8, "gil": True, "load": 1}, "8 CPUs are more than"),
        (
            "cpu_stress",
            {"cores": 200},
            "200 processes are more than the 4 that chaos_max_cpu = 100% of 4 CPUs allows",
        ),
        ("cpu_stress", {"cores": 10_000, "load": 1e-6}, "10000 processes are more than the 4"),
        ("cpu_stress", {"cores": 5, "load": 0.1, "engine": "stress-ng"}, "5 processes are more"),
        ("cpu_stress", {"cores": 5, "load": 0.1, "gil": True}, "5 threads are more than the 4"),
        (
            "memory_stress",
            {"size": "501MiB"},
            r"memory load 501 MiB: 501 MiB is over the cap of 500 MiB \(chaos_max_memory = 50%\)",
        ),
        ("memory_stress", {"size": "60%"}, "600 MiB is over the cap of 500 MiB"),
        ("disk_stress", {"size": "11MiB"}, r"over the cap of 10 MiB \(chaos_max_disk = 10%\)"),
        ("disk_stress", {"fill": True, "floor": "50MiB"}, "50 MiB is over the cap of 10 MiB"),
    ],
)
def test_over_the_cap(kind: str, parameters: dict[str, Any], message: str) -> None:
    experiment = ChaosExperiment("x", kind, **parameters)
    with pytest.raises(ConfigurationError, match=message):
        Runtime().start(experiment, seed=1)


def test_caps_can_be_set() -> None:
    raised = Caps.parse(memory="800MiB", disk="90%", cpu="50%")
    raised.approve(ChaosExperiment("x", "memory_stress", size="60%"))
    raised.approve(ChaosExperiment("x", "disk_stress", size="80MiB"))
    with pytest.raises(ConfigurationError, match="3 CPUs are more than the 2 of 4"):
        raised.approve(ChaosExperiment("x", "cpu_stress", cores=3, load=1))
    assert Caps.parse() == Caps()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"memory": "lots"}, "chaos_max_memory='lots' is no quantity"),
        ({"disk": "3 parsecs"}, "'parsecs' is no unit of bytes"),
        (
            {"cpu": "2"},
            "chaos_max_cpu='2' is outside 0..1; give a number from 0 to 1, or a percentage",
        ),
        ({"cpu": "120%"}, "outside 0..1"),
    ],
)
def test_caps_that_mean_nothing(given: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Caps.parse(**given)


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        ("cpu_stress", {"load": -0.1}, "outside 0..1"),
        ("cpu_stress", {"load": 0}, "load=0: that is no stress at all"),
        ("cpu_stress", {"load": "0%", "gil": True}, "that is no stress at all"),
        ("memory_stress", {"size": 0}, "that is no stress at all"),
        ("memory_stress", {"size": "0%"}, "that is no stress at all"),
        ("disk_stress", {"size": "0MiB"}, "that is no stress at all"),
        ("cpu_stress", {"load": "150%"}, "outside 0..1"),
        ("cpu_stress", {"cores": 0}, "whole number of at least 1"),
        ("cpu_stress", {"engine": "stress"}, "did you mean 'stress-ng'"),
        ("cpu_stress", {"gil": True, "engine": "stress-ng"}, "means nothing with gil=True"),
        ("cpu_stress", {"gil": "perhaps"}, "give true or false"),
        ("cpu_stress", {"rate": 0.5}, "unknown parameter 'rate'"),
        ("memory_stress", {"size": "-1MiB"}, "0 or more"),
        ("memory_stress", {"size": True}, "is no quantity"),
        ("memory_stress", {"size": "1XB"}, "is no unit of bytes"),
        ("memory_stress", {"mode": "fail", "size": "1MiB"}, "means nothing with mode='fail'"),
        ("memory_stress", {"headroom": "1MiB"}, "means nothing with mode='hold'"),
        (
            "memory_stress",
            {"mode": "fail", "headroom": "10%"},
            "give bytes, or a text with B, ",
        ),
        ("disk_stress", {"fill": True, "floor": "1MiB"}, "filled up to less than 16 MiB"),
        ("disk_stress", {"floor": "20MiB"}, "means nothing with fill=False"),
        ("disk_stress", {"fill": True, "size": "1MiB"}, "means nothing with fill=True"),
        ("disk_stress", {"path": ""}, "give a text"),
        ("fd_exhaustion", {"leave": -1}, "whole number"),
        ("thread_exhaustion", {"leave": 1}, "unknown parameter 'leave'"),
        ("cpu_stress", {"target_services": ["x"]}, "cpu_stress is aimed at nothing; leave it out"),
    ],
)
def test_what_makes_no_sense(kind: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ChaosExperiment("x", kind, **parameters)


@given(intensity=st.floats(0, 1))
def test_intensity_is_the_share_of_all_cpus(intensity: float) -> None:
    cores, load = stressors.cores_and_load(CpuLoad(intensity=intensity))
    assert cores * load == pytest.approx(intensity * 4)
    assert 1 <= cores <= 4
    assert 0 <= load <= 1
