"""Who keeps a time of its own, with which this one cannot be; and what to do then."""

from __future__ import annotations

import sys

from typing import Any

from pytest_resilience.clock import running_loop
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import missing_extra
from pytest_resilience.virtual_time.patches import Patches
from pytest_resilience.virtual_time.scheduler import reader


__all__ = ["REFUSALS", "check_installed", "check_surroundings"]

_FREEZES = (
    "freezegun freezes the time, which virtual time moves; use virtual_time(start=…) in its place, "
    "and virtual_clock.advance(…)"
)
_TRAVELS = (
    "time-machine moves the date, as virtual time does; use virtual_time(start=…) in its place, "
    "and virtual_clock.advance(…)"
)
_GREENLETS = "{} has replaced what waits, and its hub waits in C; test this part in real time"
_UVLOOP = (
    "virtual time cannot see what uvloop waits for; let the test use asyncio's own loop, as with "
    "asyncio.run(…), event_loop_policy or anyio_backend 'asyncio'"
)
_TRIO = (
    "trio keeps a time of its own; give it its own virtual clock: "
    "trio.run(…, clock=trio.testing.MockClock(autojump_threshold=0)), or for anyio "
    "anyio_backend ('trio', {'clock': MockClock(autojump_threshold=0)})"
)


def check_installed() -> Any:
    """The module time_machine, which moves dates. Raises ConfigurationError where it is missing."""
    try:
        import time_machine
    except ImportError:
        raise missing_extra("virtual time", "time-machine", "clock") from None
    return time_machine


def check_surroundings() -> None:
    """Raise ConfigurationError if virtual time cannot begin here."""
    freezegun: Any = sys.modules.get("freezegun.api")
    if freezegun is not None and freezegun.freeze_factories:
        raise ConfigurationError(_FREEZES)
    if check_installed().escape_hatch.is_travelling():
        raise ConfigurationError(_TRAVELS)
    gevent: Any = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.saved:
        raise ConfigurationError(_GREENLETS.format("gevent"))
    eventlet: Any = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.already_patched:
        raise ConfigurationError(_GREENLETS.format("eventlet"))
    _check_loop(running_loop())


def _check_loop(loop: Any) -> None:
    if loop is not None and type(loop).__module__.partition(".")[0] == "uvloop":
        raise ConfigurationError(_UVLOOP)


def _in_asyncio(patches: Patches) -> None:
    runner: Any = sys.modules["asyncio.runners"].Runner
    patches.set(runner, "get_loop", _get_loop(runner.get_loop))
    patches.set(runner, "run", _run(runner.run))


def _in_uvloop(patches: Patches) -> None:
    uvloop: Any = sys.modules["uvloop"]
    patches.set(uvloop, "new_event_loop", _refuse(uvloop.new_event_loop, _UVLOOP))
    for name in ("run_forever", "run_until_complete"):
        patches.set(uvloop.Loop, name, _refuse(getattr(uvloop.Loop, name), _UVLOOP))


def _in_trio(patches: Patches) -> None:
    trio: Any = sys.modules["trio._core._run"]
    patches.set(trio, "setup_runner", _refuse_without_clock(trio.setup_runner))


def _in_gevent(patches: Patches) -> None:
    hub: Any = sys.modules["gevent.hub"].Hub
    patches.set(hub, "run", _refuse(hub.run, _GREENLETS.format("gevent")))


def _in_freezegun(patches: Patches) -> None:
    freezer: Any = sys.modules["freezegun.api"]._freeze_time  # noqa: SLF001  # what freezes
    patches.set(freezer, "start", _refuse(freezer.start, _FREEZES))


def _in_time_machine(patches: Patches) -> None:
    travel: Any = sys.modules["time_machine"].travel
    patches.set(travel, "start", _refuse(travel.start, _TRAVELS))


REFUSALS = {
    "asyncio.runners": _in_asyncio,
    "uvloop": _in_uvloop,
    "trio._core._run": _in_trio,
    "gevent.hub": _in_gevent,
    "freezegun.api": _in_freezegun,
    "time_machine": _in_time_machine,
}
"""What refuses members who begin to wait by another time, by the module that they import for it."""


def _get_loop(real: Any) -> Any:
    def get_loop(self: Any) -> Any:
        loop = real(self)
        if reader() is not None:
            _check_loop(loop)
        return loop

    return get_loop


def _run(real: Any) -> Any:
    def run(self: Any, coro: Any, *, context: Any = None) -> Any:
        if reader() is not None:
            try:
                _check_loop(self.get_loop())
            except ConfigurationError:
                coro.close()
                raise
        return real(self, coro, context=context)

    return run


def _refuse(real: Any, why: str) -> Any:
    def refuse(*args: Any, **options: Any) -> Any:
        if reader() is not None:
            raise ConfigurationError(why)
        return real(*args, **options)

    return refuse


def _refuse_without_clock(real: Any) -> Any:
    def setup_runner(clock: Any, *args: Any, **options: Any) -> Any:
        if clock is None and reader() is not None:
            raise ConfigurationError(_TRIO)
        return real(clock, *args, **options)

    return setup_runner
