"""What is replaced is found where modules have bound it."""

from __future__ import annotations

import functools
import time

import pytest

from pytest_resilience.virtual_time.patches import Patches
from tests.virtual_time.binding import binding


SOURCE = """
from time import sleep, time

def retry(sleep=sleep, *, now=time):
    return sleep, now

class Clock:
    def read(self, now=time):
        return now
"""


# They do the same: threads of servers that other tests have started read the time meanwhile.
INSTEAD = {name: functools.partial(getattr(time, name)) for name in ("sleep", "time", "monotonic")}


@pytest.mark.parametrize("earlier", [["sleep"], ["time"], ["sleep", "time"], ["monotonic"]])
@pytest.mark.parametrize("replaced", [["sleep"], ["time"], ["sleep", "time"]])
def test_whatever_was_looked_for_in_it_before(earlier: list[str], replaced: list[str]) -> None:
    real = time.sleep, time.time
    with binding(SOURCE) as module:
        for names in (earlier, replaced):
            patches = Patches()
            for name in names:
                patches.set(time, name, INSTEAD[name])
            patches.rebind()
            sleep, now = (
                INSTEAD[name] if name in names else each
                for name, each in zip(("sleep", "time"), real, strict=True)
            )
            assert (module.sleep, module.time) == (sleep, now)
            assert module.retry() == (sleep, now)
            assert module.Clock().read() is now
            patches.remove()
            assert module.retry() == (module.sleep, module.time) == real
