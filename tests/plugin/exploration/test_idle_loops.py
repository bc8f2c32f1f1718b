"""In an event loop nobody waits for the timeout that a fault lets a client wait for."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math

from collections.abc import Callable
from collections.abc import Coroutine
from typing import Any

import pytest
import trio

from pytest_resilience.chaos.effect import Effect
from pytest_resilience.clock import ManualClock
from pytest_resilience.clock import SkippingClock
from pytest_resilience.interceptors.waiting import pause
from pytest_resilience.plugin.exploration import idle_loops
from pytest_resilience.plugin.exploration.idle_loops import IdleLoops


CLIENT = """
    import asyncio
    import socket
    import threading

    import pytest

    def answer(listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(100)
                connection.sendall(b"pong")

    @pytest.fixture(scope="session")
    def address():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=answer, args=(listener,))
            thread.start()
            yield listener.getsockname()
            listener.shutdown(socket.SHUT_RDWR)
        thread.join()

    async def ask(address, patience):
        async with asyncio.timeout(patience):
            reader, writer = await asyncio.open_connection(*address)
            try:
                writer.write(b"ping")
                return await reader.read()
            finally:
                writer.close()

    @pytest.mark.chaos_explore(faults=["timeout"], depth=1, probe=False)
    @pytest.mark.parametrize("patience", [{patience}])
    def test_ask(address, patience):
        assert asyncio.run(ask(address, patience)) == b"pong"
"""


def _on_trio(code: str) -> str:
    """The same client, which reads as long as `enough` says."""
    begin, end = code.index("    async def ask"), code.index("    @pytest.mark.chaos_explore")
    enough = "g" if "readuntil" in code else "a whole answer"
    return (
        code[:begin]
        + f"""
    import math
    import trio

    async def ask(address, patience):
        with trio.fail_after(math.inf if patience is None else patience):
            async with await trio.open_tcp_stream(*address) as stream:
                await stream.send_all(b"ping")
                answer = b""
                while {enough.encode()!r} not in answer:
                    if not (more := await stream.receive_some()):
                        break
                    answer += more
                return answer

"""
        + code[end:].replace("asyncio.run(ask(address, patience))", "{run}")
    )


RUNS_OF_TRIO = {
    "trio": "trio.run(ask, address, patience)",
    "anyio": "__import__('anyio').run(ask, address, patience, backend='trio')",
}


@pytest.mark.parametrize("kind", ["asyncio", *RUNS_OF_TRIO])
def test_who_gives_up_after_a_time_does_so_at_once(pytester: pytest.Pytester, kind: str) -> None:
    code = CLIENT if kind == "asyncio" else _on_trio(CLIENT)
    code = code.format(patience=45, run=RUNS_OF_TRIO.get(kind))  # the deadline of a run is 10 s
    pytester.makepyfile(code)
    result = pytester.runpytest("-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines("*: 3 operations, 2 runs, * 0 ways to fail")


# Whoever has lost a part of an answer waits for it, though nothing holds it back.
REST = (
    CLIENT.replace("reader.read()", "reader.readuntil(b'g')")
    .replace(
        'connection.recv(100)\n                connection.sendall(b"pong")',
        'connection.recv(100)\n                connection.sendall(b"pong")\n'
        "                connection.recv(100)",
    )
    .replace('faults=["timeout"]', 'faults=["corrupt"]')
)


@pytest.mark.parametrize("kind", ["asyncio", "trio"])
def test_who_waits_for_the_rest_of_a_damaged_answer_gives_up_soon(
    pytester: pytest.Pytester, kind: str
) -> None:
    code = REST if kind == "asyncio" else _on_trio(REST)
    code = code.format(patience=45, run=RUNS_OF_TRIO.get(kind))  # the deadline of a run is 10 s
    pytester.makepyfile(code)
    result = pytester.runpytest("-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines("*: 3 operations, * 0 ways to fail")


def test_who_would_not_has_until_the_deadline(pytester: pytest.Pytester) -> None:
    code = REST.format(patience=45).replace("depth=1", "depth=1, deadline=2")
    pytester.makepyfile(code)
    result = pytester.runpytest("-v")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines("hang: it was still running after *, at *in ask")


@pytest.mark.parametrize("patience", [None, 600])
def test_who_does_not_hangs_before_the_deadline(
    pytester: pytest.Pytester, patience: int | None
) -> None:
    pytester.makepyfile(CLIENT.format(patience=patience))
    result = pytester.runpytest("-v")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines("hang: it was still running after *, at *in ask")
    result.stdout.no_fnmatch_line("*after 10 s*")


LATE = """
    import asyncio
    import socketserver
    import threading

    import pytest

    class Repeat(socketserver.BaseRequestHandler):
        def handle(self):
            while byte := self.request.recv(1):
                self.request.sendall(byte)

    @pytest.fixture(scope="session")
    def address():
        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Repeat) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            yield server.server_address
            server.shutdown()
            thread.join()

    async def echo(streams, text):
        reader, writer = streams
        writer.write(text)
        return await reader.readexactly(1)

    async def echo_both(address):
        streams = await asyncio.open_connection(*address)
        try:
            await asyncio.wait([asyncio.ensure_future(echo(streams, b"a"))])
            async with asyncio.timeout(2):
                return await echo(streams, b"b")
        finally:
            streams[1].close()

    @pytest.mark.chaos_explore(faults=["cancel"], depth=1, probe=False)
    def test_echo(address):
        assert asyncio.run(echo_both(address)) == b"b"
