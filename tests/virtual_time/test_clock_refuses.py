"""Those who keep a time of their own, in other processes: what they replace may stay."""

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


AROUND = {
    "freezegun": (
        "import freezegun\nwith freezegun.freeze_time('2030-01-01'): begin()",
        "freezegun freezes the time, which virtual time moves; use virtual_time(start=…)",
    ),
    "time-machine": (
        "import time_machine\nwith time_machine.travel(0): begin()",
        "time-machine moves the date, as virtual time does; use virtual_time(start=…)",
    ),
    "uvloop": (
        "import uvloop\nasync def main(): begin()\nuvloop.run(main())",
        "let the test use asyncio's own loop",
    ),
    "no time-machine": (
        """
from unittest.mock import patch
with patch.dict('sys.modules', time_machine=None): begin()""",
        "pip install 'pytest-resilience[clock]'",
    ),
    # It replaces what waits for good.
    "gevent": (
        "import gevent.monkey\ngevent.monkey.patch_all()\nbegin()",
        "gevent has replaced what waits",
    ),
}


@pytest.fixture(scope="module")
def refused() -> dict[str, str]:
    """What is said in each of these surroundings, one after the other in one process."""
    stories = "\nprint('---')\n".join(code for code, _ in AROUND.values())
    return dict(zip(AROUND, run(f"{BEGIN}\n{stories}").split("---\n"), strict=True))


@pytest.mark.parametrize("around", AROUND)
def test_a_clock_does_not_begin(around: str, refused: dict[str, str]) -> None:
    assert AROUND[around][1] in refused[around]


STARTS = {
    "uvloop.run(main())": "let the test use asyncio's own loop",
    "uvloop.new_event_loop()": "let the test use asyncio's own loop",
    "asyncio.Runner(loop_factory=uvloop.Loop).run(main())": "asyncio's own loop",
    "trio.run(trio.sleep, 1)": "MockClock(autojump_threshold=0)",
    "anyio.run(anyio.sleep, 1, backend='trio')": "MockClock(autojump_threshold=0)",
    "uvloop_policy(); asyncio.run(main())": "asyncio's own loop",
}


@pytest.fixture(scope="module")
def not_started() -> dict[str, str]:
    """What each of them shows, one after the other in one process."""
    code = f"""
import asyncio, warnings
import anyio, trio, uvloop
{BEGIN}
async def main():
    print("ran")
def uvloop_policy():
    warnings.simplefilter("ignore")
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
for start in {[*STARTS]}:
    with VirtualClock():
        try:
            exec(start)
        except ConfigurationError as error:
            print(error)
    print("---")
"""
    return dict(zip(STARTS, run(code).split("---\n"), strict=False))


@pytest.mark.parametrize("start", STARTS)
def test_a_loop_with_its_own_time_does_not_start(start: str, not_started: dict[str, str]) -> None:
    assert STARTS[start] in not_started[start]
    assert "ran" not in not_started[start]


def test_who_is_imported_by_the_test_itself_is_refused_too() -> None:
    shown = run(f"""
import sys
{BEGIN}
async def main():
    print("ran")
def with_uvloop():
    import uvloop
    uvloop.run(main())
def with_its_loop():
    from uvloop import Loop
    Loop().run_until_complete(main())
def with_trio():
    import trio
    trio.run(trio.sleep, 1)
def with_gevent():
    import gevent
    gevent.sleep(1)
def with_freezegun():
    import freezegun
    with freezegun.freeze_time("2030-01-01"):
        print("ran")
def with_time_machine():
    from time_machine import travel
    with travel(0):
        print("ran")
assert not sys.modules.keys() & {{"uvloop", "trio", "gevent", "freezegun"}}
trials = [with_uvloop, with_its_loop, with_trio, with_gevent, with_freezegun, with_time_machine]
with VirtualClock():
    for each in trials:
        try:
            each()
        except ConfigurationError as error:
            print(each.__name__, error)
""")
    lines = [line.split(maxsplit=1) for line in shown.splitlines()]
    expected = {
        "with_uvloop": "let the test use asyncio's own loop",
        "with_its_loop": "let the test use asyncio's own loop",
        "with_trio": "MockClock(autojump_threshold=0)",
        "with_gevent": "test this part in real time",
        "with_freezegun": "use virtual_time(start=…) in its place",
        "with_time_machine": "use virtual_time(start=…) in its place",
    }
    assert [name for name, _ in lines] == [*expected]
    assert all(expected[name] in says for name, says in lines)


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
