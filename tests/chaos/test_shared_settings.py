"""What several owners have changed is in the end as the first one found it, in any order."""

from __future__ import annotations

import os
import threading

from collections.abc import Callable

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience.chaos.shared_settings import Limit
from pytest_resilience.chaos.shared_settings import SharedSetting
from pytest_resilience.chaos.shared_settings import limits_lifted


class Machine:
    """Has one setting, a number."""

    def __init__(self, value: int) -> None:
        self.value = value
        self.writable = True

    def read(self) -> int:
        return self.value

    def write(self, value: int) -> None:
        if not self.writable:
            raise OSError("read-only")
        self.value = value

    def setting(self) -> SharedSetting[int]:
        return SharedSetting(self.read, self.write, lambda found, wanted: min(found, *wanted))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), st.integers(0, 100)),
        st.tuples(st.just("let go"), st.integers(0, 9)),
        st.tuples(st.just("let go again"), st.integers(0, 9)),
    ),
    max_size=20,
)


@given(found=st.integers(0, 100), steps=STEPS)
def test_whatever_the_order_of_ends(found: int, steps: list[tuple[str, int]]) -> None:
    machine = Machine(found)
    setting = machine.setting()
    held: list[tuple[int, Callable[[], None]]] = []
    ended: list[Callable[[], None]] = []
    for step, number in steps:
        if step == "hold":
            held.append((number, setting.hold(number)))
        elif step == "let go" and held:
            _, release = held.pop(number % len(held))
            release()
            ended.append(release)
        elif ended:
            ended[number % len(ended)]()
        assert machine.value == min([found, *(each for each, _ in held)])
        assert setting.held == bool(held)
    for _, release in held[::-1]:
        release()
    assert machine.value == found


@given(orders=st.permutations(range(3)), when=st.integers(0, 3), theirs=st.integers(101, 200))
def test_what_somebody_else_sets_meanwhile_stays(orders: list[int], when: int, theirs: int) -> None:
    machine = Machine(50)
    setting = machine.setting()
    held = [setting.hold(wanted) for wanted in (30, 10, 20)]
    for number, each in enumerate(orders):
        if number == when:
            machine.value = theirs
        held[each]()
    if when == len(orders):
        machine.value = theirs
    assert machine.value == theirs


def test_what_is_changed_while_nobody_holds_it_is_what_the_next_one_finds() -> None:
    machine = Machine(50)
    setting = machine.setting()
    setting.hold(10)()
    machine.value = 70
    release = setting.hold(20)
    assert machine.value == 20
    release()
    assert machine.value == 70


def test_one_that_cannot_be_set_has_no_owner() -> None:
    machine = Machine(50)
    setting = machine.setting()
    machine.writable = False
    with pytest.raises(OSError, match="read-only"):
        setting.hold(10)
    machine.writable = True
    assert not setting.held
    assert machine.value == 50


def test_limits_are_lifted_for_the_length_of_a_block() -> None:
    machine = Machine(50)
    limit = Limit(machine.read, machine.write, lambda found, wanted: min(found, *wanted))
    other = Machine(7)
    other.setting().hold(3)  # no limit
    with limits_lifted():
        assert machine.value == 50
    release = limit.hold(10)
    with limits_lifted():
        assert machine.value == 50
        with limits_lifted():
            assert machine.value == 50
        assert machine.value == 50
        release_too = limit.hold(5)
        assert machine.value == 50
    assert machine.value == 5
    release_too()
    with pytest.raises(KeyError), limits_lifted():
        raise KeyError
    release()
    assert (machine.value, other.value) == (50, 3)


def test_what_is_taken_while_a_limit_is_lifted_is_not_charged() -> None:
    machine, taken = Machine(50), 3

    def used() -> int:
        assert machine.value == 50
        return taken

    limit = Limit(
        machine.read, machine.write, lambda found, all_: min(found, *all_),
        used, lambda wanted, before, after: wanted + after - before,
    )  # fmt: skip
    held = [limit.hold(10), limit.hold(20)]
    with limits_lifted():
        taken += 4
        held.append(limit.hold(9))  # of somebody else, who has seen all of it
    assert machine.value == 9
    for which, left in ((2, 14), (0, 24), (1, 50)):
        held[which]()
        assert machine.value == left


def test_what_fails_to_be_lifted_is_lowered_again() -> None:
    machine, others = Machine(50), Machine(50)
    limit = Limit(machine.read, machine.write, lambda found, wanted: min(found, *wanted))
    other = Limit(others.read, others.write, lambda found, wanted: min(found, *wanted))
    release, release_too = limit.hold(10), other.hold(10)
    others.writable = False
    with pytest.raises(OSError, match="read-only"), limits_lifted():
        pass
    assert (machine.value, others.value) == (10, 10)
    others.writable = True
    with limits_lifted():
        assert (machine.value, others.value) == (50, 50)
    release()
    release_too()


def test_nobody_else_waits_for_a_block_without_limits() -> None:
    machine = Machine(50)
    limit = Limit(machine.read, machine.write, lambda found, wanted: min(found, *wanted))
    with limits_lifted():
        thread = threading.Thread(target=lambda: limit.hold(7))
        thread.start()
        thread.join(30)
        assert not thread.is_alive()
        assert machine.value == 50
    assert machine.value == 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="it does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_that_is_forked_while_another_thread_has_a_block_is_limited() -> None:
    machine = Machine(50)
    limit = Limit(machine.read, machine.write, lambda found, wanted: min(found, *wanted))
    release = limit.hold(7)
    lifted, over = threading.Event(), threading.Event()

    def lift() -> None:
        with limits_lifted():
            lifted.set()
            over.wait(30)

    thread = threading.Thread(target=lift)
    thread.start()
    assert lifted.wait(30)
    child = os.fork()
    if not child:
        limited = machine.value == 7
        with limits_lifted():
            limited = limited and machine.value == 50
        os._exit(0 if limited and machine.value == 7 else 1)
    status = os.waitpid(child, 0)[1]
    over.set()
    thread.join()
    release()
    assert status == 0
