"""Recording calls to which no fault can happen, for the advice when an experiment never fires."""

from __future__ import annotations

import contextlib
import functools

from collections.abc import Callable
from typing import Any

from pytest_resilience.patching import Patches


__all__ = ["Observer"]

Note = Callable[..., None]


class Observer:
    """Records calls of functions, which callers do not notice."""

    def __init__(self, patches: Patches) -> None:
        self._patches = patches
        self._makers: dict[tuple[Any, str], Callable[[Any], Any]] = {}

    def observe(self, owner: Any, name: str, note: Note) -> None:
        """Call `note` with the arguments of each call of `owner.name`, if this version has it."""
        there = vars(owner).get(name, getattr(owner, name, None))
        if there is None:
            return

        def make(original: Any) -> Any:
            if isinstance(there, classmethod):
                return classmethod(_noted(there.__func__, note))
            return _noted(original, note)

        # The first for each is as good as any: `Patches` makes a replacement once for each.
        self._patches.replace(owner, name, self._makers.setdefault((owner, name), make))


def _noted(call: Callable[..., Any], note: Note) -> Callable[..., Any]:
    @functools.wraps(call)
    def observed(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        with contextlib.suppress(Exception):  # what is wrong is for the real function to say
            note(*args, **kwargs)
        return call(*args, **kwargs)

    return observed
