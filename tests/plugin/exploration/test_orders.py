"""Orders of threads and tasks, and cancelled wake-ups, as things that an exploration tries."""

from __future__ import annotations

import asyncio
import re

from typing import Any

import pytest

from pytest_resilience.plugin.exploration import orders


BANK = """
import asyncio
import threading
import urllib.request

class Account:
    def __init__(self):
        self.balance = 0
        self.lock = threading.Lock()
        self.turn = asyncio.Lock()

async def add(account, amount):
    balance = account.balance
    await asyncio.sleep(0)
    account.balance = balance + amount

async def add_alone(account, amount):
    async with account.turn:
        await add(account, amount)

def sign(path, name):
    if not path.exists():
        with open(path, "a") as file:
            file.write(name)

def sign_alone(path, name):
    try:
        with open(path, "x") as file:
            file.write(name)
    except FileExistsError:
        pass

def transfer(giver, taker):
    with giver.lock:
        with taker.lock:
            giver.balance -= 1
            taker.balance += 1

def transfer_in_order(giver, taker):
    first, second = sorted([giver, taker], key=id)
    with first.lock, second.lock:
        giver.balance -= 1
        taker.balance += 1

async def transfer_in_task(giver, taker):
    async with giver.turn:
        await asyncio.sleep(0)
        async with taker.turn:
            giver.balance -= 1

class Price:
    def __init__(self):
        self.value, self.failures, self.lock = "old", 0, threading.Lock()

def ask(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()

def refresh(price, url):
    try:
        found = ask(url)
    except OSError:
        price.failures += 1
        found = price.value
    with price.lock:
        price.value = found

def refresh_if_known(price, url):
    try:
        found = ask(url)
    except OSError:
        price.failures += 1
        return
    with price.lock:
        price.value = found
"""

TESTS = """
import asyncio
import threading

import bank
import pytest

pytestmark = [
    pytest.mark.virtual_time,
    pytest.mark.chaos_explore(faults=["later", "refuse"], probe=False),
]

def both(function, first, second):
    threads = [threading.Thread(target=function, args=each) for each in (first, second)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

async def add_both(add):
    account = bank.Account()
    async def after_a_while():
        for _ in range(2):
            await asyncio.sleep(0)
        await add(account, 5)
    await asyncio.gather(add(account, 10), after_a_while())
    return account.balance

@pytest.mark.parametrize("add", [bank.add, bank.add_alone])
def test_tasks(add):
    assert asyncio.run(add_both(add)) == 15

@pytest.mark.parametrize("sign", [bank.sign, bank.sign_alone])
def test_threads(tmp_path, sign):
    both(sign, (tmp_path / "page", "a"), (tmp_path / "page", "b"))
    assert (tmp_path / "page").read_text() in ("a", "b")

@pytest.mark.parametrize("transfer", [bank.transfer, bank.transfer_in_order])
def test_locks(transfer):
    one, other = bank.Account(), bank.Account()
    both(transfer, (one, other), (other, one))

def test_locks_of_tasks():
    async def main():
        one, other = bank.Account(), bank.Account()
        async def after_a_while():
            for _ in range(3):
                await asyncio.sleep(0)
            await bank.transfer_in_task(other, one)
        await asyncio.gather(bank.transfer_in_task(one, other), after_a_while())
    asyncio.run(main())

@pytest.mark.parametrize("refresh", [bank.refresh, bank.refresh_if_known])
def test_both(stub_server, refresh):
    url = stub_server.respond("/price", body="new").url
    price = bank.Price()
    both(refresh, (price, url), (price, url))
    assert price.value == "new" or price.failures == 2
"""

PLAIN = ("-p", "no:ordeal", "-p", "no:randomly")
LINE = re.compile(r"pytest \S+::(\S+?)'? --chaos-replay='(.+)'")


def explored(pytester: pytest.Pytester, *arguments: str, tests: str = TESTS) -> pytest.RunResult:
    pytester.makepyfile(bank=BANK, test_bank=tests)
    pytester.syspathinsert()
    return pytester.runpytest(*PLAIN, *arguments)


def found(result: pytest.RunResult) -> dict[str, str]:
    """The schedule of each test that fails."""
    return {match[1]: match[2] for line in result.outlines if (match := LINE.search(line))}


def test_each_race_is_found_told_and_repeated_and_none_where_there_is_none(
    pytester: pytest.Pytester,
) -> None:
    result = explored(pytester)
    schedules = found(result)
    assert schedules == {
        "test_tasks[add]": "sleep(task)@bank.add#1=later",
        "test_threads[sign]": "create(tmp_path/page)@bank.sign#1=later",
        "test_locks[transfer]": "lock(bank.__init__)@bank.transfer#2=later",
        "test_locks_of_tasks": "sleep(task)@bank.transfer_in_task#1=later",
        "test_both[refresh]": (
            "connect(localhost:port1)@bank.ask#1=refuse, lock(bank.__init__)@bank.refresh#1=later"
        ),
    }
    result.assert_outcomes(passed=4, failed=5)
    thread = (
        "      Thread 1 (transfer): waits in lock for ever, at bank.py:* in transfer, for the lock "
        "made at bank.py:* in __init__, held by Thread 2 (transfer), taken at bank.py:* in transfer"
    )
    task = (
        "        Task 2 (transfer_in_task): waits, at bank.py:* in transfer_in_task, for the lock "
        "made at bank.py:* in __init__, held by Task 3 (after_a_while), taken at bank.py:* in "
        "transfer_in_task"
    )
    deadlock = "*hang: deadlock: every thread of the test waits, *"
    result.stdout.fnmatch_lines([deadlock, thread, deadlock, task], consecutive=False)
    for test, schedule in schedules.items():
        repeated = pytester.runpytest(*PLAIN, f"test_bank.py::{test}", "--chaos-replay", schedule)
        repeated.assert_outcomes(failed=1)


