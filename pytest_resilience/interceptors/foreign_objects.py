"""Reading what other people's code passes and returns, without raising.

It may be of any shape: a stub's result, a mock, an object that raises when it is touched. So
an interceptor looks at the type first, and uses only what is of a type that it knows. What is
wrong about the rest is for the real function to say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from typing import ParamSpec
from typing import TypeVar


__all__ = ["is_a", "or_none", "text_of"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def or_none(call: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R | None:
    """The result of `call`; None where it raises."""
    try:
        return call(*args, **kwargs)
    except Exception:
        return None


def is_a(thing: Any, *types: type) -> bool:
    """As `isinstance`, by the real type: a mock may claim another one by its `__class__`."""
    return issubclass(type(thing), types)


def text_of(part: Any) -> str:
    """A str, bytes or an int as a plain str; "" for anything else."""
    if type(part) is str:  # as nearly always
        return part
    if is_a(part, str):
        return str.__str__(part)
    if is_a(part, bytes):
        return bytes.decode(part, "ascii", "replace")
    return int.__repr__(part) if is_a(part, int) else ""
