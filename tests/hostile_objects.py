"""Objects that nobody expects, and some that bear no touch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from typing import NoReturn
from unittest import mock

from pytest_resilience.interceptors.foreign_objects import or_none


__all__ = ["ODD", "Prickly", "outcome_of"]


class TouchedError(Exception):
    """Somebody has looked at what was none of their business."""


class Prickly:
    """Whatever is asked of it raises."""

    def _touched(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise TouchedError

    __str__ = __repr__ = __eq__ = __hash__ = __len__ = __iter__ = __bool__ = _touched
    __getattr__ = __getitem__ = __contains__ = __index__ = __int__ = __float__ = _touched
    __fspath__ = __bytes__ = __buffer__ = __call__ = __enter__ = __lt__ = __and__ = _touched


class PricklyText(str):
    """A text that bears to be read by what is written in C, and by nobody else."""

    __slots__ = ()

    def _touched(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise TouchedError

    __str__ = __repr__ = __eq__ = __hash__ = __len__ = __iter__ = _touched
    partition = lower = strip = encode = split = startswith = _touched


# Each is made when it is needed: what has been asked of a mock stays with it.
ODD: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "a number": lambda: 7,
    "a huge number": lambda: 2**70,
    "a fraction": lambda: float("nan"),
    "an empty text": str,
    "a text with a NUL": lambda: "a\0b",
    "a lone surrogate": lambda: "\udcff",
    "an empty tuple": tuple,
    "an empty list": list,
    "an empty dict": dict,
    "a tuple of numbers": lambda: (1, 2, 3, 4, 5),
    "a host alone": lambda: ("127.0.0.1",),
    "a host that is nothing": lambda: (None, 80),
    "a port that is a text": lambda: ("127.0.0.1", "80"),
    "a port that is too high": lambda: ("127.0.0.1", 70000),
    "a list of lists": lambda: [[]],
    "a list of short tuples": lambda: [(2, 1, 6, "", ())],
    "a list of nothing": lambda: [None],
    "bytes": lambda: b"\xff\x00",
    "an iterator": lambda: iter([(2, 1, 6, "", ("127.0.0.1", 80))]),
    "an object": object,
    "a class": lambda: type,
    "a mock": mock.MagicMock,
    "a mock of a list": lambda: mock.MagicMock(spec=list),
    "a mock of a text": lambda: mock.MagicMock(spec=str),
    "a prickly object": Prickly,
    "a prickly text": lambda: PricklyText("shop.internal"),
    "a list of a prickly object": lambda: [Prickly()],
    "a tuple of prickly objects": lambda: (Prickly(), Prickly()),
}


def outcome_of(action: Callable[[], object]) -> tuple[type, str]:
    """What an action raises, or the type of what it returns."""
    try:
        return type(action()), ""
    except Exception as error:
        return type(error), "" if isinstance(error, TouchedError) else or_none(str, error) or ""
