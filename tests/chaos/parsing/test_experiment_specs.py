"""What users call things can be shown anywhere, and specs read back as written."""

from __future__ import annotations

from typing import Any

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ChaosExperiment
from pytest_resilience import ConfigurationError
from pytest_resilience.chaos.parsing.experiment_specs import format_spec
from pytest_resilience.chaos.parsing.experiment_specs import parse_spec
from pytest_resilience.chaos.profile import Profile
from pytest_resilience.chaos.types.service import Service
from pytest_resilience.proxy import ChaosProxy


def proxy(name: Any) -> None:
    with ChaosProxy("127.0.0.1:1", name=name):
        pass


def toxic(name: Any) -> None:
    with ChaosProxy("127.0.0.1:1") as proxy:
        proxy.add("latency", name=name)


NAMED = {
    "an experiment": lambda name: ChaosExperiment(name, "network_latency"),
    "a profile": lambda name: Profile.parse(name, {}),
    "a service": lambda name: Service.at(name, ["127.0.0.1:1"]),
    "a proxy": proxy,
    "a toxic": toxic,
}


@pytest.mark.parametrize(
    "name",
    [
        "two\nlines", "a\rb", "\x1b[31mred", "\x1b]0;title\x07", "a\0b", "\u202eright to left",
        "::error::failed", "a::set-output name=x::y", "##[error]failed", "\x85", "x" * 201,
    ],
)  # fmt: skip
@pytest.mark.parametrize("what", NAMED)
def test_names_that_could_do_something_are_refused(what: str, name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        NAMED[what](name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["slow bank", "größer: 10%", "a.b-c_d", "名前"])
def test_other_names_are_kept(name: str) -> None:
    assert ChaosExperiment(name, "network_latency").name == name


NAMES = st.from_regex(r"[a-z_]+", fullmatch=True)


@given(kind=NAMES, given_=st.dictionaries(NAMES, st.text()))
def test_what_is_written_reads_back(kind: str, given_: dict[str, str]) -> None:
    assert parse_spec(format_spec(kind, given_)) == (kind, given_)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("network_latency", {}),
        ("network_latency:", {}),
        ("network_latency: delay = 200ms , rate=0.5", {"delay": "200ms", "rate": "0.5"}),
        ("network_latency:target=[::1]:80", {"target": "[::1]:80"}),
        (r'network_latency:target="a,\"b\"",x=', {"target": 'a,"b"', "x": ""}),
    ],
)
def test_spellings(text: str, expected: dict[str, str]) -> None:
    assert parse_spec(text) == ("network_latency", expected)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "names no chaos type"),
        (":delay=1", "names no chaos type; write it as 'network_latency:delay=200ms,rate=0.5'"),
        ("x:delay", "'delay' is not name=value; values with commas need double quotes"),
        ('x:target="open', "is not name=value"),
        ("x:a=1,a=2", "'a' is given twice; keep one"),
        ("x:,", "is not name=value"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_spec(text)
    assert why in str(caught.value)
