from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import pickle
import signal
import threading

from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine
from hypothesis.stateful import initialize
from hypothesis.stateful import invariant
from hypothesis.stateful import precondition
from hypothesis.stateful import rule

from pytest_resilience import ConfigurationError
from pytest_resilience import Event
from pytest_resilience import ManualClock
from pytest_resilience import TimeLimitExceededError
from pytest_resilience.patterns.timeout import TimeLimiter
from pytest_resilience.patterns.timeout import TimeLimitExceeded
from tests.patterns.ways import PoorListener


AGES = 3600.0  # a limit that no test waits for
SOON = 0.005  # one that has to be waited for


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def limited(clock: ManualClock, limit: float = 60.0) -> TimeLimiter:
    return TimeLimiter(limit, name="prices", clock=clock)


class Hanging:
    """A function that returns when it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._gate = threading.Event()

    def __call__(self) -> str:
        self.entered.set()
        assert self._gate.wait(60)
        return "late"

    def release(self) -> None:
        self._gate.set()


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    hanging = Hanging()
    yield hanging
    hanging.release()


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def divide(a: int, b: int = 1) -> float:
    await asyncio.sleep(0)
    return a / b


def divide_plain(a: int, b: int = 1) -> float:
    return a / b


def test_what_is_in_time_passes() -> None:
    limiter = TimeLimiter(AGES)
    assert limiter.execute(divide_plain, 6, b=2) == 3
    assert limiter(divide_plain)(6, b=2) == 3
    assert asyncio.run(limiter.execute(divide, 6, b=2)) == 3
    assert asyncio.run(limiter(divide)(6, b=2)) == 3
    assert limiter.overdue == ()


def test_what_fails_in_time_passes_as_it_is() -> None:
    limiter = TimeLimiter(AGES)
    with pytest.raises(ZeroDivisionError) as caught:
        limiter.execute(divide_plain, 1, 0)
    assert caught.value.__cause__ is caught.value.__context__ is None
    with pytest.raises(ZeroDivisionError):
        asyncio.run(limiter.execute(divide, 1, 0))


def test_a_timeout_error_of_the_call_itself_is_not_ours() -> None:
    limiter, own = TimeLimiter(AGES), TimeoutError("own")

    def raise_own() -> None:
        raise own

    async def raise_own_later() -> None:
        await asyncio.sleep(0)
        raise own

    async def block() -> None:
        async with limiter:
            raise own

    calls: list[Callable[[], None]] = [
        lambda: limiter.execute(raise_own),
        lambda: asyncio.run(limiter.execute(raise_own_later)),
        lambda: asyncio.run(block()),
    ]
    for call in calls:
        with pytest.raises(TimeoutError) as caught:
            call()
        assert caught.value is own


def test_a_coroutine_is_cancelled_when_its_time_is_up() -> None:
    limiter, cleaned_up = TimeLimiter(SOON, name="prices"), []

    async def story() -> None:
        try:
            await forever()
        finally:
            cleaned_up.append(True)

    with pytest.raises(
        TimeLimitExceededError,
        match=r"(?m)^prices: \S*story took longer than 0.005 s; it was cancelled$",
    ) as caught:
        asyncio.run(limiter(story)())
    assert cleaned_up == [True]
    assert caught.value.limit == SOON
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_block_is_cancelled_when_its_time_is_up() -> None:
    limiter = TimeLimiter(SOON, name="prices")

    async def story() -> None:
        async with limiter:
            await forever()

    with pytest.raises(TimeLimitExceededError, match=r"^prices: block took longer"):
        asyncio.run(story())


def test_blocks_stand_in_blocks_and_side_by_side() -> None:
    """Each measures its own: the inner of two ends, the outer and the neighbour go on."""
    outer, inner = TimeLimiter(AGES), TimeLimiter(SOON)

    async def nested() -> str:
        async with outer:
            with pytest.raises(TimeLimitExceededError):
                async with inner:
                    await forever()
            async with outer:
                await asyncio.sleep(0)
        return "outer went on"

    async def story() -> list[str]:
        return await asyncio.gather(*(nested() for _ in range(20)))

    assert asyncio.run(story()) == ["outer went on"] * 20


@pytest.mark.parametrize("form", ["call", "block"])
def test_cancellation_from_outside_is_not_a_timeout(form: str) -> None:
    limiter = TimeLimiter(AGES)
    told: list[Event] = []
    limiter.listeners.add(told.append)

    async def block() -> None:
        async with limiter:
            await forever()

    async def story() -> None:
        task = asyncio.ensure_future(block() if form == "block" else limiter.execute(forever))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel("by the user")
        with pytest.raises(asyncio.CancelledError, match="by the user"):
            await task
        assert task.cancelled()

    asyncio.run(story())
    assert told == []


def test_a_coroutine_that_refuses_cancellation_loses_its_result() -> None:
    limiter = TimeLimiter(SOON)

    async def stubborn() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await forever()
        return "late"

    with pytest.raises(TimeLimitExceededError, match="it ended after"):
        asyncio.run(limiter.execute(stubborn))


def test_a_plain_function_runs_on_and_is_listed(hanging: Hanging) -> None:
    limiter = TimeLimiter(SOON, name="prices")
    with pytest.raises(
        TimeLimitExceededError, match=r"(?m)^prices: .* took longer than 0.005 s; it runs on$"
    ):
        limiter.execute(hanging)
    (overdue,) = limiter.overdue
    assert "Hanging" in overdue.call
    assert overdue.thread.is_alive()
    assert overdue.thread.daemon
    assert overdue.thread.name.startswith("prices: ")
    hanging.release()
    overdue.thread.join(10)
    assert limiter.overdue == ()


def test_a_caller_waits_for_its_own_call_alone(hanging: Hanging) -> None:
    limiter = TimeLimiter(SOON)
    for number in range(1, 4):
        with pytest.raises(TimeLimitExceededError):
            limiter.execute(hanging)
        assert len(limiter.overdue) == number
    assert TimeLimiter(AGES).execute(divide_plain, 4, 2) == 2
    threads = [each.thread for each in limiter.overdue]
    hanging.release()
    for thread in threads:
        thread.join(10)
    assert limiter.overdue == ()


@pytest.fixture
def interrupt() -> Iterator[Callable[[], None]]:
    """What raises one KeyboardInterrupt in the main thread, from another one."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals are for the main thread")
    raised = threading.Event()

    def once(*_: object) -> None:
        if not raised.is_set():
            raised.set()
            raise KeyboardInterrupt

    def send() -> None:
        # More than once: who is about to wait for a lock, but does not yet, misses a signal.
        while not raised.wait(0.01):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    usual = signal.signal(signal.SIGINT, once)
    yield send
    signal.signal(signal.SIGINT, usual)


