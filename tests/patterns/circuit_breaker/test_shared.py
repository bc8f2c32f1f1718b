"""Breakers whose state processes share, in a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading

from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Iterator
from functools import partial
from typing import Any

import anyio
import pytest
import redis
import redis.asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine
from hypothesis.stateful import initialize
from hypothesis.stateful import invariant
from hypothesis.stateful import precondition
from hypothesis.stateful import rule
from hypothesis.stateful import run_state_machine_as_test

from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import CircuitBreakerError
from pytest_resilience import CircuitBreakerRegistry
from pytest_resilience import ConfigurationError
from pytest_resilience import Event
from pytest_resilience import ManualClock
from pytest_resilience import RedisStore
from pytest_resilience.assertions import assert_circuit_closed
from pytest_resilience.assertions import assert_circuit_open
from pytest_resilience.assertions import assert_circuit_state
from pytest_resilience.assertions import assert_circuit_transitions
from pytest_resilience.assertions import assert_fails_fast
from pytest_resilience.patterns import CircuitCall
from pytest_resilience.patterns import CircuitRejection
from pytest_resilience.patterns import CircuitTransition
from pytest_resilience.patterns import CircuitWouldOpen
from tests.patterns.circuit_breaker.test_states import run
from tests.redis_server import redis_server


PATIENCE = 60  # seconds
LONG = 3600.0  # seconds: nothing is over by itself in a test
KEY = "pytest_resilience:breaker:prices"

ELSEWHERE = """
import json, sys
from pytest_resilience import CircuitBreaker, CircuitBreakerConfig, RedisStore

def broken():
    raise ConnectionError("gone")

config = CircuitBreakerConfig(**json.loads(sys.argv[2]))
breaker = CircuitBreaker(config, name="prices", store=RedisStore(sys.argv[1]))
for line in sys.stdin:
    try:
        if line == "fine\\n":
            breaker.call(int)
        elif line == "broken\\n":
            breaker.call(broken)
        elif line == "begin\\n":
            permit = breaker.acquire()
        elif line == "end\\n":
            permit.returned(None)
    except Exception as error:
        print(type(error).__name__, flush=True)
    else:
        print(breaker.state.value, flush=True)
"""


class Elsewhere:
    """The same breaker in another process."""

    def __init__(self, url: str, config: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", ELSEWHERE, url, json.dumps(config)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def do(self, what: str) -> str:
        """The state after it, or the name of its error."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=PATIENCE)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with redis_server() as (port, _):
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture
def client(url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url) as client:
        client.flushall()
        yield client


Make = Callable[..., CircuitBreaker]


@pytest.fixture
def make(client: redis.Redis) -> Make:
    def make(name: str = "prices", refresh: float = 0.0, **config: Any) -> CircuitBreaker:
        config = {"timeout": LONG, **config}
        store = RedisStore(client, refresh=refresh)
        return CircuitBreaker(CircuitBreakerConfig(**config), name=name, store=store)

    return make


@pytest.fixture
def elsewhere(url: str) -> Iterator[Callable[..., Elsewhere]]:
    made: list[Elsewhere] = []

    def start(**config: Any) -> Elsewhere:
        made.append(Elsewhere(url, {"timeout": LONG, **config}))
        return made[-1]

    yield start
    for each in made:
        each.kill()


def half_open(breaker: CircuitBreaker) -> None:
    """Let the next call be a trial call."""
    breaker.open_for(0)


def test_failures_of_two_processes_open_the_breaker_of_both(
    make: Make, elsewhere: Callable[..., Elsewhere]
) -> None:
    here, there = make(failure_threshold=3), elsewhere(failure_threshold=3)
    heard: list[Event] = []
    here.listeners.add(heard.append)
    run(here, "f")
    assert there.do("broken") == "ConnectionError"
    assert_circuit_closed(here)
    assert here.get_stats()["failure_count"] == 2
    assert there.do("broken") == "ConnectionError"
    assert_circuit_open(here)
    assert_fails_fast(here, within=PATIENCE)
    with pytest.raises(CircuitBreakerError) as rejected:
        here.call(int)
    assert rejected.value.retry_after == pytest.approx(LONG, abs=PATIENCE)
    assert there.do("fine") == "CircuitBreakerError"
    assert [type(each) for each in heard] == [CircuitTransition, *[CircuitRejection] * 2]
    assert here.transitions[-1].reason == "3 failures in a row, with ConnectionError, elsewhere"
    here.reset()
    assert there.do("fine") == "CLOSED"
    assert_circuit_transitions(here, ["CLOSED", "OPEN", "CLOSED"])


