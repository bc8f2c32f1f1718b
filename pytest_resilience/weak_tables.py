"""Tables that keep nothing alive, looked through while other threads write to them.

The iterators of `weakref.WeakSet` and `weakref.WeakKeyDictionary`, and so `list`, `copy` and
`items` of them, run Python code for each entry. Another thread can add one in between, and then
they raise RuntimeError. `keyrefs` takes all references in one step. A `WeakSet` has no such method.
"""

from __future__ import annotations

import weakref

from typing import TypeVar


__all__ = ["entries", "living"]

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def living(table: weakref.WeakKeyDictionary[_Key, _Value]) -> list[_Key]:
    """Its keys, without those that nobody has any more."""
    return [key for each in table.keyrefs() if (key := each()) is not None]


def entries(table: weakref.WeakKeyDictionary[_Key, _Value]) -> list[tuple[_Key, _Value]]:
    """Its keys with their values, without those that are taken out meanwhile. None is no value."""
    found = [(key, table.get(key)) for key in living(table)]
    return [(key, value) for key, value in found if value is not None]
