"""Whether a delay under asyncio takes as long as asked, and whether the loop goes on meanwhile.

`python benchmarks/network_async.py`, with the `test` extra installed; takes a minute. The
server is a process of its own and shares the core, as all that is started from here.

Whoever has waited finds the caches cold, the loop, the client and the server too. So what is
asked is held against a server that really takes that long, in turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import statistics
import sys
import time

from collections.abc import AsyncIterator
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import aiohttp
import httpx

from figures import Figure
from figures import lateness
from figures import pin
from figures import show
from servers import serving

from pytest_resilience import ChaosExperiment
from pytest_resilience import Event
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.sockets.interceptor import SocketInterceptor


HOST = "127.0.0.1"
ASKED = {1: 200, 5: 200, 20: 100, 50: 60, 200: 20}  # ms: how many requests
AT_ONCE = 200
BEAT = 0.001  # seconds

SERVER = r"""
import asyncio
import time

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

async def serve(reader, writer):
    while data := await reader.read(65536):
        if data[:5] == b"SLEEP":  # exactly, as no timer of a loop is
            time.sleep(float(data[5:]))
        if data[:9] == b"GET /late":  # as many at a time as ask
            asyncio.get_running_loop().call_later(0.1, writer.write, ANSWER)
        else:
            writer.write(ANSWER)

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""

Ask = Callable[[], Awaitable[object]]
engine = Engine(lambda engine: [SocketInterceptor(engine)])


def server() -> contextlib.AbstractContextManager[int]:
    return serving(SERVER)


@contextlib.contextmanager
def latency(seconds: float, **more: str) -> Iterator[None]:
    active_experiment = engine.start(
        ChaosExperiment("far", "network_latency", delay=seconds, **more), seed=1
    )
    try:
        yield
    finally:
        active_experiment.stop()


@contextlib.asynccontextmanager
async def streams(port: int) -> AsyncIterator[Callable[..., Awaitable[object]]]:
    reader, writer = await asyncio.open_connection(HOST, port)

    async def ask(request: bytes = b"GET / HTTP/1.1\r\n\r\n") -> None:
        writer.write(request)
        await reader.readuntil(b"ok")

    yield ask
    writer.close()
    await writer.wait_closed()


@contextlib.asynccontextmanager
async def with_aiohttp(port: int) -> AsyncIterator[Callable[..., Awaitable[object]]]:
    connector = aiohttp.TCPConnector(limit=AT_ONCE)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def ask(path: str = "") -> None:
            async with session.get(f"http://{HOST}:{port}/{path}") as response:
                await response.read()

        yield ask


@contextlib.asynccontextmanager
async def with_httpx(port: int) -> AsyncIterator[Ask]:
    async with httpx.AsyncClient(trust_env=False) as client:

        async def ask() -> None:
            (await client.get(f"http://{HOST}:{port}/")).raise_for_status()

        yield ask


async def milliseconds(ask: Ask) -> float:
    began = time.perf_counter()
    await ask()
    return (time.perf_counter() - began) * 1e3


async def asked_figures(port: int, **more: str) -> list[Figure]:
    """Of a bare stream, which has next to nothing to do itself. `more`: whose requests are late."""
    figures, who = [], " ".join(["streams", *more.values()])
    async with streams(port) as ask:
        calm = statistics.median([await milliseconds(ask) for _ in range(200)])
        figures.append(Figure(what="streams: a request", value=calm, target=None, unit="ms"))
        for asked, times in ASKED.items():
            really = functools.partial(ask, f"SLEEP{asked / 1e3}".encode())
            took, real = [], []
            for _ in range(4):
                real += [await milliseconds(really) for _ in range(times // 4)]
                with latency(asked / 1e3, **more):
                    took += [await milliseconds(ask) for _ in range(times // 4)]
            figures += lateness(who, asked, took, real, target=0.5)
    return figures


async def client_figures(port: int) -> list[Figure]:
    """Of clients that have work of their own to do, with what they take by themselves."""
    figures = []
    for name, client in {"aiohttp": with_aiohttp, "httpx": with_httpx}.items():
        async with client(port) as ask:
            await ask()
            calm = [await milliseconds(ask) for _ in range(100)]
            with latency(0.02):
                took = [await milliseconds(ask) for _ in range(100)]
        usual = statistics.median(calm)
        more = statistics.median(took) - usual - 20
        figures += [
            Figure(what=f"{name}: a request", value=usual, target=None, unit="ms"),
            Figure(what=f"{name}: asked 20 ms, median: more", value=more, target=None, unit="ms"),
        ]
    return figures


async def crowd_figures(port: int) -> list[Figure]:
    """Many requests at once, on connections that are open."""
    async with contextlib.AsyncExitStack() as stack:
        asks = [await stack.enter_async_context(streams(port)) for _ in range(AT_ONCE)]
        late = [functools.partial(ask, b"GET /late") for ask in asks]
        figures = await crowd("streams", asks, late)
    async with with_aiohttp(port) as ask:
        await asyncio.gather(*(ask() for _ in range(AT_ONCE)))
        late = [functools.partial(ask, "late")] * AT_ONCE
        figures += await crowd("aiohttp", [ask] * AT_ONCE, late)
    return figures


async def crowd(name: str, asks: Sequence[Ask], late: Sequence[Ask]) -> list[Figure]:
    """`late`: the same requests, which the server itself answers after 100 ms."""
    calm, really = await together(asks), await together(late)
    with latency(0.1):
        far = await together(asks)
    what = f"{name}: {AT_ONCE} requests at once"
    return [
        Figure(what=what, value=calm, target=None, unit="ms"),
        Figure(what="  a server that really takes 100 ms", value=really, target=None, unit="ms"),
        Figure(what=f"{what}, asked 100 ms", value=far, target=130, unit="ms"),
    ]


async def together(asks: Sequence[Ask]) -> float:
    """Milliseconds until the last is answered, the median of several times."""

    async def all_of_them() -> object:
        return await asyncio.gather(*(ask() for ask in asks))

    return statistics.median([await milliseconds(all_of_them) for _ in range(9)])


async def heart_figures(port: int) -> list[Figure]:
    late: list[float] = []

    async def beat() -> None:
        while True:
            due = time.perf_counter() + BEAT
            await asyncio.sleep(BEAT)
            late.append((time.perf_counter() - due) * 1e3)

    figures = []
    async with streams(port) as ask:
        for what, delay in {"without chaos": 0.0, "asked 50 ms": 0.05}.items():
            late.clear()
            heart = asyncio.create_task(beat())
            with latency(delay) if delay else contextlib.nullcontext():
                ends = time.perf_counter() + 2
                while time.perf_counter() < ends:
                    await ask()
                    await asyncio.sleep(0.01)
            heart.cancel()
            worst = Figure(
                what=f"a heartbeat beside requests, {what}: latest",
                value=max(late),
                target=10 if delay else None,
                unit="ms",
            )
            figures.append(worst)
    return figures


async def all_figures(port: int) -> list[Figure]:
    return [
        *await asked_figures(port),
        *await asked_figures(port, stream="upstream"),
        *await client_figures(port),
        *await crowd_figures(port),
        *await heart_figures(port),
    ]


def measure() -> list[Figure]:
    with server() as port:
        return asyncio.run(all_figures(port))


def main() -> int:
    pin()
    heard: list[Event] = []
    engine.listeners.add(heard.append)  # somebody listens in a test too, so events are made
    return show(measure())


if __name__ == "__main__":
    sys.exit(main())
