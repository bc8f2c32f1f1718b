"""Those who keep a time of their own, each in a process of its own: what they replace stays."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(code: str) -> str:
    """What it prints."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout


BEGIN = """
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.virtual_time.clock import VirtualClock

def begin():
    try:
        with VirtualClock() as clock:
            clock.advance(1)
            print("began")
    except ConfigurationError as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("around", "says"),
    [
        (
            "import freezegun\nwith freezegun.freeze_time('2030-01-01'): begin()",
            "freezegun has frozen the time already; use virtual_time(start=…)",
        ),
        (
            "import time_machine\nwith time_machine.travel(0): begin()",
            "time-machine travels already; use virtual_time(start=…)",
        ),
        (
            "import gevent.monkey\ngevent.monkey.patch_all()\nbegin()",
            "gevent has replaced what waits",
        ),
        (
            "import uvloop\nasync def main(): begin()\nuvloop.run(main())",
            "let the test use asyncio's own loop",
        ),
        (
            "import sys\nsys.modules['time_machine'] = None\nbegin()",
            "pip install pytest-resilience[clock]",
        ),
    ],
    ids=["freezegun", "time-machine", "gevent", "uvloop", "no time-machine"],
)
def test_a_clock_does_not_begin(around: str, says: str) -> None:
    assert says in run(f"{BEGIN}\n{around}")


@pytest.mark.parametrize(
    ("start", "says"),
    [
        ("uvloop.run(main())", "let the test use asyncio's own loop"),
        ("uvloop.new_event_loop()", "let the test use asyncio's own loop"),
        ("asyncio.Runner(loop_factory=uvloop.Loop).run(main())", "asyncio's own loop"),
        ("uvloop_policy(); asyncio.run(main())", "asyncio's own loop"),
        ("trio.run(trio.sleep, 1)", "MockClock(autojump_threshold=0)"),
        ("anyio.run(anyio.sleep, 1, backend='trio')", "MockClock(autojump_threshold=0)"),
    ],
)
def test_a_loop_with_its_own_time_does_not_start(start: str, says: str) -> None:
    code = f"""
import asyncio, warnings
import anyio, trio, uvloop
{BEGIN}
async def main():
    print("ran")
def uvloop_policy():
    warnings.simplefilter("ignore")
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
with VirtualClock():
    try:
        {start}
    except ConfigurationError as error:
        print(error)
"""
    shown = run(code)
    assert says in shown
    assert "ran" not in shown


def test_what_is_not_refused() -> None:
    shown = run(f"""
import asyncio
import anyio, freezegun, gevent.monkey, time_machine, trio, uvloop
from trio.testing import MockClock
{BEGIN}
with freezegun.freeze_time("2030-01-01"):
    pass
begin()
with VirtualClock() as clock:
    anyio.run(anyio.sleep, 1)
    trio.run(trio.sleep, 1000, clock=MockClock(autojump_threshold=0))
    print(clock.elapsed)
uvloop.run(asyncio.sleep(0))
trio.run(trio.sleep, 0)
print("afterwards")
""")
    assert shown.split() == ["began", "1.0", "afterwards"]
