"""What is replaced while there is a clock, and put back whatever happens."""

from __future__ import annotations

import sys
import types

from typing import Any


__all__ = ["Patches"]

_ABSENT = object()

# Whose names stay as they are: who measures and runs tests, who waits for what is real, and where
# what is replaced comes from.
_KEEP = frozenset({
    *sys.builtin_module_names,
    "_pytest", "_queue", "coverage", "execnet", "faulthandler", "freezegun", "hypothesis",
    "multiprocessing", "pluggy", "posix", "pytest", "pytest_resilience", "pytest_timeout",
    "select", "subprocess", "time", "time_machine", "trio", "xdist",
})  # fmt: skip

# Of each module where its names were, how many, what was looked for, and the names it has there.
_looked_at: dict[str, tuple[int, int, frozenset[int], tuple[str, ...]]] = {}


class Patches:
    """Replaced attributes, each with what was there before."""

    def __init__(self) -> None:
        self._attributes: list[tuple[Any, str, Any]] = []
        self._names: list[tuple[dict[str, Any], str, Any, Any]] = []
        self._of_modules: dict[int, Any] = {}  # by the id of what was there

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute of a module or class, which may have inherited it."""
        before = vars(owner).get(name, _ABSENT)
        self._attributes.append((owner, name, before))
        if isinstance(owner, types.ModuleType):
            self._of_modules[id(before)] = value
        setattr(owner, name, value)

    def rebind(self) -> None:
        """Replace what was replaced in a module wherever another one has bound it to a name.

        As `from time import monotonic` does. Who binds it anew in the meantime keeps that.
        """
        wanted = frozenset(self._of_modules)
        for module_name, module in [*sys.modules.items()]:
            if type(module) is not types.ModuleType and not isinstance(module, types.ModuleType):
                continue
            names = vars(module)
            known = _looked_at.get(module_name)
            if known is None or known[:3] != (id(names), len(names), wanted):
                bound = _bound(module_name, names, wanted)
                known = _looked_at[module_name] = id(names), len(names), wanted, bound
            for name in known[3]:
                before = names.get(name)
                value = self._of_modules.get(id(before))
                if value is not None:
                    self._names.append((names, name, before, value))
                    names[name] = value

    def remove(self) -> None:
        """Put everything back, the latest first."""
        while self._names:
            namespace, name, before, value = self._names.pop()
            if namespace.get(name) is value:
                namespace[name] = before
        while self._attributes:
            owner, name, before = self._attributes.pop()
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
        self._of_modules.clear()


def _bound(module_name: str, names: dict[str, Any], wanted: frozenset[int]) -> tuple[str, ...]:
    if module_name.partition(".")[0] in _KEEP:
        return ()
    if wanted.isdisjoint(map(id, [*names.values()])):
        return ()
    return tuple(name for name, value in [*names.items()] if id(value) in wanted)
