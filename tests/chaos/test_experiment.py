from __future__ import annotations

import contextlib
import math
import pickle
import re

from dataclasses import FrozenInstanceError
from functools import cached_property
from typing import Any

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience import ChaosType
from pytest_resilience import ConfigurationError
from pytest_resilience.chaos.faults.network import Latency
from pytest_resilience.chaos.faults.network import Refusal
from pytest_resilience.chaos.faults.network import Reset
from pytest_resilience.chaos.faults.network import ResolutionFailure
from pytest_resilience.chaos.faults.network import Silence
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.operation import SqlDetails
from pytest_resilience.chaos.operation import TcpDetails
from pytest_resilience.chaos.types.catalog import SCHEMAS
from pytest_resilience.chaos.types.schema import STREAMS


def test_the_seeds_members_fields_and_defaults() -> None:
    assert [each.value for each in ChaosType][:7] == [
        "network_latency", "network_failure", "cpu_stress", "memory_stress", "disk_stress",
        "service_failure", "database_slowdown",
    ]  # fmt: skip
    experiment = ChaosExperiment("x", ChaosType.NETWORK_LATENCY)
    assert (experiment.probability, experiment.duration, experiment.intensity) == (0.1, 60.0, 0.5)
    assert experiment.target_services == ()
    assert experiment.enabled
    positional = ChaosExperiment("x", ChaosType.NETWORK_LATENCY, 0.3, 30.0, 0.2, None, False)
    assert (positional.probability, positional.duration, positional.intensity) == (0.3, 30.0, 0.2)
    assert not positional.enabled


def test_intensity_is_translated_and_overruled_by_physical_parameters() -> None:
    latency = ChaosExperiment("x", "network_latency", intensity=0.25)
    assert latency.faults == (Latency(delay=0.5),)
    assert str(latency) == "x: latency 500ms, always, target any"
    exact = ChaosExperiment("x", "network_latency", intensity=0.25, delay="200ms", rate="50%")
    assert str(exact) == "x: latency 200ms, rate 0.5, target any"
    failure = ChaosExperiment("x", "network_failure", intensity=0.3, target="a|b:80")
    assert str(failure) == "x: refusal, rate 0.3, target a | b:80"


@pytest.mark.parametrize(
    ("mode", "fault"),
    [
        ("refuse", Refusal()),
        ("reset", Reset()),
        ("timeout", Silence()),
        ("dns", ResolutionFailure()),
    ],
)
def test_modes(mode: str, fault: object) -> None:
    assert ChaosExperiment("x", "network_failure", mode=mode).faults == (fault,)  # type: ignore[call-overload]


def test_faults_say_what_they_do() -> None:
    faults = (Latency(delay=0.2), Silence(), Refusal(), Reset(), ResolutionFailure())
    assert [str(fault) for fault in faults] == [
        "latency 200ms", "silence", "refusal", "reset", "name resolution failure",
    ]  # fmt: skip


def test_triggers_combine() -> None:
    experiment = ChaosExperiment(
        "x", "network_failure", rate=0.5, first=9, from_nth=2, every=2, nth=4, between="0s..5s"
    )
    assert experiment.triggers_text == (
        "rate 0.5, number 4, the first 9, from number 2 on, every 2, from 0 s to 5 s"
    )


@pytest.mark.parametrize("choice", ["nth", "first", "from_nth", "every", "between"])
def test_the_operations_that_are_chosen_are_hit_for_certain(choice: str) -> None:
    chosen: dict[str, Any] = {choice: "0s..5s" if choice == "between" else 3}
    certain = ChaosExperiment("x", "network_failure", intensity=0.3, **chosen)
    assert "rate" not in certain.triggers_text
    by_chance = ChaosExperiment("x", "network_failure", rate=0.3, **chosen)
    assert by_chance.triggers_text == f"rate 0.3, {certain.triggers_text}"


