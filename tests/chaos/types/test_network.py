"""What the chaos types of the network can be told, and which faults that makes."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience import ConfigurationError
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.faults.response import InjectedResponse
from pytest_resilience.chaos.faults.response import StatusResponse


def fault_of(kind: str, **given: Any) -> Fault:
    (fault,) = ChaosExperiment("trouble", kind, **given).faults
    return fault


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"delay": 0.1}, "latency 100ms"),
        ({"mode": "slow_close", "delay": "1s"}, "slow close 1s"),
        ({"mode": "slow_dns", "delay": 1, "jitter": 0.5}, "slow name resolution 1s +- 500ms"),
        ({"mode": "slow_dns", "intensity": 0.25}, "slow name resolution 500ms"),
        ({"bandwidth": "2KiB"}, "bandwidth 2 KiB/s"),
        ({"mode": "bandwidth", "intensity": 0.5}, "bandwidth 50 kB/s"),
        ({"mode": "bandwidth", "intensity": 1}, "bandwidth 1 kB/s"),
        ({"piece": 3, "delay": "5ms"}, "dribble 3 B every 5ms"),
        ({"mode": "dribble", "intensity": 1}, "dribble 1 B every 20ms"),
    ],
    ids=str,
)
def test_what_is_slow(given: dict[str, Any], fault: str) -> None:
    assert str(fault_of("network_latency", **given)) == fault


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({}, "refusal"),
        ({"mode": "dns"}, "name resolution failure"),
        ({"mode": "dns_not_found"}, "unknown host"),
        ({"mode": "partition"}, "partition"),
        ({"mode": "lose_answer"}, "lost response"),
        ({"share": "30%"}, "truncated to 0.3 of it"),
        ({"mode": "truncate"}, "truncated to 0.5 of it"),
        ({"after_bytes": "1kB"}, "truncated to 1 kB"),
        ({"after_items": 3}, "truncated after 3 items"),
        ({"mode": "reset", "after_items": "3"}, "reset after 3 items"),
        ({"mode": "close", "after": "2s"}, "truncated after 2s"),
        ({"mode": "timeout", "after_bytes": "1KiB"}, "silent after 1 KiB"),
        ({"mode": "corrupt", "after_items": 0}, "corrupted, 0.01 of the bytes after 0 items"),
        ({"mode": "drop_message"}, "message 1 dropped"),
        ({"mode": "drop_message", "after_items": 2}, "message 3 dropped"),
        ({"end": "reset", "share": "30%"}, "truncated to 0.3 of it by a reset"),
        ({"mode": "close"}, "closed by the peer"),
        ({"mode": "corrupt"}, "corrupted, 0.01 of the bytes"),
        ({"status": 429, "retry_after": "2s"}, "status 429, Retry-After 2"),
        ({"mode": "malformed_json"}, "malformed JSON"),
        ({"mode": "drop"}, "loss"),
        ({"mode": "duplicate"}, "duplication"),
        ({"mode": "reorder"}, "reordering"),
    ],
    ids=str,
)
def test_what_fails(given: dict[str, Any], fault: str) -> None:
    assert str(fault_of("network_failure", **given)) == fault


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("network_latency", {"mode": "dribble", "bandwidth": 5}, "is for mode='bandwidth'"),
        ("network_latency", {"mode": "bandwidth", "jitter": 1}, "jitter is for mode='round_trip'"),
        ("network_latency", {"piece": 0}, "piece=0: give a whole number of at least 1"),
        ("network_latency", {"bandwidth": "50%"}, "give bytes a second, such as '64kB'"),
        ("network_latency", {"bandwidth": 0}, "give bytes a second"),
        ("network_latency", {"bandwidth": "fast"}, "'fast': give bytes a second, such as '64kB'"),
        ("network_failure", {"after_bytes": "x"}, "is no quantity; give bytes, or a text with B, "),
        ("network_latency", {"mode": "dripple"}, "did you mean 'dribble'"),
        ("network_failure", {"mode": "reset", "share": 1}, "is for mode='truncate' or 'corrupt'"),
        ("network_failure", {"mode": "truncate", "share": 2}, "share=2 is outside 0..1"),
        ("network_failure", {"mode": "corrupt", "body": "x"}, "mode='status' or 'malformed_json'"),
        ("network_failure", {"mode": "refuse", "status": 500}, "status is for mode='status'"),
        ("network_failure", {"status": 200}, "status=200: give the status of a failure, 400..599"),
        ("network_failure", {"status": "abc"}, "'abc': give the status of a failure, 400..599"),
        ("network_failure", {"mode": "status", "body": 5}, "body=5: give the text of the body"),
        ("network_failure", {"status": 500, "body": "\udcff"}, "'\\udcff' is no text"),
        ("network_failure", {"mode": "truncate", "share": 1}, "share=1: all of the response"),
        ("network_failure", {"share": 0.5, "after_bytes": 3}, "give one of them"),
        ("network_latency", {"mode": "truncate"}, "'truncate' is one of network_failure: give"),
        ("network_failure", {"mode": "slow_dns"}, "'slow_dns' is one of network_latency: give"),
        ("network_failure", {"after_bytes": "5%"}, "give bytes; a part is share='5%'"),
        ("network_failure", {"after_bytes": -1}, "a size is a whole number, 0 or more"),
        ("network_failure", {"mode": "refuse", "after_bytes": 3}, "is for mode='truncate'"),
        ("network_failure", {"mode": "drop_message", "after": 3}, "is for mode='truncate'"),
        ("network_latency", {"mode": "dribble", "after": 3}, "is for mode='round_trip'"),
        ("network_latency", {"jitter": 0.1, "after_items": 3}, "give its delay alone"),
        ("network_failure", {"after_items": 3, "after_bytes": 3}, "give one of them"),
        ("network_failure", {"mode": "reset", "after": 1, "after_items": 3}, "give one of them"),
        ("network_failure", {"after_items": -1}, "-1: give a whole number of at least 0"),
        (
            "network_failure",
            {"retry_after": "Wed, 21 Oct 2037 07:28:00 GMT"},
            "a date is a header only; give headers={'Retry-After': 'Wed, 21 Oct 2037 07:28:00 GM",
        ),
        ("network_failure", {"after_items": "three"}, "is no quantity; give a whole number of"),
        ("network_failure", {"after_items": False}, "give a whole number"),
        ("network_failure", {"share": 0.5, "after_items": 3}, "give one of them"),
        ("network_failure", {"end": "rest"}, "did you mean 'reset'"),
        ("network_failure", {"mode": "corrupt", "share": "0%"}, "share=0: nothing would"),
        ("network_failure", {"nth": 3, "first": 2}, "nth=3, first=2: no operation has"),
        ("network_failure", {"nth": 2, "from_nth": 3}, "nth=2, from_nth=3: no operation"),
        ("network_failure", {"nth": 3, "every": 2}, "nth=3, every=2: no operation has"),
        ("network_failure", {"first": 2, "from_nth": 3}, "first=2, from_nth=3: no operation"),
        ("network_failure", {"first": 5, "from_nth": 4, "every": 3}, "no operation has a number"),
        ("network_latency", {"between": "70s..80s"}, "between=70s..80s begins when"),
        ("network_latency", {"between": "1s..2s", "duration": 1}, "duration, which is 1s, longer"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(kind: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ChaosExperiment("trouble", kind, **given)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("stream", "text"),
    [("upstream", "reset, upstream"), ("both", "reset, both ways"), ("downstream", "reset")],
)
def test_what_happens_to_what_is_sent_says_so(stream: str, text: str) -> None:
    experiment = ChaosExperiment("trouble", "network_failure", mode="reset", stream=stream)  # type: ignore[call-overload]
    assert experiment.fault_text == text


def test_a_service_that_is_down_refuses_and_has_closed_its_connections() -> None:
    hosts = ChaosExperiment("down", "network_failure", mode="down")
    service = ChaosExperiment("down", "service_failure", mode="down", target_services=["shop"])
    assert hosts.fault_text == service.fault_text == "refusal + outage"


@pytest.mark.parametrize("mode", ["partition", "down"])
def test_half_a_partition_is_none(mode: str) -> None:
    """Of other failures `intensity` is the share; all or nothing gets through a wall."""
    wall = ChaosExperiment("wall", "network_failure", mode=mode, intensity=0.1)  # type: ignore[call-overload]
    assert wall.triggers == ChaosExperiment("far", "network_latency").triggers


def test_a_body_that_looks_like_json_is_called_so() -> None:
    fault = StatusResponse(status=422, body='{"error": "é"}')
    assert fault.replacement == (
        b"HTTP/1.1 422 Unprocessable Entity\r\nContent-Type: application/json; charset=utf-8\r\n"
        b"Content-Length: 15\r\nConnection: close\r\n\r\n" + '{"error": "é"}'.encode()
    ) or fault.replacement.startswith(b"HTTP/1.1 422 Unprocessable Content\r\n")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("", "text/plain"),
        ("too busy", "text/plain"),
        ('[{"error": 1}]', "application/json"),
        ("<!DOCTYPE html><p>busy", "text/html"),
        ("<html>busy</html>", "text/html"),
        ('<?xml version="1.0"?><Error><Code>SlowDown</Code></Error>', "application/xml"),
        ("<Error/>", "application/xml"),
    ],
)
def test_the_content_type_is_that_of_the_body(body: str, kind: str) -> None:
    head = StatusResponse(status=503, body=body).replacement.partition(b"\r\n\r\n")[0]
    assert f"\r\nContent-Type: {kind}; charset=utf-8\r\n".encode() in head


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/problem+json", "X-Shard": 7},
        ["content-type: application/problem+json", "X-Shard:7"],
        "content-type: application/problem+json | X-Shard: 7",
    ],
)
@pytest.mark.parametrize("mode", ["status", "malformed_json"])
def test_headers_are_added_or_take_the_place_of_others(mode: str, headers: object) -> None:
    fault = ChaosExperiment("x", "network_failure", mode=mode, headers=headers).faults[0]  # type: ignore[call-overload]
    assert isinstance(fault, InjectedResponse)
    lines = fault.replacement.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    assert lines[:2] == [b"content-type: application/problem+json", b"X-Shard: 7"]
    assert [line.partition(b":")[0] for line in lines[2:]] == [b"Content-Length", b"Connection"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"headers": {"X y": "1"}}, "headers='X y' is no header; give {'X-Shard': '7'}"),
        ({"headers": "X-Shard"}, "headers='X-Shard' is no header"),
        ({"headers": 7}, "headers=7 is no header"),
        ({"headers": {"X-A": "1\r\nX-B: 2"}}, "is no header"),
        ({"headers": {"Content-Length": 3}}, "it is made for the body that there is; leave it out"),
        ({"headers": {"X-A": "1"}, "mode": "reset"}, "headers is for mode='status' or"),
        ({"retry_after": 1, "headers": {"retry-after": "1"}}, "give one of them"),
    ],
)
def test_headers_that_make_no_sense(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ChaosExperiment("x", "network_failure", **given)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"retry_after": 2}, b"2"),
        ({"headers": {"Retry-After": "0.2"}}, b"0.2"),
        ({"retry_after": 1.2}, b"2\r\nretry-after-ms: 1200"),
    ],
)
def test_retry_after_is_sent_as_it_is_asked_for(given: dict[str, Any], value: bytes) -> None:
    fault = ChaosExperiment("x", "network_failure", status=429, **given).faults[0]
    assert isinstance(fault, InjectedResponse)
    assert b"\r\nRetry-After: " + value + b"\r\n" in fault.replacement
