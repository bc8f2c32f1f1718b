"""An experiment that never fires says what went past the methods of sockets."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import sys

from collections.abc import Callable
from typing import Any

import pytest

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.diagnosis import never_fired
from pytest_resilience.errors import NeverFired
from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import serve
from tests.interceptors.conftest import silent
from tests.waiting import eventually


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is Linux that counts")

TEA = b"tea, please"
RESET: dict[str, Any] = {"mode": "reset", "rate": 1}


def receive_in_c(sock: socket.socket) -> bytes:
    room = ctypes.create_string_buffer(len(TEA))
    ctypes.CDLL(None).recv(sock.fileno(), room, len(TEA), socket.MSG_WAITALL)
    return room.raw


def splice(sock: socket.socket) -> bytes:
    out, into = os.pipe()
    with open(out, "rb") as read, open(into, "wb"):
        os.splice(sock.fileno(), into, len(TEA))
        return read.read(len(TEA))


def read_a_file(sock: socket.socket) -> bytes:
    with open(sock.fileno(), "rb", closefd=False) as file:
        return file.read(len(TEA))


def send_in_c(sock: socket.socket) -> None:
    ctypes.CDLL(None).send(sock.fileno(), TEA, len(TEA), 0)


def write_a_file(sock: socket.socket) -> None:
    with open(sock.fileno(), "wb", closefd=False) as file:
        file.write(TEA)


def speak(connection: socket.socket) -> None:
    connection.sendall(TEA)
    silent(connection)


def told_by(experiment: ActiveExperiment) -> tuple[NeverFired, list[str]]:
    """Why, and of which kinds what is not seen is."""
    error = never_fired(experiment)
    unseen = [each.split()[0] for each in error.seen if "by no method of its socket" in each]
    assert ("chaos_proxy" in str(error)) is bool(unseen)
    return error.why, unseen


@pytest.mark.parametrize("opened", ["within", "before"])
@pytest.mark.parametrize("ended_by", ["a close", "the experiment"])
@pytest.mark.parametrize("receive", [receive_in_c, splice, read_a_file])
def test_what_is_received_by_number_is_told(
    receive: Callable[[socket.socket], bytes], ended_by: str, opened: str, inject: Inject
) -> None:
    with (
        serve(speak) as port,
        inject("network_latency", delay=1, nth=9),  # what is known is kept
        contextlib.ExitStack() as stack,
    ):
        failure = inject("network_failure", target=f"{HOST}:{port}", **RESET)
        experiment = stack.enter_context(failure) if opened == "within" else None
        sock = stack.enter_context(socket.create_connection((HOST, port)))
        experiment = experiment or stack.enter_context(failure)
        assert receive(sock) == TEA
        if ended_by == "a close":
            sock.close()
        experiment.stop()
        assert told_by(experiment) == (NeverFired.IMPOSSIBLE, ["network.receive"])


@pytest.mark.parametrize("send", [send_in_c, write_a_file])
def test_so_is_what_is_sent(send: Callable[[socket.socket], None], inject: Inject) -> None:
    with (
        serve(speak) as port,
        inject("network_failure", stream="upstream", **RESET) as experiment,
        socket.create_connection((HOST, port)) as sock,
    ):
        send(sock)
        assert sock.recv(len(TEA), socket.MSG_WAITALL) == TEA
    assert told_by(experiment) == (NeverFired.IMPOSSIBLE, ["network.send"])


def test_so_it_is_where_a_trigger_chose_nothing(inject: Inject) -> None:
    with (
        serve(speak) as port,
        inject("network_latency", delay=1, nth=2) as experiment,
        socket.create_connection((HOST, port)) as sock,
    ):
        assert receive_in_c(sock) == TEA
    error = never_fired(experiment)
    assert error.why is NeverFired.NOT_CHOSEN
    assert "chaos_proxy" in str(error)


def test_so_is_urgent_data(inject: Inject) -> None:
    def hurry(connection: socket.socket) -> None:
        connection.send(b"!", socket.MSG_OOB)
        silent(connection)

    with (
        serve(hurry) as port,
        inject("network_latency", delay=1, nth=2) as experiment,
        socket.create_connection((HOST, port)) as sock,
    ):

        def urgent() -> bytes:
            with contextlib.suppress(OSError):  # not yet
                return sock.recv(1, socket.MSG_OOB)
            return b""

        assert eventually(lambda: urgent() == b"!")
    assert "Urgent data" in str(never_fired(experiment))


@pytest.mark.parametrize("tls", [False, True])
def test_what_is_seen_is_not(inject: Inject, trust: Trust, *, tls: bool) -> None:
    """Nor a handshake of TLS, nor that a connection begins and ends."""
    with (
        serve(trust.over_tls(silent) if tls else silent) as port,
        inject("network_failure", target="127.0.0.9", **RESET),
        inject("network_latency", delay=1, nth=9, target=f"{HOST}:{port}") as experiment,
        contextlib.ExitStack() as stack,
    ):
        sock = stack.enter_context(socket.create_connection((HOST, port)))
        if tls:
            sock = stack.enter_context(trust.client.wrap_socket(sock, server_hostname=HOST))
        sock.shutdown(socket.SHUT_WR)
    assert "chaos_proxy" not in str(never_fired(experiment))


def test_nor_is_what_others_than_the_target_receive(inject: Inject) -> None:
    with (
        serve(speak) as port,
        inject("network_failure", target="127.0.0.9", **RESET) as experiment,
        inject("network_latency", delay=1, nth=9, target=f"{HOST}:{port}"),
        socket.create_connection((HOST, port)) as sock,
    ):
        assert receive_in_c(sock) == TEA
    assert told_by(experiment) == (NeverFired.OTHER_TARGET, [])
