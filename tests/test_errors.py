from __future__ import annotations

import copy
import pickle
import threading

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import httpx
import pytest

from pytest_resilience import BulkheadConfig
from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import ManualClock
from pytest_resilience import RateLimitBulkhead
from pytest_resilience import SemaphoreBulkhead
from pytest_resilience import errors
from pytest_resilience.errors import BulkheadRejectedError
from pytest_resilience.errors import CircuitBreakerError
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import DuplicateNameError
from pytest_resilience.errors import NeverFiredError
from pytest_resilience.errors import ResilienceError
from pytest_resilience.errors import RetryExhaustedError
from pytest_resilience.errors import ServiceFailureError
from pytest_resilience.errors import ShutdownError
from pytest_resilience.errors import StandInError
from pytest_resilience.errors import SteadyStateError
from pytest_resilience.errors import TimeLimitExceededError
from pytest_resilience.errors import UnavailableError
from pytest_resilience.errors import UnknownNameError
from pytest_resilience.patterns.bulkhead.base import Bulkhead


NEVER_FIRED = "never fired: no operation matched it, so this test proves nothing.\n  The code did"

NOTHING = "nothing that a fault could hit"

# Each as it is raised: what it is told, its text, its attributes, what else it is caught as.
EXAMPLES: list[tuple[ResilienceError, str, dict[str, object], type[BaseException]]] = [
    (ResilienceError("broken"), "broken", {}, Exception),
    (ConfigurationError("rate=2"), "rate=2", {}, ValueError),
    (
        UnknownNameError("bulkhead", "db", ("web", "api")),
        "no bulkhead is named 'db'; known: 'api', 'web'",
        {"kind": "bulkhead", "name": "db", "known": ("api", "web")},
        KeyError,
    ),
    (
        UnknownNameError("bulkhead", "db"),
        "no bulkhead is named 'db'; known: none",
        {"kind": "bulkhead", "name": "db", "known": ()},
        KeyError,
    ),
    (
        DuplicateNameError("bulkhead", "db"),
        "a bulkhead named 'db' exists already; choose another name",
        {"kind": "bulkhead", "name": "db"},
        ValueError,
    ),
    (ShutdownError("closed"), "closed", {}, RuntimeError),
    (UnavailableError("no stress-ng"), "no stress-ng", {}, RuntimeError),
    (
        SteadyStateError({"queue": "queue is 7, not 0..5"}),
        "the system is not in its steady state, so no chaos was started: queue is 7, not 0..5",
        {"missed": {"queue": "queue is 7, not 0..5"}},
        ResilienceError,
    ),
    (
        NeverFiredError(
            "lag", fault="reset", target="api.*", seen=("network.connect b:1",), advice="Aim."
        ),
        (
            f"chaos experiment 'lag' (reset, target api.*) {NEVER_FIRED}:\n"
            "    network.connect b:1\n  Aim."
        ),
        {
            "experiment": "lag",
            "fault": "reset",
            "target": "api.*",
            "seen": ("network.connect b:1",),
        },
        ResilienceError,
    ),
    (
        NeverFiredError("lag", fault="reset", target="any", seen=(), advice="Aim."),
        f"chaos experiment 'lag' (reset, target any) {NEVER_FIRED}: {NOTHING}\n  Aim.",
        {"experiment": "lag", "fault": "reset", "target": "any", "seen": ()},
        ResilienceError,
    ),
    (
        CircuitBreakerError("db", "OPEN", 1.5),
        "db is OPEN: try again in 1.5 s",
        {"name": "db", "state": "OPEN", "retry_after": 1.5},
        ResilienceError,
    ),
    (
        RetryExhaustedError(3, OSError("no"), elapsed=2.5),
        "gave up after 3 attempt(s); last error: OSError: no",
        {"attempts": 3, "last_result": None, "elapsed": 2.5, "reason": ""},
        ResilienceError,
    ),
    (
        RetryExhaustedError(2, None, reason="no time left", last_result=[]),
        "gave up after 2 attempt(s) (no time left); last result: []",
        {"attempts": 2, "last_exception": None, "last_result": [], "reason": "no time left"},
        ResilienceError,
    ),
    (
        BulkheadRejectedError("db", 2, 2),
        "db is full: 2 of 2 slots are taken; try again when a call has ended",
        {"name": "db", "in_use": 2, "capacity": 2, "retry_after": None},
        ResilienceError,
    ),
    (
        BulkheadRejectedError("db", 3, 5, "calls began in the last 60 s", 1.5),
        "db is full: 3 of 5 calls began in the last 60 s; try again in 1.5 s",
        {"name": "db", "in_use": 3, "capacity": 5, "retry_after": 1.5},
        ResilienceError,
    ),
    (TimeLimitExceededError("late", limit=0.5), "late", {"limit": 0.5}, TimeoutError),
    (
        StandInError("httpx.HTTPStatusError", "404"),
        "httpx.HTTPStatusError: 404",
        {"type_name": "httpx.HTTPStatusError", "text": "404"},
        ResilienceError,
    ),
    (ServiceFailureError("mail"), "service 'mail' failed", {"service": "mail"}, ResilienceError),
    (ServiceFailureError("mail", "gone"), "gone", {"service": "mail"}, ResilienceError),
]