def test_a_caller_who_is_interrupted_leaves_its_call_listed(
    hanging: Hanging, interrupt: Callable[[], None]
) -> None:
    limiter = TimeLimiter(AGES)

    def interrupt_when_it_runs() -> None:
        assert hanging.entered.wait(10)
        interrupt()

    interrupter = threading.Thread(target=interrupt_when_it_runs)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        limiter.execute(hanging)
    interrupter.join()
    (overdue,) = limiter.overdue
    hanging.release()
    overdue.thread.join(10)
    assert limiter.overdue == ()


def test_where_no_thread_can_be_started_nothing_is_overdue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    limiter = TimeLimiter(AGES)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        limiter.execute(divide_plain, 6)
    assert limiter.overdue == ()


def test_a_call_that_ends_as_its_time_is_up_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    wait = Future.exception

    def awake_too_late(future: Future[Any], timeout: float | None = None) -> None:
        wait(future, timeout)
        raise TimeoutError

    monkeypatch.setattr(Future, "exception", awake_too_late)
    limiter = TimeLimiter(AGES)
    assert limiter.execute(divide_plain, 6, 3) == 2
    assert limiter.overdue == ()


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def test_context_variables_reach_the_worker_and_stay_there() -> None:
    def look() -> str:
        seen = variable.get()
        variable.set("changed inside")
        return seen

    def story() -> None:
        variable.set("request 7")
        assert TimeLimiter(AGES).execute(look) == "request 7"
        assert variable.get() == "request 7"

    contextvars.copy_context().run(story)


def test_on_a_manual_clock_a_minute_passes_at_once(clock: ManualClock) -> None:
    limiter = limited(clock)

    async def slow() -> None:
        await clock.asleep(61)

    async def block() -> None:
        async with limiter:
            await slow()

    exceeded = pytest.raises(
        TimeLimitExceededError, match=r"(?m)longer than 60 s; it ended after 61 s$"
    )
    with exceeded:
        limiter.execute(clock.sleep, 61)
    with exceeded:
        asyncio.run(limiter.execute(slow))
    with exceeded:
        asyncio.run(block())
    limiter.execute(clock.sleep, 60)  # the limit itself is within it