@pytest.mark.parametrize(
    ("test", "schedule", "tests"),
    [
        ("test_tasks[add]", "sleep(task)@bank.add#9=later", TESTS),
        (
            "test_threads[sign_alone]",
            "create(tmp_path/page)@bank.sign_alone#1=later",
            TESTS.replace("pytest.mark.virtual_time,", ""),
        ),
    ],
    ids=["does not come", "in real time"],
)
def test_an_order_that_nobody_could_turn_is_stale(
    pytester: pytest.Pytester, test: str, schedule: str, tests: str
) -> None:
    arguments = (f"test_bank.py::{test}", "--chaos-replay", schedule)
    result = explored(pytester, *arguments, tests=tests)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*stale: *did not come*; `later` needs virtual time, and others *"]
    )


def test_what_a_fault_makes_a_test_wait_for_is_no_operation_of_the_test(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile("""
        import pytest
        import urllib.request
        @pytest.mark.virtual_time
        @pytest.mark.chaos_explore(faults=["timeout"], depth=1)
        def test_it(stub_server):
            tea = stub_server.respond("/tea", body=b"4")
            assert urllib.request.urlopen(tea.url, timeout=2).read() == b"4"
    """)
    result = pytester.runpytest_subprocess("-q", "--chaos-seed=1")
    result.stdout.fnmatch_lines(["1 test, * runs, 0 ways to fail"])


# --- a task that has just been woken by another one is cancelled before it goes on ---


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
WAITING = "receive(localhost:port1)@test_it.ask#1=cancel_waiting"
STOPS = """            else:
                return
"""


def explored_pool(
    pytester: pytest.Pytester,
    *arguments: str,
    mended: bool,
    count: int = 3,
    pool: str = POOL,
    fault: str = "cancel_woken",
) -> pytest.RunResult:
    settings = f"faults=[{fault!r}], depth=1, deadline=1, probe=False"
    filled = pool
    for name, value in {"mended": mended, "count": count, "settings": settings}.items():
        filled = filled.replace(f"{{{name}}}", str(value))
    pytester.makepyfile(test_it=filled)
    return pytester.runpytest("-v", *arguments)


def test_a_turn_that_is_lost_with_who_was_woken_for_it_is_found(pytester: pytest.Pytester) -> None:
    result = explored_pool(pytester, mended=False)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([
        "hang: it was still running after *, at *in take, *",
        f"*--chaos-replay='{LOST}'",
    ])  # fmt: skip


def test_a_pool_that_passes_it_on_survives(pytester: pytest.Pytester) -> None:
    result = explored_pool(pytester, mended=True)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*: 9 operations, 2 runs, 0 ways to fail"])


@pytest.mark.parametrize("mended", [False, True])
def test_a_lost_turn_is_repeated_by_its_line(pytester: pytest.Pytester, *, mended: bool) -> None:
    result = explored_pool(pytester, f"--chaos-replay={LOST}", mended=mended)
    result.assert_outcomes(passed=mended, failed=not mended)


def test_nobody_is_woken_where_nobody_waits(pytester: pytest.Pytester) -> None:
    result = explored_pool(pytester, mended=False, count=1)
    result.stdout.fnmatch_lines(["*faults=*'cancel_woken'* can happen to no operation*"])
    result = explored_pool(pytester, f"--chaos-replay={LOST}", mended=False, count=1)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*`cancel_woken` needs a task that another one wakes *"])


@pytest.mark.parametrize("mended", [False, True])
def test_who_leaves_while_it_waits_for_its_turn_keeps_it_from_nobody(
    pytester: pytest.Pytester, *, mended: bool
) -> None:
    """The turn of whoever has been cancelled is passed on to the next one, or is not."""
    given = "                turn.set_result(None)\n                return\n"
    assert given in POOL
    pool = POOL if mended else POOL.replace(given, given + STOPS)
    result = explored_pool(pytester, mended=True, pool=pool, fault="cancel_waiting")
    result.assert_outcomes(passed=mended, failed=not mended)
    result = explored_pool(
        pytester, f"--chaos-replay={WAITING}", mended=True, pool=pool, fault="cancel_waiting"
    )
    result.assert_outcomes(passed=mended, failed=not mended)


# Who gives up leaves the queue when it goes on, in the next turn of the loop.
LEAVES_LATE = {
    "        if self.is_taken:\n": "        if self.is_taken or self.waiting:\n",
    "    def given_up(self, turn):\n": """    def given_up(self, turn):
        if turn in self.waiting:
            self.waiting.remove(turn)
""",
    "return await reader.read()": "return await reader.read(4)",
    "async def ask_all(": """async def ask_twice(pool, address):
    await ask(pool, address)
    return await ask(pool, address)

async def ask_all(""",
    "(ask(pool, address) for": "(ask_twice(pool, address) for",
}
FORGETS_WHO_LEAVES = {
    "        while self.waiting:\n            turn = self.waiting.popleft()\n": """
        for turn in [turn for turn in self.waiting if not turn.done()]:
            self.waiting.remove(turn)
""",
}


@pytest.mark.parametrize("mended", [False, True])
def test_who_leaves_is_still_there_when_the_next_one_looks(
    pytester: pytest.Pytester, *, mended: bool
) -> None:
    """Who asks again at once waits behind it, and nobody is left to give the turn."""
    pool = POOL
    for text, other in (LEAVES_LATE | ({} if mended else FORGETS_WHO_LEAVES)).items():
        assert pool.count(text) == 1
        pool = pool.replace(text, other)
    fault = "cancel_waiting"
    result = explored_pool(pytester, mended=True, count=2, pool=pool, fault=fault)
    result.assert_outcomes(passed=mended, failed=not mended)
    if not mended:
        result.stdout.fnmatch_lines([f"*--chaos-replay='{WAITING}'"])


def test_nobody_is_cancelled_where_nobody_waits(pytester: pytest.Pytester) -> None:
    result = explored_pool(pytester, mended=True, count=1, fault="cancel_waiting")
    result.stdout.fnmatch_lines(["*faults=*'cancel_waiting'* can happen to no operation*"])
    result = explored_pool(pytester, f"--chaos-replay={WAITING}", mended=True, count=1)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*`cancel_waiting` needs a task that waits for another one *"])


@pytest.mark.parametrize(
    ("waiting", "may_be"),
    [
        ("lock.acquire()", True),
        ("queue.get()", True),
        ("event.wait()", True),
        ("asyncio.wait_for(event.wait(), 9)", True),
        ("loop.create_future()", True),
        ("asyncio.sleep(9)", False),
        ("asyncio.gather(loop.create_future())", False),
        ("reader.read()", False),
        ("loop.create_task(event.wait())", None),  # it is none that waits: the other is a library's
    ],
)
def test_who_waits_for_others_is_told_by_what_it_waits_for(
    waiting: str, *, may_be: bool | None
) -> None:
    async def waits() -> None:
        await eval(waiting, names)  # of the list above

    async def main() -> bool:
        loop = names["loop"] = asyncio.get_running_loop()
        names.update(lock=asyncio.Lock(), queue=asyncio.Queue(), event=asyncio.Event())
        names["reader"] = asyncio.StreamReader()
        await names["lock"].acquire()
        task = loop.create_task(waits())
        for _ in range(3):
            await asyncio.sleep(0)
        found = orders._waiting(asyncio.current_task(), loop)  # what is tested
        task.cancel()
        return found is task

    names: dict[str, Any] = {"asyncio": asyncio}
    assert asyncio.run(main()) is bool(may_be)


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


LIBRARY = """
import asyncio

class Client:
    greeting = None

    async def connect(self, address):
        self.reader, self.writer = await asyncio.open_connection(*address)
        self.greeted = asyncio.Event()
        self.greeting = asyncio.create_task(self.greet())
        await self.greeted.wait()

    async def greet(self):
        self.writer.write(b"ping")
        self.answer = await self.reader.read(4)
        self.greeted.set()

    async def close(self):
        if self.greeting is not None:
            self.greeting.cancel()
            self.writer.close()
"""
ITS_USER = """
import asyncio
import pathlib
import sys

import pytest

sys.path.append(str(pathlib.Path(__file__).parent / "site-packages"))
import keeper

async def answer(reader, writer):
    try:
        await reader.read(4)
        writer.write(b"pong")
    finally:
        writer.close()

async def ask():
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        client = keeper.Client()
        try:
            await client.connect(server.sockets[0].getsockname())
            assert client.answer == b"pong"
        finally:
            await client.close()

@pytest.mark.chaos_explore(faults=["cancel", "cancel_woken", "cancel_waiting"], deadline=2)
def test_ask():
    asyncio.run(ask())
"""
ITS_RECEIVE = "receive(localhost:port1)@test_it.test_ask#1"


def test_a_task_of_a_library_is_cancelled_by_nobody_but_who_waits_for_what_it_does(
    pytester: pytest.Pytester,
) -> None:
    (pytester.mkdir("site-packages") / "keeper.py").write_text(LIBRARY)
    pytester.makepyfile(test_it=ITS_USER)
    result = pytester.runpytest("-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*: 3 operations, * runs, 0 ways to fail"])
    for fault, is_possible in ("cancel", False), ("cancel_waiting", True), ("cancel_woken", True):
        result = pytester.runpytest(f"--chaos-replay={ITS_RECEIVE}={fault}")
        result.assert_outcomes(passed=is_possible, failed=not is_possible)
