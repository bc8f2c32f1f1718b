from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_resilience import CircuitBreaker
from pytest_resilience import RetryHandler
from pytest_resilience.assertions import CircuitReading
from pytest_resilience.assertions import RetryReading
from pytest_resilience.assertions import add_reader
from pytest_resilience.assertions import assert_backoff
from pytest_resilience.assertions import assert_circuit_open
from pytest_resilience.assertions import assert_circuit_transitions
from pytest_resilience.assertions import assert_retried
from pytest_resilience.assertions import assert_retry_exhausted


class Foreign:
    """A breaker and a retry of nobody's."""


def read(thing: object) -> CircuitReading | None:
    if not isinstance(thing, Foreign):
        return None
    return CircuitReading(
        name="foreign", state="OPEN", path=None, timeline=("told",), refuses=False
    )


def read_retry(thing: object) -> RetryReading | None:
    if not isinstance(thing, Foreign):
        return None
    return RetryReading(
        name="foreign", attempts=2, waits=(1.0,), waited=1.0, exhausted=False, timeline=("told",)
    )


@pytest.mark.parametrize("thing", [object(), 3, len, lambda: 3, "text", None, {}])
def test_what_nobody_can_read_is_refused(thing: object) -> None:
    with pytest.raises(TypeError, match="cannot be read as a circuit breaker"):
        assert_circuit_open(thing)
    with pytest.raises(
        TypeError, match=r"cannot be read as a retry; .* pytest_resilience_adapters"
    ):
        assert_retried(thing)


@pytest.mark.parametrize("assertion", [assert_circuit_open, assert_retried])
def test_it_is_told_where_it_was_asked(assertion: Callable[[object], None]) -> None:
    with pytest.raises(TypeError) as caught:
        assertion(object())
    shown = caught.traceback.filter(caught)
    assert [str(each.path) for each in shown] == [__file__]


def test_a_breaker_is_no_retry() -> None:
    with pytest.raises(TypeError, match="cannot be read as a retry"):
        assert_retried(CircuitBreaker())
    with pytest.raises(TypeError, match="cannot be read as a circuit breaker"):
        assert_circuit_open(RetryHandler())


def test_readers_that_are_added_know_more_and_leave_again() -> None:
    removals = [add_reader(read), add_reader(read_retry)]
    try:
        assert_circuit_open(Foreign())
        with pytest.raises(TypeError, match="foreign keeps no record of its transitions"):
            assert_circuit_transitions(Foreign(), ["OPEN"])
        assert_backoff(Foreign(), [1])
        with pytest.raises(AssertionError, match=r"and did not give up\n  told"):
            assert_retry_exhausted(Foreign())
    finally:
        for remove in removals:
            remove()
    with pytest.raises(TypeError):
        assert_circuit_open(Foreign())


def test_a_function_whose_closure_is_not_filled_yet_is_no_trouble() -> None:
    def outer() -> None:
        def inner() -> object:
            return later

        with pytest.raises(TypeError):
            assert_retried(inner)
        later = 3
        inner()

    outer()
