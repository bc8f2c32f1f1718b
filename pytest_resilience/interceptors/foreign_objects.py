"""Looking at what other people's code gives and returns.

It may be of any shape: a stub's result, a mock, an object that bears no touch. So who watches
looks at the type first, touches only what is of a kind that it knows, and never raises: what
is wrong about it is for the real thing to say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from typing import ParamSpec
from typing import TypeVar


__all__ = ["is_a", "looked", "text_of"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def looked(look: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R | None:
    """What `look` finds; None where it raises."""
    try:
        return look(*args, **kwargs)
    except Exception:
        return None


def is_a(thing: Any, *kinds: type) -> bool:
    """Whether it is of one of these kinds: itself, and not only what it says about itself."""
    return issubclass(type(thing), kinds)


def text_of(part: Any) -> str:
    """A text, bytes or a whole number, as a plain text; of anything else nothing."""
    if is_a(part, str):
        return str.__str__(part)
    if is_a(part, bytes):
        return bytes.decode(part, "ascii", "replace")
    return int.__repr__(part) if is_a(part, int) else ""
