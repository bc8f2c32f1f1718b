from __future__ import annotations

import asyncio
import contextlib
import gc
import sqlite3
import textwrap
import threading
import warnings

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiosqlite
import anyio
import pytest
import trio
import trio.testing

from pytest_resilience.chaos.cancelling import Cancelling
from pytest_resilience.chaos.cancelling import awaiting
from pytest_resilience.chaos.cancelling import cancellation_of
from pytest_resilience.chaos.cancelling import in_own_scope
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.runtime import Runtime
from tests.injecting import Inject
from tests.injecting import injecting


@pytest.fixture
def inject() -> Iterator[Inject]:
    runtime = Runtime()
    yield injecting(runtime.start, rate=1)
    assert not runtime.engine.active


async def outcome(work: Callable[[], Awaitable[object]]) -> str:
    """What becomes of a task that does it."""
    task = asyncio.ensure_future(work())
    await asyncio.wait([task])
    return "cancelled" if task.cancelled() else repr(task.exception() or task.result())


def test_nobody_awaits_what_no_loop_runs() -> None:
    assert cancellation_of() is None


@pytest.mark.may_block
def test_what_a_coroutine_does_without_awaiting_it(inject: Inject, tmp_path: Path) -> None:
    async def main() -> None:
        connection = sqlite3.connect(":memory:")
        connection.execute("CREATE TABLE teas (name)").close()
        connection.close()
        (tmp_path / "tea.txt").write_text("green")
        assert cancellation_of() is None
        await asyncio.sleep(0)

    with inject("cancellation") as experiment:
        asyncio.run(main())
    assert experiment.matched == 0


@pytest.mark.parametrize("at", ["connect", "execute", "commit", "fetch"])
def test_what_a_thread_of_aiosqlite_does_for_a_task(inject: Inject, at: str) -> None:
    async def work() -> None:
        async with aiosqlite.connect(":memory:") as database:
            await database.execute("CREATE TABLE teas (name)")
            await database.execute("INSERT INTO teas VALUES ('green')")
            await database.commit()
            async with database.execute("SELECT name FROM teas") as cursor:
                await cursor.fetchall()

    async def main() -> str:
        before = set(threading.enumerate())
        found = await outcome(work)
        # A connect that is cancelled ends its thread, and does not wait for that.
        for thread in set(threading.enumerate()) - before:
            if "_connection_worker_thread" in thread.name:
                await asyncio.to_thread(thread.join, 10)
        return found

    with warnings.catch_warnings():
        # aiosqlite leaves open what was connected for a task that has gone.
        warnings.simplefilter("ignore", ResourceWarning)
        with inject("cancellation", at=at, nth=1) as experiment:
            assert asyncio.run(main()) == "cancelled"
        gc.collect()
    assert experiment.hits == 1


@pytest.mark.parametrize("waits", [False, True])
def test_what_a_thread_of_the_loop_does_for_a_task(
    inject: Inject, tmp_path: Path, waits: bool
) -> None:
    async def main() -> str:
        waiting = threading.Event()

        def write() -> None:
            if waits:
                waiting.wait(10)
            (tmp_path / "tea.txt").write_text("green")

        async def work() -> None:
            asyncio.get_running_loop().call_soon(waiting.set)
            await asyncio.to_thread(write)

        return await outcome(work)

    with inject("cancellation", at="write", path=tmp_path) as experiment:
        assert asyncio.run(main()) == "cancelled"
    assert experiment.hits == 1


@pytest.mark.may_block
def test_a_thread_finds_the_loop_open_when_its_job_is_done(inject: Inject, tmp_path: Path) -> None:
    told: list[str] = []

    def work(future: asyncio.Future[None]) -> None:
        loop = future.get_loop()
        (tmp_path / "tea.txt").write_text("green")
        end = MACHINE_CLOCK.monotonic() + 0.2
        while not loop.is_closed() and MACHINE_CLOCK.monotonic() < end:
            MACHINE_CLOCK.sleep(0.001)
        try:
            loop.call_soon_threadsafe(future.cancel)
            told.append("done")
        except RuntimeError as error:
            told.append(str(error))

    async def main() -> threading.Thread:
        future = asyncio.get_running_loop().create_future()
        thread = threading.Thread(target=work, args=[future])
        thread.start()
        with contextlib.suppress(asyncio.CancelledError):
            await future
        return thread

    with inject("cancellation", at="write", path=tmp_path) as experiment:
        asyncio.run(main()).join(10)
    assert experiment.hits == 1
    assert told == ["done"]


