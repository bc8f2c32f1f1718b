from __future__ import annotations

import itertools
import threading

from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import ThreadPoolExecutor

import pytest

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine
from hypothesis.stateful import initialize
from hypothesis.stateful import invariant
from hypothesis.stateful import precondition
from hypothesis.stateful import rule

from pytest_resilience import BulkheadConfig
from pytest_resilience import BulkheadManager
from pytest_resilience import BulkheadRejectedError
from pytest_resilience import BulkheadType
from pytest_resilience import DuplicateNameError
from pytest_resilience import ManualClock
from pytest_resilience import RateLimitBulkhead
from pytest_resilience import SemaphoreBulkhead
from pytest_resilience import ShutdownError
from pytest_resilience import ThreadPoolBulkhead
from pytest_resilience import UnknownNameError
from pytest_resilience.patterns.bulkhead.base import Bulkhead
from tests.patterns.meddling import Meddling


WINDOW = 10.0


class Held:
    """A call that runs until it is told to end."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.leave = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.leave.wait(60)
        return "done"


class Pool:
    """What is known of a pool: its calls run or wait in the order of arrival."""

    def __init__(self, bulkhead: ThreadPoolBulkhead) -> None:
        self.bulkhead, self.limit = bulkhead, bulkhead.config.max_concurrent
        self.running: list[tuple[Held, Future[str]]] = []
        self.waiting: list[tuple[Held, Future[str]]] = []
        self.all: list[Held] = []
        self.completed = self.rejected = 0
        self.closed = False

    @property
    def inside(self) -> int:
        return len(self.running) + len(self.waiting)

    def begin(self) -> None:
        held = Held()
        self.all.append(held)
        if self.closed:
            with pytest.raises(ShutdownError, match=self.bulkhead.name):
                self.bulkhead.submit(held)
        elif self.inside == self.limit + self.bulkhead.config.queue_size:
            self.rejected += 1
            with pytest.raises(BulkheadRejectedError, match=self.bulkhead.name):
                self.bulkhead.submit(held)
        else:
            self.waiting.append((held, self.bulkhead.submit(held)))
            self.next_ones()

    def next_ones(self) -> None:
        while self.waiting and len(self.running) < self.limit:
            self.running.append(self.waiting.pop(0))
            held, future = self.running[-1]
            assert not future.cancelled()
            assert held.begun.wait(60)

    def end(self) -> None:
        held, future = self.running.pop(0)
        held.leave.set()
        assert future.result(60) == "done"
        self.completed += 1
        self.next_ones()

    def retire(self) -> None:
        self.closed = True

    def shut_down(self) -> None:
        self.closed = True
        assert all(future.cancelled() for _, future in self.waiting)
        self.waiting.clear()

    def counts(self) -> dict[str, int]:
        return {
            "max_concurrent": self.limit,
            "active_tasks": len(self.running),
            "queued_tasks": len(self.waiting),
            "completed_tasks": self.completed,
            "rejected_tasks": self.rejected,
        }


class Semaphore:
    """What is known of a semaphore, which goes on for those who have it."""

    def __init__(self, bulkhead: SemaphoreBulkhead) -> None:
        self.bulkhead, self.limit = bulkhead, bulkhead.config.max_concurrent
        self.inside = self.acquired = self.rejected = 0

    def begin(self) -> None:
        if self.inside == self.limit:
            self.rejected += 1
            with pytest.raises(BulkheadRejectedError, match=self.bulkhead.name):
                self.bulkhead.acquire()
        else:
            self.bulkhead.acquire()
            self.inside += 1
            self.acquired += 1

    def end(self) -> None:
        self.bulkhead.release()
        self.inside -= 1

    def retire(self) -> None: ...

    def shut_down(self) -> None: ...

    def counts(self) -> dict[str, int]:
        return {
            "max_concurrent": self.limit,
            "active_count": self.inside,
            "total_acquired": self.acquired,
            "total_rejected": self.rejected,
        }


class RateLimit:
    """What is known of a rate limit: calls leave it as time passes."""

    inside = 0  # nobody has to leave it

    def __init__(self, bulkhead: RateLimitBulkhead, now: Callable[[], float]) -> None:
        self.bulkhead, self.limit, self.now = bulkhead, bulkhead.config.max_concurrent, now
        self.begun: list[float] = []
        self.rejected = 0

    @property
    def current(self) -> int:
        return sum(each > self.now() - WINDOW for each in self.begun)

    def begin(self) -> None:
        if self.current == self.limit:
            self.rejected += 1
            with pytest.raises(BulkheadRejectedError, match=self.bulkhead.name):
                self.bulkhead.execute(int)
        else:
            assert self.bulkhead.execute(int) == 0
            self.begun.append(self.now())

    def end(self) -> None: ...

    def retire(self) -> None: ...

    def shut_down(self) -> None: ...

    def counts(self) -> dict[str, int]:
        return {
            "max_rate": self.limit,
            "current_rate": self.current,
            "total_requests": len(self.begun),
            "rejected_requests": self.rejected,
        }


Model = Pool | Semaphore | RateLimit

NAMES = st.sampled_from("aabbc")  # "c" is seldom known
CONFIGS = st.builds(
    BulkheadConfig,
    max_concurrent=st.integers(1, 2),
    queue_size=st.integers(0, 2),
    window_size=st.just(WINDOW),
    bulkhead_type=st.sampled_from([BulkheadType.THREAD_POOL, *BulkheadType]),
)


class ManagerMachine(RuleBasedStateMachine):
    """The manager against a dictionary, while calls are in what it has and in what it had."""

    @initialize(
        configs=st.fixed_dictionaries({"a": CONFIGS, "b": CONFIGS}), calls=st.integers(0, 4)
    )
    def begin(self, configs: dict[str, BulkheadConfig], calls: int) -> None:
        self.clock = ManualClock()
        self.manager = BulkheadManager(clock=self.clock)
        self.known: dict[str, Model] = {}
        self.retired: list[Model] = []
        self.shut = False
        for name, config in configs.items():
            self.add(name, config, self.manager.create_bulkhead)
            for _ in range(calls):
                self.known[name].begin()

    def add(self, name: str, config: BulkheadConfig, make: Callable[..., Bulkhead]) -> None:
        """What `make` does where there is room for the name."""
        if self.shut:
            with pytest.raises(ShutdownError, match="manager has been shut down"):
                make(name, config)
            return
        made = make(name, config)
        assert (made.name, made.config) == (name, config)
        assert made not in [each.bulkhead for each in (*self.known.values(), *self.retired)]
        if isinstance(made, ThreadPoolBulkhead):
            self.known[name] = Pool(made)
        elif isinstance(made, SemaphoreBulkhead):
            self.known[name] = Semaphore(made)
        else:
            assert isinstance(made, RateLimitBulkhead)
            self.known[name] = RateLimit(made, self.clock.monotonic)
        assert made._kind is config.bulkhead_type

    @rule(name=NAMES, config=CONFIGS)
    def create(self, name: str, config: BulkheadConfig) -> None:
        if name in self.known:
            with pytest.raises(DuplicateNameError, match=name):
                self.manager.create_bulkhead(name, config)
        else:
            self.add(name, config, self.manager.create_bulkhead)

    @rule(name=NAMES, config=CONFIGS)
    def get_or_create(self, name: str, config: BulkheadConfig) -> None:
        if name in self.known:
            found = self.manager.get_or_create_bulkhead(name, config)
            assert found is self.known[name].bulkhead
        else:
            self.add(name, config, self.manager.get_or_create_bulkhead)

    @rule(name=NAMES, config=CONFIGS)
    def replace(self, name: str, config: BulkheadConfig) -> None:
        if name not in self.known:
            with pytest.raises(UnknownNameError, match=name):
                self.manager.replace_bulkhead(name, config)
            return
        old = self.known[name]
        self.add(name, config, self.manager.replace_bulkhead)
        if not self.shut:  # else it keeps its place
            old.retire()
            self.retired.append(old)

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        if name not in self.known:
            with pytest.raises(UnknownNameError, match=name):
                self.manager.remove_bulkhead(name)
            return
        old = self.known.pop(name)
        assert self.manager.remove_bulkhead(name) is old.bulkhead
        old.retire()
        self.retired.append(old)

    @rule(name=NAMES)
    def a_call_begins(self, name: str) -> None:
        if name not in self.known:
            with pytest.raises(UnknownNameError, match=name):
                self.manager.get_bulkhead(name)
        else:
            assert self.manager.get_bulkhead(name) is self.known[name].bulkhead
            self.known[name].begin()

    @precondition(lambda self: self.retired)
    @rule(data=st.data())
    def who_has_a_retired_one_calls(self, data: st.DataObject) -> None:
        self.retired[data.draw(st.integers(0, len(self.retired) - 1), label="number")].begin()

    @precondition(lambda self: self.with_calls())
    @rule(data=st.data())
    def a_call_ends(self, data: st.DataObject) -> None:
        with_calls = self.with_calls()
        with_calls[data.draw(st.integers(0, len(with_calls) - 1), label="number")].end()

    def with_calls(self) -> list[Model]:
        return [each for each in (*self.known.values(), *self.retired) if each.inside]

    @rule(seconds=st.sampled_from([0.0, WINDOW / 2, WINDOW]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: len(self.known) > 1)
    @rule()
    def shut_down(self) -> None:
        self.manager.shutdown_all(wait=False)
        self.shut = True
        for each in self.known.values():
            each.shut_down()

    @invariant()
    def all_are_there(self) -> None:
        found = self.manager.get_all_stats()
        assert list(found) == list(self.manager.bulkheads)
        assert set(found) == set(self.known)
        for name, each in self.known.items():
            assert self.manager.bulkheads[name] is each.bulkhead
            assert each.counts().items() <= found[name].items()
        for each in self.retired:
            assert each.counts().items() <= each.bulkhead.get_stats().items()

    def teardown(self) -> None:
        if not hasattr(self, "manager"):
            return
        pools = [each for each in (*self.known.values(), *self.retired) if isinstance(each, Pool)]
        for pool in pools:
            for held in pool.all:
                held.leave.set()
        for pool in pools:
            while pool.inside:
                pool.end()
        self.manager.shutdown_all()
        for pool in pools:
            pool.bulkhead.shutdown()  # its threads have ended


TestManagerMachine = ManagerMachine.TestCase
TestManagerMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_a_manager_makes_finds_and_shuts_down() -> None:
    manager = BulkheadManager()
    for kind, cls in [
        (BulkheadType.THREAD_POOL, ThreadPoolBulkhead),
        (BulkheadType.SEMAPHORE, SemaphoreBulkhead),
        (BulkheadType.RATE_LIMIT, RateLimitBulkhead),
    ]:
        made = manager.create_bulkhead(kind.value, BulkheadConfig(bulkhead_type=kind))
        assert isinstance(made, cls)
        assert manager.get_bulkhead(kind.value) is made
        assert made.name == kind.value
    assert list(manager.get_all_stats()) == ["thread_pool", "semaphore", "rate_limit"]
    with pytest.raises(DuplicateNameError, match="a bulkhead named 'semaphore' exists already"):
        manager.create_bulkhead("semaphore")
    with pytest.raises(UnknownNameError, match="no bulkhead is named 'disk'; known: 'rate_limit'"):
        manager.get_bulkhead("disk")
    manager.shutdown_all()
    manager.shutdown_all()
    with pytest.raises(ShutdownError):
        manager.get_bulkhead("thread_pool").execute(int)
    with pytest.raises(ShutdownError, match="this bulkhead manager has been shut down"):
        manager.create_bulkhead("late")


def test_statistics_while_others_add() -> None:
    clock = Meddling()
    manager = BulkheadManager(clock=clock)  # type: ignore[arg-type]
    config, numbers = BulkheadConfig(bulkhead_type=BulkheadType.RATE_LIMIT), itertools.count()
    for name in ("a", "b"):
        manager.create_bulkhead(name, config)
    clock.meddle = lambda: manager.create_bulkhead(f"z{next(numbers)}", config)
    assert list(manager.get_all_stats()) == ["a", "b"]
    clock.meddle = lambda: None
    assert list(manager.get_all_stats()) == ["a", "b", "z0", "z1"]


def test_bulkheads_are_created_replaced_and_retired() -> None:
    with BulkheadManager() as manager:
        semaphore = BulkheadConfig(2, bulkhead_type=BulkheadType.SEMAPHORE)
        old = manager.get_or_create_bulkhead("prices", semaphore)
        assert manager.get_or_create_bulkhead("prices", BulkheadConfig(5)) is old
        old.acquire()  # type: ignore[attr-defined]
        new = manager.replace_bulkhead("prices", semaphore)
        assert manager.get_bulkhead("prices") is new is not old
        assert old.execute(int) == new.execute(int) == 0  # who has the old one goes on with it
        assert manager.remove_bulkhead("prices") is new
        for change in (manager.replace_bulkhead, manager.remove_bulkhead):
            with pytest.raises(UnknownNameError, match="no bulkhead is named 'prices'"):
                change("prices")
    with pytest.raises(ShutdownError):
        manager.get_or_create_bulkhead("prices")


@pytest.mark.parametrize("change", ["replace_bulkhead", "remove_bulkhead"])
def test_what_a_retired_pool_has_accepted_ends_as_ever(change: str) -> None:
    release = threading.Event()
    with BulkheadManager() as manager:
        pool = manager.create_bulkhead("prices", BulkheadConfig(1))
        assert isinstance(pool, ThreadPoolBulkhead)
        running, waiting = pool.submit(release.wait, 60), pool.submit(int)
        getattr(manager, change)("prices")
        with pytest.raises(ShutdownError):
            pool.execute(int)
        assert not waiting.done()
        release.set()
        assert (running.result(60), waiting.result(60)) == (True, 0)
        pool.shutdown()  # its threads have ended


def test_all_who_ask_at_once_are_given_the_same_bulkhead() -> None:
    manager, together = BulkheadManager(), threading.Barrier(8, timeout=30)
    config = BulkheadConfig(bulkhead_type=BulkheadType.SEMAPHORE)

    def ask(_: int) -> list[object]:
        together.wait()
        return [manager.get_or_create_bulkhead(str(number), config) for number in range(100)]

    with ThreadPoolExecutor(8) as threads:
        first, *others = threads.map(ask, range(8))
    assert all(each == first for each in others)
