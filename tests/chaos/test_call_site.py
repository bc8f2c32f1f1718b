from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import json
import os
import sysconfig
import time

from collections.abc import Callable
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
import trio

from pytest_resilience.chaos.call_site import caller
from pytest_resilience.chaos.call_site import caller_if_no_tool
from tests.hostile_objects import ODD


def ask(folder: str = "") -> str:
    return caller(folder)


def test_it_is_who_asked() -> None:
    line = ask.__code__.co_firstlineno + 1
    assert ask() == f"{__file__}:{line} in ask"


def test_libraries_in_between_are_left_out() -> None:
    class Answer:
        """Something the standard library calls back."""

    seen: list[str] = []
    json.dumps({"x": Answer()}, default=lambda _: seen.append(ask_from_here()))
    assert seen[0].endswith(" in ask_from_here")


def ask_from_here() -> str:
    namespace = {"caller": caller}
    exec(compile("found = caller()", "<generated>", "exec"), namespace)
    return str(namespace["found"])


def test_what_pytest_hides_is_left_out() -> None:
    def intercepted(hidden: bool) -> str:
        __tracebackhide__ = hidden
        return caller()

    def shown() -> str:
        return intercepted(hidden=True)

    assert shown().endswith(" in shown")
    assert intercepted(hidden=False).endswith(" in intercepted")


@pytest.mark.parametrize(
    ("module", "file", "is_named"),
    [
        ("shop", "shop.py", True),
        ("shop.cache", "cache.py", True),
        ("json", "shop.py", True),  # as of the standard library: who has called it says whose it is
        ("_pytest.raises", "shop.py", True),
        ("pytest_resilience.patterns.retry", "shop.py", True),
        ("_pytest.cacheprovider", "shop.py", False),
        ("pytest_cov.plugin", "shop.py", False),
        ("coverage.data", "shop.py", False),
    ],
)
def test_what_a_tool_does_has_no_place_of_the_users(module: str, file: str, is_named: bool) -> None:
    namespace = {"__name__": module, "ask": caller_if_no_tool, "caller": caller}
    code = "def story():\n    return ask(), caller()\n"
    exec(compile(code, os.path.join(os.getcwd(), file), "exec"), namespace)
    found, usual = namespace["story"]()  # type: ignore[operator]
    assert usual.endswith(f"{file}:2 in story")
    assert found == (usual if is_named else None)


def test_a_line_is_told_for_each_folder_and_each_line() -> None:
    def story(folder: str) -> tuple[str | None, ...]:
        return (
            caller_if_no_tool(folder),
            caller_if_no_tool(folder),
        )

    line, shown = story.__code__.co_firstlineno + 2, os.path.relpath(__file__)
    for _ in range(2):  # also of what is remembered
        assert story("") == tuple(f"{__file__}:{at} in story" for at in (line, line + 1))
        assert story(os.getcwd()) == tuple(f"{shown}:{at} in story" for at in (line, line + 1))


def test_the_program_that_was_started_is_nobodys_place() -> None:
    """The loop of asyncio hears an answer with nothing of the user's below it but `bin/pytest`."""
    script = f"{sysconfig.get_path('scripts')}/pytest"
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        console = compile("found = caller()", script, "exec")
        namespace = {"caller": caller}
        pool.submit(exec, console, namespace).result()
    assert namespace["found"] == ""  # type: ignore[comparison-overlap]


def test_a_thread_of_a_library_alone_has_no_place() -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(caller).result() == ""


@pytest.mark.parametrize("folder", [os.getcwd(), f"{os.getcwd()}{os.sep}"])
def test_the_folder_of_the_run_is_left_out(folder: str) -> None:
    assert ask(folder).startswith(f"{os.path.relpath(__file__)}:")
    assert ask("/elsewhere").startswith(f"{__file__}:")


# --- in loops, where what the user does not call has no place on the stack ---

TURNS = 5  # of a loop, within which everybody has come to wait
LIBRARY = """
async def everybody_waits():
    for _ in range(turns):
        await asyncio.sleep(0)


def after(turns, call, *args):
    if turns:
        asyncio.get_running_loop().call_soon(after, turns - 1, call, *args)
    else:
        call(*args)


def deliver(*through):
    seen.append(caller("", through))


async def deliver_here(event=None):
    deliver()
    if event is not None:
        event.set()


async def deliver_later():
    await everybody_waits()
    deliver()


async def deliver_and_signal(event):
    await everybody_waits()
    deliver()
    event.set()


def deliver_when_waited_for(task):
    while task._fut_waiter is None:
        time.sleep(0)
    deliver()


def deliver_when_anybody_waits(loop, _):
    while all(task._fut_waiter is None for task in asyncio.all_tasks(loop)):
        time.sleep(0)
    deliver()


def ask_a_thread_and_keep_the_loop():
    job = asyncio.get_running_loop().run_in_executor(None, deliver)
    while not seen:
        pass
    return job


async def await_a_thread():
    await ask_a_thread_and_keep_the_loop()


async def have_it_delivered_before_it_waits():
    await asyncio.shield(asyncio.create_task(await_a_thread()))
"""


class Library(SimpleNamespace):
    """Functions that are in no file of the user's."""

    def __init__(self, path: str = "library.py") -> None:
        self.seen: list[str] = []
        space: dict[str, Any] = {
            "asyncio": asyncio, "caller": caller, "seen": self.seen, "time": time, "turns": TURNS
        }  # fmt: skip
        whole = os.path.join(sysconfig.get_path("purelib"), path)
        exec(compile(LIBRARY, whole, "exec"), space)
        super().__init__(**space)

    def in_turn(self, *through: object) -> None:
        """Deliver from a callback, when everybody has come to wait."""
        self.after(TURNS, self.deliver, *through)


