from __future__ import annotations

import asyncio
import gc
import weakref

from collections.abc import Callable
from collections.abc import Generator
from typing import Any

import pytest

from pytest_resilience.interceptors.sync_or_async import run
from pytest_resilience.interceptors.sync_or_async import run_async


Steps = Generator[str, Any, str]


def run_awaited(steps: Steps, perform: Callable[[str], object]) -> str:
    async def awaited(step: str) -> object:
        await asyncio.sleep(0)
        return perform(step)

    return asyncio.run(run_async(steps, awaited))


@pytest.fixture(params=[run, run_awaited])
def runner(request: pytest.FixtureRequest) -> Callable[..., str]:
    found: Callable[..., str] = request.param
    return found


def upper(step: str) -> str:
    if step == "bad":
        raise LookupError(step)
    return step.upper()


def test_results_are_sent_and_the_last_is_returned(runner: Callable[..., str]) -> None:
    def steps() -> Steps:
        first = yield "one"
        second = yield "two"
        return f"{first} {second}"

    assert runner(steps(), upper) == "ONE TWO"


def test_a_generator_can_handle_what_a_step_raises(runner: Callable[..., str]) -> None:
    def steps() -> Steps:
        try:
            yield "bad"
        except LookupError as error:
            return f"caught {error}"
        return ""

    assert runner(steps(), upper) == "caught bad"


def test_what_it_does_not_handle_is_raised_without_a_context(runner: Callable[..., str]) -> None:
    def steps() -> Steps:
        yield "bad"
        return ""

    with pytest.raises(LookupError) as caught:
        runner(steps(), upper)
    assert caught.value.__context__ is None


def test_an_error_leaves_no_cycle_behind() -> None:
    class MarkedError(Exception):
        pass

    def fail(_: str) -> None:
        raise MarkedError

    def steps() -> Steps:
        yield "one"
        return ""

    seen: list[weakref.ref[MarkedError]] = []
    gc.disable()
    try:
        try:
            run(steps(), fail)
        except MarkedError as error:
            seen.append(weakref.ref(error))
        assert seen[0]() is None
    finally:
        gc.enable()