def test_a_success_elsewhere_breaks_a_row_of_failures(
    make: Make, elsewhere: Callable[..., Elsewhere]
) -> None:
    here, there = make(failure_threshold=2), elsewhere(failure_threshold=2)
    run(here, "f")
    assert there.do("fine") == "CLOSED"
    run(here, "f")
    assert_circuit_closed(here)


def test_trial_calls_are_shared(make: Make, elsewhere: Callable[..., Elsewhere]) -> None:
    here, there = make(success_threshold=2), elsewhere(success_threshold=2)
    half_open(here)
    assert there.do("begin") == "HALF_OPEN"
    mine = here.acquire()
    with pytest.raises(CircuitBreakerError, match="trial calls are in progress"):
        here.acquire()
    assert there.do("fine") == "CircuitBreakerError"
    mine.returned(None)
    assert there.do("end") == "CLOSED"
    assert_circuit_transitions(here, ["CLOSED", "OPEN", "HALF_OPEN", "CLOSED"])


def test_the_death_of_a_process_in_a_trial_call_is_survived(
    make: Make, elsewhere: Callable[..., Elsewhere]
) -> None:
    there, here = elsewhere(success_threshold=1), make(success_threshold=1)
    half_open(here)
    assert there.do("begin") == "HALF_OPEN"
    there.kill()
    with pytest.raises(CircuitBreakerError, match="trial calls are in progress"):
        here.call(int)
    impatient = make(success_threshold=1, timeout=0.0)  # for which its time is over
    impatient.call(int)
    assert_circuit_closed(here)


def test_the_clocks_of_machines_may_differ(client: redis.Redis) -> None:
    config = CircuitBreakerConfig(failure_threshold=1, timeout=LONG)
    early, late = [
        CircuitBreaker(config, name="prices", clock=clock, store=RedisStore(client))
        for clock in (ManualClock(), ManualClock(start=1e9, epoch=1e9))
    ]
    run(late, "f")
    for breaker in (early, late):
        with pytest.raises(CircuitBreakerError) as rejected:
            breaker.call(int)
        assert rejected.value.retry_after == pytest.approx(LONG, abs=PATIENCE)
    assert late.get_stats()["time_since_last_failure"] == pytest.approx(0, abs=PATIENCE)


def test_durations_are_those_of_the_own_clock(client: redis.Redis) -> None:
    clock = ManualClock()
    config = CircuitBreakerConfig(failure_threshold=2, slow_call_duration=1.0)
    breaker = CircuitBreaker(config, name="prices", clock=clock, store=RedisStore(client))
    breaker.call(clock.sleep, 1.0)
    breaker.call(clock.sleep, 1.1)
    assert breaker.get_stats()["failure_count"] == 1


@pytest.mark.parametrize("config", [{"window_size": 4}, {"window_seconds": LONG}])
def test_windows_are_shared(make: Make, config: dict[str, Any]) -> None:
    config = {**config, "failure_rate_threshold": 0.5, "minimum_calls": 4}
    first, second = make(**config), make(**config)
    run(first, "sf")
    run(second, "s")
    assert second.get_stats()["window_calls"] == 3
    run(second, "f")
    assert_circuit_open(first)
    assert first.transitions[-1].reason.startswith("2 of 4 calls failed")


def test_what_somebody_sets_holds_for_all(make: Make, client: redis.Redis) -> None:
    first, second = make(failure_threshold=1), make(failure_threshold=1)
    first.force_open()
    assert_circuit_state(second, "FORCED_OPEN")
    assert client.pttl(KEY) == -1  # kept for ever
    second.metrics_only()
    heard: list[Event] = []
    first.listeners.add(heard.append)
    run(second, "f")
    run(first, "f")
    assert second.get_stats()["failure_count"] == 2
    assert second.get_stats()["would_open"] == "2 failures in a row"
    assert not any(isinstance(each, CircuitWouldOpen) for each in heard)  # it was told there
    first.force_closed()
    assert_circuit_state(second, "DISABLED")
    second.reset()
    assert 0 < int(client.pttl(KEY)) <= 86_400_000
    run(first, "f")
    with first.isolate(), second.isolate():
        assert_circuit_state(second, "FORCED_OPEN")
    assert_circuit_open(second)


def test_a_late_outcome_says_nothing_of_a_later_state(make: Make) -> None:
    first, second = make(failure_threshold=1), make(failure_threshold=1)
    late = first.acquire()
    second.force_open()
    second.reset()
    late.raised(ConnectionError())
    assert_circuit_closed(second)


