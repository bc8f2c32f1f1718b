"""Attributes that are replaced for a while are, in the end, the very objects they were."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.abc
import importlib.util
import operator
import sys
import threading

from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience.patching import ImportHook
from pytest_resilience.patching import LibraryPatches
from pytest_resilience.patching import Patches


def test_what_was_replaced_twice_is_put_back_at_once() -> None:
    class Owner:
        def method(self) -> None: ...

    class Heir(Owner):
        """Inherits what it is asked for."""

    found = Owner.method
    patches = Patches()
    for owner in (Owner, Owner, Heir, Heir):
        patches.replace(owner, "method", functools.partial)
    assert patches
    patches.restore()
    assert not patches
    assert vars(Owner)["method"] is found
    assert "method" not in vars(Heir)


def test_what_was_nothing_is_put_back_while_another_is_below_a_foreign_patch() -> None:
    covered, owner = SimpleNamespace(text="a"), SimpleNamespace(text=None)
    below, patches = Patches(), Patches()
    below.replace(covered, "text", str.upper)
    ours, covered.text = covered.text, "foreign"
    below.restore()

    class Heir:
        """Inherits what it is asked for."""

    patches.replace(owner, "text", str)
    patches.replace(Heir, "__init__", functools.partial)
    patches.restore()
    assert owner.text is None
    assert "__init__" not in vars(Heir)
    covered.text = ours  # the foreign one is gone
    below.restore()
    assert covered.text == "a"


@pytest.mark.parametrize("make", [str.upper, functools.partial(operator.concat, "to ")])
def test_a_replacement_stands_for_what_it_was_made_of(make: Any) -> None:
    owner = SimpleNamespace(text="a")
    patches = Patches()
    for text in ("a", "b"):
        owner.text = text
        patches.replace(owner, "text", make)
        patches.restore()
        patches.replace(owner, "text", str.title)  # nor for another one
        assert owner.text == text.title()
        patches.restore()
        assert owner.text == text


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["replace", "restore", "foreign"])),
        max_size=20,
    )
)
def test_several_that_replace_the_same_end_in_any_order(steps: list[tuple[int, str]]) -> None:
    class Owner:
        def name(self) -> str:
            return "as it was"

    found = Owner.name
    every = [Patches() for _ in range(3)]
    foreign: list[tuple[Any, Any]] = []
    for which, step in steps:
        if step == "replace" and not every[which]:
            every[which].replace(Owner, "name", functools.partial)
        elif step == "restore":
            every[which].restore()
        elif step == "foreign" and not foreign:
            theirs = functools.partial(Owner.name)
            foreign.append((Owner.name, theirs))
            setattr(Owner, "name", theirs)  # noqa: B010  # as other tools do
    for each in every:
        each.restore()
    if foreign:
        setattr(Owner, "name", foreign[0][0])  # noqa: B010
    for each in (*every, *every):  # as every engine does whenever it settles
        each.restore()
    assert Owner.name is found
    assert not any(every)


VALUES = ["inherited", "own", "other", "mock"]


@given(
    st.lists(
        st.tuples(st.sampled_from(VALUES), st.sampled_from(VALUES), st.booleans()), max_size=12
    )
)
def test_a_group_is_as_if_it_were_asked_for_each_time(
    rounds: list[tuple[str, str, bool]],
) -> None:
    class Base:
        def one(self) -> str:
            return "inherited"

        two = one

    class Owner(Base):
        pass

    values: dict[str, Any] = {
        "own": lambda _: "own",
        "other": lambda _: "other",
        "mock": mock.Mock(return_value="mock"),
    }

    def wrap(original: Any) -> Any:
        return lambda *args: f"<{original(*args)}>"

    def replace() -> None:
        for name in ("one", "two"):
            patches.replace(Owner, name, wrap)

    patches = Patches()
    sources = object(), object()
    for *found, which in rounds:
        for name, value in zip(("one", "two"), found, strict=True):
            if name in vars(Owner):
                delattr(Owner, name)
            if value != "inherited":
                setattr(Owner, name, values[value])
        before = dict(vars(Owner))
        patches.again("group", (sources[which],), replace)
        expected = [value if value == "mock" else f"<{value}>" for value in found]
        assert [Owner().one(), Owner().two()] == expected
        patches.restore()
        assert dict(vars(Owner)) == before


def asked_again(between: Callable[[Any], object], sources: Any = ()) -> bool:
    """Whether a group is made anew, after `between` has done something to its owner."""
    owner = SimpleNamespace(call=str, other=int)
    patches, asked = Patches(), []

    def replace() -> None:
        asked.append(owner)
        patches.replace(owner, "call", functools.partial)

    for given_sources in ((), sources):
        patches.again("group", given_sources, replace)
        patches.restore()
        between(owner)
    return len(asked) > 1


def test_a_group_is_put_in_place_again_without_asking() -> None:
    assert not asked_again(lambda _: None)
    assert not asked_again(lambda owner: vars(owner).update(other=str))


def test_a_group_is_made_anew_of_something_else() -> None:
    assert asked_again(lambda _: None, sources=(object(),))
    assert asked_again(lambda owner: vars(owner).update(call=repr))
    with pytest.raises(AttributeError):  # of what is gone, as the first time
        asked_again(lambda owner: vars(owner).pop("call"))


def test_a_group_that_failed_or_replaces_the_same_twice_is_made_each_time() -> None:
    owner = SimpleNamespace(call=str)
    patches, asked = Patches(), []

    def fail() -> None:
        asked.append("fail")
        patches.replace(owner, "call", functools.partial)
        raise ImportError

    def twice() -> None:
        asked.append("twice")
        for _ in range(2):
            patches.replace(owner, "call", functools.partial)

    for replace in (fail, twice):
        for _ in range(2):
            with contextlib.suppress(ImportError):
                patches.again(replace, (), replace)
            patches.restore()
            assert owner.call is str
    assert asked == ["fail", "fail", "twice", "twice"]


def test_what_another_thread_replaces_meanwhile_is_not_of_the_group() -> None:
    owner, theirs = SimpleNamespace(call=str), SimpleNamespace(call=str)
    patches = Patches()

    def replace() -> None:
        other = threading.Thread(target=patches.replace, args=(theirs, "call", functools.partial))
        other.start()
        other.join()
        patches.replace(owner, "call", functools.partial)

    for _ in range(2):
        patches.again("group", (), replace)
        assert owner.call is not str
        patches.restore()
        replace = pytest.fail
    assert theirs.call is str


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
