"""Watching calls to which nothing can happen here, so that never-fired can tell of them."""

from __future__ import annotations

import contextlib
import functools
import inspect

from collections.abc import Callable
from typing import Any

from pytest_resilience.interceptors.patching import Patches


__all__ = ["Observer"]

Note = Callable[..., None]


class Observer:
    """Has notes told what is called with which arguments; callers see no difference."""

    def __init__(self, patches: Patches) -> None:
        self._patches = patches
        self._makers: dict[tuple[Any, str], Callable[[Any], Any]] = {}

    def observe(self, owner: Any, name: str, note: Note, *, after: bool = False) -> None:
        """Have `note` told what `owner.name` is given, if this version has it.

        `after`: when it has returned or raised, so that what it does itself is noted first.
        """
        there = vars(owner).get(name, getattr(owner, name, None))
        if there is None:
            return

        def make(original: Any) -> Any:
            call = there.__func__ if isinstance(there, classmethod) else original
            observed = (_followed if after else _preceded)(call, note)
            return classmethod(observed) if isinstance(there, classmethod) else observed

        # The first for each is as good as any, and so is what it has made.
        self._patches.replace(owner, name, self._makers.setdefault((owner, name), make))


def _preceded(call: Callable[..., Any], note: Note) -> Callable[..., Any]:
    @functools.wraps(call)
    def observed(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        with contextlib.suppress(Exception):  # what is wrong is for the real one to say
            note(*args, **kwargs)
        return call(*args, **kwargs)

    return observed


def _followed(call: Callable[..., Any], note: Note) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(call):

        @functools.wraps(call)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            try:
                return await call(*args, **kwargs)
            finally:
                with contextlib.suppress(Exception):  # as above
                    note(*args, **kwargs)

        return awaited

    @functools.wraps(call)
    def observed(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        try:
            return call(*args, **kwargs)
        finally:
            with contextlib.suppress(Exception):  # as above
                note(*args, **kwargs)

    return observed
