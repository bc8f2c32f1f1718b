"""A forked process lets go of its parent's proxies, and they stay whole."""

from __future__ import annotations

import contextlib
import os
import socket

from collections.abc import Callable
from collections.abc import Iterator

import pytest

from pytest_resilience import ShutdownError
from pytest_resilience.proxy import ChaosProxy
from tests.proxy.conftest import ask
from tests.proxy.conftest import read_all


pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]


@contextlib.contextmanager
def forked(work: Callable[[], object] = lambda: None) -> Iterator[int]:
    """A child that does some work, and stays until the `with` ends; what its work gave: 0 or 1."""
    reader, writer = os.pipe()
    done, end = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(end)
            os.write(writer, b"1" if work() else b"0")
            os.read(done, 1)
        finally:
            os._exit(0)
    os.close(done)
    try:
        yield int(os.read(reader, 1))
    finally:
        for each in (reader, writer, end):
            os.close(each)
        os.waitpid(child, 0)


def is_shut(proxy: ChaosProxy) -> bool:
    with contextlib.suppress(ShutdownError):
        proxy.add("latency")
        return False
    proxy.close()
    return True


def test_it_is_closed_in_the_child_alone(
    proxy: ChaosProxy, connect: Callable[[], socket.socket]
) -> None:
    client = connect()
    assert ask(client) == b"ping"
    with forked(lambda: is_shut(proxy)) as shut:
        assert shut
        assert ask(client) == b"ping"
        assert ask(connect()) == b"ping"
    assert ask(client) == b"ping"


def test_the_port_is_free_when_the_parent_closes_it(proxy: ChaosProxy) -> None:
    with ChaosProxy(proxy.upstream) as another, forked():
        another.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(another.address, timeout=10)


def test_refusals_and_ends_are_real_though_a_child_lives(
    proxy: ChaosProxy, connect: Callable[[], socket.socket]
) -> None:
    cut, lost = connect(), connect()
    assert ask(cut) == ask(lost) == b"ping"
    with forked():
        with (
            proxy.inject("network_failure", mode="refuse", rate=1),
            pytest.raises(ConnectionRefusedError),
        ):
            connect()
        assert ask(connect()) == b"ping"
        with proxy.inject("network_failure", mode="truncate", rate=1):
            cut.sendall(b"ping")
            assert read_all(cut) == b"pi"
        with proxy.inject("network_failure", mode="reset", rate=1):
            lost.sendall(b"ping")
            with pytest.raises(ConnectionResetError):
                lost.recv(1)
