"""Tells those who wait that there may be less to wait for: an experiment has ended, or pauses.

Whoever looks every so often needs none of it. But in virtual time each look is a jump.
"""

from __future__ import annotations

import os

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager


__all__ = ["tell", "unwatch", "watch", "watched"]

_watchers: dict[object, Callable[[], None]] = {}


def tell() -> None:
    """Let all who wait look again."""
    for look in [*_watchers.values()]:
        look()


def watch(who: object, look: Callable[[], None]) -> None:
    """Call `look` from now on, in whatever thread; it must not wait."""
    _watchers[who] = look


def unwatch(who: object) -> None:
    """Do so no more; harmless where nobody does."""
    _watchers.pop(who, None)


@contextmanager
def watched(look: Callable[[], None]) -> Iterator[None]:
    """Call `look` while in the block."""
    who = object()
    watch(who, look)
    try:
        yield
    finally:
        unwatch(who)


if hasattr(os, "register_at_fork"):  # nobody waits in a child
    os.register_at_fork(after_in_child=_watchers.clear)
