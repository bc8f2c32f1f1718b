"""Degradation against a model written from the docstring of `DegradationManager`."""

from __future__ import annotations

import asyncio

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine
from hypothesis.stateful import initialize
from hypothesis.stateful import invariant
from hypothesis.stateful import rule

from pytest_resilience import DegradationManager
from pytest_resilience import Event
from pytest_resilience import FeatureFlag
from pytest_resilience import ManualClock
from pytest_resilience import ServiceFailureError
from pytest_resilience import ServiceLevel
from pytest_resilience.patterns.degradation.features import NOTHING
from tests.patterns.ways import PoorListener


CACHE, RECOVERY = 2.0, 10.0
FULL, DEGRADED, MINIMAL, UNAVAILABLE = ServiceLevel
WORKS, FAILS, ABSENT = "works", "fails", "absent"
NAMES = ["checked", "asynchronous", "unchecked", "switched off"]
# A check's answer, and the level it stands for.
ANSWERS: dict[Any, ServiceLevel] = {
    True: FULL, False: DEGRADED, MINIMAL: MINIMAL, DEGRADED: DEGRADED, OSError: MINIMAL,
}  # fmt: skip
VALUES = st.sampled_from([NOTHING, None, 0, "", "something"])


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
