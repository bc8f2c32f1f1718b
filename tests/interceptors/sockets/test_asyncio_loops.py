"""How asyncio is reached, and left as it was."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys

from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.sockets.asyncio_loops import AsyncioLoops
from pytest_resilience.interceptors.sockets.connect import LoopConnects
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
