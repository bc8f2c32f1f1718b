"""What is replaced while there is a clock, and put back whatever happens."""

from __future__ import annotations

from typing import Any


__all__ = ["Patches"]

_ABSENT = object()


class Patches:
    """Replaced attributes, each with what was there before."""

    def __init__(self) -> None:
        self._attributes: list[tuple[Any, str, Any]] = []
        self._names: list[tuple[dict[str, Any], str, Any, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute of a module or class, which may have inherited it."""
        self._attributes.append((owner, name, vars(owner).get(name, _ABSENT)))
        setattr(owner, name, value)

    def bind(self, namespace: dict[str, Any], name: str, value: Any) -> None:
        """Replace a name of a module; who binds it anew in the meantime keeps that."""
        self._names.append((namespace, name, namespace[name], value))
        namespace[name] = value

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