@pytest.fixture
def library() -> Library:
    return Library()


def later(library: Library, end: Callable[..., object], *args: object) -> None:
    """Call that after what is delivered in turn."""
    library.after(2 * TURNS, end, *args)


async def for_a_future(library: Library) -> None:
    waiter = asyncio.get_running_loop().create_future()
    library.in_turn(waiter)
    later(library, waiter.set_result, None)
    await waiter  # here


async def for_a_stream(library: Library) -> None:
    reader = asyncio.StreamReader()
    library.in_turn(asyncio.StreamReaderProtocol(reader))
    later(library, reader.feed_eof)
    await reader.read()  # here


async def for_a_stream_with_a_time_limit(library: Library) -> None:
    reader = asyncio.StreamReader()
    library.in_turn(asyncio.StreamReaderProtocol(reader))
    later(library, reader.feed_eof)
    await asyncio.wait_for(reader.read(), 30)  # here


async def for_an_event(library: Library) -> None:
    event = asyncio.Event()
    library.in_turn(SimpleNamespace(received=event))
    later(library, event.set)
    await event.wait()  # here


async def for_a_queue(library: Library) -> None:
    queue = asyncio.Queue[int]()
    library.in_turn(SimpleNamespace(messages=queue))
    later(library, queue.put_nowait, 1)
    await queue.get()  # here


async def for_a_task(library: Library) -> None:
    task = asyncio.create_task(library.deliver_later())
    await task  # here


async def for_a_task_with_a_time_limit(library: Library) -> None:
    await asyncio.wait_for(library.deliver_later(), 30)  # here


async def for_a_shielded_task(library: Library) -> None:
    await asyncio.shield(library.deliver_later())  # here


async def for_several(library: Library) -> None:
    await asyncio.gather(library.deliver_later(), asyncio.sleep(0))  # here


async def for_the_first_of_several(library: Library) -> None:
    tasks = [asyncio.create_task(library.deliver_later())]
    await asyncio.wait(tasks)  # here


async def for_a_group(library: Library) -> None:
    async with asyncio.TaskGroup() as group:
        event = asyncio.Event()
        group.create_task(library.deliver_and_signal(event))
        await event.wait()  # here


async def for_a_group_of_anyio(library: Library) -> None:
    async with anyio.create_task_group() as group:
        event = anyio.Event()
        group.start_soon(library.deliver_and_signal, event)
        await event.wait()  # here


async def for_what_it_calls_itself(library: Library) -> None:
    await library.deliver_here()  # here


async def for_a_thread(library: Library) -> None:
    task = asyncio.current_task()
    await asyncio.to_thread(library.deliver_when_waited_for, task)  # here


async def for_a_thread_that_is_given_much(library: Library) -> None:
    much = [[number] for number in range(1000)]
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(library.deliver_when_anybody_waits, loop, much)  # here


async def for_a_thread_that_is_quicker(library: Library) -> None:
    await library.ask_a_thread_and_keep_the_loop()  # here


async def for_a_task_with_a_thread_that_is_quicker(library: Library) -> None:
    await library.have_it_delivered_before_it_waits()  # here


WAITS: list[Callable[[Library], Coroutine[Any, Any, None]]] = [
    for_a_future, for_a_stream, for_a_stream_with_a_time_limit, for_an_event, for_a_queue,
    for_a_task, for_a_task_with_a_time_limit, for_a_shielded_task, for_several,
    for_the_first_of_several, for_a_group, for_a_group_of_anyio, for_what_it_calls_itself,
    for_a_thread, for_a_thread_that_is_given_much, for_a_thread_that_is_quicker,
    for_a_task_with_a_thread_that_is_quicker,
]  # fmt: skip


def here_in(function: Callable[..., object]) -> str:
    lines, first = inspect.getsourcelines(function)
    [number] = [at for at, line in enumerate(lines, first) if line.endswith("# here\n")]
    return f"{__file__}:{number} in {function.__name__}"


@pytest.mark.parametrize("waits", WAITS)
def test_it_is_the_task_that_waits(
    waits: Callable[[Library], Coroutine[Any, Any, None]], library: Library
) -> None:
    async def bystander() -> None:
        await asyncio.sleep(30)

    async def story() -> None:
        others = [asyncio.create_task(bystander()) for _ in range(3)]
        await waits(library)
        for each in others:
            each.cancel()

    asyncio.run(story())
    assert library.seen == [here_in(waits)]


def test_it_is_the_task_that_began_another_in_trio(library: Library) -> None:
    async def story() -> None:
        async with trio.open_nursery() as nursery:
            event = trio.Event()
            nursery.start_soon(library.deliver_here, event)
            await event.wait()  # here

    trio.run(story)
    assert library.seen == [here_in(story)]


def test_where_nobody_waits_it_is_where_the_loop_runs(library: Library) -> None:
    def story() -> None:
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            loop.call_soon(library.deliver)
            loop.call_soon(loop.stop)
            loop.run_forever()  # here

    story()
    assert library.seen == [here_in(story)]


def test_who_runs_pytest_is_nobodys_place() -> None:
    """Wherever its program is: what is beyond pytest's own frames has called no client."""
    of_pytest = Library(os.path.join("_pytest", "runner.py"))
    of_pytest.deliver()
    assert of_pytest.seen == [""]


@pytest.mark.parametrize("odd", ODD)
def test_what_leads_nowhere_is_looked_at_in_peace(odd: str, library: Library) -> None:
    async def story() -> None:
        library.in_turn(ODD[odd](), SimpleNamespace(inside=ODD[odd]()))
        delivered = asyncio.Event()
        later(library, delivered.set)
        await delivered.wait()

    asyncio.run(story())
    assert len(library.seen) == 1
