"""A task that has just been woken by another one is cancelled before it goes on."""

from __future__ import annotations

import pytest


POOL = """
import asyncio
import collections
import contextlib
import socket
import threading

import pytest

class Pool:
    \"\"\"Lets one at a time ask. Who waits longest is given the turn.\"\"\"

    def __init__(self):
        self.is_taken = False
        self.waiting = collections.deque()

    async def take(self):
        if self.is_taken:
            turn = asyncio.get_running_loop().create_future()
            self.waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                self.given_up(turn)
                raise
        self.is_taken = True

    def give(self):
        self.is_taken = False
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                self.is_taken = True
                turn.set_result(None)
                return

    def given_up(self, turn):
        if {mended} and turn.done() and not turn.cancelled():
            self.give()

@pytest.fixture(scope="session")
def address():
    def answer():
        with contextlib.suppress(OSError):
            while True:
                with listener.accept()[0] as connection:
                    connection.recv(100)
                    connection.sendall(b"pong")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()

async def ask(pool, address):
    await pool.take()
    try:
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(b"ping")
            return await reader.read()
        finally:
            writer.close()
    finally:
        pool.give()

async def ask_all(address, count):
    pool = Pool()
    asked = (ask(pool, address) for _ in range(count))
    return await asyncio.gather(*asked, return_exceptions=True)

@pytest.mark.chaos_explore({settings})
def test_ask(address):
    answers = asyncio.run(ask_all(address, {count}))
    assert len(answers) == {count}
"""
LOST = "receive(localhost:port1)@test_it.ask#1=cancel_woken"


def explored(
    pytester: pytest.Pytester, *arguments: str, mended: bool, count: int = 3
) -> pytest.RunResult:
    settings = "faults=['cancel_woken'], depth=1, deadline=2, probe=False"
    filled = POOL
    for name, value in {"mended": mended, "count": count, "settings": settings}.items():
        filled = filled.replace(f"{{{name}}}", str(value))
    pytester.makepyfile(test_it=filled)
    return pytester.runpytest("-v", *arguments)


def test_a_turn_that_is_lost_with_who_was_woken_for_it_is_found(pytester: pytest.Pytester) -> None:
    result = explored(pytester, mended=False)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([
        "hang: it was still running after *, at *in take, *",
        f"*--chaos-replay='{LOST}'",
    ])  # fmt: skip


def test_a_pool_that_passes_it_on_survives(pytester: pytest.Pytester) -> None:
    result = explored(pytester, mended=True)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*: 9 operations, 2 runs, 0 ways to fail"])


@pytest.mark.parametrize("mended", [False, True])
def test_it_is_repeated_by_its_line(pytester: pytest.Pytester, *, mended: bool) -> None:
    result = explored(pytester, f"--chaos-replay={LOST}", mended=mended)
    result.assert_outcomes(passed=mended, failed=not mended)


def test_nobody_is_woken_where_nobody_waits(pytester: pytest.Pytester) -> None:
    result = explored(pytester, mended=False, count=1)
    result.stdout.fnmatch_lines(["*faults=*'cancel_woken'* can happen to no operation*"])
    result = explored(pytester, f"--chaos-replay={LOST}", mended=False, count=1)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*`cancel_woken` needs a task that another one wakes *"])


SERVER_IN_LOOP = """
import asyncio

import pytest

async def answer(reader, writer):
    await reader.read(4)
    writer.write(b"pong")
    writer.close()

async def ask():
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await asyncio.sleep(0.01)
        writer.write(b"ping")
        assert await reader.read() == b"pong"
        writer.close()

@pytest.mark.chaos_explore(faults=["cancel_woken"])
def test_ask():
    asyncio.run(ask())
"""


def test_what_the_loop_itself_wakes_is_not_tried(pytester: pytest.Pytester) -> None:
    """At the end of a sleep, and when there is something to read."""
    pytester.makepyfile(test_it=SERVER_IN_LOOP)
    result = pytester.runpytest()
    result.stdout.fnmatch_lines(["*faults=*'cancel_woken'* can happen to no operation*"])
