"""pymysql, which is reached where it meets the network: its socket."""

from __future__ import annotations

import socket

import pymysql
import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience.runtime import Runtime


def outcome(port: int) -> tuple[type[Exception], int, str]:
    with pytest.raises(pymysql.err.OperationalError) as caught:
        pymysql.connect(host="127.0.0.1", port=port, connect_timeout=1, read_timeout=1)
    code, text = caught.value.args
    return type(caught.value), code, text.partition("(")[2]


def test_refused_as_for_real() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    real = outcome(port)
    running = Runtime().start(
        ChaosExperiment("x", "network_failure", mode="refuse", rate=1), seed=1
    )
    try:
        assert outcome(port) == real
    finally:
        running.stop()
    assert running.hits == 1


def test_no_word_of_the_servers_greeting_as_for_real() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        real = outcome(mute.getsockname()[1])
        silence = ChaosExperiment("x", "network_failure", mode="timeout", rate=1, nth=2)
        running = Runtime().start(silence, seed=1)
        try:
            assert outcome(mute.getsockname()[1])[:2] == real[:2]
        finally:
            running.stop()
