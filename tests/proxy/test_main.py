from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys

from collections.abc import Iterator

import pytest
import requests

from pytest_resilience.proxy.__main__ import main
from pytest_resilience.proxy.toxic_types import KINDS
from tests.proxy.conftest import Serve
from tests.proxy.conftest import ask
from tests.proxy.conftest import echo
from tests.proxy.conftest import read_all
from tests.proxy.conftest import receive


COMMAND = [sys.executable, "-m", "pytest_resilience.proxy"]


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=30)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_runs_until_it_is_told_to_stop(serve: Serve, number: int) -> None:
    upstream = f"127.0.0.1:{serve(echo)}"
    toxic = "limit_data:bytes=6,stream=upstream"
    with running("127.0.0.1:0", upstream, "--seed", "7", "--toxic", toxic) as process:
        first = re.fullmatch(rf"127.0.0.1:(\d+) -> {upstream} \(seed 7\)", line_of(process))
        assert first is not None
        assert line_of(process) == "  limit_data_upstream: limit_data upstream bytes=6"
        with socket.create_connection(("127.0.0.1", int(first[1])), timeout=10) as client:
            assert ask(client) == b"ping"
            client.sendall(b"ping")
            assert receive(client, 4) in (b"pi", b"")
        process.send_signal(number)
        assert process.wait(30) == 0


def test_experiments_run_as_long_as_it_does(serve: Serve) -> None:
    upstream = f"127.0.0.1:{serve(echo)}"
    late = "network_latency:delay=5ms,stream=both,name=far"
    status = 'network_failure:mode=status,rate=1,nth=2,body="sorry, no"'
    arguments = ("--experiment", late, "--experiment", status)
    with running("127.0.0.1:0", upstream, *arguments) as process:
        listen = line_of(process).partition(" ")[0]
        assert line_of(process) == "  far: latency 5ms, always, target any"
        assert line_of(process) == "  network_failure: status 503, number 2, target any"
        host, port = listen.split(":")
        with socket.create_connection((host, int(port)), timeout=10) as client:
            request = b"GET / HTTP/1.1\r\nHost: far\r\n\r\n"
            client.sendall(request)
            assert receive(client, len(request)) == request
            client.sendall(request)
            assert b"sorry, no" in read_all(client)
        process.send_signal(signal.SIGINT)
        assert line_of(process) == "far: latency 5ms, always, target any: matched 5, hit 5"
        assert line_of(process).endswith(": matched 2, hit 1")
        assert process.wait(30) == 0


def test_it_speaks_udp() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(30)
        upstream = f"127.0.0.1:{server.getsockname()[1]}"
        loss = "network_failure:mode=drop,nth=1"
        with running("127.0.0.1:0", upstream, "--protocol", "udp", "--experiment", loss) as process:
            port = int(line_of(process).partition(" ->")[0].rpartition(":")[2])
            assert "loss" in line_of(process)
            with socket.socket(type=socket.SOCK_DGRAM) as client:
                client.connect(("127.0.0.1", port))
                client.send(b"one")
                client.send(b"two")
                assert server.recv(10) == b"two"


def test_control_is_served_if_asked_for(serve: Serve) -> None:
    upstream = f"127.0.0.1:{serve(echo)}"
    with running("127.0.0.1:0", upstream, "--control", "127.0.0.1:0") as process:
        line_of(process)
        url = line_of(process).removeprefix("control: ")
        (shown,) = requests.get(f"{url}/proxies", timeout=10).json().values()
        assert shown["upstream"] == upstream
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_help_tells_all_types() -> None:
    done = subprocess.run(
        [*COMMAND, "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=os.environ | {"COLUMNS": "100"},
    )
    assert "LISTEN UPSTREAM" in done.stdout
    for kind in KINDS:
        assert f"\n  {kind}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ["127.0.0.1:0", "127.0.0.1:1", "--seed", "-1"],
            "error: --seed='-1': give a whole",
        ),
        (["127.0.0.1:0", "127.0.0.1:1", "--seed", "1" * 5000], "error: --seed='111"),
        (["127.0.0.1:0", "127.0.0.1:" + "1" * 5000], "error: upstream='127.0.0.1:111"),
        (["0.0.0.0:0", "127.0.0.1:1"], "error: listen='0.0.0.0:0' is not loopback"),
        (["127.0.0.1:0", "nowhere"], "error: upstream='nowhere' has no port"),
        (
            ["127.0.0.1:0", "127.0.0.1:1", "--toxic", "lag:latency=1"],
            "error: no type of toxic is named 'lag'; known: ",
        ),
        (
            ["127.0.0.1:0", "127.0.0.1:1", "--toxic", "latency:latency=-5"],
            "error: latency='-5': a duration is finite and not negative",
        ),
        (
            ["127.0.0.1:0", "127.0.0.1:1", "--toxic", "refuse", "--toxic", "refuse"],
            "error: a toxic named 'refuse_downstream' exists already",
        ),
        (
            ["127.0.0.1:0", "127.0.0.1:1", "--experiment", "network_failure:mode=dns"],
            "error: experiment 'network_failure': name resolution failure cannot happen in a",
        ),
        (
            ["127.0.0.1:0", "127.0.0.1:1", "--control", "0.0.0.0:1"],
            "error: listen='0.0.0.0:1' is not loopback",
        ),
    ],
)
def test_what_makes_no_sense(
    arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(error)
    assert signal.getsignal(signal.SIGINT) is before
