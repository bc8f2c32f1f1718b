"""What is of one process: locks, and places, that a forked child finds free.

A thread of the parent may hold one at the moment of the fork. It is not there in the child, so
nobody would ever release the child's copy.
"""

from __future__ import annotations

import os
import weakref

from collections.abc import Callable
from typing import Any
from typing import NoReturn
from typing import TypeVar


__all__ = ["OfThisProcess", "fork_safe", "renew_in_child"]

_Lock = TypeVar("_Lock")

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