everywhere = pytest.mark.parametrize(
    ("error", "text", "attributes", "caught_as"),
    EXAMPLES,
    ids=[type(example[0]).__name__ for example in EXAMPLES],
)


def test_every_error_has_an_example() -> None:
    named = {getattr(errors, name) for name in errors.__all__}
    assert {type(example[0]) for example in EXAMPLES} == named


@everywhere
def test_an_error_says_and_keeps_what_happened(
    error: ResilienceError,
    text: str,
    attributes: dict[str, object],
    caught_as: type[BaseException],
) -> None:
    assert str(error) == text
    assert attributes.items() <= vars(error).items()
    assert isinstance(error, caught_as)
    assert isinstance(error, ResilienceError)


@everywhere
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_pickling(
    error: ResilienceError,
    text: str,
    attributes: dict[str, object],
    caught_as: type[BaseException],
    protocol: int,
) -> None:
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert str(again) == text
    assert attributes.items() <= vars(again).items()
    assert again.args == error.args


def test_notes_and_the_last_exception_travel_too() -> None:
    error = RetryExhaustedError(1, ConnectionResetError(104, "reset"))
    error.add_note("on the way to the bank")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert again.__notes__ == ["on the way to the bank"]
        assert isinstance(again.last_exception, ConnectionResetError)
        assert again.last_exception.errno == 104


