"""What an interceptor touches is, in the end, the very object it was."""

from __future__ import annotations

import contextlib
import functools
import operator
import socket
import ssl
import threading

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.patching import Patches
from pytest_resilience.interceptors.sockets.interceptor import SocketInterceptor


def touched() -> list[dict[str, Any]]:
    return [dict(vars(owner)) for owner in (socket.socket, ssl.SSLSocket, socket)]


class Foreign:
    """Another tool that replaces what we replace, whenever it likes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.found = vars(socket.socket).get(name)
        original = getattr(socket.socket, name)

        def theirs(*args: Any) -> Any:
            return original(*args)

        setattr(socket.socket, name, theirs)

    def undo(self) -> None:
        if self.found is None:
            delattr(socket.socket, self.name)
        else:
            setattr(socket.socket, self.name, self.found)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.sampled_from(["network_latency", "network_failure"])),
        st.tuples(st.just("stop"), st.integers(0, 5)),
        st.tuples(st.just("patch"), st.sampled_from(["connect", "recv", "sendall"])),
        st.tuples(st.just("unpatch"), st.none()),
        st.tuples(st.just("settle"), st.none()),
    ),
    max_size=25,
)


@given(steps=STEPS)
def test_after_any_nesting_and_overlap(steps: list[tuple[str, Any]]) -> None:
    before = touched()
    engine = Engine(lambda engine: [SocketInterceptor(engine)])
    running: list[ActiveExperiment] = []
    foreign: list[Foreign] = []
    for step, what in steps:
        if step == "start":
            running.append(engine.start(ChaosExperiment("x", what), seed=1))
        elif step == "stop" and running:
            running.pop(what % len(running)).stop()
        elif step == "patch":
            foreign.append(Foreign(what))
        elif step == "unpatch" and foreign:
            foreign.pop().undo()
        elif step == "settle":
            engine.refresh()
    for active_experiment in running:
        active_experiment.stop()
    while foreign:
        foreign.pop().undo()
    engine.refresh()  # as at the end of each test, when the others are gone
    assert touched() == before


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


def test_nothing_is_patched_before_the_first_and_after_the_last(engine: Engine) -> None:
    before = touched()
    first = engine.start(ChaosExperiment("first", "network_latency"), seed=1)
    second = engine.start(ChaosExperiment("second", "network_failure"), seed=1)
    first.stop()
    assert touched() != before
    second.stop()
    second.stop()  # once more does no harm
    assert touched() == before


def test_what_is_replaced_again_is_replaced_by_the_same(engine: Engine) -> None:
    before = touched()
    found = []
    for _ in range(2):
        active_experiment = engine.start(ChaosExperiment("x", "network_latency"), seed=1)
        found.append(touched())
        active_experiment.stop()
        assert touched() == before
    assert found[0] == found[1]


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


def test_a_wrapper_below_another_tool_s_does_not_act_a_second_time(
    engine: Engine, echo_port: int
) -> None:
    before = touched()
    first = engine.start(ChaosExperiment("x", "network_latency", delay=1e-9), seed=1)
    theirs = Foreign("connect")
    first.stop()  # which it cannot take out
    second = engine.start(ChaosExperiment("x", "network_latency", delay=1e-9), seed=1)
    with socket.socket() as client:
        client.connect(("127.0.0.1", echo_port))
    assert second.matched == 1
    second.stop()
    theirs.undo()
    engine.refresh()
    assert touched() == before


def test_an_interrupt_while_starting_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = touched()
    replace = Patches.replace
    calls = 0

    def interrupted(self: Patches, owner: Any, name: str, make: Any, **given: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        replace(self, owner, name, make, **given)

    monkeypatch.setattr(Patches, "replace", interrupted)
    engine = Engine(lambda engine: [SocketInterceptor(engine)])
    with pytest.raises(KeyboardInterrupt):
        engine.start(ChaosExperiment("x", "network_latency"), seed=1)
    assert engine.active == ()
    assert touched() == before


def test_a_wrapper_that_another_tool_kept_only_passes_on(engine: Engine, echo_port: int) -> None:
    before = touched()
    experiment = ChaosExperiment("x", "network_failure", mode="refuse", rate=1)
    active_experiment = engine.start(experiment, seed=1)
    kept = socket.socket.connect
    active_experiment.stop()
    with socket.socket() as client:
        kept(client, ("127.0.0.1", echo_port))
    assert touched() == before


def test_the_class_that_another_tool_put_in_place_is_left_alone(
    engine: Engine, echo_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Guarded(socket.socket):
        pass

    monkeypatch.setattr(socket, "socket", Guarded)
    found = dict(vars(Guarded))
    active_experiment = engine.start(ChaosExperiment("x", "network_failure", rate=1), seed=1)
    with contextlib.closing(Guarded()) as client, pytest.raises(ConnectionRefusedError):
        client.connect(("127.0.0.1", echo_port))
    active_experiment.stop()
    assert dict(vars(Guarded)) == found


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