@pytest.mark.may_block
def test_a_thread_whose_task_was_cancelled_cancels_no_other(inject: Inject, tmp_path: Path) -> None:
    begun, goes_on, done = threading.Event(), threading.Event(), threading.Event()

    def write() -> None:
        begun.set()
        goes_on.wait(10)
        (tmp_path / "tea.txt").write_text("green")
        done.set()

    async def main() -> str:
        task = asyncio.create_task(asyncio.to_thread(write))
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        await asyncio.wait([task])
        goes_on.set()
        done.wait(10)  # in a step of this task, which the loop runs meanwhile
        await asyncio.sleep(0)
        return "goes on"

    with inject("cancellation") as experiment:
        assert asyncio.run(main()) == "goes on"
    assert experiment.hits == 0


def test_a_thread_that_nobody_awaits(inject: Inject, tmp_path: Path) -> None:
    def write() -> None:
        (tmp_path / "tea.txt").write_text("green")

    with inject("cancellation", at="write") as experiment:
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert experiment.matched == 0


async def done_by_a_library(do: Callable[[], object]) -> None:
    """The child of a task group of the user's, with no code of the user's in it."""
    async with anyio.create_task_group() as group:
        group.start_soon(asyncio.to_thread, do)


def test_a_task_that_waits_for_its_children(inject: Inject, tmp_path: Path) -> None:
    with inject("cancellation", at="make", path=tmp_path):
        work = done_by_a_library
        make = (tmp_path / "teas").mkdir
        assert asyncio.run(outcome(lambda: work(make))) == "cancelled"


async def found() -> Cancelling | None:
    """As of an operation that a library's coroutine does: what is in between is not the user's."""
    namespace: dict[str, Any] = {"cancellation_of": cancellation_of}
    exec(compile("async def do(): return cancellation_of()", "<library>", "exec"), namespace)
    result: Cancelling | None = await namespace["do"]()
    return result


def in_trio(work: Callable[[], Awaitable[str]]) -> str:
    return trio.run(work)


def test_the_innermost_scope_of_the_user_is_cancelled(inject: Inject) -> None:
    async def main() -> str:
        with trio.CancelScope() as outer, trio.move_on_after(60) as inner:
            cancellation = await found()
            assert cancellation is not None
            cancellation.cancel()
            await trio.sleep_forever()
        return f"{outer.cancel_called} {inner.cancel_called}"

    with inject("cancellation"):
        assert in_trio(main) == "False True"


@pytest.mark.parametrize("enter", [trio.open_nursery, anyio.create_task_group])
def test_the_scope_of_a_nursery_is_passed_over(inject: Inject, enter: Callable[[], Any]) -> None:
    """It would end as if all its tasks were done."""

    async def child() -> None:
        cancellation = await found()
        assert cancellation is not None
        cancellation.cancel()
        await trio.sleep_forever()

    async def main() -> str:
        with trio.move_on_after(60) as outer:
            async with enter() as nursery:
                nursery.start_soon(child)
        return str(outer.cancel_called)

    async def alone() -> str:
        async with enter() as nursery:
            nursery.start_soon(child)
        return "all its tasks are done"

    with inject("cancellation"):
        assert in_trio(main) == "True"
        with pytest.raises((BaseExceptionGroup, trio.Cancelled)):
            in_trio(alone)


async def of_asyncio(child: Callable[[], Any], into: list[str]) -> None:
    async with asyncio.TaskGroup() as outer:

        async def inner() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(child())
            into.append("the group is over")

        outer.create_task(inner())
    into.append("the outer group is over")


async def of_anyio(child: Callable[[], Any], into: list[str]) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(child)
    into.append("the group is over")


async def is_cancelled() -> None:
    """A task of whose group others may wait."""
    cancellation = await found()
    assert cancellation is not None
    cancellation.cancel()
    await asyncio.sleep(60)


@pytest.mark.parametrize("group", [of_asyncio, of_anyio])
def test_who_waits_for_a_group_is_cancelled_with_its_task(
    inject: Inject, group: Callable[..., Awaitable[None]]
) -> None:
    """It would go on as if the task had come to its end."""
    into: list[str] = []

    with inject("cancellation"):
        assert asyncio.run(outcome(lambda: group(is_cancelled, into))) == "cancelled"
    assert not into


def test_who_does_something_else_meanwhile_is_not(inject: Inject) -> None:
    """A server that accepts connections is there for the next one."""
    into: list[str] = []

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(is_cancelled())
            for _ in range(5):
                await asyncio.sleep(0)
            into.append("it accepts the next one")

    with inject("cancellation"):
        assert asyncio.run(outcome(main)) == "None"
    assert into


