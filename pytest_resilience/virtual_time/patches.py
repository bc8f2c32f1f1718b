"""What is replaced while there is a clock, and put back whatever happens."""

from __future__ import annotations

import sys
import types
import weakref

from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

from pytest_resilience import patching


__all__ = ["Patches"]

# Whose names stay as they are: who measures and runs tests, who waits for what is real, and where
# what is replaced comes from.
_KEEP = frozenset({
    *sys.builtin_module_names,
    "_pytest", "_queue", "coverage", "execnet", "faulthandler", "freezegun", "hypothesis",
    "multiprocessing", "pluggy", "posix", "pytest", "pytest_resilience", "pytest_timeout",
    "select", "subprocess", "time", "time_machine", "trio", "xdist",
})  # fmt: skip

_BOUND = staticmethod, classmethod
_Function = weakref.ref[types.FunctionType]


class _Module(NamedTuple):
    """What was found in a module, the last time that it was looked at.

    Attributes:
        names: where its names were, and how many: as long as that is so, it is the same.
        defaults: all that its functions have bound as defaults, by id. To go through them takes
            longest, and with chaos something else is `wanted` in each test.
        wanted: what was looked for.
        bound: the names that it has there.
        having: the functions that have defaults there.
    """

    names: tuple[int, int]
    defaults: frozenset[int]
    wanted: frozenset[int]
    bound: tuple[str, ...]
    having: tuple[_Function, ...]


_looked_at: dict[str, _Module] = {}


class Patches:
    """Replaced attributes, also where modules have bound them to names of their own."""

    def __init__(self) -> None:
        self._attributes = patching.Patches()
        self._names: list[tuple[dict[str, Any], str, Any, Any]] = []
        self._defaults: list[types.FunctionType] = []
        self._values: dict[int, Any] = {}  # of modules, by the id of what was there
        self._originals: dict[int, Any] = {}  # of modules, by the id of what is there now
        self._modules = set(sys.modules)

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute of a module or class, which may have inherited it."""
        before = vars(owner).get(name)
        nobodys = before is None  # no mock of a test's, which would be left alone
        self._attributes.replace(owner, name, lambda _: value, mocks=nobodys)
        if isinstance(owner, types.ModuleType) and vars(owner)[name] is value:
            self._values[id(before)] = value
            self._originals[id(value)] = before

    def rebind(self) -> None:
        """Replace what was replaced in a module wherever another one has bound it to a name.

        As `from time import monotonic` does, and `def retry(sleep=time.sleep)`. Who binds it anew
        in the meantime keeps that.
        """
        wanted = frozenset(self._values)
        for module_name, module in [*sys.modules.items()]:
            if type(module) is not types.ModuleType and not isinstance(module, types.ModuleType):
                continue
            names = vars(module)
            known = self._look_at(module_name, names, wanted)
            for name in known.bound:
                before = names.get(name)
                value = self._values.get(id(before))
                if value is not None:
                    self._names.append((names, name, before, value))
                    names[name] = value
            for function in [each for ref in known.having if (each := ref()) is not None]:
                _replace_defaults(function, self._values)
                self._defaults.append(function)

    def _look_at(self, module_name: str, names: dict[str, Any], wanted: frozenset[int]) -> _Module:
        known, here = _looked_at.get(module_name), (id(names), len(names))
        keeps = module_name.partition(".")[0] in _KEEP
        if known is None or known.names != here:
            defaults = frozenset() if keeps else _all_defaults(names)
        elif known.wanted == wanted:
            return known
        else:
            defaults = known.defaults
        bound = () if keeps else _bound(names, self._values)
        found = () if wanted.isdisjoint(defaults) else _having_defaults(names, self._values)
        having = tuple(map(weakref.ref, found))
        _looked_at[module_name] = module = _Module(here, defaults, wanted, bound, having)
        return module

    def remove(self) -> None:
        """Put everything back, the latest first."""
        for module_name in sys.modules.keys() - self._modules:  # imported meanwhile
            names = getattr(sys.modules.get(module_name), "__dict__", {})
            for name in _bound(names, self._originals):
                names[name] = self._originals[id(names[name])]
            self._defaults += _having_defaults(names, self._originals)
        while self._defaults:
            _replace_defaults(self._defaults.pop(), self._originals)
        while self._names:
            names, name, before, value = self._names.pop()
            if names.get(name) is value:
                names[name] = before
        self._attributes.restore()
        self._values.clear()
        self._originals.clear()


def _bound(names: Mapping[str, Any], wanted: Mapping[int, Any]) -> tuple[str, ...]:
    if wanted.keys().isdisjoint(map(id, [*names.values()])):
        return ()
    return tuple(name for name, value in [*names.items()] if id(value) in wanted)


def _having_defaults(
    names: Mapping[str, Any], wanted: Mapping[int, Any]
) -> tuple[types.FunctionType, ...]:
    """The functions and methods of a module that have bound any of it as a default."""
    return tuple(
        function
        for function in _functions(names)
        if not wanted.keys().isdisjoint(map(id, _defaults_of(function)))
    )


def _all_defaults(names: Mapping[str, Any]) -> frozenset[int]:
    return frozenset(id(each) for func in _functions(names) for each in _defaults_of(func))


def _functions(names: Mapping[str, Any]) -> Iterator[types.FunctionType]:
    for value in [*names.values()]:
        if type(value) is types.FunctionType:
            yield value
        # Not `isinstance`, which asks those that stand for something else.
        elif issubclass(type(value), type) and value.__module__ == names.get("__name__"):
            for method in [*vars(value).values()]:
                plain = getattr(method, "__func__", method) if type(method) in _BOUND else method
                if type(plain) is types.FunctionType:
                    yield plain


def _defaults_of(function: types.FunctionType) -> list[Any]:
    return [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]


def _replace_defaults(function: types.FunctionType, values: Mapping[int, Any]) -> None:
    if function.__defaults__:
        found = tuple(values.get(id(each), each) for each in function.__defaults__)
        function.__defaults__ = found
    if function.__kwdefaults__:
        named = {name: values.get(id(each), each) for name, each in function.__kwdefaults__.items()}
        function.__kwdefaults__ = named
