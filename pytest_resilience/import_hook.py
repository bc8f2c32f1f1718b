"""Calls back when a module is imported, without importing it for that."""

from __future__ import annotations

import functools
import sys
import threading

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from pytest_resilience.patching import Patches


__all__ = ["ImportHook", "LibraryPatches"]


class ImportHook:
    """Calls back for each module, once per `install`: at once if it has been imported already.

    While some are missing it is a finder on `sys.meta_path`, which finds what the others find.
    """

    def __init__(
        self, then: Mapping[str, Callable[[], None]], patches: Patches | None = None
    ) -> None:
        """`then`: a call for each module by its name, made when the module was executed.

        With `patches` all that the calls do is to replace attributes there.
        """
        self._then = dict(then)
        self._patches = patches
        self._awaited: dict[str, Callable[[], None]] = {}
        self._asking = threading.local()

    def install(self) -> None:
        loaded = [name for name in self._then if name in sys.modules]
        if len(loaded) < len(self._then):
            self._awaited.update(self._then)
            # First of all: a module that another thread imports just now must not be missed.
            sys.meta_path.insert(0, self)
            loaded = [name for name in self._then if name in sys.modules]
            # One that is not there any more has been called back for by that thread.
            loaded = [name for name in loaded if self._awaited.pop(name, None) is not None]
        self._call(*loaded)

    def _call(self, *names: str) -> None:
        if self._patches is None:
            for name in names:
                self._then[name]()
        elif names:
            # All at once: mostly the same modules are loaded as the last time.
            sources = tuple(map(sys.modules.get, names))
            replace = functools.partial(self._replace_in, names)
            self._patches.again((self, *names), sources, replace)

    def _replace_in(self, names: Sequence[str]) -> None:
        for name in names:
            self._then[name]()

    def remove(self) -> None:
        """Call nothing any more; harmless when repeated."""
        self._awaited.clear()
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that the other finders find, with a loader that calls back."""
        if name not in self._awaited or getattr(self._asking, "name", None) == name:
            return None
        self._asking.name = name  # another one of us may ask all finders in turn
        try:
            others = [each for each in sys.meta_path if each is not self]
            finding = [each.find_spec for each in others if hasattr(each, "find_spec")]
            found = (find(name, path, target) for find in finding)
            spec = next((each for each in found if each is not None), None)
        finally:
            self._asking.name = None
        if spec is not None and hasattr(spec.loader, "exec_module"):
            loader: Any = _NotifyingLoader(spec.loader, functools.partial(self._imported, name))
            spec.loader = loader
        return spec

    def _imported(self, name: str) -> None:
        if self._awaited.pop(name, None) is not None:
            self._call(name)


class LibraryPatches:
    """Patches of libraries, installed for each when it is imported."""

    def __init__(self, installers: Mapping[str, Callable[[Patches], None]]) -> None:
        """`installers`: by the module whose import means that what they replace is there."""
        self._patches = Patches()
        self._is_installed = False
        self._hook = ImportHook(
            {
                name: functools.partial(self._install_one, install)
                for name, install in installers.items()
            },
            self._patches,
        )

    def install(self) -> None:
        """Harmless when repeated."""
        if not self._is_installed:
            self._is_installed = True
            self._hook.install()

    def remove(self) -> bool:
        """Harmless when repeated. True if another tool's patch lies over one of these."""
        if self._is_installed:
            self._is_installed = False
            self._hook.remove()
        if self._patches:
            self._patches.restore()
        return bool(self._patches)

    def _install_one(self, install: Callable[[Patches], None]) -> None:
        try:
            install(self._patches)
        except (ImportError, AttributeError):
            # What is broken, or of another version, is for who imports it to find out.
            self._patches.not_again()


class _NotifyingLoader:
    """The loader of one module, which calls back when it has executed it.

    A loader can be shared by many modules, so nothing is changed about it.
    """

    def __init__(self, loader: Any, then: Callable[[], None]) -> None:
        self._loader = loader
        self._then = then

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader  # as if there were no hook
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._then()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