def of_a_library(body: str, **names: object) -> Any:
    """Its function `do`."""
    namespace: dict[str, Any] = {"cancellation_of": cancellation_of, "awaiting": awaiting, **names}
    exec(
        compile(f"async def do(into):\n{textwrap.indent(body, '    ')}", "<library>", "exec"),
        namespace,
    )
    return namespace["do"]


LOOKS = """
async def look():
    found = awaiting()
    into.extend([cancellation_of(), found is not None and found.is_own])
"""


@pytest.mark.parametrize("sleep", [asyncio.sleep, anyio.sleep])
def test_a_task_that_a_library_has_started_for_itself(sleep: Callable[..., Any]) -> None:
    """Nobody of the test's cancels it, though it is awaited in the end."""
    body = "task = asyncio.create_task(look())\nawait sleep(0)\nreturn task"
    do = of_a_library(LOOKS + body, asyncio=asyncio, sleep=sleep)

    async def main() -> list[object]:
        into: list[object] = []
        await (await do(into))
        return into

    assert asyncio.run(main()) == [None, False]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_task_of_a_library_that_the_user_runs(backend: str) -> None:
    """No task waits for it: whoever has started the loop does."""
    do = of_a_library(LOOKS + "await look()")
    into: list[Any] = []
    anyio.run(do, into, backend=backend)
    cancelling, is_own = into
    assert cancelling is not None
    assert is_own


def test_a_task_of_a_library_for_which_a_task_of_the_user_waits() -> None:
    do = of_a_library(LOOKS + "await asyncio.create_task(look())", asyncio=asyncio)

    async def main() -> list[Any]:
        into: list[Any] = []
        await do(into)
        assert into[0].task is asyncio.current_task()
        return into[1:]

    assert asyncio.run(main()) == [True]


def test_a_system_task_of_a_library_in_trio() -> None:
    body = "trio.lowlevel.spawn_system_task(look)\nawait trio.testing.wait_all_tasks_blocked()"
    do = of_a_library(LOOKS + body, trio=trio)

    async def main() -> list[object]:
        into: list[object] = []
        await do(into)
        return into

    assert trio.run(main) == [None, False]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_task_in_a_group_that_the_user_waits_for(backend: str) -> None:
    """Its library has opened that around the user's block."""
    body = "async with anyio.create_task_group() as group:\n    group.start_soon(look)\n    yield"
    do = of_a_library(LOOKS + body, anyio=anyio)

    async def main() -> list[Any]:
        into: list[Any] = []
        with anyio.CancelScope():
            async with contextlib.asynccontextmanager(do)(into):
                into.append("the block")
        return into

    _, cancelling, is_own = anyio.run(main, backend=backend)
    assert cancelling is not None
    assert is_own


def test_a_scope_of_a_library_is_left_alone(inject: Inject) -> None:
    source = """
async def do():
    with trio.move_on_after(60) as scope:
        cancellation_of().cancel()
        await trio.sleep_forever()
    return scope
"""
    namespace: dict[str, Any] = {"cancellation_of": cancellation_of, "trio": trio}
    exec(compile(source, "<library>", "exec"), namespace)

    async def main() -> str:
        with trio.CancelScope() as scope:
            await namespace["do"]()
        return str(scope.cancelled_caught)

    with inject("cancellation"):
        assert in_trio(main) == "True"


def test_behind_a_shield_nothing_would_heed_it(inject: Inject) -> None:
    source = """
async def do():
    with trio.CancelScope(shield=True):
        return cancellation_of()
"""
    namespace: dict[str, Any] = {"cancellation_of": cancellation_of, "trio": trio}
    exec(compile(source, "<library>", "exec"), namespace)

    async def main() -> str:
        with trio.CancelScope():
            cancellation = await namespace["do"]()
        return str(cancellation)

    with inject("cancellation"):
        assert in_trio(main) == "None"


def test_a_scope_of_its_own_lets_the_cancellation_out() -> None:
    async def work() -> str:
        cancellation = await found()
        assert cancellation is not None
        cancellation.cancel()
        await trio.sleep_forever()
        return "nothing"

    async def main() -> str:
        with pytest.raises(trio.Cancelled):
            await in_own_scope(work)()
        await trio.lowlevel.checkpoint()  # who has called it is not cancelled
        return "gone on"

    assert in_trio(main) == "gone on"


def test_in_asyncio_it_needs_no_scope() -> None:
    async def work() -> str:
        return "done"

    assert asyncio.run(outcome(in_own_scope(work))) == "'done'"