"""


def test_what_is_only_late_comes_before_a_timeout_that_is_later(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(LATE)
    result = pytester.runpytest("-v")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines("failed: AssertionError: assert b'a' == b'b'*")


def test_a_loop_in_c_is_explored_with_what_can_happen_to_a_client_of_it(
    pytester: pytest.Pytester,
) -> None:
    """Through a proxy: nothing can happen to a caller there. And it is ended when it hangs."""
    pytest.importorskip("uvloop")
    code = CLIENT.format(patience=None).replace("asyncio.run(", "uvloop.run(")
    code = code.replace("import asyncio", "import asyncio\n    import uvloop", 1)
    pytester.makepyfile(code.replace('faults=["timeout"], ', "deadline=1, "))
    result = pytester.runpytest_subprocess("-v", timeout=60)
    result.stdout.fnmatch_lines(
        [
            "hang: it was still running after 1 s, at test_*.py:* in ask",
            "*--chaos-replay='receive(localhost:port1)#1=timeout'",
        ]
    )
    result.stdout.no_fnmatch_line("*memory*")
    result.stdout.no_fnmatch_line("*stale*")


def test_who_connects_in_trio_again_and_again_is_not_at_the_deadline(
    pytester: pytest.Pytester,
) -> None:
    code = _on_trio(CLIENT).format(
        patience=6,
        run="trio.run(ask_again, address, patience)",
    )
    code = code.replace(
        "    @pytest.mark.chaos_explore",
        """
    async def ask_again(address, patience):
        for _ in range(2):
            try:
                answer = await ask(address, patience)
            except trio.TooSlowError:
                answer = b"pong"
        return answer

    @pytest.mark.chaos_explore""",
    )
    pytester.makepyfile(code)
    result = pytester.runpytest("-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines("*, 0 ways to fail")


async def _never() -> None:
    await asyncio.Event().wait()


async def _in_an_hour() -> None:
    await asyncio.sleep(3600)


async def _again_and_again() -> None:
    while True:  # noqa: ASYNC110  # it waits for nothing else
        await asyncio.sleep(0.05)


async def _in_a_while() -> None:
    await asyncio.sleep(50)


@pytest.mark.parametrize(
    ("waiting", "over", "silent"),
    [
        (_in_a_while, True, False),
        (_never, False, True),
        (_in_an_hour, False, True),
        (_again_and_again, False, False),
    ],
)
def test_a_loop_is_moved_to_its_next_timer_only_if_all_of_its_tasks_wait(
    waiting: Callable[[], Coroutine[None, None, None]], *, over: bool, silent: bool
) -> None:
    loops = IdleLoops(quiet=0.0, patience=60.0)
    loop = asyncio.new_event_loop()
    task = loop.create_task(waiting())
    task.add_done_callback(lambda _: loop.stop())
    looks = 6

    def look() -> None:  # from within, as a fault does that waits
        nonlocal looks
        loops.look(loop)
        looks -= 1
        if looks:
            loop.call_later(0.07, look)
        else:
            loop.stop()

    loop.call_soon(look)
    loop.run_forever()
    assert task.done() is over
    assert (loop in loops.silent) is silent
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()


class Silence(Effect):
    """Of no experiment that ends."""

    def left(self) -> float:
        return math.inf


async def _again_and_again_in_trio() -> None:
    while True:  # noqa: ASYNC110  # it waits for nothing else
        await trio.sleep(0.01)


@pytest.mark.parametrize(
    ("waiting", "over", "silent"),
    [
        (functools.partial(trio.sleep, 50), True, False),
        (trio.sleep_forever, False, True),
        (functools.partial(trio.sleep, 3600), False, True),
        (_again_and_again_in_trio, False, False),
    ],
)
def test_a_run_of_trio_is_moved_to_its_next_deadline_only_if_all_of_its_tasks_wait(
    waiting: Callable[[], Coroutine[Any, Any, None]], *, over: bool, silent: bool
) -> None:
    loops = IdleLoops(quiet=0.0, patience=60.0)
    found = []

    async def wait(scope: trio.CancelScope) -> None:
        await waiting()
        scope.cancel()

    async def story() -> None:
        async with trio.open_nursery() as nursery:

            def look(runner: Any, until: float) -> None:  # by each of two tasks
                loops.look(runner, until)
                found.append(runner in loops.silent)
                if found[-1] or len(found) == 12:
                    nursery.cancel_scope.cancel()

            effect = Silence(clock=SkippingClock(60.0, look), delay=math.inf)
            nursery.start_soon(pause, effect)
            nursery.start_soon(pause, effect)
            nursery.start_soon(wait, nursery.cancel_scope)

    trio.run(story)
    assert (len(found) < 12 and not found[-1]) is over
    assert found[-1] is silent


@pytest.mark.parametrize(
    ("waiting", "over"),
    [
        (trio.sleep_forever, True),
        (functools.partial(trio.sleep, 40), False),
    ],
)
def test_a_run_of_trio_at_rest_is_moved_to_a_timeout_and_to_no_sleep(
    clock: ManualClock, waiting: Callable[[], Coroutine[Any, Any, None]], *, over: bool
) -> None:
    loops = IdleLoops(quiet=0.0, patience=60.0)
    scope: Any = None
    task: Any = None
    token: Any = None

    class Looks(trio.abc.Instrument):
        """At a run that waits, as a signal does."""

        left = 6

        def before_io_wait(self, timeout: float) -> None:
            if timeout > 1 and self.left:  # else it goes on by itself
                self.left -= 1
                loops.look_at_rest(task._runner)
                clock.advance(1.0)
                token.run_sync_soon(bool if self.left else scope.cancel)

    async def story() -> bool:
        nonlocal scope, task, token
        task, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()
        with trio.CancelScope() as scope, trio.move_on_after(50) as timeout:
            await waiting()
        return timeout.cancelled_caught

    assert trio.run(story, instruments=[Looks()]) is over


@pytest.mark.parametrize(
    ("seconds", "most", "over"), [(50, 60, True), (50, 40, False), (70, 100, False)]
)
def test_a_loop_at_rest_is_moved_to_a_timeout_that_may_be_waited_for(
    clock: ManualClock, seconds: float, most: float, *, over: bool
) -> None:
    assert _ends_at_rest(clock, lambda: asyncio.wait_for(_never(), seconds), most) is over


@pytest.mark.parametrize("waiting", [_in_a_while, _again_and_again, _never])
def test_a_loop_at_rest_is_moved_to_no_sleep(
    clock: ManualClock, waiting: Callable[[], Coroutine[None, None, None]]
) -> None:
    assert not _ends_at_rest(clock, waiting, 60.0)


# As of a library, by its file.
BEATS = compile(
    "async def beat(sleep):\n    while True: await sleep(0.2)", "/site-packages/beats.py", "exec"
)


@pytest.mark.parametrize("is_of_library", [False, True])
def test_what_a_library_does_again_and_again_does_not_keep_a_loop_from_a_timeout(
    clock: ManualClock, *, is_of_library: bool
) -> None:
    async def waiting() -> None:
        code: dict[str, Any] = {}
        exec(BEATS, code)  # the text above
        beat = code["beat"](asyncio.sleep) if is_of_library else _again_and_again()
        beating = asyncio.ensure_future(beat)
        try:
            await asyncio.wait_for(_never(), 50)
        finally:
            beating.cancel()

    assert _ends_at_rest(clock, waiting, 60.0) is is_of_library


def test_a_sleep_of_a_library_may_be_what_a_loop_waits_for(clock: ManualClock) -> None:
    """Before it looks whether its peer is still there, for one."""
    text = "async def look(sleep, gone):\n    await sleep(40)\n    gone.set()"

    async def waiting() -> None:
        code: dict[str, Any] = {}
        exec(compile(text, "/site-packages/looks.py", "exec"), code)
        gone = asyncio.Event()
        looking = asyncio.ensure_future(code["look"](asyncio.sleep, gone))
        await gone.wait()
        await looking

    assert _ends_at_rest(clock, waiting, 60.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """By which it is told how long a loop has rested."""
    clock = ManualClock()
    monkeypatch.setattr(idle_loops, "MACHINE_CLOCK", clock)
    return clock


def _ends_at_rest(
    clock: ManualClock, waiting: Callable[[], Coroutine[Any, Any, Any]], most: float
) -> bool:
    """Whether what waits has ended after some looks at its loop from outside, as by a signal."""
    loops = IdleLoops(quiet=0.0, patience=60.0, most=most)
    loop = asyncio.new_event_loop()
    task = loop.create_task(waiting())
    for _ in range(5):
        loop.call_later(0.01, loop.stop)  # also what is about to end, a timer's time before it
        loop.run_forever()
        loops.look_at_rest(loop)
        clock.advance(1.0)
    ended = task.done()
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
    return ended


def test_a_database_that_a_failure_has_left_locked_is_not_waited_for(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        test_notes="""
        import pathlib
        import sqlite3
        import pytest

        @pytest.fixture
        def connect(tmp_path):
            opened = []
            def connect():
                opened.append(sqlite3.connect(tmp_path / "db", timeout=5))
                return opened[-1]
            connect().execute("CREATE TABLE notes (text)")
            yield connect
            with pathlib.Path("timeouts").open("a") as file:
                print(*opened[0].execute("PRAGMA busy_timeout").fetchone(), file=file)
            for each in opened:
                each.close()

        @pytest.mark.chaos_explore(faults=["locked"], depth=1)
        def test_add(connect):
            database = connect()
            database.execute("INSERT INTO notes VALUES ('x')")
            database.commit()  # where it fails, nobody rolls back
    """
    )
    result = pytester.runpytest("-v")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines("probe: OperationalError: database is locked, *")
    calm, *others = map(int, (pytester.path / "timeouts").read_text().split())
    assert calm == 5000
    assert min(others) < 5000