class KeywordOnlyError(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")


class DifferentError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")


class SilentError(Exception):
    def __str__(self) -> str:
        raise OSError


def held() -> Exception:
    error = OSError("locked")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    return error


def of_httpx() -> Exception:
    request = httpx.Request("GET", "http://api/")
    return httpx.HTTPStatusError("code 404", request=request, response=httpx.Response(404))


@pytest.mark.parametrize(
    ("foreign", "type_name", "text"),
    [
        (of_httpx(), "httpx.HTTPStatusError", "code 404"),
        (KeywordOnlyError(code=4), f"{__name__}.KeywordOnlyError", "code 4"),
        (DifferentError(4), f"{__name__}.DifferentError", "code 4"),
        (held(), "OSError", "locked"),
        (SilentError(), f"{__name__}.SilentError", "(its text cannot be had)"),
        (type("LocalError", (Exception,), {})("x"), f"{__name__}.LocalError", "x"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_does_not_survive_pickling_has_a_stand_in(
    foreign: Exception, type_name: str, text: str
) -> None:
    foreign.add_note("on the way")
    error = RetryExhaustedError(2, foreign)
    assert copy.copy(error).last_exception is foreign
    again = pickle.loads(pickle.dumps(error)).last_exception
    assert isinstance(again, StandInError)
    assert (again.type_name, again.text) == (type_name, text)
    assert again.__notes__ == ["on the way"]


def test_results_and_attributes_that_cannot_be_pickled_arrive_in_words() -> None:
    error = RetryExhaustedError(1, None, last_result=threading.Lock())
    error.request = open  # type: ignore[attr-defined]
    error.where = (item for item in "abc")  # type: ignore[attr-defined]
    again = pickle.loads(pickle.dumps(error))
    assert "lock" in again.last_result
    assert again.request is open
    assert "generator" in again.where


def fail_far_away() -> None:
    raise RetryExhaustedError(1, of_httpx())


def test_an_error_comes_back_from_a_pool_of_processes() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with pytest.raises(RetryExhaustedError, match="code 404") as caught:
            pool.submit(fail_far_away).result()
        assert pool.submit(len, "alive").result() == 5
    assert isinstance(caught.value.last_exception, StandInError)


class Name(str):
    """A name that counts how often it is put into a text."""

    read = 0

    def __format__(self, spec: str) -> str:
        self.read += 1
        return str(self)


def rejection_of_a_breaker(name: str) -> CircuitBreakerError:
    breaker = CircuitBreaker(
        CircuitBreakerConfig(failure_threshold=1), name=name, clock=ManualClock()
    )
    with pytest.raises(ZeroDivisionError):
        breaker.call(divmod, 1, 0)
    with pytest.raises(CircuitBreakerError) as caught:
        breaker.call(int)
    return caught.value


def rejection_of_a_bulkhead(name: str, kind: type[Bulkhead]) -> BulkheadRejectedError:
    bulkhead: Any = kind(BulkheadConfig(1), name=name, clock=ManualClock())
    bulkhead.acquire()
    with pytest.raises(BulkheadRejectedError) as caught:
        bulkhead.execute(int)
    return caught.value


REJECTIONS: list[tuple[Callable[[str], ResilienceError], ResilienceError]] = [
    (rejection_of_a_breaker, CircuitBreakerError("db", "OPEN", 60.0)),
    (
        partial(rejection_of_a_bulkhead, kind=SemaphoreBulkhead),
        BulkheadRejectedError("db", 1, 1, "slots are taken"),
    ),
    (
        partial(rejection_of_a_bulkhead, kind=RateLimitBulkhead),
        BulkheadRejectedError("db", 1, 1, "calls began in the last 60 s", 60.0),
    ),
]


@pytest.mark.parametrize(("reject", "by_hand"), REJECTIONS, ids=["breaker", "semaphore", "rate"])
def test_a_rejection_is_formatted_when_it_is_read(
    reject: Callable[[str], ResilienceError], by_hand: ResilienceError
) -> None:
    name = Name("db")
    error = reject(name)
    assert name.read == 0
    assert f"{error}" == str(by_hand)
    assert name.read == 1


@pytest.mark.parametrize(("reject", "by_hand"), REJECTIONS, ids=["breaker", "semaphore", "rate"])
def test_a_rejection_is_as_if_made_by_hand(
    reject: Callable[[str], ResilienceError], by_hand: ResilienceError
) -> None:
    error = reject("db")
    error.add_note("at the bank")
    for each in (error, pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (str(each), repr(each), each.args) == (str(by_hand), repr(by_hand), by_hand.args)
        assert vars(each).items() >= vars(by_hand).items()
        assert each.__notes__ == ["at the bank"]
    error.retry_after = 5.0  # type: ignore[attr-defined]
    assert str(error).endswith("try again in 5 s")


class RefusedError(CircuitBreakerError):
    """As somebody may derive it: with a constructor of its own."""

    def __init__(self, who: str) -> None:
        super().__init__(f"door of {who}", "FORCED_OPEN")
        self.who = who


def test_an_error_derived_by_somebody_else_survives_pickling() -> None:
    again = pickle.loads(pickle.dumps(RefusedError("you")))
    assert (again.who, again.name, again.state) == ("you", "door of you", "FORCED_OPEN")
    assert str(again) == "door of you is FORCED_OPEN: nobody can say until when"
