"""What threads share: locks that a forked child finds free, and weak tables that others write to.

A thread of the parent may hold a lock at the moment of the fork. It is not there in the child, so
nobody would ever release the child's copy.

The iterators of `weakref.WeakSet` and the dictionaries of `weakref`, and so `list`, `copy` and
`items` of them, run Python code for each entry. Another thread can add one in between, and then
they raise RuntimeError. `keyrefs` and `valuerefs` take all references in one step. A `WeakSet` has
no such method.
"""

from __future__ import annotations

import os
import weakref

from collections.abc import Callable
from typing import Any
from typing import NoReturn
from typing import TypeVar


__all__ = ["OfThisProcess", "entries", "fork_safe", "living", "renew_in_child", "values"]

_Lock = TypeVar("_Lock")
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_owners: dict[tuple[int, str], tuple[weakref.ref[Any], Callable[[], Any]]] = {}


def fork_safe(owner: Any, attribute: str, make: Callable[[], _Lock]) -> _Lock:
    """A new lock for `owner.attribute`, which every forked child gets a new one for.

    `owner`: an object or a module. `make`: `threading.Lock`, `threading.RLock` and the like.
    """
    key = id(owner), attribute

    def forget(_: object) -> None:
        _owners.pop(key, None)

    _owners[key] = weakref.ref(owner, forget), make
    return make()


_methods: dict[int, tuple[weakref.ref[Any], str]] = {}


def renew_in_child(owner: Any, method: str) -> None:
    """Have `owner.method()` called in every forked child, where only the forking thread is."""
    key = id(owner)
    _methods[key] = weakref.ref(owner, lambda _: _methods.pop(key, None)), method


def _renew() -> None:
    # A copy: the collection of garbage, which any of this may set off, takes owners out.
    for (_, attribute), (owner, make) in _owners.copy().items():
        found = owner()
        if found is not None:
            setattr(found, attribute, make())
    for ref, method in _methods.copy().values():
        found = ref()
        if found is not None:
            getattr(found, method)()


class OfThisProcess:
    """Cannot be pickled, nor copied: two would each count a part of what happens."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        name = getattr(self, "name", None)
        who = type(self).__name__ if name is None else f"{type(self).__name__} {name!r}"
        raise TypeError(
            f"{who} belongs to one process, so it cannot be pickled or copied: create it in a "
            "module, and send functions of that module, which are pickled by name"
        )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def living(table: weakref.WeakKeyDictionary[_Key, _Value]) -> list[_Key]:
    """Its keys, without those that nobody has any more."""
    return [key for each in table.keyrefs() if (key := each()) is not None]


def entries(table: weakref.WeakKeyDictionary[_Key, _Value]) -> list[tuple[_Key, _Value]]:
    """Its keys with their values, without those that are taken out meanwhile. None is no value."""
    found = [(key, table.get(key)) for key in living(table)]
    return [(key, value) for key, value in found if value is not None]


def values(table: weakref.WeakValueDictionary[_Key, _Value]) -> list[tuple[_Key, _Value]]:
    """Its values with their keys, without those that nobody has any more."""
    return [(each.key, value) for each in table.valuerefs() if (value := each()) is not None]