def test_it_cannot_be_changed_and_travels() -> None:
    experiment = ChaosExperiment("x", "network_latency", delay=1, target="a")
    with pytest.raises(FrozenInstanceError):
        experiment.name = "y"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(experiment)) == experiment
    assert hash(experiment) == hash(ChaosExperiment("x", "network_latency", delay=1, target="a"))


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("kind", [ChaosType.NETWORK_LATENCY, ChaosType.NETWORK_FAILURE])
def test_every_mode_travels_in_every_direction(kind: ChaosType, stream: str) -> None:
    """To processes that a test starts, which find by its name nothing that is made here."""
    modes = next(each for each in SCHEMAS[kind].parameters if each.name == "mode").unit
    travelled = 0
    for mode in modes.split(", "):
        with contextlib.suppress(ConfigurationError):  # it has no such direction
            given: dict[str, Any] = {"mode": mode, "stream": stream}
            experiment = ChaosExperiment("x", kind, **given)
            found = pickle.loads(pickle.dumps(experiment))
            assert found == experiment
            assert found.faults == experiment.faults
            assert [each.kinds for each in found.faults] == [x.kinds for x in experiment.faults]
            travelled += 1
    assert travelled


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"name": ""}, "name='': an experiment needs a name"),
        ({"chaos_type": "network_latancy"}, "(did you mean 'network_latency'?)"),
        ({"chaos_type": 3}, "unknown chaos type 3; known: network_latency, "),
        ({"probability": 2}, "probability=2 is outside 0..1"),
        ({"intensity": -1}, "intensity=-1 is outside 0..1"),
        ({"duration": 0}, "duration=0: an experiment lasts longer than nothing"),
        ({"duration": "soon"}, "duration='soon' is no quantity"),
        ({"enabled": "yes"}, "enabled='yes': give True or False"),
        ({"dely": 1}, "unknown parameter 'dely' (did you mean 'delay'?); allowed: after, "),
        ({"durration": 1}, "(did you mean 'duration'?); allowed: after, after_bytes, "),
        ({"probabilty": 1}, "(did you mean 'probability'?)"),
        ({"status": 503}, "parameter 'status', which is for network_failure, service_failure; "),
        ({"chaos_type": "network_failure", "delay": 1}, "which is for network_latency, database_"),
        (
            {"chaos_type": "network_failure", "at": "x"},
            "'at', which is for database_slowdown, disk_failure, cancellation, memory_failure; ",
        ),
        ({"chaos_type": "database_failure", "path": "a"}, "'path' (did you mean 'database'?)"),
        (
            {"chaos_type": "network_failure", "mode": "reste"},
            "mode='reste' (did you mean 'reset'?): give one of 'refuse', 'reset', 'close', ",
        ),
        ({"chaos_type": "network_failure", "mode": 3}, "mode=3: give one of 'refuse', "),
        ({"target_services": ["a"]}, "network_latency is aimed with target="),
        (
            {"chaos_type": "database_failure", "target_services": ["a"]},
            "database_failure is aimed with database=",
        ),
    ],
)
def test_nonsense_is_refused(fields: dict[str, Any], why: str) -> None:
    given = {"name": "x", "chaos_type": "network_latency"} | fields
    with pytest.raises(ConfigurationError) as caught:
        ChaosExperiment(**given)
    assert why in str(caught.value)


def refusal(kind: ChaosType, given: Any) -> str:
    """What is said of these parameters; "" where they are accepted."""
    try:
        ChaosExperiment("x", kind, **given)
    except ConfigurationError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", ChaosType)
def test_whatever_is_refused_is_told_what_to_give(kind: ChaosType) -> None:
    values: tuple[Any, ...] = (
        "no such thing",
        "",
        [],
        {},
        None,
        object(),
        3.7,
        -1,
        True,
        b"x",
        float("nan"),
    )
    for parameter in SCHEMAS[kind].shown:
        for value in values:
            given: Any = {parameter.name: value}
            refused = refusal(kind, given)
            assert not refused or re.search(r"\b(give|write|leave)\b", refused), refused