def test_no_failure_is_lost_among_threads(make: Make) -> None:
    breakers = [make(failure_threshold=10_000) for _ in range(8)]
    barrier = threading.Barrier(len(breakers))

    def fail(breaker: CircuitBreaker) -> None:
        barrier.wait(PATIENCE)
        run(breaker, "fffff")

    threads = [threading.Thread(target=fail, args=(each,)) for each in breakers]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE)
    assert breakers[0].get_stats()["failure_count"] == 40


def test_what_others_need_not_know_is_not_written(make: Make, client: redis.Redis) -> None:
    breaker = make()
    run(breaker, "sss")
    assert client.exists(KEY) == 0
    asked = questions(client)
    run(breaker, "sss")
    assert questions(client) - asked == 3
    fresh = make(refresh=LONG)
    run(fresh, "s")
    asked = questions(client)
    run(fresh, "sss")
    assert questions(client) == asked
    run(fresh, "f")
    assert questions(client) == asked + 2


def questions(client: redis.Redis) -> int:
    """How many scripts have been run."""
    commands: Any = client.info("commandstats")
    return int(commands["cmdstat_evalsha"]["calls"])


def test_a_redis_that_cannot_be_reached_leaves_each_process_to_itself(
    chaos: Any, url: str, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    config = CircuitBreakerConfig(failure_threshold=2, timeout=LONG, success_threshold=1)
    here = CircuitBreaker(config, name="prices", clock=clock, store=RedisStore(url))
    there = CircuitBreaker(config, name="prices", store=RedisStore(client))
    run(here, "sf")
    with chaos.network_failure(mode="reset", target=url.split("/")[2]):
        run(here, "f")  # what was known goes on: this is the second
        assert here.get_stats()["shared"] is False
        assert_circuit_open(here)
        clock.advance(LONG)
        permit = here.acquire()  # a trial call
        with pytest.raises(CircuitBreakerError):
            here.acquire()
        permit.returned(None)
        assert_circuit_closed(here)
        run(here, "f")
    assert caplog.text.count("its state is shared no more") == 1
    assert here.get_stats()["shared"] is False  # it is not asked before its time
    assert there.get_stats()["failure_count"] == 1
    clock.advance(5.0)
    run(here, "f")
    assert "its state is shared again" in caplog.text
    assert here.get_stats()["shared"] is True
    assert_circuit_open(there)


def test_an_open_breaker_stays_open_while_redis_cannot_be_reached(
    chaos: Any, url: str, client: redis.Redis
) -> None:
    config = CircuitBreakerConfig(failure_threshold=1, timeout=LONG)
    there = CircuitBreaker(config, name="prices", store=RedisStore(client))
    here = CircuitBreaker(config, name="prices", store=RedisStore(url))
    run(there, "f")
    assert_circuit_open(here)
    with chaos.network_failure(mode="refuse", target=url.split("/")[2]):
        here_later = CircuitBreaker(config, name="prices", store=RedisStore(url))
        here_later.call(int)  # it has never known
        assert_circuit_closed(here_later)


def test_a_redis_that_dies_is_no_error_of_the_call() -> None:
    with redis_server() as (_, path):
        store = RedisStore(f"unix://{path}")
        config = CircuitBreakerConfig(failure_threshold=1, timeout=LONG)
        breaker = CircuitBreaker(config, name="prices", store=store)
        run(breaker, "f")
        assert_circuit_open(breaker)
        server: Any = store.client.info("server")
        os.kill(server["process_id"], signal.SIGKILL)
        assert_circuit_open(breaker)
        assert breaker.get_stats()["shared"] is False


def test_a_redis_that_has_lost_its_data_begins_with_closed_breakers(
    make: Make, client: redis.Redis
) -> None:
    breaker = make(failure_threshold=1)
    run(breaker, "f")
    client.flushall()
    assert_circuit_closed(breaker)
    assert breaker.transitions[-1].reason == "its state was lost"


def test_what_is_no_state_of_a_breaker_is_replaced(
    make: Make, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    breaker = make(failure_threshold=1)
    for nonsense in ("nonsense", "[]", "{}", '{"state": {"kind": "AJAR"}}'):
        client.set(KEY, nonsense)
        assert_circuit_closed(breaker)
        assert "is no state of a breaker" in caplog.text
        run(breaker, "f")
        assert_circuit_open(breaker)
        breaker.reset()
        caplog.clear()


def test_breakers_of_a_registry_share_their_states(client: redis.Redis) -> None:
    config = CircuitBreakerConfig(failure_threshold=1, timeout=LONG)
    first, second = [CircuitBreakerRegistry(config, store=RedisStore(client)) for _ in range(2)]
    run(first.get_or_create("prices"), "f")
    assert_circuit_open(second.get_or_create("prices"))
    assert_circuit_closed(second.get_or_create("stock"))


def test_clients_that_decode_responses(client: redis.Redis, url: str) -> None:
    config = CircuitBreakerConfig(failure_threshold=1, timeout=LONG)
    with redis.Redis.from_url(url, decode_responses=True) as decoding:
        breaker = CircuitBreaker(config, name="prices", store=RedisStore(decoding))
        run(breaker, "f")
        assert_circuit_open(breaker)


def test_what_cannot_be_a_store(client: redis.Redis, url: str) -> None:
    wrong: Any = redis.asyncio.Redis.from_url(url)
    with pytest.raises(TypeError, match=r"client must be a redis.Redis or a URL, not"):
        RedisStore(wrong)
    wrong = client
    with pytest.raises(TypeError, match="store must be a RedisStore or None, not"):
        CircuitBreaker(name="prices", store=wrong)
    with pytest.raises(ConfigurationError, match="share their state; give it one"):
        CircuitBreaker(store=RedisStore(client))
    with pytest.raises(ConfigurationError, match="refresh=-1"):
        RedisStore(client, refresh=-1)


# Async callers, of whose loops nothing blocks the thread: the suite sees to it.


async def lost() -> None:
    raise ConnectionError("gone")


async def nothing() -> None: ...


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_async_calls_share_the_state(make: Make, backend: str) -> None:
    breaker = make(failure_threshold=5, success_threshold=5)
    run_it = partial(anyio.run, backend=backend)

    @breaker
    async def pages(error: Exception | None) -> AsyncIterator[int]:
        yield 1
        if error is not None:
            raise error

    async def story(error: Exception | None) -> None:
        async def call() -> None:
            if error is not None:
                raise error

        async def block() -> None:
            async with breaker:
                await call()

        async def iterate() -> None:
            async for _ in pages(error):
                pass

        async def acquire() -> None:
            permit = await breaker.acquire_async()
            if error is None:
                permit.returned(None)
            else:
                permit.raised(error)
            await permit.notify_async()
            await call()

        for way in (breaker(call), partial(breaker.call, call), block, iterate, acquire):
            with contextlib.nullcontext() if error is None else pytest.raises(ConnectionError):
                await way()

    async def rejected() -> None:
        with pytest.raises(CircuitBreakerError):
            await breaker(nothing)()

    heard: list[Event] = []
    breaker.call_listeners.add(heard.append)
    run_it(partial(story, ConnectionError()))
    assert_circuit_open(breaker)
    run_it(rejected)
    breaker.reset()
    half_open(breaker)
    run_it(partial(story, None))
    states = [each.new.value for each in breaker.transitions]
    assert states == ["OPEN", "CLOSED", "OPEN", "HALF_OPEN", "CLOSED"]
    outcomes = [each.outcome.value for each in heard if isinstance(each, CircuitCall)]
    assert outcomes == ["failure"] * 5 + ["success"] * 5
    rejections = [each.state.value for each in heard if isinstance(each, CircuitRejection)]
    assert rejections == ["OPEN"]


def test_coroutine_functions_listen_to_shared_breakers(make: Make) -> None:
    heard: list[Event] = []

    async def listener(event: Event) -> None:
        heard.append(event)

    breaker = make(failure_threshold=1)
    breaker.listeners.add(listener)

    async def story() -> None:
        with pytest.raises(ConnectionError):
            await breaker(lost)()
        with pytest.raises(CircuitBreakerError):
            await breaker(nothing)()

    asyncio.run(story())
    assert [type(each) for each in heard] == [CircuitTransition, CircuitRejection]
    with pytest.raises(TypeError, match="cannot await"):
        breaker.call(int)


def test_who_is_cancelled_while_it_asks_takes_no_slot_along(make: Make) -> None:
    breaker = make(success_threshold=1)
    half_open(breaker)
    asked, answer = threading.Event(), threading.Event()
    store: Any = breaker._circuit._store  # type: ignore[attr-defined]
    replace = store._replace

    def slowly(**arguments: Any) -> Any:
        asked.set()
        assert answer.wait(PATIENCE)
        return replace(**arguments)

    async def story() -> None:
        call = asyncio.create_task(breaker(nothing)())
        await asyncio.get_running_loop().run_in_executor(None, asked.wait)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        answer.set()

    store._replace = slowly
    asyncio.run(story())
    for thread in threading.enumerate():
        if thread.name == "prices":
            thread.join(PATIENCE)
    assert_circuit_state(breaker, "HALF_OPEN")
    breaker.call(int)  # the slot is free
    assert_circuit_closed(breaker)


# Two that share a state are as one that has it for itself.

CONFIGS: list[dict[str, Any]] = [
    {"failure_threshold": 2, "success_threshold": 2},
    {"failure_rate_threshold": 0.5, "window_size": 4, "minimum_calls": 2},
    {"failure_rate_threshold": 0.5, "window_seconds": LONG, "minimum_calls": 3},
    {"failure_threshold": 2, "half_open_max_calls": 1, "is_failed_result": bool},
    {"failure_threshold": 2, "half_open_failure_rate_threshold": 0.5, "success_threshold": 3},
]
ERRORS = {"failure": ConnectionError(), "ignored": KeyError()}


class AsOne(RuleBasedStateMachine):
    url: str

    @initialize(config=st.sampled_from(CONFIGS), refresh=st.sampled_from([0.0, 0.0, LONG]))
    def begin(self, config: dict[str, Any], refresh: float) -> None:
        self.client = redis.Redis.from_url(self.url)
        self.client.flushall()
        made = CircuitBreakerConfig(timeout=LONG, expected_exception=ConnectionError, **config)
        self.one = CircuitBreaker(made, clock=ManualClock())
        # What has been read may be old only where there is nobody else.
        count = 1 if refresh else 2
        self.shared = [
            CircuitBreaker(made, name="prices", store=RedisStore(self.client, refresh=refresh))
            for _ in range(count)
        ]
        self.permits: list[tuple[Any, Any]] = []
        self.isolations: list[tuple[Any, Any]] = []

    def teardown(self) -> None:
        self.client.close()

    def both(self, which: int, do: Callable[[CircuitBreaker], Any]) -> tuple[Any, Any]:
        results = []
        for breaker in (self.one, self.shared[which % len(self.shared)]):
            try:
                results.append(do(breaker))
            except CircuitBreakerError as error:
                results.append((error.state, error.retry_after is None))
        return results[0], results[1]

    @rule(which=st.integers(0, 1))
    def acquire(self, which: int) -> None:
        mine, shared = self.both(which, CircuitBreaker.acquire)
        if isinstance(mine, tuple):
            assert mine == shared
        else:
            self.permits.append((mine, shared))

    @precondition(lambda self: self.permits)
    @rule(number=st.integers(0, 9), how=st.sampled_from(["fine", "poor", "failure", "ignored"]))
    def end(self, number: int, how: str) -> None:
        for permit in self.permits.pop(number % len(self.permits)):
            if how in ERRORS:
                permit.raised(ERRORS[how])
            else:
                permit.returned(how == "poor")

    @rule(
        which=st.integers(0, 1),
        how=st.sampled_from(["force_open", "force_closed", "metrics_only", "reset", "reset"]),
    )
    def decide(self, which: int, how: str) -> None:
        self.both(which, lambda breaker: getattr(breaker, how)())

    @rule(which=st.integers(0, 1))
    def be_due(self, which: int) -> None:
        self.both(which, half_open)

    @rule(which=st.integers(0, 1))
    def isolate(self, which: int) -> None:
        self.isolations.append(self.both(which, CircuitBreaker.isolate))

    @precondition(lambda self: self.isolations)
    @rule(number=st.integers(0, 9))
    def rejoin(self, number: int) -> None:
        for isolation in self.isolations.pop(number % len(self.isolations)):
            isolation.end()

    @invariant()
    def they_agree(self) -> None:
        for shared in self.shared:
            mine, theirs = self.one.get_stats(), shared.get_stats()
            for name in mine.keys() - {"last_failure_time", "time_since_last_failure"}:
                if not name.startswith("total_"):
                    assert mine[name] == theirs[name], name
        for name in ("total_failures", "total_ignored", "total_rejected"):
            total = sum(shared.get_stats()[name] for shared in self.shared)
            assert self.one.get_stats()[name] == total, name


def test_breakers_that_share_a_state_are_as_one(url: str) -> None:
    class Here(AsOne):
        pass

    Here.url = url
    run_state_machine_as_test(Here, settings=settings(max_examples=30, stateful_step_count=20))
