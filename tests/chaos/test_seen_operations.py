from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import EXECUTE
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import HttpDetails
from pytest_resilience.chaos.operation import HttpRequest
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.operation import SqlDetails
from pytest_resilience.chaos.seen_operations import ConnectionNumbers
from pytest_resilience.chaos.seen_operations import CountedOperations


def operation(kind: str, target: str) -> Operation:
    return Operation(kind=kind, target=target, names=(target,))


def counted(*done: tuple[str, str]) -> CountedOperations:
    seen = CountedOperations(None)
    for number, each in enumerate(done, 1):
        seen.note(number, operation(*each), number / 10)
    return seen


def test_like_ones_in_a_row_share_a_line() -> None:
    seen = counted((CONNECT, "a:1"), (RECEIVE, "a:1"), (RECEIVE, "a:1"), (RECEIVE, "b:1"))
    assert seen.lines(4) == (
        "1 network.connect a:1",
        "2-3 network.receive a:1",
        "4 network.receive b:1",
    )
    assert seen.lines(4, with_times=True)[:2] == (
        "1 network.connect a:1 at 0.100 s",
        "2-3 network.receive a:1 at 0.200..0.300 s",
    )


def test_what_is_not_kept_is_counted() -> None:
    """Forked children do some of it, and of very many nobody reads all."""
    assert counted((CONNECT, "a:1")).lines(4) == ("1 network.connect a:1", "and 3 more")
    many = counted(*[(CONNECT, f"a:{port}") for port in range(1, 2001)]).lines(2000)
    assert (len(many), many[-2:]) == (21, ("20 network.connect a:20", "and 1980 more"))
    alike = counted(*[(CONNECT, "a:1")] * 2000).lines(2000)
    assert alike == ("1-1000 network.connect a:1", "and 1000 more")


def test_a_number_that_is_given_back_is_that_of_the_next() -> None:
    seen = counted((CONNECT, "a:1"), (RECEIVE, "a:1"))
    seen.forget(2)
    assert seen.lines(1) == ("1 network.connect a:1",)
    seen.note(2, operation(RECEIVE, "b:1"), 1.0)
    assert seen.lines(2) == ("1 network.connect a:1", "2 network.receive b:1")


@given(st.lists(st.sampled_from([(CONNECT, "a:1"), (RECEIVE, "a:1"), (RECEIVE, "b:1")])))
def test_each_number_is_told_once_with_what_it_was(done: list[tuple[str, str]]) -> None:
    told = []
    hidden = 0
    for line in counted(*done).lines(len(done)):
        if more := re.fullmatch(r"and (\d+) more", line):
            hidden = int(more[1])
            continue
        found = re.fullmatch(r"(\d+)(?:-(\d+))? (\S+) (\S+)", line)
        assert found is not None, line
        first, last, kind, target = found.groups()
        told += [(number, kind, target) for number in range(int(first), int(last or first) + 1)]
    assert told == [(number, *each) for number, each in enumerate(done, 1)][: len(told)]
    assert len(told) + hidden == len(done)


def test_counted_requests_are_told_with_their_numbers() -> None:
    experiment = ChaosExperiment("x", "network_failure", mode="reset", nth=9)
    counted = CountedOperations(ConnectionNumbers(experiment))
    for number, path in enumerate(["/a", "/a", "/v1/pay?id=7"], start=1):
        headers = [("x-request-id", str(number))]
        http = HttpDetails(request=HttpRequest.of("GET", path, headers))
        operation = Operation(kind=RECEIVE, target="api:80", names=("api:80",), http=http)
        counted.note(number, operation, 0.0)
    assert counted.lines(3) == (
        "1-2 network.receive api:80 GET /a",
        "3 network.receive api:80 GET /v1/pay",
    )


def test_counted_statements_are_told_with_their_numbers() -> None:
    counted = CountedOperations(None)
    statements = ["SELECT 1", "SELECT 1", "INSERT INTO orders " + "x" * 100]
    for number, statement in enumerate(statements, 1):
        sql = SqlDetails(statement=statement)
        counted.note(number, Operation(kind=EXECUTE, target="db", names=("db",), sql=sql), 0.0)
    assert counted.lines(3) == (
        "1-2 database.execute db SELECT 1",
        "3 database.execute db " + statements[2][:80],
    )
