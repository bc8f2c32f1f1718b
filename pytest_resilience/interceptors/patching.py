"""Replacing attributes, and putting back what was found."""

from __future__ import annotations

import functools
import sys

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


__all__ = ["Patches"]

_ABSENT = object()

# Replacements that were to be taken out while another lay on top of them, by id, with what
# each had found.
_buried: dict[int, tuple[object, object]] = {}


def _uncovered(found: object) -> object:
    """What is below `found`, and below whatever is there only because it was covered."""
    while _buried.get(id(found), (None,))[0] is found:
        found = _buried.pop(id(found))[1]
    return found


class Patches:
    """Attributes replaced for a while.

    What is put back is what was found, not what is believed to be the true one: another
    tool may have replaced it before. Where another tool replaced it *after*, taking
    ours out would take theirs out too, so it stays until they are gone; `restore` can be
    called again for that. What lies on top may be of another `Patches`: that one takes both
    out when it is restored.

    To make a replacement takes longer than to put it in place, so each is kept and used
    again as long as the same `make` replaces the same thing.
    """

    def __init__(self) -> None:
        self._applied: list[tuple[Any, str, object, object]] = []
        self._covered: set[int] = set()  # of those, by id, on which another's lay last time
        self._made: dict[tuple[int, str], _Made] = {}

    def __bool__(self) -> bool:
        return bool(self._applied)

    def replace(
        self, owner: Any, name: str, make: Callable[[Any], Any], *, mocks: bool = False
    ) -> None:
        """Put `make(what is there)` at `owner.name`.

        A mock that a test has put there is left alone, and so is what in a class is given no
        self: nothing that could be watched is behind it. With `mocks` they are replaced too.
        """
        found = vars(owner).get(name, _ABSENT)  # _ABSENT: inherited, e.g. from a C type
        original = getattr(owner, name)
        if not mocks and _is_stub(owner, found, original):
            return
        known = self._made.get((id(owner), name))
        if known is None or known.original is not original or not _alike(known.make, make):
            ours = _OverMock(make(original), original) if _is_mock(original) else make(original)
            known = _Made(owner, original, make, ours)
            self._made[id(owner), name] = known
        ours = known.ours
        # Noted first: an interrupt between the two lines must not lose it.
        self._applied.append((owner, name, found, ours))
        setattr(owner, name, ours)

    def restore(self) -> None:
        """Put everything back, last first, except where somebody else's lies on top.

        Every step can be repeated, so an interrupt in the middle loses nothing.
        """
        kept = []
        for owner, name, found, ours in reversed(self._applied):
            current = vars(owner).get(name, _ABSENT)
            if current is not ours:
                taken_out = id(ours) in self._covered and id(ours) not in _buried
                if current is not found and not taken_out:
                    kept.append((owner, name, found, ours))
                    _buried[id(ours)] = (ours, found)
                else:
                    _buried.pop(id(ours), None)
                continue
            _buried.pop(id(ours), None)
            below = _uncovered(found)
            if below is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, below)
        self._covered = {id(ours) for _, _, _, ours in kept}
        self._applied = kept[::-1]


@dataclass(frozen=True, slots=True)
class _Made:
    """What `make` has made of an `owner`'s `original`. The owner is kept: its id is its own."""

    owner: Any
    original: object
    make: Callable[[Any], Any]
    ours: Any


class _OverMock:
    """What stands in the place of a mock, where the test still looks for the mock."""

    def __init__(self, call: Callable[..., Any], over: Any) -> None:
        vars(self).update(_call=call, _over=over)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return vars(self)["_call"](*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_over"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self)["_over"], name, value)


def _is_mock(original: object) -> bool:
    kinds = getattr(sys.modules.get("unittest.mock"), "NonCallableMock", ())
    return issubclass(type(original), kinds)


def _is_stub(owner: Any, found: object, original: object) -> bool:
    """Whether a test has put it there: a mock, or what in a class is given no self."""
    return _is_mock(original) or (
        isinstance(owner, type) and found is not _ABSENT and not hasattr(type(found), "__get__")
    )


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, functools.partial) and isinstance(other, functools.partial):
        return (one.func, one.args, one.keywords) == (other.func, other.args, other.keywords)
    return bool(one == other)
