from __future__ import annotations

from typing import Any

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ConfigurationError
from pytest_resilience import DuplicateNameError
from pytest_resilience import UnknownNameError
from pytest_resilience.proxy import ChaosProxy
from pytest_resilience.proxy import Toxic
from pytest_resilience.proxy.toxic_types import KINDS
from pytest_resilience.proxy.toxic_types import parse_toxic


def test_what_is_not_said_is_as_in_toxiproxy() -> None:
    toxic = Toxic.make("latency", {})
    assert toxic == Toxic(
        name="latency_downstream",
        type="latency",
        stream="downstream",
        toxicity=1.0,
        attributes={"latency": 0, "jitter": 0},
    )


@pytest.mark.parametrize(
    ("kind", "given", "attributes"),
    [
        ("latency", {"latency": "1s"}, {"latency": 1000, "jitter": 0}),
        ("latency", {"latency": "100", "jitter": 2.5}, {"latency": 100, "jitter": 2.5}),
        ("slicer", {"delay": "1ms"}, {"average_size": 0, "size_variation": 0, "delay": 1000}),
        ("slow_close", {"delay": "0.1s"}, {"delay": 100}),
        ("bandwidth", {"rate": "1.5"}, {"rate": 1.5}),
        ("limit_data", {"bytes": "12"}, {"bytes": 12}),
        ("limit_data", {"bytes": 12.0}, {"bytes": 12}),
        ("corrupt", {"share": "5%"}, {"share": 0.05, "skip": 0}),
        ("lose_answer", {"reset": "no"}, {"answer": 1, "reset": False}),
    ],
)
def test_values_in_toxiproxys_units_or_with_their_own(
    kind: str, given: dict[str, Any], attributes: dict[str, Any]
) -> None:
    made = Toxic.make(kind, given).attributes
    assert made == attributes
    assert [type(each) for each in made.values()] == [type(each) for each in attributes.values()]


@pytest.mark.parametrize(
    ("kind", "attributes", "text"),
    [
        ("latency", {"latency": -1}, "latency=-1: a duration is finite and not negative"),
        ("latency", {"latency": True}, "latency=True is no quantity"),
        ("latency", {"latency": "soon"}, "latency='soon' is no quantity"),
        ("latency", {"latency": "5 apples"}, "latency='5 apples': 'apples' is no unit of time"),
        ("bandwidth", {"rate": -5}, "rate=-5: give a number, 0 or more"),
        ("bandwidth", {"rate": "fast"}, "rate='fast': give a number, 0 or more"),
        ("limit_data", {"bytes": -1}, "bytes=-1: give a whole number, 0 or more"),
        ("limit_data", {"bytes": 1.5}, "bytes=1.5: give a whole number, 0 or more"),
        ("truncate", {"answer": 0}, "answer=0: give a whole number of at least 1"),
        ("corrupt", {"share": 1.5}, "share=1.5 is outside 0..1"),
        (
            "slicer",
            {"average_size": 10, "size_variation": 10},
            "size_variation=10: give less than average_size, which is 10",
        ),
        (
            "latency",
            {"latencey": 1},
            "latency has no attribute 'latencey' (did you mean 'latency'?); it has: latency, ",
        ),
        ("refuse", {"now": 1}, "refuse has no attribute 'now'; it has: none"),
        ("latency", [1], "attributes=[1]: give a mapping of names to values"),
    ],
)
def test_values_that_make_no_sense(kind: str, attributes: Any, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Toxic.make(kind, attributes)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"stream": "up"}, "stream='up'"),
        ({"stream": "downstram"}, "stream='downstram' (did you mean 'downstream'?): give"),
        ({"toxicity": 1.2}, "toxicity=1.2 is outside 0..1"),
        ({"toxicity": -0.1}, "toxicity=-0.1 is outside 0..1"),
        ({"name": ""}, "name='': give a text without '/', or none"),
        ({"name": "a/b"}, "name='a/b': give a text without '/', or none"),
        ({"name": 7}, "name=7: give a text without '/', or none"),
    ],
)
def test_fields_that_make_no_sense(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Toxic.make("latency", {}, **fields)
    assert str(caught.value).startswith(text)


def test_a_type_that_there_is_not() -> None:
    with pytest.raises(UnknownNameError) as caught:
        Toxic.make("lag", {})
    assert str(caught.value).startswith("no type of toxic is named 'lag'; known: 'bandwidth', ")


def test_answers_come_from_the_server() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Toxic.make("truncate", {}, stream="upstream")
    assert str(caught.value) == "truncate happens to responses; leave out stream='upstream'"


def test_changed_keeps_the_rest() -> None:
    toxic = Toxic.make("latency", {"latency": 5, "jitter": 1}, toxicity=0.5)
    changed = toxic.changed({"latency": 6})
    assert (changed.attributes, changed.toxicity) == ({"latency": 6, "jitter": 1}, 0.5)
    assert toxic.changed({}, 0.1).toxicity == 0.1


def test_one_line_is_a_toxic() -> None:
    toxic = parse_toxic("latency:latency=100,jitter=1s,stream=upstream,toxicity=50%,name=far")
    assert toxic == Toxic(
        name="far",
        type="latency",
        stream="upstream",
        toxicity=0.5,
        attributes={"latency": 100, "jitter": 1000},
    )
    assert str(toxic) == ("far: latency upstream latency=100, jitter=1000, 0.5 of the connections")
    assert parse_toxic("refuse").type == "refuse"


@given(st.sampled_from(sorted(KINDS)), st.dictionaries(st.text(), st.none() | st.floats()))
def test_anything_is_a_toxic_or_a_clear_error(kind: str, attributes: dict[str, Any]) -> None:
    try:
        made = Toxic.make(kind, attributes)
    except ConfigurationError:
        return
    else:
        assert set(made.attributes) == set(KINDS[kind])


def test_names_within_a_proxy(proxy: ChaosProxy) -> None:
    first = proxy.add("latency", latency=1)
    second = proxy.add("latency", stream="upstream")
    assert proxy.toxics == (first, second)
    with pytest.raises(DuplicateNameError) as caught:
        proxy.add("timeout", name="latency_upstream")
    assert str(caught.value) == (
        "a toxic named 'latency_upstream' exists already; choose another name"
    )
    assert proxy.update("latency_downstream", latency=2).attributes["latency"] == 2
    assert [each.attributes["latency"] for each in proxy.toxics] == [2, 0]
    proxy.remove("latency_upstream")
    with pytest.raises(UnknownNameError) as unknown:
        proxy.remove("latency_upstream")
    assert str(unknown.value) == (
        "no toxic is named 'latency_upstream'; known: 'latency_downstream'"
    )
    with pytest.raises(ConfigurationError, match="latency=-1"):
        proxy.update("latency_downstream", latency=-1)
    assert proxy.toxic("latency_downstream").attributes["latency"] == 2
