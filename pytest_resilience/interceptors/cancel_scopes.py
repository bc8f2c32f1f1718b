"""The cancel scopes of trio that the code under test enters, for who is to be cancelled."""

from __future__ import annotations

import functools
import inspect
import sys

from collections.abc import Callable
from types import FrameType
from typing import Any

from pytest_resilience.chaos.cancelling import note_nursery
from pytest_resilience.chaos.cancelling import note_scope
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import KINDS
from pytest_resilience.chaos.types.callers import Cancellation
from pytest_resilience.import_hook import LibraryPatches
from pytest_resilience.patching import Patches
from pytest_resilience.stacks import is_library


__all__ = ["CancelScopeInterceptor"]

_GENERATOR = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_ENTERING = frozenset({"__enter__", "__aenter__"})


class CancelScopeInterceptor:
    """Notes who enters a scope, while there is an experiment that cancels."""

    kinds = KINDS

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._library = LibraryPatches({"trio": _reach_trio})

    def install(self) -> None:
        active = self._engine.active
        if any(
            isinstance(fault, Cancellation) for each in active for fault in each.experiment.faults
        ):
            self._library.install()
        else:
            self._library.remove()

    def refresh(self) -> None:
        """Nothing to do: what is entered is all the same for every experiment."""

    def remove(self) -> bool:
        return self._library.remove()


def _reach_trio(patches: Patches) -> None:
    import trio  # which is loaded

    patches.replace(trio.CancelScope, "__enter__", _entering)


def _is_of_nursery(frame: FrameType) -> bool:
    manager = frame.f_locals.get("self") if frame.f_code.co_name == "__aenter__" else None
    return type(manager).__name__ == "NurseryManager"


def _is_by_user(frame: FrameType | None) -> bool:
    """Whether it is the user's code that enters a scope, which is done in `frame`.

    Libraries may help with that: by a context manager, or the generator that one is made of.
    """
    while frame is not None:
        code = frame.f_code
        if not is_library(code.co_filename):
            return True
        if code.co_name not in _ENTERING and not code.co_flags & _GENERATOR:
            return False
        frame = frame.f_back
    return False


def _entering(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(original)
    def enter(scope: Any) -> Any:
        frame = sys._getframe(1)  # noqa: SLF001  # as in `chaos.call_site`
        if _is_by_user(frame):
            note = note_nursery if _is_of_nursery(frame) else note_scope
            note(scope)
        return original(scope)

    return enter
