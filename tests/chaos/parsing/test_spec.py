from __future__ import annotations

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ConfigurationError
from pytest_resilience.chaos.parsing.spec import format_spec
from pytest_resilience.chaos.parsing.spec import parse_spec


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
