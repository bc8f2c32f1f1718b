"""Being told when a module is there, without loading it for that."""

from __future__ import annotations

import sys
import threading

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


__all__ = ["Arrivals"]


class Arrivals:
    """Calls what is meant for a module, once, when it is loaded or if it has been.

    While some are missing it is a finder of modules, which finds what the others find.
    """

    def __init__(self, then: Mapping[str, Callable[[], None]]) -> None:
        """`then` is called after the module that it is meant for was executed."""
        self._awaited = dict(then)
        self._asking = threading.local()

    def watch(self) -> None:
        """Begin."""
        # Before looking: a module that another thread loads just now must not be missed.
        sys.meta_path.insert(0, self)
        for name in list(self._awaited):
            if name in sys.modules:
                self._arrived(name)

    def forget(self) -> None:
        """Call nothing any more; harmless when repeated."""
        self._awaited.clear()
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders find, which tells us when it is executed."""
        if name not in self._awaited or getattr(self._asking, "name", None) == name:
            return None
        self._asking.name = name  # another one of us may ask all finders in turn
        try:
            found = (each.find_spec(name, path, target) for each in sys.meta_path if each != self)
            spec = next((each for each in found if each is not None), None)
        finally:
            self._asking.name = None
        if spec is not None and spec.loader is not None:
            self._listen(name, spec.loader)
        return spec

    def _listen(self, name: str, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self._arrived(name)

        loader.exec_module = exec_module  # of this one module's loader, not of its class

    def _arrived(self, name: str) -> None:
        then = self._awaited.pop(name, None)
        if then is not None:
            then()