def test_what_was_raised_late_passes_as_it_is(clock: ManualClock) -> None:
    def fail() -> None:
        clock.sleep(61)
        raise KeyError

    async def fail_later() -> None:
        async with limited(clock):
            await clock.asleep(61)
            raise KeyError

    with pytest.raises(KeyError):
        limited(clock).execute(fail)
    with pytest.raises(KeyError):
        asyncio.run(fail_later())


def test_a_coroutine_that_a_plain_function_returns_is_limited_too(clock: ManualClock) -> None:
    limiter = limited(clock)
    for run in (limiter.execute, lambda func: limiter(func)()):
        with pytest.raises(TimeLimitExceededError, match="it ended after 61 s"):
            asyncio.run(run(lambda: clock.asleep(61)))


def test_generator_functions_are_refused() -> None:
    def rows() -> Iterator[int]:
        yield 1

    async def arows() -> AsyncIterator[int]:
        yield 1

    for func in (rows, arows):
        with pytest.raises(TypeError, match="put the limit around what consumes it"):
            TimeLimiter(1.0)(func)
        with pytest.raises(TypeError, match="generator function; its time is"):
            TimeLimiter(1.0).execute(func)


def test_listeners_hear_and_cannot_harm(clock: ManualClock, hanging: Hanging) -> None:
    limiter, told = limited(clock), list[Event]()

    def hostile(event: Event) -> None:
        raise RuntimeError

    limiter.listeners.add(hostile)
    limiter.listeners.add(told.append)
    with pytest.raises(TimeLimitExceededError):
        limiter.execute(clock.sleep, 61)
    assert told == [
        TimeLimitExceeded(
            at=61.0, source="prices", call="ManualClock.sleep", limit=60.0, running=False
        )
    ]
    limiter = TimeLimiter(SOON)
    limiter.listeners.add(told.append)
    with pytest.raises(TimeLimitExceededError):
        limiter.execute(hanging)
    last = told[-1]
    assert isinstance(last, TimeLimitExceeded)
    assert last.running


def test_a_decorated_function_looks_like_itself() -> None:
    limiter = TimeLimiter(1.0)
    assert limiter(divide_plain).__name__ == "divide_plain"
    assert asyncio.iscoroutinefunction(limiter(divide))
    assert not asyncio.iscoroutinefunction(limiter(divide_plain))
    assert repr(limiter) == "<TimeLimiter 'time limit' 1 s>"


def fail_sync() -> None:
    TimeLimiter(AGES).execute(divide_plain, 1, 0)


async def fail_async() -> None:
    await TimeLimiter(AGES)(divide)(1, 0)


async def time_out() -> None:
    await TimeLimiter(1e-6)(forever)()


async def time_out_block() -> None:
    async with TimeLimiter(1e-6):
        await forever()


async def fail_block() -> None:
    async with TimeLimiter(AGES):
        await divide(1, 0)


@pytest.mark.parametrize("action", [fail_sync, fail_async, fail_block, time_out, time_out_block])
def test_no_reference_cycle_is_left(action: Callable[[], Any]) -> None:
    async def repeat() -> int:
        async def once() -> None:
            with contextlib.suppress(ZeroDivisionError, TimeLimitExceededError):
                outcome = action()
                if outcome is not None:
                    # A task that ends with what asyncio.timeout raised is a cycle already.
                    own_task = action in (fail_async, fail_block)
                    await (asyncio.ensure_future(outcome) if own_task else outcome)

        await once()
        gc.collect()
        gc.disable()
        try:
            for _ in range(10):
                await once()
            return sum(isinstance(each, BaseException) for each in _garbage())
        finally:
            gc.enable()

    assert asyncio.run(repeat()) == 0


