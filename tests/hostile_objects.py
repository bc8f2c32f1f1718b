"""Objects that nobody expects, and some that bear no touch."""

from __future__ import annotations

from typing import Any
from typing import NoReturn
from unittest import mock


__all__ = ["ODD", "Prickly"]


class TouchedError(Exception):
    """Somebody has looked at what was none of their business."""


class Prickly:
    """Whatever is asked of it raises."""

    def _touched(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise TouchedError

    __str__ = __repr__ = __eq__ = __hash__ = __len__ = __iter__ = __bool__ = _touched
    __getattr__ = __getitem__ = __contains__ = __index__ = __int__ = __float__ = _touched
    __fspath__ = __bytes__ = __buffer__ = __call__ = __enter__ = __lt__ = __and__ = _touched


ODD: dict[str, Any] = {
    "nothing": None,
    "a number": 7,
    "a fraction": float("nan"),
    "an empty text": "",
    "an empty tuple": (),
    "an empty list": [],
    "an empty dict": {},
    "a tuple": (1, 2, 3, 4, 5),
    "a list of lists": [[]],
    "a list of short tuples": [(2, 1, 6, "", ())],
    "a list of nothing": [None],
    "bytes": b"\xff\x00",
    "an object": object(),
    "a class": type,
    "a mock": mock.MagicMock(),
    "a mock of a list": mock.MagicMock(spec=list),
    "a prickly one": Prickly(),
    "a list of a prickly one": [Prickly()],
}
