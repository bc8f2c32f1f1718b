"""How asyncio is reached, and left as it was; and in which iteration of a loop something came."""

from __future__ import annotations

import asyncio
import gc
import socket
import subprocess
import sys

from collections.abc import Callable
from collections.abc import Coroutine
from typing import Any

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.sockets.asyncio_loops import AsyncioLoops
from pytest_resilience.interceptors.sockets.asyncio_loops import LoopConnects
from pytest_resilience.interceptors.sockets.asyncio_loops import LoopIterations
from pytest_resilience.interceptors.sockets.connections import ConnectionTable
from pytest_resilience.interceptors.sockets.interceptor import SocketInterceptor
from pytest_resilience.interceptors.sockets.peer_names import HostNames
from pytest_resilience.patching import Patches


# A loop that nobody could have foreseen: asyncio is loaded by the code under test.
STORY = """
import sys
from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.sockets.interceptor import SocketInterceptor

engine = Engine(lambda engine: [SocketInterceptor(engine)])
active_experiment = engine.start(ChaosExperiment("far", "network_latency", delay=0.001), seed=1)
assert "asyncio" not in sys.modules

import asyncio
import socket

async def story(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    await writer.wait_closed()

with socket.create_server(("127.0.0.1", 0)) as server:
    asyncio.run(story(server.getsockname()[1]))
active_experiment.stop()
print(active_experiment.hits, asyncio.BaseEventLoop.sock_connect.__qualname__)
print(asyncio.SelectorEventLoop.sock_connect.__module__)
"""


def test_asyncio_is_reached_though_it_is_loaded_late() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STORY], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.split() == ["1", "AbstractEventLoop.sock_connect", "asyncio.selector_events"]


def test_everything_is_put_back() -> None:
    def found() -> list[object]:
        return [socket.socketpair, asyncio.SelectorEventLoop.sock_connect]

    before = found()
    engine = Engine(lambda engine: [SocketInterceptor(engine)])
    active_experiment = engine.start(ChaosExperiment("far", "network_latency", delay=1), seed=1)
    assert found() != before
    active_experiment.stop()
    assert found() == before


def test_a_wrapper_that_outlives_its_experiments_passes_on(echo_port: int) -> None:
    """As one that another tool has kept hold of."""
    engine = Engine(lambda engine: [SocketInterceptor(engine)])
    active_experiment = engine.start(ChaosExperiment("far", "network_latency", delay=3600), seed=1)
    kept_connect, kept_pair = asyncio.SelectorEventLoop.sock_connect, socket.socketpair
    active_experiment.stop()

    async def story() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, asyncio.SelectorEventLoop)
        with socket.socket() as client:
            client.setblocking(False)
            await kept_connect(loop, client, ("127.0.0.1", echo_port))
            assert client.getpeername()

    asyncio.run(asyncio.wait_for(story(), 30))
    for each in kept_pair():
        each.close()
    assert active_experiment.matched == 0


def test_a_socket_without_a_transport_has_no_detour(engine: Engine) -> None:
    patches = Patches()
    names = HostNames()
    loops = AsyncioLoops(
        engine, LoopConnects(engine, ConnectionTable(engine, names)), names, patches
    )

    async def story() -> object:
        with socket.socket() as sock:
            return loops.delaying_protocol(sock)

    loops.install()
    try:
        assert asyncio.run(story()) is None
    finally:
        patches.restore()


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
