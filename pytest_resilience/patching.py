"""Replacing attributes and putting back what was found, of modules also once they are imported.

And noting calls of functions.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading

from collections import deque
from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from operator import attrgetter
from operator import contains
from operator import getitem
from operator import is_
from types import ModuleType
from typing import Any


__all__ = ["ImportHook", "LibraryPatches", "Observer", "Patches"]

_ABSENT = object()

# Replacements that were to be removed while another tool's lay on top of them: by id, each with
# what it had found.
_pending_removal: dict[int, tuple[object, object]] = {}


def _found_below(found: object) -> object:
    """What to put back: `found`, or what lay below it if it is to be removed itself."""
    while (pending := _pending_removal.get(id(found))) is not None and pending[0] is found:
        del _pending_removal[id(found)]
        found = pending[1]
    return found


class Patches:
    """Attributes replaced for a while.

    What is put back is what was found, not what is believed to be the original: another tool
    may have replaced it before. Where another tool has replaced it *since*, removing ours
    would remove theirs too. So ours stays until theirs is gone; `restore` can be called again
    for that. Where what lies on top is of another `Patches`, that one removes both.

    To make a replacement takes longer than to put it in place, and so does asking what has to
    be replaced, while each test asks for the same. So each replacement is kept and used again
    as long as the same `make` replaces the same thing, and so is each group of `again`.
    """

    def __init__(self) -> None:
        self._applied: list[_Made] = []
        self._covered: set[int] = set()  # by id, those on which another's lay at `restore`
        self._made: dict[tuple[int, str], _Made] = {}
        self._groups: dict[Hashable, _Group] = {}
        self._making: dict[int, list[_Made]] = {}  # a group that is being made, by its thread

    def __bool__(self) -> bool:
        return bool(self._applied)

    def replace(
        self, owner: Any, name: str, make: Callable[[Any], Any], *, mocks: bool = False
    ) -> None:
        """Put `make(what is there)` at `owner.name`.

        A mock that a test has put there is left alone, and so is what is no method although it
        is in a class: no I/O is behind it. With `mocks` they are replaced too.
        """
        found = owner.__dict__.get(name, _ABSENT)  # _ABSENT: inherited, e.g. from a C type
        known = self._made.get((id(owner), name))
        if known is None or not known.fits(found, make):
            original = getattr(owner, name)
            if not mocks and _is_stub(owner, found, original):
                self.not_again()  # it may be gone the next time
                return
            ours = _OverMock(make(original), original) if _is_mock(original) else make(original)
            known = _Made(owner, owner.__dict__, name, found, original, make, ours)
            self._made[id(owner), name] = known
        if self._making:
            self._making.get(threading.get_ident(), []).append(known)
        self._apply(known)

    def _apply(self, made: _Made) -> None:
        # Noted first: an interrupt between the two lines must not lose it.
        self._applied.append(made)
        setattr(made.owner, made.name, made.ours)

    def again(
        self, name: Hashable, sources: tuple[object, ...], replace: Callable[[], None]
    ) -> None:
        """Call `replace`, which replaces attributes here, or do what it did the last time.

        It would do the same for the same `sources`, such as the module that it looks into, as
        long as every attribute is what it was.
        """
        group = self._groups.get(name)
        if group is not None and group.fits(sources):
            self._applied += group.replaced  # first: see `_apply`
            group.put_in_place()
            return
        self._groups.pop(name, None)
        me = threading.get_ident()
        self._making[me] = []
        try:
            replace()
        except BaseException:
            self._making.pop(me, None)
            raise
        replaced = self._making.pop(me, None)
        # One that lies on another of them fits only where that is in place.
        if replaced and len({(id(made.owner), made.name) for made in replaced}) == len(replaced):
            self._groups[name] = _Group.of(sources, replaced)

    def not_again(self) -> None:
        """What the `replace` of `again` does just now is to be done anew the next time."""
        self._making.pop(threading.get_ident(), None)

    def restore(self) -> None:
        """Put everything back, last first, except where somebody else's lies on top.

        Every step can be repeated, so an interrupt in the middle loses nothing.
        """
        if not (_pending_removal or self._covered) and _are_in_place(self._applied):
            _put_back(self._applied)
            self._applied = []
            return
        kept = []
        for made in reversed(self._applied):
            owner, name, ours = made.owner, made.name, made.ours
            current = owner.__dict__.get(name, _ABSENT)
            if current is not ours:
                removed = id(ours) in self._covered and id(ours) not in _pending_removal
                if current is not made.found and not removed:
                    kept.append(made)
                    _pending_removal[id(ours)] = (ours, made.found)
                else:
                    _pending_removal.pop(id(ours), None)
                continue
            below = made.found
            if _pending_removal:
                _pending_removal.pop(id(ours), None)
                below = _found_below(below)
            if below is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, below)
        self._covered = {id(made.ours) for made in kept}
        self._applied = kept[::-1]


@dataclass(frozen=True, slots=True)
class _Made:
    """A replacement that was made. The owner is kept with it, so that its id stays its own.

    Attributes:
        own: all that the owner has itself.
    """

    owner: Any
    own: Mapping[str, object]
    name: str
    found: object
    original: object
    make: Callable[[Any], Any]
    ours: Any

    def fits(self, found: object, make: Callable[[Any], Any]) -> bool:
        """Whether it is what `make` would make once more of what is there."""
        return self.replaces(found) and (make is self.make or _is_same(make, self.make))

    def replaces(self, found: object) -> bool:
        """Whether what is there, `found` in the owner itself, is what it was made of."""
        return found is self.found and (
            found is not _ABSENT or getattr(self.owner, self.name) is self.original
        )


@dataclass(frozen=True, slots=True)
class _Group:
    """The replacements that were made for the same sources at once.

    It is asked for, and put in place, in each test: by `map`, without a step of Python's for each.

    Attributes:
        own: of those that owners had themselves: where, under which name, and what.
        inherited: of those that they had from elsewhere: what they had themselves, who they are,
            the name, and what that was.
    """

    sources: tuple[object, ...]
    replaced: tuple[_Made, ...]
    own: _Columns
    inherited: _Columns
    ours: _Columns

    @classmethod
    def of(cls, sources: tuple[object, ...], replaced: list[_Made]) -> _Group:
        """What was made of `sources`."""
        own = [each for each in replaced if each.found is not _ABSENT]
        inherited = [each for each in replaced if each.found is _ABSENT]
        return cls(
            sources,
            tuple(replaced),
            _columns(own, _FOUND),
            _columns(inherited, _INHERITED),
            _columns(replaced, _OURS),
        )

    def fits(self, sources: tuple[object, ...]) -> bool:
        """Whether they would be the same once more."""
        if len(sources) != len(self.sources) or not all(map(is_, sources, self.sources)):
            return False
        places, names, found, *_ = self.own
        try:
            if not all(map(is_, map(getitem, places, names), found)):
                return False
        except KeyError:  # one is gone
            return False
        places, owners, names, originals = self.inherited
        return not any(map(contains, places, names)) and all(
            map(is_, map(getattr, owners, names), originals)
        )

    def put_in_place(self) -> None:
        """Replace them."""
        _do_all(setattr, *self.ours)


_Columns = tuple[tuple[Any, ...], ...]
_FOUND = attrgetter("own", "name", "found")
_INHERITED = attrgetter("own", "owner", "name", "original")
_OURS = attrgetter("owner", "name", "ours")
_IN_PLACE = attrgetter("own", "name", "ours")
_TO_PUT_BACK = attrgetter("owner", "name", "found")
_TO_DELETE = attrgetter("owner", "name")


def _columns(replaced: Sequence[_Made], read: attrgetter[tuple[Any, ...]]) -> _Columns:
    """What is read of each, in columns; all of them empty if there is none."""
    return tuple(zip(*map(read, replaced), strict=True)) if replaced else ((),) * 4


def _do_all(act: Callable[..., object], *columns: Iterable[Any]) -> None:
    """Call `act` for each row."""
    deque(map(act, *columns), maxlen=0)


def _are_in_place(replaced: Sequence[_Made]) -> bool:
    """Whether nothing lies on top of any of them, and nobody has taken one away."""
    places, names, ours, *_ = _columns(replaced, _IN_PLACE)
    try:
        return all(map(is_, map(getitem, places, names), ours))
    except KeyError:
        return False


def _put_back(replaced: Sequence[_Made]) -> None:
    """As they were; each of them is in place."""
    inherited = [each for each in replaced if each.found is _ABSENT]
    own = [each for each in replaced if each.found is not _ABSENT] if inherited else replaced
    if own:
        _do_all(setattr, *_columns(own, _TO_PUT_BACK))
    if inherited:
        _do_all(delattr, *_columns(inherited, _TO_DELETE))


class _OverMock:
    """Stands in the place of a mock; its attributes are the mock's, as the test expects."""

    def __init__(self, call: Callable[..., Any], mock: Any) -> None:
        vars(self).update(_call=call, _mock=mock)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return vars(self)["_call"](*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_mock"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self)["_mock"], name, value)


def _is_mock(original: object) -> bool:
    kinds = getattr(sys.modules.get("unittest.mock"), "NonCallableMock", ())
    return issubclass(type(original), kinds)


def _is_stub(owner: Any, found: object, original: object) -> bool:
    """A test has put it there: it is a mock, or no method although it is in a class."""
    return _is_mock(original) or (
        isinstance(owner, type) and found is not _ABSENT and not hasattr(type(found), "__get__")
    )


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, functools.partial) and isinstance(other, functools.partial):
        return (one.func, one.args, one.keywords) == (other.func, other.args, other.keywords)
    return bool(one == other)


Note = Callable[..., None]


class Observer:
    """Records calls of functions to which no fault can happen, and which callers do not notice.

    What it notes is for the advice when an experiment never fires.
    """

    def __init__(self, patches: Patches) -> None:
        self._patches = patches
        self._makers: dict[tuple[Any, str], Callable[[Any], Any]] = {}

    def observe(self, owner: Any, name: str, note: Note) -> None:
        """Call `note` with the arguments of each call of `owner.name`, if this version has it."""
        there = vars(owner).get(name, getattr(owner, name, None))
        if there is None:
            return

        def make(original: Any) -> Any:
            if isinstance(there, classmethod):
                return classmethod(_noted(there.__func__, note))
            return _noted(original, note)

        # The first for each is as good as any: `Patches` makes a replacement once for each.
        self._patches.replace(owner, name, self._makers.setdefault((owner, name), make))


def _noted(call: Callable[..., Any], note: Note) -> Callable[..., Any]:
    @functools.wraps(call)
    def observed(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        with contextlib.suppress(Exception):  # what is wrong is for the real function to say
            note(*args, **kwargs)
        return call(*args, **kwargs)

    return observed


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
