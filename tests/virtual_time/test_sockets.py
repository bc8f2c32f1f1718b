from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import threading
import time

from collections.abc import Iterator

import blockbuster
import pytest

from pytest_resilience.errors import ClockStalledError
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.virtual_time import time_functions
from pytest_resilience.virtual_time.clock import VirtualClock
from pytest_resilience.virtual_time.scheduler import Outlook
from pytest_resilience.virtual_time.scheduler import current


pytestmark = pytest.mark.may_block(reason="a selector that waits is what is tested")


@pytest.fixture
def clock() -> Iterator[VirtualClock]:
    with VirtualClock() as clock:
        yield clock


def test_asyncio_sleeps(clock: VirtualClock) -> None:
    async def sleep(seconds: int) -> int:
        await asyncio.sleep(seconds)
        return seconds

    async def all_of_them() -> list[int]:
        tasks = [asyncio.create_task(sleep(seconds)) for seconds in (9, 3, 6)]
        return [await each for each in asyncio.as_completed(tasks)]

    assert asyncio.run(all_of_them()) == [3, 6, 9]
    assert (clock.elapsed, clock.jumps) == (9, 3)


def test_asyncio_timeouts(clock: VirtualClock) -> None:
    async def patient() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.sleep(60)
        async with asyncio.timeout(2):
            await asyncio.sleep(1)
        return asyncio.get_running_loop().time() - time.monotonic()

    assert asyncio.run(patient()) == 0
    assert clock.elapsed == 6


def test_threads_and_a_loop(clock: VirtualClock) -> None:
    log: list[str] = []

    async def both() -> None:
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        threading.Timer(30, loop.call_soon_threadsafe, [done.set]).start()
        thread = asyncio.create_task(asyncio.to_thread(time.sleep, 20))
        await asyncio.sleep(10)
        log.append(f"slept {clock.elapsed}")
        await thread
        log.append(f"thread {clock.elapsed}")
        async with asyncio.timeout(11):
            await done.wait()
        log.append(f"timer {clock.elapsed}")

    asyncio.run(both())
    assert log == ["slept 10.0", "thread 20.0", "timer 30.0"]


def test_a_thread_that_works_is_not_overtaken_by_a_timeout(clock: VirtualClock) -> None:
    def work() -> int:
        end = time.process_time() + 0.03
        while time.process_time() < end:
            pass
        return 7

    async def wait() -> int:
        return await asyncio.wait_for(asyncio.to_thread(work), timeout=60)

    assert asyncio.run(wait()) == 7
    assert clock.elapsed == 0


def test_a_loop_that_is_older_than_the_clock() -> None:
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(asyncio.sleep(0))
        with VirtualClock() as clock:
            loop.run_until_complete(asyncio.sleep(3600))
            assert clock.elapsed == 3600
    finally:
        loop.close()


def test_a_loop_with_nothing_to_wait_for(clock: VirtualClock) -> None:
    async def hang() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(ClockStalledError, match="waits in select for ever"):
        asyncio.run(hang())


@pytest.mark.parametrize(
    "shape", [selectors.DefaultSelector, selectors.PollSelector, selectors.SelectSelector]
)
def test_selectors(clock: VirtualClock, shape: type[selectors.BaseSelector]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, shape() as selector:
        selector.register(ours, selectors.EVENT_READ)
        assert selector.select(5) == []
        assert selector.select(0) == []
        assert clock.elapsed == 5
        threading.Timer(30, theirs.send, [b"x"]).start()
        [(key, events)] = selector.select(60)
        assert (key.fileobj, events, clock.elapsed) == (ours, selectors.EVENT_READ, 35)


def test_advance_in_a_task(clock: VirtualClock) -> None:
    async def task() -> None:
        clock.advance(59)

    with pytest.raises(ConfigurationError, match=r"write `await asyncio.sleep\(59\)`"):
        asyncio.run(task())


def test_a_process_that_a_loop_waits_for(clock: VirtualClock) -> None:
    async def run() -> int:
        process = await asyncio.create_subprocess_exec("sleep", "0.05")
        async with asyncio.timeout(60):
            return await process.wait()

    real = time_functions._REAL["monotonic"]
    began = real()
    assert asyncio.run(run()) == 0
    # As the machine's went on, from when somebody waited.
    assert 0 < clock.elapsed <= real() - began


def test_a_park_of_a_loop_is_no_blocking_call(clock: VirtualClock) -> None:
    async def main() -> None:
        await asyncio.sleep(3600)
        await asyncio.to_thread(time.sleep, 5)
        with pytest.raises(blockbuster.BlockingError):
            time.sleep(5)  # noqa: ASYNC251  # which it is to see

    with blockbuster.blockbuster_ctx():
        asyncio.run(main())
    assert clock.elapsed == 3605


def test_time_does_not_jump_while_an_outside_peer_is_awaited() -> None:
    async def ask(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            async with asyncio.timeout(60):
                return await reader.read(1)
        finally:
            writer.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                time.sleep(0.05)
                connection.send(b"x")

        server = threading.Thread(target=serve)
        server.start()
        with VirtualClock() as clock:
            sleeper = threading.Thread(target=time.sleep, args=(3600,))
            sleeper.start()
            assert asyncio.run(ask(listener.getsockname()[1])) == b"x"
            assert clock.elapsed < 60
            sleeper.join()
        server.join()


def test_time_does_not_jump_while_a_loop_connects_to_what_does_not_answer() -> None:
    async def connect(address: tuple[str, int]) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await asyncio.open_connection(*address)

    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        stack.enter_context(socket.create_connection(address))  # there is no room for more
        with VirtualClock() as clock:
            asyncio.run(connect(address))
            assert clock.elapsed >= 0.1
            assert clock.jumps == 0


def test_an_open_connection_holds_up_nobody(clock: VirtualClock) -> None:
    scheduler = current()
    assert scheduler is not None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs = listener.accept()[0]
        for send in (lambda: None, lambda: theirs.send(b"x"), theirs.close):
            send()
            with scheduler.mutex:
                assert scheduler.network.outlook([ours.fileno()]) is Outlook.QUIET
                assert scheduler.network.patience == 0
        ours.close()