def _garbage() -> list[Any]:
    """What only the collector would have freed."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return list(gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


@pytest.mark.parametrize(
    ("limit", "error"),
    [
        (0, ConfigurationError),
        (-1, ConfigurationError),
        (float("nan"), ConfigurationError),
        (float("inf"), ConfigurationError),
        ("60", TypeError),
        (None, TypeError),
        (True, TypeError),
    ],
)
def test_nonsense_is_refused_naming_field_and_value(limit: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="limit") as caught:
        TimeLimiter(limit)
    assert repr(limit) in str(caught.value)


async def never_ends() -> None:
    await asyncio.Event().wait()


def test_totals() -> None:
    limiter, release = TimeLimiter(1e-3), threading.Event()
    quick = TimeLimiter(60.0)
    assert quick.execute(int) == 0
    assert asyncio.run(quick.execute(asyncio.sleep, 0, 1)) == 1

    async def block() -> None:
        async with quick:
            pass

    asyncio.run(block())
    assert asyncio.run(quick.execute(lambda: asyncio.sleep(0, 2))) == 2  # an awaitable, in a thread
    assert quick.get_stats() == {"total_calls": 4, "exceeded_calls": 0, "overdue_calls": 0}
    with pytest.raises(TimeLimitExceededError):
        asyncio.run(limiter.execute(never_ends))
    with pytest.raises(TimeLimitExceededError):
        limiter.execute(release.wait, 60)
    assert limiter.get_stats() == {"total_calls": 2, "exceeded_calls": 2, "overdue_calls": 1}
    [overdue] = limiter.overdue
    release.set()
    overdue.thread.join(60)
    assert limiter.get_stats()["overdue_calls"] == 0


# Against a model.


LIMIT = 60.0
ENDS = st.sampled_from(["fine", OSError, TimeoutError, asyncio.CancelledError])
LIMITED = [
    "decorator", "execute", "async decorator", "await execute", "async with",
    "of what is returned",
]  # fmt: skip


class TimeLimitMachine(RuleBasedStateMachine):
    """Calls that end in time by the clock, or too late, in any way; others that run on."""

    @initialize()
    def begin(self) -> None:
        self.clock = ManualClock()
        self.limiter = limited(self.clock, LIMIT)
        self.hasty = limited(self.clock, SOON)
        self.hanging: list[Hanging] = []
        self.heard: list[tuple[str, bool]] = []
        self.expected: list[tuple[str, bool]] = []
        for limiter in (self.limiter, self.hasty):
            limiter.listeners.add(self.hear)
            limiter.listeners.add(PoorListener())

    def hear(self, event: TimeLimitExceeded) -> None:
        self.heard.append((event.call.rpartition(".")[2], event.running))

    def way(self, way: str, work: Callable[[], Any]) -> Any:
        async def awork() -> Any:
            await asyncio.sleep(0)
            return work()

        def later() -> Any:  # not `async def`
            return awork()

        async def block() -> Any:
            async with self.limiter:
                return await awork()

        ways: dict[str, Callable[[], Any]] = {
            "decorator": self.limiter(work),
            "execute": lambda: self.limiter.execute(work),
            "async decorator": lambda: asyncio.run(self.limiter(awork)()),
            "await execute": lambda: asyncio.run(self.limiter.execute(awork)),
            "async with": lambda: asyncio.run(block()),
            "of what is returned": lambda: asyncio.run(self.limiter(later)()),
        }
        return ways[way]()

    @rule(way=st.sampled_from(LIMITED), seconds=st.sampled_from([0.0, LIMIT, 61.0]), end=ENDS)
    def a_call(self, way: str, seconds: float, end: Any) -> None:
        def work() -> str:
            self.clock.advance(seconds)
            if isinstance(end, type):
                raise end
            return "fine"

        if end != "fine":  # as it is, late or not
            with pytest.raises(end) as raised:
                self.way(way, work)
            assert not isinstance(raised.value, TimeLimitExceededError)
        elif seconds <= LIMIT:
            assert self.way(way, work) == "fine"
        else:
            with pytest.raises(TimeLimitExceededError, match="it ended after 61 s"):
                self.way(way, work)
            names = {"decorator": "work", "execute": "work", "async with": "block"}
            name = "later" if way == "of what is returned" else names.get(way, "awork")
            self.expected.append((name, False))

    @precondition(lambda self: len(self.hanging) < 3)
    @rule()
    def a_call_that_hangs(self) -> None:
        hanging = Hanging()
        with pytest.raises(TimeLimitExceededError, match="it runs on"):
            self.hasty.execute(hanging.__call__)
        self.hanging.append(hanging)
        self.expected.append(("__call__", True))

    @precondition(lambda self: self.hanging)
    @rule(data=st.data())
    def it_ends(self, data: st.DataObject) -> None:
        hanging = data.draw(st.sampled_from(self.hanging), label="which")
        self.let_go(hanging)

    def let_go(self, hanging: Hanging) -> None:
        call = self.hasty.overdue[self.hanging.index(hanging)]
        self.hanging.remove(hanging)
        hanging.release()
        call.thread.join(60)

    @rule(seconds=st.sampled_from([1.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def all_is_told(self) -> None:
        assert self.heard == self.expected
        assert self.limiter.overdue == ()
        assert len(self.hasty.overdue) == len(self.hanging)

    def teardown(self) -> None:
        for each in getattr(self, "hanging", [])[:]:
            self.let_go(each)


TestTimeLimitMachine = TimeLimitMachine.TestCase
TestTimeLimitMachine.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
