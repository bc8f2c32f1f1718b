"""Whatever an experiment or a profile is told: it is taken, or refused in one sentence."""

from __future__ import annotations

import re

from collections.abc import Callable
from typing import Any

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience import ChaosType
from pytest_resilience import ConfigurationError
from pytest_resilience.chaos.parsing.experiment_specs import parse_spec
from pytest_resilience.chaos.profile import Profile
from pytest_resilience.chaos.types.catalog import SCHEMAS
from pytest_resilience.chaos.types.service import Service
from pytest_resilience.chaos.types.service import Services
from pytest_resilience.monkey.schedule import FixedSequence
from pytest_resilience.monkey.schedule import Windows
from pytest_resilience.runtime import Caps
from pytest_resilience.runtime import ChaosMonkey
from tests.values import ANY
from tests.values import one_sentence


SERVICES = Services([Service.at("x", ["h:1"])])
COMMON = ("name", "probability", "duration", "intensity", "target_services", "enabled", "nosuch")
KINDS = {kind: kind.value for kind in SCHEMAS}


def problem(make: Callable[[], object]) -> str:
    """What is wrong with it; "" if nothing is. Whatever else is raised fails the test."""
    try:
        make()
    except ConfigurationError as error:
        return str(error)
    return ""


def check(make: Callable[[Any], object], what: str = "") -> list[str]:
    """Try every value; the names of those that were taken."""
    taken = []
    for name, value in ANY.items():
        text = problem(lambda value=value: make(value))  # type: ignore[misc]
        assert not text or one_sentence(text), (what, name, text[:300])
        if not text:
            taken.append(name)
    return taken


def experiment(kind: Any, **given: Any) -> str:
    service = {"target_services": "x"} if kind is ChaosType.SERVICE_FAILURE else {}
    found = ChaosExperiment(chaos_type=kind, **{"name": "n", **service, **given})
    return str(found.bind(SERVICES))


@pytest.mark.parametrize("kind", KINDS, ids=KINDS.values())
def test_every_parameter_of_every_type(kind: Any) -> None:
    for name in (*(each.name for each in SCHEMAS[kind].parameters), *COMMON):
        check(lambda value: experiment(kind, **{name: value}), name)  # noqa: B023  # used at once


def test_every_name_of_a_parameter() -> None:
    check(lambda name: experiment("network_latency", **{name: 1}) if isinstance(name, str) else 0)


def test_every_type() -> None:
    assert check(experiment) == []


SLOW = {"chaos_type": "network_latency"}
KEYS = (
    "description",
    "gate",
    "intensity",
    "interval",
    "markers",
    "max_active",
    "paths",
    "probability",
    "seed",
)


@pytest.mark.parametrize("key", [*KEYS, "services", "experiments"])
def test_every_key_of_a_profile(key: str) -> None:
    taken = check(lambda value: Profile.parse("p", {"experiments": [SLOW], key: value}), key)
    expected = {
        "gate": {"zero", "three", "half", "tiny"},
        "seed": {"zero", "three"},
        "interval": {"three", "half", "arabic"},
        "services": {"empty mapping"},
        "experiments": {"empty list", "tuple"},
    }
    assert set(taken) == expected.get(key, set(taken))


@pytest.mark.parametrize("key", ["chaos_type", "name", "weight", "delay", "target", "nosuch"])
def test_every_key_of_an_experiment_of_a_profile(key: str) -> None:
    taken = check(lambda value: Profile.parse("p", {"experiments": [{**SLOW, key: value}]}), key)
    if key == "weight":
        assert taken == ["three", "half", "tiny"]


def test_what_is_no_profile() -> None:
    assert check(lambda value: Profile.parse("p", value)) == []
    assert check(lambda value: Profile.parse("p", {"experiments": [value]})) == []
    check(lambda value: Profile.parse(value, {"experiments": [SLOW]}))
    assert (
        check(
            lambda key: (
                Profile.parse("p", {"experiments": [SLOW], key: 1})
                if isinstance(key, (str, int))
                else Profile.parse("p", {})
            )
        )
        == []
    )


def test_every_service() -> None:
    def parsed(text: Any) -> None:
        for line in (text, f"x={text}", f"{text}=h:1") if isinstance(text, str) else ():
            Service.parse(line)

    check(parsed)
    check(lambda value: Profile.parse("p", {"experiments": [SLOW], "services": {"x": value}}))


def test_every_spec() -> None:
    def parsed(text: Any) -> None:
        for spec in (text, f"network_latency:{text}", f"network_latency:delay={text}"):
            kind, given = parse_spec(spec)
            ChaosExperiment("n", kind, **given)  # type: ignore[call-overload]  # they are checked

    check(lambda text: parsed(text) if isinstance(text, str) else None)


@pytest.mark.parametrize("cap", ["memory", "disk", "cpu"])
def test_every_cap(cap: str) -> None:
    none = {"memory": "", "disk": "", "cpu": ""}
    taken = check(lambda text: Caps.parse(**none | {cap: text}) if isinstance(text, str) else None)
    texts = {name for name in taken if isinstance(ANY[name], str)}
    assert texts <= {"empty", "arabic"}


@pytest.mark.parametrize("interval", [5e-324, 0, "1us", 0.00009, -1, "nan"])
def test_what_comes_again_and_again_leaves_time_in_between(interval: Any) -> None:
    def soon() -> None:
        ChaosMonkey(interval=interval)

    def sequence() -> None:
        FixedSequence([(0, "x")], every=interval)

    def windows() -> None:
        Windows([(0, 1e-9)], every=interval)

    assert all(map(problem, (soon, sequence, windows)))
    assert problem(lambda: ChaosMonkey(interval="100us")) == ""


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("network_latency", {"delay": 0}),
        ("network_latency", {"delay": "0ms", "jitter": 0}),
        ("network_latency", {"delay": 0, "mode": "slow_close"}),
        ("network_latency", {"delay": 0, "mode": "slow_dns"}),
        ("database_slowdown", {"delay": "0s"}),
        ("disk_failure", {"mode": "slow_write", "delay": 0}),
    ],
)
def test_a_delay_of_nothing_is_refused(kind: str, given: dict[str, Any]) -> None:
    assert problem(lambda: experiment(kind, **given)) == "delay=0: nothing would be late; give more"


def test_a_delay_of_nothing_with_jitter_is_one() -> None:
    assert problem(lambda: experiment("network_latency", delay=0, jitter="5ms")) == ""


@pytest.mark.parametrize("names", [0, False, {}, 1.5, b"x"])
def test_services_that_are_no_names(names: Any) -> None:
    for kind in ("network_latency", "service_failure"):
        assert "target_services=" in problem(
            lambda kind=kind: ChaosExperiment("n", kind, target_services=names)  # type: ignore[misc]
        )


# What a message has that says what to write instead.
TELLS = re.compile(r"\bgive |\bwrite |\be\.g\. |\bleave |\ballowed: |\bas in '|\bsuch as ")


@pytest.mark.parametrize("kind", KINDS, ids=KINDS.values())
def test_every_refusal_of_a_parameter_names_it_and_says_what_to_write(kind: Any) -> None:
    silent = set()
    for parameter in SCHEMAS[kind].parameters:
        for value in (*ANY.values(), -1, 10**12, "200%", "no such word", ""):
            text = problem(lambda: parameter.parse(parameter.name, value))  # noqa: B023
            if text and not (parameter.name in text and TELLS.search(text)):
                silent.add(text)
    assert silent == set()
