from __future__ import annotations

import copy
import pickle

import pytest

from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import ManualClock
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
from pytest_resilience.errors import SteadyStateError
from pytest_resilience.errors import TimeLimitExceededError
from pytest_resilience.errors import UnavailableError
from pytest_resilience.errors import UnknownNameError


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
        BulkheadRejectedError("full", name="db", in_use=2, capacity=2, retry_after=None),
        "full",
        {"name": "db", "in_use": 2, "capacity": 2, "retry_after": None},
        ResilienceError,
    ),
    (TimeLimitExceededError("late", limit=0.5), "late", {"limit": 0.5}, TimeoutError),
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


def test_a_refusal_says_nothing_until_it_is_read() -> None:
    class Name(str):
        read = 0

        def __format__(self, spec: str) -> str:
            Name.read += 1
            return str(self)

    error = CircuitBreakerError(Name("db"), "OPEN", 1.5)
    assert Name.read == 0
    assert error.args == ("db", "OPEN", 1.5)
    assert f"{error}" == "db is OPEN: try again in 1.5 s"
    assert Name.read == 1
    assert CircuitBreakerError(name="db", state="OPEN").args == ("db", "OPEN", None)


def test_the_refusals_of_a_breaker_are_as_if_made_by_hand() -> None:
    breaker = CircuitBreaker(CircuitBreakerConfig(failure_threshold=1), clock=ManualClock())
    with pytest.raises(ZeroDivisionError):
        breaker.call(divmod, 1, 0)
    with pytest.raises(CircuitBreakerError) as caught:
        breaker.call(int)
    error = caught.value
    by_hand = CircuitBreakerError("circuit breaker", "OPEN", 60.0)
    error.add_note("at the bank")
    for each in (error, pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (each.name, each.state, each.retry_after) == ("circuit breaker", "OPEN", 60.0)
        assert (str(each), repr(each), each.args) == (str(by_hand), repr(by_hand), by_hand.args)
        assert each.__notes__ == ["at the bank"]
    error.retry_after = 5.0
    assert str(error) == "circuit breaker is OPEN: try again in 5 s"


class RefusedError(CircuitBreakerError):
    """As somebody may derive it: with a constructor of its own."""

    def __init__(self, who: str) -> None:
        super().__init__(f"door of {who}", "FORCED_OPEN")
        self.who = who


def test_an_error_derived_by_somebody_else_survives_pickling() -> None:
    again = pickle.loads(pickle.dumps(RefusedError("you")))
    assert (again.who, again.name, again.state) == ("you", "door of you", "FORCED_OPEN")
    assert str(again) == "door of you is FORCED_OPEN: nobody can say until when"
