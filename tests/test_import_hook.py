from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.util
import sys

from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pytest_resilience.import_hook import ImportHook
from pytest_resilience.import_hook import LibraryPatches
from pytest_resilience.patching import Patches


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """On the path of modules, and what was loaded from it is forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    (tmp_path / "guest.py").write_text("def name():\n    return 'guest'\n", encoding="utf-8")
    (tmp_path / "party").mkdir()
    (tmp_path / "party" / "__init__.py").write_text("from party import host\n", encoding="utf-8")
    (tmp_path / "party" / "host.py").write_text("name = 'host'\n", encoding="utf-8")
    return tmp_path


def test_a_module_that_is_there_is_told_of_at_once(folder: Path) -> None:
    import guest  # type: ignore[import-not-found]  # noqa: F401  # it is made here

    heard: list[str] = []
    hook = ImportHook({"guest": lambda: heard.append("guest")})
    hook.install()
    hook.remove()
    assert heard == ["guest"]


def test_a_module_that_comes_is_whole_when_it_is_told(folder: Path) -> None:
    heard: list[str] = []
    hook = ImportHook({"guest": lambda: heard.append(sys.modules["guest"].name())})
    hook.install()
    assert heard == []
    assert "guest" not in sys.modules  # nobody has loaded it for that
    import guest

    assert heard == ["guest"]
    assert guest.__spec__.origin == str(folder / "guest.py")
    hook.remove()


class Shared(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """One that finds and loads every module that is awaited here, as pytest's rewriting does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        file = self.folder / f"{name}.py"
        return spec_from_file_location(name, file, loader=self) if file.exists() else None

    def exec_module(self, module: ModuleType) -> None:
        assert module.__file__ is not None
        exec(Path(module.__file__).read_text(), vars(module))


def test_a_loader_of_several_modules_is_left_as_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "outer.py").write_text("import guest\nname = 'outer'\n", encoding="utf-8")
    shared = Shared(folder)
    monkeypatch.setattr(sys, "meta_path", [shared, *sys.meta_path])
    before = dict(vars(shared))
    heard: list[str] = []
    hook = ImportHook({"outer": lambda: heard.append(sys.modules["outer"].name)})
    hook.install()
    import outer  # type: ignore[import-not-found]

    hook.remove()
    assert heard == ["outer"]
    assert vars(shared) == before
    assert outer.__spec__.loader is outer.__loader__ is shared


def test_one_that_cannot_be_executed_was_not_imported(folder: Path) -> None:
    (folder / "broken.py").write_text("raise OSError\n", encoding="utf-8")
    heard: list[str] = []
    hook = ImportHook({"broken": lambda: heard.append("broken")})
    hook.install()
    with pytest.raises(OSError):
        import broken  # type: ignore[import-not-found]
    assert heard == []
    (folder / "broken.py").write_text("mended = True\n", encoding="utf-8")
    importlib.invalidate_caches()
    import broken  # now it can

    hook.remove()
    assert heard == ["broken"]
    assert broken.mended


def test_who_only_asks_where_a_module_is_hears_of_its_loader(folder: Path) -> None:
    hook = ImportHook({"guest": lambda: pytest.fail("nobody has loaded it")})
    hook.install()
    spec = importlib.util.find_spec("guest")
    hook.remove()
    assert spec is not None
    loader: Any = spec.loader
    assert loader.get_filename("guest") == str(folder / "guest.py")


def test_modules_within_a_package_are_told_too(folder: Path) -> None:
    heard: list[str] = []
    hook = ImportHook({"party.host": lambda: heard.append("host")})
    hook.install()
    import party  # type: ignore[import-not-found]

    hook.remove()
    assert heard == ["host"]
    assert party.host.name == "host"


def test_each_is_told_once_and_none_after_the_end(folder: Path) -> None:
    heard: list[str] = []
    hook = ImportHook({"guest": lambda: heard.append("guest"), "party": lambda: heard.append("")})
    hook.install()
    import guest

    importlib.reload(guest)
    hook.remove()
    import party  # noqa: F401  # too late

    assert heard == ["guest"]


def test_two_who_wait_for_the_same_are_both_told(folder: Path) -> None:
    heard: list[int] = []
    waiting = [
        ImportHook({"guest": lambda: heard.append(1)}),
        ImportHook({"guest": lambda: heard.append(2)}),
    ]
    for each in waiting:
        each.install()
    import guest  # noqa: F401  # what they wait for

    for each in waiting:
        each.remove()
        each.remove()
    assert sorted(heard) == [1, 2]
    assert not any(isinstance(each, ImportHook) for each in sys.meta_path)


def test_a_module_that_is_not_there_never_comes(folder: Path) -> None:
    hook = ImportHook({"nobody_at_all": pytest.fail})
    hook.install()
    with pytest.raises(ModuleNotFoundError):
        import nobody_at_all  # type: ignore[import-not-found]  # noqa: F401
    hook.remove()


def test_a_library_that_could_not_be_reached_is_tried_again(folder: Path) -> None:
    for name in ("whole", "half"):
        (folder / f"{name}.py").write_text("value = 1")
        importlib.import_module(name)
    tries = []

    def reach(name: str, patches: Patches) -> None:
        tries.append(name)
        module = sys.modules[name]
        if len(tries) == 2:
            raise AttributeError(name)  # as of one that is being loaded
        patches.replace(module, "value", lambda _: 2)

    libraries = LibraryPatches(
        {name: functools.partial(reach, name) for name in ("whole", "half", "absent")}
    )
    values = []
    for _ in range(3):
        libraries.install()
        values.append([sys.modules[name].value for name in ("whole", "half")])
        assert not libraries.remove()
        assert [sys.modules[name].value for name in ("whole", "half")] == [1, 1]
    assert values == [[2, 1], [2, 2], [2, 2]]
    assert tries == ["whole", "half"] * 2  # the third time it is put in place without asking
