"""Attributes that are replaced for a while are, in the end, the very objects they were."""

from __future__ import annotations

import contextlib
import functools
import operator
import threading

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from hypothesis import given
from hypothesis import strategies as st

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
