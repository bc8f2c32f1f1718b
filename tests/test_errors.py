from __future__ import annotations

import copy
import pickle
import re
import threading

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import pytest

from pytest_resilience import BulkheadConfig
from pytest_resilience import ChaosExperiment
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
from pytest_resilience.errors import NeverFired
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


BASE = f"See {errors.DOCUMENTATION}messages/#"
NEVER_FIRED = "never fired: nothing went to its target, so this test proves nothing."
NOTHING = (
    "never fired: the code did nothing that this fault could hit, so this test proves nothing."
)

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
    (errors.ClockStalledError("stalled"), "stalled", {}, ResilienceError),
    (
        errors.LeakedThreadsError(("shop.py:3",)),
        (
            "1 thread(s) of the test have not ended; end them, or start them where they live "
            "longer, in a fixture of a wider scope:\n  shop.py:3"
        ),
        {"threads": ("shop.py:3",)},
        ResilienceError,
    ),
    (UnavailableError("no stress-ng"), "no stress-ng", {}, RuntimeError),
    (
        SteadyStateError({"queue": "queue is 7, not 0..5"}),
        "the system is not in its steady state, so no chaos was started: queue is 7, not 0..5",
        {"missed": {"queue": "queue is 7, not 0..5"}},
        ResilienceError,
    ),
    (
        NeverFiredError(
            "lag",
            fault="reset",
            target="api.*",
            why=NeverFired.OTHER_TARGET,
            seen=("network.connect b:1", "network.connect api:1"),
            nearest="network.connect api:1",
            advice="Aim.",
        ),
        (
            f"chaos experiment 'lag' (reset, target api.*) {NEVER_FIRED}\n"
            "  Nearest to the target: network.connect api:1\n  The code did:\n"
            "    network.connect b:1\n    network.connect api:1\n  Aim."
        ),
        {
            "experiment": "lag",
            "fault": "reset",
            "target": "api.*",
            "seen": ("network.connect b:1", "network.connect api:1"),
            "why": NeverFired.OTHER_TARGET,
        },
        ResilienceError,
    ),
    (
        NeverFiredError(
            "lag",
            fault="reset",
            target="any",
            why=NeverFired.NOTHING_DONE,
            seen=(),
            advice="Aim.",
        ),
        f"chaos experiment 'lag' (reset, target any) {NOTHING}\n  Aim.",
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
        assert again.__notes__ == [*RetryExhaustedError.__notes__, "on the way to the bank"]
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
        assert each.__notes__ == [*by_hand.__notes__, "at the bank"]
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


PAGE = (Path(__file__).parents[1] / "docs" / "messages.md").read_text(encoding="utf-8")
ANCHORS = {errors.anchor(each) for each in re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)}


def test_a_stand_in_has_the_notes_of_the_error_alone() -> None:
    assert StandInError.of(OSError("x")).__notes__ == []


@pytest.mark.parametrize("name", sorted({*errors.__all__} - {"StandInError"}))
def test_each_error_leads_to_its_section(name: str) -> None:
    (note,) = getattr(errors, name).__notes__
    assert note.startswith(BASE)
    assert note.removeprefix(BASE) == errors.anchor(name)
    assert errors.anchor(name) in ANCHORS


@pytest.mark.parametrize("why", NeverFired)
def test_each_cause_has_its_section(why: NeverFired) -> None:
    error = NeverFiredError("x", fault="f", target="t", why=why, seen=(), advice="Aim.")
    assert error.__notes__ == [f"{BASE}{errors.anchor(why.value)}"]
    assert pickle.loads(pickle.dumps(error)).__notes__ == error.__notes__
    assert errors.anchor(why.value) in ANCHORS


def test_no_section_is_about_nothing() -> None:
    known = {*errors.__all__, *(each.value for each in NeverFired), "Messages"}
    assert {errors.anchor(each) for each in known} == ANCHORS


def test_the_base_is_where_the_site_is_and_said_once() -> None:
    root = Path(__file__).parents[1]
    assert f"site_url: {errors.DOCUMENTATION}" in (root / "mkdocs.yml").read_text(encoding="utf-8")
    sources = (root / "pytest_resilience").rglob("*.py")
    saying = [each.name for each in sources if "readthedocs" in each.read_text(encoding="utf-8")]
    assert saying == ["errors.py"]


def test_a_note_of_a_users_own_is_for_one_error() -> None:
    mine, other = ShutdownError("mine"), ShutdownError("other")
    mine.add_note("while shopping")
    assert mine.__notes__ == [*other.__notes__, "while shopping"]
    assert len(other.__notes__) == 1
    assert errors.with_page(mine) == f"mine\n{other.__notes__[0]}\nwhile shopping"

    class OwnError(ConfigurationError):
        """Of a user's."""

    assert OwnError("x").__notes__ == ConfigurationError("x").__notes__


def test_a_bad_parameter_leads_to_the_page_of_its_type() -> None:
    with pytest.raises(ConfigurationError) as caught:
        ChaosExperiment("x", "network_failure", mode="refuze")  # type: ignore[call-overload]
    page = f"See {errors.DOCUMENTATION}reference/types/network_failure/"
    assert caught.value.__notes__ == [page]
    inner = caught.value.within("pyproject.toml")
    assert errors.with_page(inner) == f"pyproject.toml: {caught.value}\n{page}"
