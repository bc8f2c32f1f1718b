from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
import threading

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

import pytest

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine
from hypothesis.stateful import initialize
from hypothesis.stateful import invariant
from hypothesis.stateful import rule

from pytest_resilience import ConfigurationError
from pytest_resilience import DuplicateNameError
from pytest_resilience import Event
from pytest_resilience import ManualClock
from pytest_resilience import ServiceFailureError
from pytest_resilience import UnknownNameError
from pytest_resilience.patterns.degradation import DegradationManager
from pytest_resilience.patterns.degradation import FellBack
from pytest_resilience.patterns.degradation import LevelChanged
from pytest_resilience.patterns.features import NOTHING
from pytest_resilience.patterns.features import FeatureFlag
from pytest_resilience.patterns.features import ServiceLevel
from tests.patterns.ways import PoorListener


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def manager(clock: ManualClock) -> DegradationManager:
    return DegradationManager(clock=clock, recovery_time=30.0, health_check_cache=5.0)


def broken() -> Any:
    raise ConnectionError("gone")


def used(manager: DegradationManager) -> list[str]:
    return [event.used for event in manager.events if isinstance(event, FellBack)]


def levels(manager: DegradationManager) -> list[str]:
    return [event.new.value for event in manager.events if isinstance(event, LevelChanged)]


def test_first_the_service_then_the_fallback_then_the_default(
    manager: DegradationManager, clock: ManualClock
) -> None:
    manager.register_feature(FeatureFlag("prices", fallback_value="flag"))

    def ask(primary: Any, *rest: Any) -> Any:
        clock.advance(30)  # so that it is tried each time
        return manager.execute_with_degradation("prices", primary, *rest)

    assert ask(lambda: "primary", lambda: "fallback", "default") == "primary"
    assert ask(broken, lambda: "fallback", "default") == "fallback"
    assert ask(broken, broken, "default") == "default"
    assert ask(broken) == "flag"
    assert used(manager) == ["fallback", "default", "fallback_value"]
    assert [event.reason for event in manager.events if isinstance(event, FellBack)] == [
        "ConnectionError: gone",
        "ConnectionError: gone; its fallback: ConnectionError: gone",
        "ConnectionError: gone",
    ]


@pytest.mark.parametrize("value", [[], 0, "", False, None, {}])
def test_seed_defect_falsy_values_were_lost(manager: DegradationManager, value: Any) -> None:
    manager.register_feature(FeatureFlag("a", fallback_value="flag"))
    manager.register_feature(FeatureFlag("b", fallback_value=value))
    assert manager.execute_with_degradation("a", broken, None, value) == value
    assert manager.execute_with_degradation("a", broken, lambda: value, "default") == value
    assert manager.execute_with_degradation("b", broken) == value


def test_when_nothing_is_left_the_error_comes_through(manager: DegradationManager) -> None:
    manager.register_feature(FeatureFlag("prices"))
    with pytest.raises(ConnectionError, match="gone"):
        manager.execute_with_degradation("prices", broken)
    with pytest.raises(ServiceFailureError, match="service 'prices' is degraded"):
        manager.execute_with_degradation("prices", lambda: pytest.fail("it was called"))
    manager.register_feature(FeatureFlag("off", enabled=False))
    with pytest.raises(ServiceFailureError, match="service 'off' is unavailable") as caught:
        manager.execute_with_degradation("off", lambda: pytest.fail("it was called"))
    assert caught.value.service == "off"


def test_a_disabled_service_gives_its_default_at_once(manager: DegradationManager) -> None:
    manager.register_feature(FeatureFlag("off", enabled=False))
    result = manager.execute_with_degradation("off", broken, lambda: pytest.fail("called"), "none")
    assert result == "none"
    assert manager.check_service_health("off") is ServiceLevel.UNAVAILABLE


