"""What virtual time costs: `python benchmarks/virtual_time.py`. Takes half a minute.

With `--soak SECONDS` it measures nothing, and runs threads, pools, event loops and children under
the load of other processes instead, looking for a wait that ends at another time than it must.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import concurrent.futures
import queue
import random
import statistics
import subprocess
import sys
import threading
import time

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager

import tenacity

from figures import Figure
from figures import pin
from figures import show

from pytest_resilience.virtual_time.clock import VirtualClock


REAL = {"ns": time.perf_counter_ns}  # not to be found by name


@contextmanager
def milliseconds(found: list[float]) -> Iterator[None]:
    began = REAL["ns"]()
    yield
    found.append((REAL["ns"]() - began) / 1e6)


def fixture() -> float:
    """Beginning and end, in ms; the names of new modules are looked through only once."""
    found: list[float] = []
    for _ in range(200):
        with milliseconds(found), VirtualClock():
            pass
    return statistics.median(found)


def jump(wait: Callable[[int], None]) -> float:
    """A jump, in us: of short rows the best, which nobody has interrupted."""
    found: list[float] = []
    count = 100
    with VirtualClock() as clock:
        for _ in range(200):
            before = clock.jumps
            with milliseconds(found):
                wait(count)
            assert clock.jumps - before == count
    return min(found) / count * 1e3


def by_sleep(count: int) -> None:
    for _ in range(count):
        time.sleep(1)


def jump_of_a_loop() -> float:
    """A jump of an event loop with all that asyncio does for a sleep, in us."""
    found: list[float] = []
    count = 100

    async def sleep() -> None:
        for _ in range(200):
            with milliseconds(found):
                for _ in range(count):
                    await asyncio.sleep(1)

    with VirtualClock() as clock:
        asyncio.run(sleep())
        assert clock.jumps == 200 * count
    return min(found) / count * 1e3


def jump_beside_a_connection() -> float:
    """As `jump_of_a_loop`, where a connection of the same loop is open and nothing is sent."""
    found: list[float] = []
    count = 100

    async def wait(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async def sleep() -> None:
        async with await asyncio.start_server(wait, "127.0.0.1", 0) as server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for _ in range(50):
                with milliseconds(found):
                    for _ in range(count):
                        await asyncio.sleep(1)
            writer.close()
            await writer.wait_closed()

    with VirtualClock() as clock:
        asyncio.run(sleep())
        assert clock.jumps == 50 * count
    return min(found) / count * 1e3


def by_another_thread(count: int) -> None:
    thread = threading.Thread(target=by_sleep, args=(count,))
    thread.start()
    thread.join()


def backoff() -> float:
    """An hour of exponential backoff, in ms, with the clock around it."""
    found: list[float] = []
    for _ in range(20):
        with milliseconds(found), VirtualClock() as clock:
            retrying = tenacity.Retrying(
                wait=tenacity.wait_exponential(max=60),
                stop=tenacity.stop_after_delay(3600),
                reraise=True,
            )
            try:
                retrying(int, "x")
            except ValueError:
                assert clock.elapsed >= 3600
    return statistics.median(found)


def reading() -> float:
    """What reading the clock takes a member, in us."""
    found: list[float] = []
    with VirtualClock():
        for _ in range(20):
            time.sleep(1)
            with milliseconds(found):
                for _ in range(1000):
                    time.monotonic()
    return min(found)


def figures() -> list[Figure]:
    thread = jump(by_another_thread)
    return [
        Figure(what="fixture: begin and end", value=fixture(), target=4.0, unit="ms"),
        Figure(what="a jump, time.sleep", value=jump(by_sleep), target=150.0, unit="us"),
        Figure(what="a jump, asyncio.sleep", value=jump_of_a_loop(), target=150.0, unit="us"),
        Figure(
            what="a jump, asyncio.sleep, a connection is open",
            value=jump_beside_a_connection(),
            target=150.0,
            unit="us",
        ),
        Figure(what="a jump, another thread", value=thread, target=150.0, unit="us"),
        Figure(what="an hour of exponential backoff", value=backoff(), target=50.0, unit="ms"),
        Figure(what="time.monotonic() of a member", value=reading(), target=None, unit="us"),
    ]


# The soak: each returns what it saw, which must be what stands in `ROUNDS`.


def sleepers() -> object:
    log: list[tuple[float, int]] = []
    began = time.monotonic()

    def sleep(seconds: int) -> None:
        for _ in range(3):
            time.sleep(seconds)
            log.append((time.monotonic() - began, seconds))

    run_all(*[lambda seconds=seconds: sleep(seconds) for seconds in (10, 7, 25)])
    return log


def run_all(*functions: Callable[[], object]) -> None:
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def handed_over() -> object:
    tasks: queue.Queue[int] = queue.Queue(maxsize=2)
    got: list[int] = []

    def take() -> None:
        while (task := tasks.get(timeout=30)) >= 0:
            got.append(task)
            time.sleep(1)

    thread = threading.Thread(target=take)
    thread.start()
    for number in [*range(20), -1]:
        tasks.put(number, timeout=30)
    thread.join()
    return got == [*range(20)]


def contended() -> object:
    lock, log = threading.Lock(), []
    began = time.monotonic()

    def hold() -> None:
        with lock:
            time.sleep(10)
            log.append(time.monotonic() - began)

    run_all(*[hold] * 4)
    return log


def pooled() -> object:
    def work(number: int) -> int:
        end = time.process_time() + 0.002
        while time.process_time() < end:
            pass
        time.sleep(number)
        return number

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        return list(pool.map(work, range(9), timeout=60))


def looped() -> object:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        threads = [asyncio.to_thread(time.sleep, seconds) for seconds in (9, 3, 6)]
        tasks = [asyncio.ensure_future(thread) for thread in threads]
        seen = []
        for task in asyncio.as_completed(tasks, timeout=30):
            await task
            seen.append(loop.time() - began)
        return seen

    return asyncio.run(main())


def worked() -> object:
    def work() -> None:
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(work).result(timeout=0.001)
    return time.monotonic() > 0


def child() -> object:
    return subprocess.run([sys.executable, "-S", "-c", ""], timeout=60, check=True).returncode


ROUNDS: dict[Callable[[], object], tuple[object, float | None]] = {
    sleepers: (
        [(7, 7), (10, 10), (14, 7), (20, 10), (21, 7), (25, 25), (30, 10), (50, 25), (75, 25)],
        75,
    ),
    handed_over: (True, 20),
    contended: ([10, 20, 30, 40], 40),
    pooled: ([*range(9)], 15),
    looped: ([3, 6, 9], 9),
    worked: (True, 0),
    child: (0, None),
}
# The order in which two who are due at the same moment go on is theirs.
LOOSE = {pooled}


def soak(seconds: float, burners: int) -> int:
    """The exit status: 1 if anything was not as it must be."""
    burn = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(burners)]
    wrong: collections.Counter[str] = collections.Counter()
    end, rounds = REAL["ns"]() + seconds * 1e9, 0
    try:
        while REAL["ns"]() < end:
            for function, expected in ROUNDS.items():
                chance = random.Random(rounds) if rounds % 2 else None
                wrong.update(complaints(function, expected, chance))
            rounds += 1
    finally:
        for process in burn:
            process.kill()
            process.wait()
    print(f"{rounds} rounds of {len(ROUNDS)}, {wrong.total()} wrong")
    for complaint, count in wrong.most_common(10):
        print(f"  {count} x {complaint}")
    return 1 if wrong or not rounds else 0


def complaints(
    function: Callable[[], object],
    expected: tuple[object, float | None],
    chance: random.Random | None,
) -> list[str]:
    result, elapsed = expected
    name = f"{function.__name__}{' seeded' if chance else ''}"
    try:
        with VirtualClock(chance=chance) as clock:
            got = function()
            took = clock.elapsed
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return [f"{name}: {type(error).__name__}: {error}"]
    found = [] if got == result else [f"{name}: {got!r}"]
    if elapsed is not None and took != elapsed and function not in LOOSE:
        found.append(f"{name}: took {took!r} s")
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--soak", type=float, metavar="SECONDS")
    parser.add_argument("--burners", type=int, default=4, help="processes that use the CPU")
    asked = parser.parse_args()
    if asked.soak:
        raise SystemExit(soak(asked.soak, asked.burners))
    pin()
    raise SystemExit(show(figures()))


if __name__ == "__main__":
    main()
