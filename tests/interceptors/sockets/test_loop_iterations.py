from __future__ import annotations

import asyncio
import gc

from collections.abc import Callable
from collections.abc import Coroutine
from typing import Any

import pytest

from pytest_resilience.interceptors.sockets.asyncio_loops import LoopIterations


Story = Callable[[asyncio.AbstractEventLoop, LoopIterations], Coroutine[Any, Any, None]]


async def an_answer_at_the_first_look_came_at_once(
    loop: asyncio.AbstractEventLoop, iterations: LoopIterations
) -> None:
    iterations.sent(loop, 1.0)
    iterations.sent(loop, 2.0)
    await asyncio.sleep(0)
    assert iterations.arrival(loop, 1.0, 50.0) == 1.0
    assert iterations.arrival(loop, 2.0, 51.0) == 2.0
    assert iterations.arrival(loop, 0.5, 52.0) == 50.0  # sent before: there had been a look


async def one_that_had_to_be_waited_for_came_just_now(
    loop: asyncio.AbstractEventLoop, iterations: LoopIterations
) -> None:
    iterations.sent(loop, 1.0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert iterations.arrival(loop, 1.0, 50.0) == 50.0


async def one_that_comes_at_once_was_not_waited_for(
    loop: asyncio.AbstractEventLoop, iterations: LoopIterations
) -> None:
    assert iterations.arrival(loop, 1.0, 1.0009) == 1.0
    assert iterations.arrival(loop, 0.9, 1.001) == 1.0009


async def all_that_is_read_in_a_pass_came_before_it(
    loop: asyncio.AbstractEventLoop, iterations: LoopIterations
) -> None:
    assert iterations.arrival(loop, 1.0, 50.0) == 50.0
    assert iterations.arrival(loop, 1.0, 60.0) == 50.0
    assert iterations.arrival(loop, 55.0, 60.0) == 55.0  # but not before it was asked for
    await asyncio.sleep(0)
    assert iterations.arrival(loop, 1.0, 70.0) == 70.0


async def each_iteration_has_its_own_first_look(
    loop: asyncio.AbstractEventLoop, iterations: LoopIterations
) -> None:
    for number in range(1, 5):
        iterations.sent(loop, number)
        await asyncio.sleep(0)
        assert iterations.arrival(loop, number, 50.0 + number) == number
        assert iterations.arrival(loop, number - 1, 50.0 + number) == 50.0 + number


@pytest.mark.parametrize(
    "story",
    [
        an_answer_at_the_first_look_came_at_once,
        one_that_had_to_be_waited_for_came_just_now,
        one_that_comes_at_once_was_not_waited_for,
        all_that_is_read_in_a_pass_came_before_it,
        each_iteration_has_its_own_first_look,
    ],
    ids=lambda story: story.__name__,
)
def test_when_what_is_read_has_come(story: Story) -> None:
    async def told() -> None:
        await story(asyncio.get_running_loop(), LoopIterations())

    asyncio.run(told())


def test_a_loop_that_is_gone_is_forgotten() -> None:
    iterations = LoopIterations()

    async def speak() -> None:
        iterations.sent(asyncio.get_running_loop(), 1.0)

    asyncio.run(speak())
    gc.collect()
    assert len(iterations._iterations) == 0
