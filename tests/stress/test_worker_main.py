"""How much a worker computes, on machines that are played: no time passes."""

from __future__ import annotations

import math

import pytest

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from pytest_resilience.stress import worker_main


TICK = 0.0005  # seconds that computing takes between two looks
SLICE = 0.01  # seconds of work that are done at once
DEBT = 0.05  # seconds of work at most that are caught up with
LOADS = st.floats(0.05, 0.95)


class Machine:
    """It gives `share` of a processor to who computes, and wakes who sleeps late, for a time.

    Attributes:
        now: seconds that have passed.
        used: seconds of them in which the worker had the processor.
    """

    def __init__(
        self, *, share: float = 1.0, late: float = 0.0, late_until: float = math.inf
    ) -> None:
        self.now = self.used = 0.0
        self._share = share
        self._late = late
        self._late_until = late_until

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds + self._late * (self.now < self._late_until)

    def process_time(self) -> float:
        """What a worker asks again and again while it computes."""
        self.used += TICK
        self.now += TICK / self._share
        return self.used


def run(machine: Machine, load: float, seconds: float = 3.0) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_main, "time", machine)
        worker_main.compute(load, machine.process_time, lambda: machine.now < seconds)


@settings(deadline=None)
@given(load=LOADS)
def test_a_quiet_machine_gives_what_was_asked(load: float) -> None:
    machine = Machine()
    run(machine, load)
    assert machine.used == pytest.approx(load * machine.now, abs=2 * SLICE)


@settings(deadline=None)
@given(load=LOADS, share=st.floats(0.1, 1.0), late=st.floats(0.0, 0.2))
def test_a_busy_machine_gives_less_and_never_more(load: float, share: float, late: float) -> None:
    machine = Machine(share=share, late=late)
    run(machine, load)
    assert machine.used <= load * machine.now + SLICE + 4 * TICK


@settings(deadline=None)
@given(load=LOADS)
def test_what_was_missed_is_hardly_made_up_for(load: float) -> None:
    late = Machine(late=2.0, late_until=0.1)  # it owes two seconds of work
    run(late, load, 4.0)
    assert late.used <= load * 2.0 + DEBT + 2 * SLICE


def test_all_of_a_processor() -> None:
    machine = Machine()
    run(machine, 1.0)
    assert machine.used == pytest.approx(machine.now)
