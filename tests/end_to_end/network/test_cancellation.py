"""Who awaits the network is cancelled: injected, and for real, at the same place."""

from __future__ import annotations

import asyncio
import contextlib
import threading

from collections.abc import AsyncIterator
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from tests.end_to_end.network.hostile import FULL
from tests.end_to_end.network.hostile import GOOD
from tests.end_to_end.network.hostile import SILENT
from tests.end_to_end.network.hostile import Place
from tests.fidelity_page import Section
from tests.fidelity_page import assert_complete
from tests.injecting import Inject


Ask = Callable[[], Awaitable[Any]]
LeadTo = Callable[..., AbstractContextManager[Place]]

REQUEST = b"GET / HTTP/1.0\r\n\r\n"


@contextlib.asynccontextmanager
async def streams(port: int) -> AsyncIterator[Ask]:
    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(REQUEST)
            return await reader.read(1)
        finally:
            writer.close()

    yield ask


@contextlib.asynccontextmanager
async def socket_methods(port: int) -> AsyncIterator[Ask]:
    import socket

    async def ask() -> bytes:
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", port))
            await loop.sock_sendall(sock, REQUEST)
            return await loop.sock_recv(sock, 1)

    yield ask


@contextlib.asynccontextmanager
async def httpx_client(port: int) -> AsyncIterator[Ask]:
    import httpx

    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:

        async def ask() -> bytes:
            return (await client.get(f"http://127.0.0.1:{port}/")).content

        yield ask


@contextlib.asynccontextmanager
async def aiohttp_client(port: int) -> AsyncIterator[Ask]:
    import aiohttp

    async with aiohttp.ClientSession() as session:

        async def ask() -> bytes:
            async with session.get(f"http://127.0.0.1:{port}/") as response:
                return await response.read()

        yield ask


@contextlib.asynccontextmanager
async def trio_streams(port: int) -> AsyncIterator[Ask]:
    import trio

    async def ask() -> bytes | bytearray:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(REQUEST)
            return await stream.receive_some(1)

    yield ask


@dataclass(frozen=True, kw_only=True)
class Client:
    title: str
    make: Callable[[int], AbstractAsyncContextManager[Ask]]
    library: str = "asyncio"
    of_trio: bool = False


CLIENTS = (
    Client(title="asyncio streams", make=streams),
    Client(title="asyncio sockets", make=socket_methods),
    Client(title="httpx", make=httpx_client, library="httpx"),
    Client(title="aiohttp", make=aiohttp_client, library="aiohttp"),
    Client(title="trio streams", make=trio_streams, of_trio=True),
    Client(title="httpx on trio", make=httpx_client, library="httpx", of_trio=True),
)
MOMENTS = {"connect": FULL, "receive": SILENT}
SECTION = Section(
    title="Cancellation",
    events=tuple(f"{client.title}, {moment}" for client in CLIENTS for moment in MOMENTS),
    libraries=("httpx", "anyio", "aiohttp", "trio"),
    about="What is raised at the `await`, what becomes of the task or cancel scope, and what the "
    "next request of the same client meets. It is really cancelled by `task.cancel()` and "
    "`scope.cancel()`, while the kernel connects, or the server has got the request.",
)


def test_all_of_it_is_on_the_page() -> None:
    assert_complete(SECTION)


class Told:
    """What the code that was cancelled has seen."""

    def __init__(self) -> None:
        self.raised = ""

    async def ask(self, ask: Ask) -> None:
        try:
            await ask()
        except BaseException as error:
            self.raised = f"{type(error).__module__}.{type(error).__qualname__}"
            raise


# Cancels when it is time: it is given what waits for that, in a thread.
Moment = Callable[[], None] | None


async def in_asyncio(client: Client, place: Place, moment: Moment) -> str:
    told = Told()
    async with client.make(place.port) as ask:
        task = asyncio.create_task(told.ask(ask))
        if moment is not None:
            await asyncio.to_thread(moment)
            task.cancel()
        await asyncio.wait([task])
        place.turn(GOOD)
        await ask()
    return f"{told.raised}, the task {'is cancelled' if task.cancelled() else 'goes on'}; then ok"


async def in_trio(client: Client, place: Place, moment: Moment) -> str:
    import trio

    told = Told()
    async with client.make(place.port) as ask:
        with trio.CancelScope() as scope:

            async def cancel() -> None:
                if moment is not None:
                    await trio.to_thread.run_sync(moment)
                    scope.cancel()

            async with trio.open_nursery() as others:
                others.start_soon(cancel)
                # A scope of its own, or that of the nursery would be the nearest.
                with trio.CancelScope() if moment is None else contextlib.nullcontext(scope) as own:
                    await told.ask(ask)
        place.turn(GOOD)
        await ask()
    gone = own.cancelled_caught or scope.cancelled_caught
    return f"{told.raised}, the scope {'is cancelled' if gone else 'goes on'}; then ok"


def meet(client: Client, place: Place, moment: Moment) -> str:
    pytest.importorskip(client.library)  # not in the loop
    if not client.of_trio:
        return asyncio.run(in_asyncio(client, place, moment))
    trio: Any = pytest.importorskip("trio")
    return str(trio.run(in_trio, client, place, moment))


def connecting(port: int) -> int:
    """How many connects to a port are pending in the kernel."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(line[2].endswith(f":{port:04X}") and line[3] == "02" for line in lines)


@contextlib.contextmanager
def really(place: Place, mood: str) -> Iterator[Callable[[], None]]:
    """Yields what waits until a client waits at the place."""
    place.turn(mood)
    over = threading.Event()

    def waiting() -> int:
        return place.requests if mood == SILENT else connecting(place.port)

    before = waiting()

    def until_waiting() -> None:
        while waiting() <= before and not over.is_set():
            over.wait(0.001)

    yield until_waiting
    over.set()


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("client", CLIENTS, ids=[each.title for each in CLIENTS])
def test_cancellation(client: Client, moment: str, lead_to: LeadTo, inject: Inject) -> None:
    with lead_to("http") as place:
        target = f"127.0.0.1:{place.port}"
        with inject("cancellation", at=moment, target=target, nth=1) as experiment:
            injected = meet(client, place, None)
        assert counts(experiment) == (2, 1)
    with lead_to("http") as place, really(place, MOMENTS[moment]) as until_there:
        real = meet(client, place, until_there)
    SECTION.note(f"{client.title}, {moment}", injected, real)


def counts(experiment: ActiveExperiment) -> tuple[int, int]:
    return experiment.matched, experiment.hits