@pytest.mark.parametrize("kind", ChaosType)
def test_a_parameter_of_another_type_is_told_whose_it_is(kind: ChaosType) -> None:
    own = {each.name for each in SCHEMAS[kind].shown}
    for other, schema in SCHEMAS.items():
        for name in {each.name for each in schema.shown} - own - {"target_services"}:
            told = refusal(kind, {name: "1"}).partition(";")[0]
            assert other.value in told or "did you mean" in told


def test_what_is_missing_is_missing_of_an_experiment() -> None:
    with pytest.raises(TypeError, match=r"^ChaosExperiment\.__init__\(\) missing .*'chaos_type'"):
        ChaosExperiment("network_failure", mode="refuse")  # type: ignore[call-overload]


def test_it_may_last_for_ever() -> None:
    assert ChaosExperiment("x", "network_latency", duration=math.inf).duration == math.inf


@pytest.mark.parametrize("kind", SCHEMAS)
def test_every_parameter_says_its_unit_default_and_meaning(kind: ChaosType) -> None:
    for parameter in SCHEMAS[kind].parameters:
        assert all((parameter.unit, parameter.default, parameter.help))


@pytest.mark.parametrize("kind", SCHEMAS)
def test_what_it_has_found_out_of_operations_is_no_burden_to_children(kind: ChaosType) -> None:
    given: dict[str, Any] = {"target_services": "x"} if kind is ChaosType.SERVICE_FAILURE else {}
    takes = {each.name for each in SCHEMAS[kind].parameters}
    if "target" in takes:
        given["target"] = "!b:80|a:1-9|[::1]:80|*.c"
    if "statement" in takes:
        given["statement"] = "SELECT * FROM tea"
    used = ChaosExperiment("x", kind, **given)
    fresh = pickle.dumps(used)
    for name, each in vars(ChaosExperiment).items():
        if isinstance(each, cached_property):
            getattr(used, name)
    for of in used.kinds:
        operation = Operation(
            kind=of, target="a:5", names=("a:5",), sql=SqlDetails(statement="SELECT price FROM tea")
        )
        assert used.matches_target(operation) == pickle.loads(fresh).matches_target(operation)
    assert str(pickle.loads(pickle.dumps(used))) == str(used)


@pytest.mark.parametrize("mode", ["dns", "dns_not_found"])
def test_a_name_is_resolved_before_there_is_a_connection(mode: str) -> None:
    with pytest.raises(ConfigurationError, match="happens before there is a connection; leave"):
        ChaosExperiment("x", "network_failure", mode=mode, target="api:443#2")  # type: ignore[call-overload]
    ChaosExperiment("x", "network_failure", mode=mode, target="!api:443")  # type: ignore[call-overload]


def test_a_copy_of_one_that_has_all_derived_derives_nothing_anew() -> None:
    usual = ChaosExperiment("x", ChaosType.DISK_FAILURE, mode="disk_full")
    assert usual.counting_only().kinds is not usual.kinds
    known = ChaosExperiment("x", ChaosType.DISK_FAILURE, mode="disk_full").all_derived()
    assert known.counting_only().kinds is known.kinds


@pytest.mark.parametrize(
    ("kind", "name", "accepted", "is_meant"),
    [
        ("file.write", "from the press.txt", False, True),
        ("network.receive", "press:80", False, True),
        ("network.receive", "from press:80", True, False),
    ],
)
def test_without_targets_all_is_meant_but_what_peers_have_opened(
    kind: str, name: str, accepted: bool, is_meant: bool
) -> None:
    tcp = TcpDetails(accepted=accepted)
    operation = Operation(kind=kind, target=name, names=(name,), tcp=tcp)
    slow = ChaosExperiment("slow", "network_latency", delay=1)
    assert slow.matches_target(operation) is is_meant
