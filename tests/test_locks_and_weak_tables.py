from __future__ import annotations

import sys
import weakref

from collections.abc import Callable
from collections.abc import Iterable
from types import FrameType
from typing import Any

import pytest

from pytest_resilience.chaos import descriptors
from pytest_resilience.chaos import forked_children
from pytest_resilience.locks import entries
from pytest_resilience.locks import living
from pytest_resilience.locks import values


class Thing:
    """What may be a key, and an owner of descriptors."""

    def descriptors(self) -> Iterable[int]:
        return [7]

    def before_fork(self) -> None:
        """Nothing."""

    after_fork = before_fork


def between_lines(act: Callable[[], object], call: Callable[[], Any]) -> Any:
    """What `call` returns, if a thread that does `act` comes between any two of its lines."""

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            act()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return call()
    finally:
        sys.settrace(before)


@pytest.fixture
def things() -> list[Thing]:
    return [Thing(), Thing()]


def test_what_others_add_meanwhile_disturbs_nobody(things: list[Thing]) -> None:
    table: weakref.WeakKeyDictionary[Thing, int] = weakref.WeakKeyDictionary()
    table.update((each, 1) for each in things)
    first = things[:]

    def add() -> None:
        things.append(Thing())
        table[things[-1]] = 1

    assert set(between_lines(add, lambda: living(table))) >= set(first)
    assert set(between_lines(add, lambda: entries(table))) >= {(each, 1) for each in first}
    assert len(things) > len(first)


def test_nor_does_what_they_add_by_weak_value(things: list[Thing]) -> None:
    table = weakref.WeakValueDictionary(enumerate(things))

    def add() -> None:
        things.append(Thing())
        table[len(table)] = things[-1]

    first = [*enumerate(things)]
    assert between_lines(add, lambda: values(table))[:2] == first
    assert len(things) > len(first)
    del first, things[0]
    assert 0 not in dict(values(table))


def test_what_others_take_out_meanwhile_has_no_entry(things: list[Thing]) -> None:
    table: weakref.WeakKeyDictionary[Thing, int] = weakref.WeakKeyDictionary()
    table.update((each, 1) for each in things)
    assert between_lines(table.clear, lambda: entries(table)) == []


def test_what_nobody_has_any_more_is_not_among_them(things: list[Thing]) -> None:
    table: weakref.WeakKeyDictionary[Thing, int] = weakref.WeakKeyDictionary()
    table.update((each, 1) for each in things)
    del things[0]
    assert living(table) == things


def test_threads_may_come_while_all_private_descriptors_are_asked_for(things: list[Thing]) -> None:
    def add() -> None:
        things.append(Thing())
        descriptors.keep_private(things[-1])

    add()
    assert 7 in between_lines(add, descriptors.private_descriptors)


def test_threads_may_come_while_a_fork_is_told_of(things: list[Thing]) -> None:
    def add() -> None:
        things.append(Thing())
        forked_children.watch_forks(things[-1])

    add()
    between_lines(add, forked_children._before)
