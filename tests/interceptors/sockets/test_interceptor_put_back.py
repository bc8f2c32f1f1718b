"""What an interceptor touches is, in the end, the very object it was."""

from __future__ import annotations

import contextlib
import socket
import ssl

from typing import Any

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.sockets.interceptor import SocketInterceptor
from pytest_resilience.patching import Patches


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