def test_recovery_is_noticed_without_a_health_check(
    manager: DegradationManager, clock: ManualClock
) -> None:
    manager.register_feature(FeatureFlag("prices"))
    manager.execute_with_degradation("prices", broken, None, "default")
    clock.advance(29)
    assert manager.execute_with_degradation("prices", lambda: "primary", None, "d") == "d"
    clock.advance(1)
    assert manager.execute_with_degradation("prices", lambda: "primary", None, "d") == "primary"
    assert levels(manager) == ["degraded", "full"]
    assert manager.get_service_status()["overall_status"] == "healthy"


def test_health_checks_decide_and_are_remembered(
    manager: DegradationManager, clock: ManualClock
) -> None:
    answers: list[Any] = [True, False, ServiceLevel.MINIMAL, KeyError("x"), True]
    asked = 0

    def check() -> Any:
        nonlocal asked
        asked += 1
        answer = answers[asked - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    manager.register_feature(FeatureFlag("prices", health_check=check))
    seen = []
    for _ in answers:
        thrice = [manager.check_service_health("prices").value for _ in range(3)]
        seen.append(thrice[-1])
        clock.advance(5)
    assert seen == ["full", "degraded", "minimal", "minimal", "full"]
    assert asked == len(answers)
    reasons = [event.reason for event in manager.events if isinstance(event, LevelChanged)]
    assert reasons == [
        "its health check is not well",
        "its health check says so",
        "its health check is well",
    ]


def test_a_health_check_that_hangs_holds_nobody_up(clock: ManualClock) -> None:
    manager = DegradationManager(clock=clock, health_check_timeout=0.01)
    release = threading.Event()
    manager.register_feature(FeatureFlag("prices", health_check=lambda: release.wait(10)))
    assert manager.check_service_health("prices") is ServiceLevel.MINIMAL
    (event,) = manager.events
    assert isinstance(event, LevelChanged)
    assert event.reason == "its health check took longer than 0.01 s"
    release.set()


def test_a_health_check_that_exits_has_failed(manager: DegradationManager) -> None:
    manager.register_feature(FeatureFlag("prices", health_check=sys.exit))
    assert manager.execute_with_degradation("prices", pytest.fail, lambda: "less") == "less"
    (changed, _) = manager.events
    assert isinstance(changed, LevelChanged)
    assert changed.reason == "its health check failed with SystemExit"


@pytest.mark.parametrize("way", ["plain", "plain in a loop", "async"])
def test_a_health_check_that_raises_a_timeout_error_of_its_own(
    manager: DegradationManager, way: str
) -> None:
    """As one that pings over a socket does: it was the ping that took too long."""

    def check() -> None:
        raise TimeoutError

    async def acheck() -> None:
        raise TimeoutError

    health_check = acheck if way == "async" else check
    manager.register_feature(FeatureFlag("prices", health_check=health_check))
    if way == "plain":
        manager.check_service_health("prices")
    else:
        asyncio.run(manager.check_service_health_async("prices"))
    (changed,) = manager.events
    assert isinstance(changed, LevelChanged)
    assert changed.reason == "its health check failed with TimeoutError"


def test_one_asks_and_the_others_are_told_what_is_known(manager: DegradationManager) -> None:
    asking, release, asked = threading.Event(), threading.Event(), []

    def check() -> bool:
        asked.append(1)
        asking.set()
        assert release.wait(10)
        return False

    manager.register_feature(FeatureFlag("prices", health_check=check))
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(manager.check_service_health, "prices")
        assert asking.wait(10)
        assert manager.check_service_health("prices") is ServiceLevel.FULL  # no lock is held
        release.set()
        assert first.result(10) is ServiceLevel.DEGRADED
    assert asked == [1]


def test_async_services(manager: DegradationManager, clock: ManualClock) -> None:
    well = True

    async def check() -> bool:
        await asyncio.sleep(0)
        return well

    async def primary() -> str:
        return "primary"

    async def fails() -> str:
        raise ConnectionError("gone")

    async def fallback() -> str:
        return "fallback"

    async def story() -> None:
        nonlocal well
        manager.register_feature(FeatureFlag("prices", health_check=check))
        ask = manager.execute_with_degradation
        assert await ask("prices", primary) == "primary"
        assert await ask("prices", fails, fallback) == "fallback"
        clock.advance(5)
        assert await ask("prices", fails, lambda: "plain") == "plain"
        clock.advance(5)
        assert await ask("prices", primary) == "primary"
        well = False
        clock.advance(5)
        assert await ask("prices", primary, None, []) == []
        with pytest.raises(ServiceFailureError):
            await ask("prices", primary)

    asyncio.run(story())
    assert used(manager) == ["fallback", "fallback", "default"]


def test_an_async_check_that_hangs_or_fails(clock: ManualClock) -> None:
    hasty = DegradationManager(clock=clock, health_check_timeout=0.01, health_check_cache=0)
    manager = DegradationManager(clock=clock, health_check_timeout=10, health_check_cache=0)

    async def hangs() -> None:
        await asyncio.Event().wait()

    async def fails() -> None:
        raise KeyError

    hasty.register_feature(FeatureFlag("a", health_check=hangs))
    assert asyncio.run(hasty.check_service_health_async("a")) is ServiceLevel.MINIMAL
    manager.register_feature(FeatureFlag("b", health_check=fails))
    manager.register_feature(FeatureFlag("c", health_check=lambda: True))
    seen = [asyncio.run(manager.check_service_health_async(name)).value for name in "bc"]
    assert seen == ["minimal", "full"]


@pytest.mark.parametrize(
    ("flags", "overall"),
    [
        ([("full", True), ("full", True)], "healthy"),
        ([("full", True), ("unavailable", False)], "healthy"),
        ([("full", True), ("degraded", True)], "partial"),
        ([("degraded", True), ("minimal", True)], "degraded"),
        ([("full", True), ("unavailable", True)], "degraded"),
        ([], "healthy"),
    ],
)
def test_the_status_of_the_whole(
    manager: DegradationManager, flags: list[tuple[str, bool]], overall: str
) -> None:
    for number, (level, enabled) in enumerate(flags):
        flag = FeatureFlag(f"s{number}", enabled=enabled, service_level=ServiceLevel(level))
        manager.register_feature(flag)
    status = manager.get_service_status()
    assert status["overall_status"] == overall
    assert status["timestamp"] == 0.0


def test_how_often_who_fell_back(manager: DegradationManager) -> None:
    manager.register_feature(FeatureFlag("prices"))
    for _ in range(3):
        manager.execute_with_degradation("prices", broken, None, 0)
    assert manager.get_service_status()["services"]["prices"] == {
        "health": "degraded",
        "enabled": True,
        "failures": 1,  # the other calls did not try it
        "fallbacks": 3,
    }


def test_listeners_hear_and_cannot_harm(manager: DegradationManager) -> None:
    heard: list[Event] = []

    def hostile(event: Event) -> None:
        raise RuntimeError(manager.get_service_status())

    manager.listeners.add(hostile)
    manager.listeners.add(heard.append)
    manager.register_feature(FeatureFlag("prices"))
    assert manager.execute_with_degradation("prices", broken, None, 1) == 1
    assert heard == list(manager.events)


def test_names_are_known_once(manager: DegradationManager) -> None:
    manager.register_feature(FeatureFlag("prices"))
    with pytest.raises(DuplicateNameError, match="a service named 'prices' exists already"):
        manager.register_feature(FeatureFlag("prices"))
    with pytest.raises(UnknownNameError, match="no service is named 'prizes'; known: 'prices'"):
        manager.execute_with_degradation("prizes", int)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"name": ""}, TypeError),
        ({"name": "x", "enabled": 1}, TypeError),
        ({"name": "x", "service_level": "full"}, TypeError),
        ({"name": "x", "health_check": True}, TypeError),
    ],
)
def test_nonsense_is_refused(fields: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        FeatureFlag(**fields)
    with pytest.raises(ConfigurationError, match="recovery_time"):
        DegradationManager(recovery_time=-1)
    assert repr(FeatureFlag("x").fallback_value) == "NOTHING"
    assert FeatureFlag("x").fallback_value is NOTHING


def test_a_hung_health_check_is_not_begun_again(clock: ManualClock) -> None:
    manager = DegradationManager(clock=clock, health_check_timeout=0.01, health_check_cache=0)
    release, begun = threading.Event(), []

    def check() -> bool:
        begun.append(threading.current_thread())
        return release.wait()

    manager.register_feature(FeatureFlag("prices", health_check=check))
    for _ in range(5):
        assert manager.check_service_health("prices") is ServiceLevel.MINIMAL
        seen = asyncio.run(manager.check_service_health_async("prices"))
        assert seen is ServiceLevel.MINIMAL
    assert len(begun) == 1
    release.set()
    begun[0].join()
    assert manager.check_service_health("prices") is ServiceLevel.FULL


@pytest.mark.parametrize(
    ("way", "error"),
    [
        (way, error)
        for way in ("plain", "plain in a loop", "async")
        for error in (KeyboardInterrupt, SystemExit, asyncio.CancelledError)
        # Of the async one, that is the caller's own.
        if not (way == "async" and error is KeyboardInterrupt)
    ],
)
def test_a_health_check_cannot_break_the_call(
    manager: DegradationManager, error: type[BaseException], way: str
) -> None:
    def check() -> None:
        raise error

    async def acheck() -> None:
        raise error

    async def primary() -> None:
        pytest.fail("it was called")

    health_check = acheck if way == "async" else check
    manager.register_feature(FeatureFlag("prices", health_check=health_check))
    call = manager.execute_with_degradation
    if way == "plain":
        assert call("prices", lambda: pytest.fail("it was called"), lambda: "less") == "less"
    else:

        async def story() -> Any:
            return await call("prices", primary, lambda: "less")

        assert asyncio.run(story()) == "less"
    assert manager.service_health["prices"] is ServiceLevel.MINIMAL


@pytest.mark.parametrize("in_a_loop", [False, True])
def test_where_no_thread_can_be_had_the_health_check_has_failed(
    manager: DegradationManager, monkeypatch: pytest.MonkeyPatch, in_a_loop: bool
) -> None:
    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")

    async def primary() -> None:
        pytest.fail("it was called")

    manager.register_feature(FeatureFlag("prices", health_check=lambda: True))
    call: Any = manager.execute_with_degradation
    with monkeypatch.context() as patch:
        patch.setattr("threading.Thread.start", start)
        if in_a_loop:
            with pytest.raises(StopIteration) as stopped:
                call("prices", primary, lambda: "less").send(None)
            assert stopped.value.value == "less"
        else:
            assert call("prices", pytest.fail, lambda: "less") == "less"
    assert manager.service_health["prices"] is ServiceLevel.MINIMAL


def test_a_check_that_was_cancelled_from_outside_can_be_asked_again(
    manager: DegradationManager,
) -> None:
    waiting = True

    async def check() -> bool:
        if waiting:
            await asyncio.Event().wait()
        return False

    manager.register_feature(FeatureFlag("prices", health_check=check))

    async def story() -> None:
        nonlocal waiting
        task = asyncio.ensure_future(manager.check_service_health_async("prices"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        waiting = False
        assert await manager.check_service_health_async("prices") is ServiceLevel.DEGRADED

    asyncio.run(story())


def test_one_tries_again_while_the_others_fall_back(
    manager: DegradationManager, clock: ManualClock
) -> None:
    manager.register_feature(FeatureFlag("prices"))
    ask = partial(manager.execute_with_degradation, "prices")
    assert ask(broken, lambda: "less") == "less"
    clock.advance(30)
    tried: list[str] = []

    def primary() -> str:
        tried.append("once")
        assert [ask(lambda: pytest.fail("it was called"), lambda: "less")] * 39 == ["less"] * 39
        return "primary"

    assert ask(primary, lambda: "less") == "primary"
    assert tried == ["once"]
    assert levels(manager) == ["degraded", "full"]


@pytest.mark.parametrize("error", [ConnectionError, KeyboardInterrupt])
def test_a_probe_that_fails_lets_another_follow(
    manager: DegradationManager, clock: ManualClock, error: type[BaseException]
) -> None:
    manager.register_feature(FeatureFlag("prices"))
    ask = partial(manager.execute_with_degradation, "prices")

    def primary() -> None:
        raise error

    assert ask(broken, lambda: "less") == "less"
    clock.advance(30)
    with pytest.raises(error):
        ask(primary)
    clock.advance(30)
    assert ask(lambda: "primary") == "primary"


def test_how_an_earlier_call_ends_says_nothing(
    manager: DegradationManager, clock: ManualClock
) -> None:
    manager.register_feature(FeatureFlag("prices"))
    ask = partial(manager.execute_with_degradation, "prices")

    def slow_success() -> str:
        assert ask(broken, None, "less") == "less"  # meanwhile
        return "late"

    assert ask(slow_success) == "late"
    assert manager.service_health["prices"] is ServiceLevel.DEGRADED

    clock.advance(30)
    assert ask(lambda: "primary") == "primary"
    generation = manager._services["prices"].generation
    assert ask(broken, None, "less") == "less"
    clock.advance(30)
    assert ask(lambda: "primary") == "primary"
    service = manager._services["prices"]
    assert service.generation == generation + 3  # it failed, was tried again, and recovered
    assert manager._primary_failed(service, generation, ConnectionError()) is not None
    assert levels(manager)[-1] == "full"


def test_a_check_that_began_before_a_failure_does_not_heal(manager: DegradationManager) -> None:
    asking, release = threading.Event(), threading.Event()

    def check() -> bool:
        if asking.is_set():
            return True
        asking.set()
        return release.wait(10)

    manager.register_feature(FeatureFlag("prices", health_check=check))
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(manager.check_service_health, "prices")
        assert asking.wait(10)
        assert manager.execute_with_degradation("prices", broken, None, "less") == "less"
        release.set()
        assert first.result(10) is ServiceLevel.DEGRADED
    assert manager.service_health["prices"] is ServiceLevel.DEGRADED


@pytest.mark.parametrize("is_async", [False, True])
def test_an_error_of_the_caller_is_no_outage(manager: DegradationManager, is_async: bool) -> None:
    manager.register_feature(FeatureFlag("prices", expected_exception=OSError))

    def primary() -> None:
        raise KeyError("yours")

    async def aprimary() -> None:
        raise KeyError("yours")

    call = manager.execute_with_degradation

    def ask() -> Any:
        if is_async:
            return asyncio.run(call("prices", aprimary, lambda: "less"))
        return call("prices", primary, lambda: "less")

    with pytest.raises(KeyError, match="yours"):
        ask()
    assert manager.service_health["prices"] is ServiceLevel.FULL
    assert call("prices", broken, lambda: "less") == "less"


def test_a_fallback_is_given_the_error(manager: DegradationManager) -> None:
    manager.register_feature(FeatureFlag("prices"))
    call = partial(manager.execute_with_degradation, "prices")
    assert isinstance(call(broken, lambda error: error), ConnectionError)
    assert isinstance(call(broken, lambda error: error), ServiceFailureError)
    assert call(broken, lambda error=None: error) is None
    assert call(broken, dict) == {}


def test_services_are_replaced_and_retired(manager: DegradationManager) -> None:
    manager.register_feature(FeatureFlag("prices", fallback_value="old"))
    ask = partial(manager.execute_with_degradation, "prices")

    def replaced_meanwhile() -> str:
        manager.replace_feature(FeatureFlag("prices", fallback_value="new"))
        raise ConnectionError

    assert ask(replaced_meanwhile) == "old"
    assert manager.service_health["prices"] is ServiceLevel.FULL  # it is of the one before
    assert ask(broken) == "new"

    def removed_meanwhile() -> str:
        assert manager.remove_feature("prices").fallback_value == "again"
        raise ConnectionError

    manager.replace_feature(FeatureFlag("prices", fallback_value="again"))
    assert ask(removed_meanwhile) == "again"
    for change in (lambda: manager.replace_feature(FeatureFlag("prices")), lambda: ask(int),
                   lambda: manager.remove_feature("prices")):  # fmt: skip
        with pytest.raises(UnknownNameError, match="no service is named 'prices'"):
            change()


def test_a_service_may_be_removed_while_its_health_is_checked() -> None:
    manager = DegradationManager()

    def check() -> bool:
        with contextlib.suppress(UnknownNameError):
            manager.remove_feature("prices")
        return True

    asks: list[Callable[[], Any]] = [
        lambda: manager.execute_with_degradation("prices", lambda: "primary"),
        lambda: asyncio.run(manager.execute_with_degradation("prices", aprimary)),
        lambda: manager.get_service_status()["services"]["prices"]["health"],
    ]
    for ask in asks:
        manager.register_feature(FeatureFlag("prices", health_check=check))
        assert ask() in ("primary", "full")
        assert manager.features == {}


async def aprimary() -> str:
    return "primary"


def test_how_a_call_ends_that_was_given_up_says_nothing(
    manager: DegradationManager, clock: ManualClock
) -> None:
    """One that tries a service again, and is overtaken by the next to do so."""
    manager.register_feature(FeatureFlag("prices", fallback_value="less"))
    ask = partial(manager.execute_with_degradation, "prices")
    assert ask(broken) == "less"
    clock.advance(30)

    def slow() -> str:
        clock.advance(30)
        assert ask(broken) == "less"  # the next that tries it: it is as bad as before
        return "late"

    assert ask(slow) == "late"
    assert manager.service_health["prices"] is ServiceLevel.DEGRADED
    assert manager.get_service_status()["services"]["prices"]["failures"] == 2


def test_levels_are_told_in_their_order(manager: DegradationManager, clock: ManualClock) -> None:
    """The service is well again in another thread, before all have heard that it is not."""
    manager.register_feature(FeatureFlag("prices", fallback_value="flag"))
    heard: list[ServiceLevel] = []

    def slow(event: Event) -> None:
        if isinstance(event, LevelChanged) and event.new is ServiceLevel.DEGRADED:
            clock.advance(30)
            with ThreadPoolExecutor(1) as other:
                other.submit(manager.execute_with_degradation, "prices", int).result()

    def hear(event: Event) -> None:
        if isinstance(event, LevelChanged):
            heard.append(event.new)

    manager.listeners.add(slow)
    manager.listeners.add(hear)
    manager.execute_with_degradation("prices", broken)
    assert heard == [ServiceLevel.DEGRADED, ServiceLevel.FULL]


def test_a_child_that_is_forked_at_any_moment_can_try_again(
    manager: DegradationManager, clock: ManualClock
) -> None:
    """After no line is there a service that is not well and that nobody would ever try."""
    manager.register_feature(FeatureFlag("prices", fallback_value="flag"))
    service, stuck = manager._services["prices"], []

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != inspect.getsourcefile(DegradationManager):
            return None
        if service.level is not ServiceLevel.FULL and service.retry_at is None:
            stuck.append(frame.f_lineno)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        manager.execute_with_degradation("prices", broken)
        clock.advance(30)
        assert manager.execute_with_degradation("prices", int) == 0
    finally:
        sys.settrace(before)
    assert levels(manager) == ["degraded", "full"]
    assert stuck == []


def test_no_loop_stops_while_the_health_is_checked_of_what_returns_awaitables() -> None:
    well = threading.Event()
    manager = DegradationManager(health_check_timeout=5.0, health_check_cache=0)
    manager.register_feature(FeatureFlag("prices", health_check=lambda: well.wait(60)))
    outcomes = iter([asyncio.sleep(0, "first"), asyncio.sleep(0, "second"), "third"])

    def primary() -> Any:
        try:
            return next(outcomes)
        except StopIteration:
            raise ConnectionError from None

    def call() -> Any:
        return manager.execute_with_degradation("prices", primary, lambda: "less")

    async def main(first: Any) -> list[Any]:
        results = [await first]
        for _ in range(3):
            well.clear()
            asyncio.get_running_loop().call_soon(well.set)
            results.append(await call())
        return results

    well.set()
    assert asyncio.run(main(call())) == ["first", "second", "third", "less"]


CACHE, RECOVERY = 2.0, 10.0
FULL, DEGRADED, MINIMAL, UNAVAILABLE = ServiceLevel
WORKS, FAILS, ABSENT = "works", "fails", "absent"
NAMES = ["checked", "asynchronous", "unchecked", "switched off"]
# A check's answer, and the level it stands for.
ANSWERS: dict[Any, ServiceLevel] = {
    True: FULL, False: DEGRADED, MINIMAL: MINIMAL, DEGRADED: DEGRADED, OSError: MINIMAL,
}  # fmt: skip
VALUES = st.sampled_from([NOTHING, None, 0, "", "something"])


# Against a model written from the docstring of `DegradationManager`.


@dataclass
class Service:
    """A service of the model.

    Attributes:
        level: as it is known.
        answer: what its check says if it is asked.
        asked: when its check was asked last.
        retry_at: when a service without a check is tried again, None if it need not be.
    """

    level: ServiceLevel
    fallback_value: Any
    answer: Any = True
    asked: float = float("-inf")
    retry_at: float | None = None


def doing(what: str, value: str) -> Any:
    if what == ABSENT:
        return None

    def call() -> str:
        if what == FAILS:
            raise ConnectionError(value)
        return value

    return call


class DegradationMachine(RuleBasedStateMachine):
    """One manager, services of every kind, calls that succeed and fail in every combination."""

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self.clock = ManualClock()
        self.manager = DegradationManager(
            health_check_cache=CACHE, recovery_time=RECOVERY, clock=self.clock
        )
        self.services: dict[str, Service] = {}
        self.fallbacks: Counter[str] = Counter()
        self.told = 0
        self.heard: list[Event] = []
        self.manager.listeners.add(PoorListener())
        self.manager.listeners.add(self.heard.append)
        for name in NAMES:
            level = data.draw(st.sampled_from([FULL, DEGRADED]), label=name)
            self.services[name] = Service(level, data.draw(VALUES, label="fallback_value"))
            self.register(name, self.services[name])

    def register(self, name: str, service: Service) -> None:
        def check() -> Any:
            if service.answer is OSError:
                raise OSError
            return service.answer

        async def later() -> Any:
            await asyncio.sleep(0)
            return check()

        self.manager.register_feature(
            FeatureFlag(
                name,
                enabled=name != "switched off",
                service_level=service.level,
                fallback_value=service.fallback_value,
                health_check={"checked": check, "asynchronous": later}.get(name),
            )
        )

    @rule(seconds=st.sampled_from([0.5, 1.0, CACHE, RECOVERY / 2, RECOVERY]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(name=st.sampled_from(NAMES), answer=st.sampled_from(list(ANSWERS)))
    def health_changes(self, name: str, answer: Any) -> None:
        self.services[name].answer = answer

    def set_level(self, service: Service, level: ServiceLevel) -> None:
        self.told += service.level is not level
        service.level = level

    def look(self, name: str, in_a_loop: bool) -> ServiceLevel:
        """The level that a call must find."""
        service, now = self.services[name], self.clock.monotonic()
        if name == "switched off":
            return UNAVAILABLE
        if name == "unchecked":
            due = service.retry_at is not None and now >= service.retry_at
            return FULL if due else service.level
        if (name == "checked" or in_a_loop) and now >= service.asked + CACHE:
            service.asked = now
            self.set_level(service, ANSWERS[service.answer])
        return service.level

    @rule(name=st.sampled_from(NAMES), in_a_loop=st.booleans())
    def asked_for_health(self, name: str, in_a_loop: bool) -> None:
        expected = self.look(name, in_a_loop)
        if in_a_loop:
            assert asyncio.run(self.manager.check_service_health_async(name)) is expected
        else:
            assert self.manager.check_service_health(name) is expected

    @rule(name=st.sampled_from(["checked", "asynchronous", "unchecked"]))
    def a_call_is_cancelled(self, name: str) -> None:
        """It says nothing of the service, which may be tried again at once."""

        async def cancelled() -> str:
            raise asyncio.CancelledError

        service, level = self.services[name], self.look(name, in_a_loop=True)
        call = self.manager.execute_with_degradation(name, cancelled, None, "default")
        if level is FULL:
            with pytest.raises(asyncio.CancelledError):
                asyncio.run(call)
            service.retry_at = self.clock.monotonic()
        else:
            assert asyncio.run(call) == "default"
            self.fallbacks[name] += 1

    @rule(
        name=st.sampled_from(NAMES),
        in_a_loop=st.booleans(),
        primary=st.sampled_from([WORKS, FAILS]),
        fallback=st.sampled_from([WORKS, FAILS, ABSENT]),
        default=VALUES,
    )
    def a_call(self, name: str, in_a_loop: bool, primary: str, fallback: str, default: Any) -> None:
        expected = self.expect(name, in_a_loop, primary, fallback, default)
        call, second = doing(primary, "primary"), doing(fallback, "fallback")

        async def later() -> Any:
            await asyncio.sleep(0)
            return call()

        def run() -> Any:
            execute = self.manager.execute_with_degradation
            if in_a_loop:
                return asyncio.run(execute(name, later, second, default))
            return execute(name, call, second, default)

        if isinstance(expected, type):
            with pytest.raises(expected):
                run()
        else:
            result = run()
            assert result == expected
            assert type(result) is type(expected)

    def expect(self, name: str, in_a_loop: bool, primary: str, fallback: str, default: Any) -> Any:
        """What must come back; a type if that must be raised."""
        service, level = self.services[name], self.look(name, in_a_loop)
        error: type[Exception] = ServiceFailureError
        if level is FULL:
            if primary == WORKS:
                service.retry_at = None if service.level is not FULL else service.retry_at
                self.set_level(service, FULL)
                return "primary"
            service.retry_at = self.clock.monotonic() + RECOVERY
            self.set_level(service, DEGRADED)
            error = ConnectionError
        if fallback != ABSENT and level is not UNAVAILABLE:
            if fallback == WORKS:
                self.fallbacks[name] += 1
                return "fallback"
            error = ConnectionError
        value = service.fallback_value if default is NOTHING else default
        if value is NOTHING:
            return error
        self.fallbacks[name] += 1
        return value

    @rule()
    def the_status_of_the_whole(self) -> None:
        levels = {name: self.look(name, in_a_loop=False) for name in NAMES}
        status = self.manager.get_service_status()
        assert {n: each["health"] for n, each in status["services"].items()} == {
            name: level.value for name, level in levels.items()
        }
        enabled = [level for name, level in levels.items() if name != "switched off"]
        full = enabled.count(FULL)
        overall = "healthy" if full == len(enabled) else "partial" if full else "degraded"
        assert status["overall_status"] == overall

    @invariant()
    def everything_was_told(self) -> None:
        kinds = Counter(type(event).__name__ for event in self.manager.events)
        assert kinds["FellBack"] == self.fallbacks.total()
        assert kinds["LevelChanged"] == self.told
        assert tuple(self.heard[-1000:]) == self.manager.events
        assert self.manager.service_health == {
            name: service.level for name, service in self.services.items()
        }


TestDegradationMachine = DegradationMachine.TestCase
TestDegradationMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
