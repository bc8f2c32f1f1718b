"""What hangs is ended, also where an exception can be lost."""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import functools
import itertools
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import types

from collections.abc import Callable
from collections.abc import Coroutine
from collections.abc import Iterator
from collections.abc import Sequence
from types import FrameType
from typing import Any

import pytest
import trio

from trio.testing import wait_all_tasks_blocked

from pytest_resilience import proc
from pytest_resilience.exploration.outcome import text_in_chain
from pytest_resilience.plugin.matrix import deadline as module
from pytest_resilience.plugin.matrix.deadline import DeadlineError
from pytest_resilience.plugin.matrix.deadline import KnownHangs
from pytest_resilience.plugin.matrix.deadline import deadline
from pytest_resilience.plugin.matrix.loop_waits import LoopWait
from pytest_resilience.virtual_time.clock import VirtualClock
from tests.waiting import PATIENCE
from tests.waiting import asleep
from tests.waiting import eventually


@pytest.fixture(autouse=True)
def _only_its_own_threads_and_processes(bell: Bell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that other tests and plugins have left, nobody says whether they would do more."""
    here, frames = threading.get_ident(), sys._current_frames
    others = frames().keys() - {here}
    monkeypatch.setattr(
        sys,
        "_current_frames",
        lambda: {ident: frame for ident, frame in frames().items() if ident not in others},
    )
    waitid, servers = os.waitid, _children()  # as that of databases, which stays to the end

    def waitid_of_own(*args: int) -> object:
        if _children() <= servers:
            raise ChildProcessError
        return waitid(*args)

    monkeypatch.setattr(os, "waitid", waitid_of_own)
    threads = trio._core._thread_cache  # of which it keeps those that are idle
    monkeypatch.setattr(threads, "THREAD_CACHE", threads.ThreadCache())


def _children() -> set[bytes]:
    at = [f"/proc/self/task/{each.native_id}/children" for each in threading.enumerate()]
    return {child for each in at for child in proc.read(each).split()}


class Bell:
    """Rings in the place of the timer of this process, once: when this thread has come to wait."""

    def __init__(self) -> None:
        self.over = False
        self._rings = False
        self._lock = threading.Lock()
        self._main = threading.main_thread()

    def set(self, _which: int, seconds: float, _interval: float = 0.0) -> tuple[float, float]:
        with self._lock:
            self._rings = bool(seconds)
        return 0.0, 0.0

    def run(self) -> None:
        asleep_for = 0
        while not self.over:
            asleep_for = asleep_for + 1 if asleep(self._main) and self._rings else 0
            with self._lock:
                if self._rings and asleep_for == 20:  # and not just until it has a lock
                    self._rings, asleep_for = False, 0
                    os.kill(os.getpid(), signal.SIGALRM)


@pytest.fixture(autouse=True)
def bell() -> Iterator[Bell]:
    """Before others look which threads there are."""
    bell = Bell()
    thread = threading.Thread(target=bell.run, daemon=True)
    thread.start()
    yield bell
    bell.over = True
    thread.join(10)


@pytest.fixture
def _rings_for_who_waits(
    bell: Bell, _only_its_own_threads_and_processes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "setitimer", bell.set)


rings_for_who_waits = pytest.mark.usefixtures("_rings_for_who_waits")


def test_a_blocking_call_is_ended() -> None:
    with pytest.raises(DeadlineError, match=r"it was still running after 0\.05 s"), deadline(0.05):
        threading.Event().wait(60)


def test_it_is_ended_while_asyncio_is_being_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncio", types.ModuleType("asyncio"))
    with pytest.raises(DeadlineError), deadline(0.05):
        threading.Event().wait(60)


def test_one_that_is_swallowed_is_raised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REPEAT", 0.01)
    swallowed = 0

    def hang() -> None:
        nonlocal swallowed
        with deadline(0.01):
            while swallowed < 3:
                try:
                    threading.Event().wait(60)
                except DeadlineError:
                    swallowed += 1
            threading.Event().wait(60)

    with pytest.raises(DeadlineError):
        hang()


def test_in_time_nothing_happens_and_everything_is_put_back() -> None:
    handler = signal.getsignal(signal.SIGALRM)
    with deadline(60) as possible:
        assert possible
    assert signal.getsignal(signal.SIGALRM) is handler


def test_a_timer_of_somebody_else_goes_on() -> None:
    rang: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append(time.monotonic()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with deadline(60):
            pass
        assert eventually(lambda: bool(rang))
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_timer_of_somebody_else_that_is_over_just_then_rings_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rang: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append(time.monotonic()))
    set_handler = signal.signal

    def set_late(number: int, handler: Any) -> Any:
        found = set_handler(number, handler)
        while signal.getitimer(signal.ITIMER_REAL)[0]:
            pass  # until it has rung, if it still goes
        return found

    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        monkeypatch.setattr(signal, "signal", set_late)
        monkeypatch.setattr(module, "real_ns", itertools.count(0, 10**9).__next__)
        with deadline(60):
            pass
        assert eventually(lambda: bool(rang))
    finally:
        set_handler(signal.SIGALRM, before)


def test_a_timer_of_somebody_else_is_not_set_back() -> None:
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, 3600, 1800)
        began = time.monotonic()
        with deadline(60):
            while time.monotonic() - began < 0.01:
                pass
        left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert left <= 3600 - 0.01
    assert interval == 1800


def test_a_timer_of_somebody_else_is_real_where_time_is_virtual() -> None:
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    try:
        signal.setitimer(signal.ITIMER_REAL, 3600)
        with VirtualClock(), deadline(60) as possible:
            assert possible
            time.sleep(7200)
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert 3000 < left <= 3600


def test_in_another_thread_it_cannot_be_done() -> None:
    found: list[bool] = []

    def elsewhere() -> None:
        with deadline(0.001) as possible:
            found.append(possible)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(10)
    assert found == [False]


def _hang(known: KnownHangs, lock: threading.Lock, *, elsewhere: bool = False) -> str:
    try:
        with deadline(0.1, known):
            if elsewhere:
                with lock:
                    pass
            with lock:
                pass
    except DeadlineError as error:
        return str(error)
    return ""


@rings_for_who_waits
def test_who_waits_where_another_run_has_hung_need_not_wait_for_the_deadline() -> None:
    known, lock = KnownHangs(0.01), threading.Lock()
    lock.acquire()
    lasted = [_hang(known, lock, elsewhere=elsewhere) for elsewhere in (False, False, True, True)]
    seconds = [told.partition(",")[0].rpartition("after ")[2] for told in lasted]
    assert seconds == ["0.1 s", "0.01 s", "0.1 s", "0.01 s"]
    file = os.path.basename(__file__)
    assert all(told.endswith("in _hang") and f"{file}:" in told for told in lasted)


def _begin_in_threading(call: Callable[[], None]) -> None:
    threading.Thread(target=call).start()


def _begin_below_threading(call: Callable[[], None]) -> None:
    _thread.start_new_thread(call, ())


def _wait_for_two(
    known: KnownHangs,
    lock: Any,
    *,
    patience: float = -1,
    begin: Callable[[Callable[[], None]], None] = _begin_in_threading,
) -> str:
    """This thread waits for another one, which waits for something."""
    begun, done, never = threading.Event(), lock(), lock()
    done.acquire()
    never.acquire()

    def wait() -> None:
        begun.set()
        if patience < 0:
            with never:
                pass
        elif never.acquire(True, patience):
            never.release()
        done.release()
        over.set()

    over = threading.Event()
    begin(wait)
    begun.wait()
    try:
        with deadline(10, known), done:
            return ""
    except DeadlineError as error:
        never.release()
        return str(error)
    finally:
        over.wait()


@rings_for_who_waits
def test_where_all_threads_wait_for_locks_no_run_has_to_wait_for_the_deadline() -> None:
    told = _wait_for_two(KnownHangs(0.05, silent=0.1), threading.Lock)
    assert told.startswith("it was still running after 0.1 s, at ")


@pytest.mark.parametrize("begin", [_begin_in_threading, _begin_below_threading])
def test_one_that_waits_for_a_time_may_yet_wake_the_others(
    begin: Callable[[Callable[[], None]], None],
) -> None:
    known = KnownHangs(0.05, silent=0.1)
    assert _wait_for_two(known, threading.Lock, patience=0.3, begin=begin) == ""


def _hang_in_a_loop(known: KnownHangs, waiting: Callable[[], Coroutine[Any, Any, object]]) -> str:
    """What is told of it when the deadline begins as the loop waits for the first time."""
    with contextlib.ExitStack() as stack:

        def loop() -> Any:
            made: Any = asyncio.new_event_loop()
            select = made._selector.select

            def begin(timeout: float | None) -> Any:
                if timeout == 0:
                    return select(0)
                made._selector.select = select
                stack.enter_context(deadline(0.3, known))
                return []

            made._selector.select = begin
            return made

        with pytest.raises(DeadlineError) as raised, asyncio.Runner(loop_factory=loop) as runner:
            runner.run(waiting())
    return str(raised.value)


async def _for_an_event() -> None:
    await asyncio.Event().wait()


async def _for_a_time() -> None:
    await asyncio.sleep(60)


async def _for_a_queue_that_nobody_empties() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue()
    queue.put_nowait(1)
    await queue.join()


async def _for_each_other() -> None:
    """A server and its client in one loop, each of which waits for the other to say something."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        await reader.read()
    finally:
        writer.close()
        server.close()


@rings_for_who_waits
@pytest.mark.parametrize(
    "waiting", [_for_an_event, _for_a_queue_that_nobody_empties, _for_each_other, _for_a_time]
)
def test_an_event_loop_that_waits_for_nothing_need_not_wait_for_the_deadline(
    waiting: Callable[[], Coroutine[Any, Any, object]],
) -> None:
    told = _hang_in_a_loop(KnownHangs(0.1), waiting)
    assert told.startswith("it was still running after 0.1 s, at ")
    assert f"in {waiting.__name__}" in told


def _in_a_queue(run: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """As a guest of what takes its calls from a queue, as anyio runs tests."""
    calls: queue.Queue[Callable[[], object]] = queue.Queue()
    outcomes: list[Any] = []
    trio.lowlevel.start_guest_run(
        run, run_sync_soon_threadsafe=calls.put, done_callback=outcomes.append
    )
    while not outcomes:
        calls.get(timeout=PATIENCE)()
    outcomes[0].unwrap()


def _in_asyncio(run: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """As a guest of an event loop of asyncio."""

    async def host() -> None:
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        trio.lowlevel.start_guest_run(
            run, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=over.set_result
        )
        (await over).unwrap()

    asyncio.run(host())


_RUNS_OF_TRIO = [trio.run, _in_a_queue, _in_asyncio]
# Seconds before each look, of which one tells that a run hangs, or none does. A signal wakes a
# guest run too, whose thread is on its way back to wait then: on a busy machine for longer than any
# pace of looks, so that these come ever later.
_UNTIL_TOLD, _NEVER_TOLD = [0.01 * 2**look for look in range(12)], [0.01] * 10


def _told_of_trio(
    waiting: Callable[[], Coroutine[Any, Any, object]],
    start: Callable[..., object],
    known: KnownHangs | None = None,
    *,
    at_deadline: bool = False,
    first: Callable[[], object] = lambda: None,
    looks: Sequence[float] = _NEVER_TOLD,
) -> str:
    """Where trio is said to hang when all its tasks wait, ten seconds before a deadline; or "".

    `at_deadline`: or when that is over, and it still waits, which makes it a known one. `first`:
    called before each look. `looks`: the seconds before each.
    """
    hangs, told = known or KnownHangs(0.1), list[str]()
    awaited: list[object] = [None]  # at each look

    async def arm() -> None:
        await wait_all_tasks_blocked()
        signal.setitimer(signal.ITIMER_REAL, looks[0])

    async def run() -> None:
        with trio.CancelScope() as scope:
            token = trio.lowlevel.current_trio_token()

            def look(_number: int, frame: FrameType | None) -> None:
                first()
                wait = LoopWait.of(frame, 0.0)
                awaited.append(None if wait is None else wait.awaited)
                stays = awaited[-1] is not None and awaited[-1] == awaited[-2]
                is_told = stays if at_deadline else hangs.is_one(frame, 10.0)
                told.append(hangs.add(frame) if is_told else "")
                if told[-1] or len(told) == len(looks):
                    token.run_sync_soon(scope.cancel)
                else:
                    signal.setitimer(signal.ITIMER_REAL, looks[len(told)])

            signal.signal(signal.SIGALRM, look)
            trio.lowlevel.spawn_system_task(arm)
            await waiting()

    before = signal.getsignal(signal.SIGALRM)
    try:
        start(run)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return told[-1]


async def _for_an_event_of_trio() -> None:
    await trio.Event().wait()


async def _for_a_time_of_trio() -> None:
    await trio.sleep(60)


async def _for_each_other_in_trio(ends: list[int] | None = None) -> None:
    """Two ends of a connection in one run, each of which waits for the other to say something."""
    with trio.socket.socket() as listener, trio.socket.socket() as client:
        await listener.bind(("127.0.0.1", 0))
        listener.listen()
        await client.connect(listener.getsockname())
        accepted, _ = await listener.accept()
        with accepted:
            if ends is not None:
                ends.append(accepted.fileno())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(accepted.recv, 1)
                await client.recv(1)


@pytest.mark.parametrize("start", _RUNS_OF_TRIO)
@pytest.mark.parametrize(
    "waiting", [_for_an_event_of_trio, _for_a_time_of_trio, _for_each_other_in_trio]
)
def test_trio_that_waits_for_nothing_need_not_wait_for_the_deadline(
    waiting: Callable[[], Coroutine[Any, Any, object]], start: Callable[..., object]
) -> None:
    assert f"in {waiting.__name__}" in _told_of_trio(waiting, start, looks=_UNTIL_TOLD)


async def _for_somebody_elsewhere_in_trio() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, trio.socket.socket() as client:
        await client.connect(listener.getsockname())
        await client.recv(1)


async def _for_a_thread_of_trio() -> None:
    reader, writer = os.pipe()
    try:
        await trio.to_thread.run_sync(os.read, reader, 1, abandon_on_cancel=True)
    finally:
        os.close(writer)  # which ends the thread


async def _again_and_again_in_trio() -> None:
    while True:  # noqa: ASYNC110  # it waits for nothing else
        await trio.sleep(0.05)


async def _for_a_signal_in_trio() -> None:
    with trio.open_signal_receiver(signal.SIGUSR1) as signals:
        async for _ in signals:
            return


@pytest.mark.parametrize(
    "waiting",
    [
        _for_somebody_elsewhere_in_trio,
        _for_a_thread_of_trio,
        _again_and_again_in_trio,
        _for_a_signal_in_trio,
    ],
)
@pytest.mark.parametrize("start", _RUNS_OF_TRIO)
def test_trio_that_may_yet_be_woken_has_until_the_deadline(
    waiting: Callable[[], Coroutine[Any, Any, object]], start: Callable[..., object]
) -> None:
    assert not _told_of_trio(waiting, start)


@pytest.mark.parametrize("start", _RUNS_OF_TRIO)
def test_trio_that_is_about_to_be_told_of_what_has_come_does_not_hang(
    start: Callable[..., object],
) -> None:
    ends: list[int] = []
    talk = functools.partial(_for_each_other_in_trio, ends)
    assert not _told_of_trio(talk, start, first=lambda: os.write(ends[0], b"x"))


@pytest.mark.parametrize("start", _RUNS_OF_TRIO)
def test_trio_that_goes_on_is_no_hang_though_another_run_of_it_has_hung(
    start: Callable[..., object],
) -> None:
    hangs = KnownHangs(0.1)
    story, looks = _for_somebody_elsewhere_in_trio, _UNTIL_TOLD
    assert _told_of_trio(story, start, hangs, at_deadline=True, looks=looks)
    assert not _told_of_trio(_again_and_again_in_trio, start, hangs)
    assert _told_of_trio(story, start, hangs, looks=looks)


async def _for_somebody_elsewhere() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        try:
            await reader.read()
        finally:
            writer.close()


async def _for_a_thread() -> None:
    reader, writer = os.pipe()
    try:
        await asyncio.get_running_loop().run_in_executor(None, os.read, reader, 1)
    finally:
        os.close(writer)  # which ends the thread


async def _for_a_thread_below_threading() -> None:
    reader, writer = os.pipe()
    loop, woken, over = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def wake() -> None:
        os.read(reader, 1)
        loop.call_soon_threadsafe(woken.set)
        over.set()

    _begin_below_threading(wake)
    try:
        await woken.wait()
    finally:
        os.close(writer)
        await asyncio.to_thread(over.wait)


async def _again_and_again() -> None:
    while True:  # noqa: ASYNC110  # it waits for nothing else
        await asyncio.sleep(0.05)


async def _for_a_process_that_may_connect() -> None:
    process = await asyncio.to_thread(subprocess.Popen, ["sleep", "60"])
    try:
        await _for_each_other()
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)


async def _for_a_process() -> None:
    process = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        await process.wait()
    finally:
        process.kill()
        await process.wait()


@rings_for_who_waits
@pytest.mark.parametrize(
    "waiting",
    [
        _for_somebody_elsewhere,
        _for_a_thread,
        _for_a_thread_below_threading,
        _again_and_again,
        _for_a_process,
        _for_a_process_that_may_connect,
    ],
)
def test_an_event_loop_that_may_yet_be_woken_has_until_the_deadline(
    waiting: Callable[[], Coroutine[Any, Any, object]],
) -> None:
    told = _hang_in_a_loop(KnownHangs(0.01, silent=0.02), waiting)
    assert told.startswith("it was still running after 0.3 s")


@rings_for_who_waits
def test_tasks_that_wait_where_others_have_hung_hang_when_nothing_has_come_for_a_while() -> None:
    known = KnownHangs(0.1, silent=0.2)
    lasted = [
        _hang_in_a_loop(known, waiting).partition(",")[0]
        for waiting in (_for_somebody_elsewhere, _for_somebody_elsewhere, _again_and_again)
    ]
    assert [each.rpartition("after ")[2] for each in lasted] == ["0.3 s", "0.2 s", "0.3 s"]


async def _for_somebody_elsewhere_for_a_time() -> None:
    async with asyncio.timeout(60):
        await _for_somebody_elsewhere()


@rings_for_who_waits
def test_a_timeout_that_comes_after_the_deadline_is_no_reason_to_wait_for_that_again() -> None:
    known = KnownHangs(0.1, silent=0.2)
    lasted = [
        _hang_in_a_loop(known, _for_somebody_elsewhere_for_a_time).partition(",")[0]
        for _ in range(2)
    ]
    assert [each.rpartition("after ")[2] for each in lasted] == ["0.3 s", "0.2 s"]


def _hang_in_uvloop(known: KnownHangs, waiting: Callable[[], Coroutine[Any, Any, object]]) -> str:
    """As `_hang_in_a_loop`, of one that is written in C."""
    uvloop = pytest.importorskip("uvloop")
    with contextlib.ExitStack() as stack:

        async def run() -> None:
            stack.enter_context(deadline(0.3, known))
            await waiting()

        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        with pytest.raises(DeadlineError) as raised:
            runner.run(run())
    return str(raised.value)


@rings_for_who_waits
def test_a_loop_in_c_is_ended_and_at_once_where_it_has_hung() -> None:
    known = KnownHangs(0.1, silent=0.2)
    waits = (_for_an_event, _for_an_event, _again_and_again)
    lasted = [_hang_in_uvloop(known, each) for each in waits]
    seconds = [told.partition(",")[0].rpartition("after ")[2] for told in lasted]
    assert seconds == ["0.3 s", "0.2 s", "0.3 s"]
    assert lasted[0].endswith("in _for_an_event")


@pytest.mark.parametrize("start", _RUNS_OF_TRIO)
@pytest.mark.parametrize("waiting", [_for_an_event_of_trio, _for_each_other_in_trio])
def test_trio_can_be_run_again_after_a_hang(
    waiting: Callable[[], Coroutine[Any, Any, object]],
    start: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_REPEAT", PATIENCE)  # one signal is enough
    ended = []

    async def run() -> None:
        try:
            await waiting()
        finally:
            ended.append(True)

    with pytest.raises(BaseException) as raised, deadline(0.3):  # or a group
        start(run)
    assert text_in_chain(raised.value, DeadlineError)
    assert ended
    trio.run(trio.sleep, 0)


def test_what_waits_in_the_place_of_trio_is_ended_where_trio_does_not_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_REPEAT", 0.01)
    errors: list[BaseException] = []

    def raised(error: BaseException, _frame: object) -> bool:
        errors.append(error)
        return True

    monkeypatch.setattr(module, "raise_in_trio", raised)
    with pytest.raises(DeadlineError), deadline(0.05):
        threading.Event().wait(60)
    assert errors
