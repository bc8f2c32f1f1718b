"""JSON objects that others may have written: read key by key, refused where they do not fit."""

from __future__ import annotations

import math

from collections.abc import Iterator
from typing import Any
from typing import TypeVar

from pytest_resilience.errors import ConfigurationError
from pytest_resilience.events import describe


__all__ = ["Fields", "MisfitError"]

T = TypeVar("T")
_LONGEST_LINE = 200  # characters


class MisfitError(ConfigurationError):
    """A value that is not what its place asks for.

    Attributes:
        path: the keys and indexes that lead to it.
    """

    def __init__(self, path: tuple[str | int, ...], problem: str) -> None:
        self.path = path
        key = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
        super().__init__(f"{key.lstrip('.') or 'the document'}: {problem}")


class Fields:
    """One object of a document. Every method raises MisfitError.

    Attributes:
        path: the keys and indexes that lead to it.
    """

    __slots__ = ("_data", "path")

    def __init__(self, data: Any, path: tuple[str | int, ...] = ()) -> None:
        self.path = path
        if not isinstance(data, dict):
            raise MisfitError(path, f"{describe(data)} is no object")
        self._data = data

    def only(self, known: frozenset[str]) -> None:
        """Refuse keys that mean nothing."""
        for key in self._data:
            if key not in known:
                allowed = ", ".join(sorted(known))
                raise MisfitError((*self.path, key), f"unknown key; allowed: {allowed}")

    def _get(self, key: str, kind: type[T] | tuple[type[T], ...], words: str) -> T:
        if key not in self._data:
            raise MisfitError((*self.path, key), f"missing; give {words}")
        value = self._data[key]
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise self.misfit(key, f"give {words}")
        return value

    def misfit(self, key: str, words: str) -> MisfitError:
        """The error for a value that does not fit; `words` say what would."""
        return MisfitError((*self.path, key), f"{describe(self._data[key])}: {words}")

    def text(self, key: str) -> str:
        """A text, empty or not."""
        return self._get(key, str, "a text")

    def line(self, key: str) -> str:
        """A short text in one line, without control characters."""
        found = self.text(key)
        if len(found) > _LONGEST_LINE or not found.isprintable():
            raise self.misfit(key, f"give a text of one line, {_LONGEST_LINE} characters at most")
        return found

    def flag(self, key: str) -> bool:
        """True or false."""
        return self._get(key, bool, "true or false")

    def whole(self, key: str, *, least: int) -> int:
        """A whole number of at least `least`."""
        words = f"a whole number, {least} or more"
        value = self._get(key, int, words)
        if value < least:
            raise self.misfit(key, f"give {words}")
        return value

    def number(self, key: str, *, above: float = -math.inf, least: float = -math.inf) -> float:
        """A finite number above `above`, and of at least `least`."""
        bound = "" if above == -math.inf else f" above {above:g}"
        bound += "" if least == -math.inf else f", {least:g} or more"
        value: float = self._get(key, (int, float), f"a finite number{bound}")
        try:
            fits = math.isfinite(value) and value > above and value >= least
        except OverflowError:  # a whole number of more than 308 digits
            fits = False
        if not fits:
            raise self.misfit(key, f"give a finite number{bound}")
        return float(value)

    def none(self, key: str) -> bool:
        """True if the key is there and holds null."""
        return key in self._data and self._data[key] is None

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        found = self._get(key, list, "a list of texts")
        for index, each in enumerate(found):
            if not isinstance(each, str):
                raise MisfitError((*self.path, key, index), f"{describe(each)}: give a text")
        return tuple(found)

    def below(self, key: str) -> Fields:
        """An object below this one."""
        return Fields(self._get(key, dict, "an object"), (*self.path, key))

    def rows(self, key: str) -> Iterator[Fields]:
        """The objects of a list below this one."""
        path = (*self.path, key)
        for index, each in enumerate(self._get(key, list, "a list of objects")):
            yield Fields(each, (*path, index))
