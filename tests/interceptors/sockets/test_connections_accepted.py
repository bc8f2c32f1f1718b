"""A connection that a client accepts is hit where a target says so, and by nothing else."""

from __future__ import annotations

import contextlib
import ftplib
import socket
import threading

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_resilience.diagnosis import never_fired
from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket
from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import echo
from tests.interceptors.conftest import met
from tests.interceptors.conftest import serve
from tests.resets import reset_when_closed


FILE = b"x" * 8000
CUT = 3000  # bytes
PATIENCE = 10.0
IMPATIENCE = 0.1
NOT_MEANT = ["*", HOST, f"{HOST}:1-65535", "*#2", f"!{HOST}:9", "from 10.0.0.1", "from *#2"]
MEANT = [
    f"from {HOST}", "from localhost", "from *:*", "from *.0.0.1:1024-65535", "FROM *#1",
    f"10.0.0.1 | from {HOST}",
]  # fmt: skip

Delivery = Callable[[KernelSocket], object]


def sending(data: KernelSocket) -> None:
    data.sendall(FILE)


def cutting(data: KernelSocket) -> None:
    data.sendall(FILE[:CUT])


def keeping_silent(data: KernelSocket) -> None:
    data.recv(1)  # until the client leaves


@contextlib.contextmanager
def active_ftp(deliver: Delivery) -> Iterator[int]:
    """A server that connects to its client, unseen as another process is; yields its port."""

    def run() -> None:
        control = KernelSocket(fileno=listener._accept()[0])  # the one that has no patch
        with contextlib.closing(control), contextlib.suppress(OSError):  # the client has left
            converse(control)

    def converse(control: KernelSocket) -> None:
        control.sendall(b"220 ready\r\n")
        there = "", 0
        while command := control.recv(1000):
            if command.startswith(b"PORT"):
                *_, high, low = command.split()[1].split(b",")
                there = HOST, int(high) * 256 + int(low)
            if not command.startswith(b"RETR"):
                control.sendall(b"230 ok\r\n")
                continue
            control.sendall(b"150 coming\r\n")
            with contextlib.closing(KernelSocket()) as data, contextlib.suppress(OSError):
                data.connect(there)
                deliver(data)
            control.sendall(b"226 done\r\n")

    listener: Any = KernelSocket()
    listener.bind((HOST, 0))
    listener.listen()
    server = threading.Thread(target=run)
    server.start()
    try:
        yield listener.getsockname()[1]
        server.join(PATIENCE)
        assert not server.is_alive()
    finally:
        listener.close()


def fetch(port: int, got: bytearray, timeout: float = PATIENCE) -> None:
    with contextlib.closing(ftplib.FTP(timeout=timeout)) as ftp:
        ftp.connect(HOST, port)
        ftp.login("somebody")
        ftp.set_pasv(False)
        ftp.retrbinary("RETR tea.txt", got.extend)


@pytest.mark.parametrize(
    ("really", "fault"),
    [
        (reset_when_closed, {"mode": "reset"}),
        (cutting, {"mode": "truncate", "after_bytes": CUT}),
        (keeping_silent, {"mode": "timeout"}),
    ],
    ids=["reset", "cut", "silent"],
)
def test_what_a_client_accepts_is_hit_as_for_real(
    really: Delivery, fault: dict[str, Any], inject: Inject
) -> None:
    timeout = IMPATIENCE if really is keeping_silent else PATIENCE

    def outcome(deliver: Delivery, target: str, hits: int) -> tuple[list[Any], bytes]:
        got = bytearray()
        with (
            active_ftp(deliver) as port,
            inject("network_failure", target=target, rate=1, **fault) as failure,
        ):
            error = [] if really is cutting else met(lambda: fetch(port, got, timeout))
            if not error:
                fetch(port, got, timeout)
        assert failure.hits == hits
        return error, bytes(got)

    assert outcome(sending, f"from {HOST}", 1) == outcome(really, "from 10.0.0.1", 0)


@pytest.mark.parametrize(
    ("target", "hits"), [*((each, 1) for each in MEANT), *((each, 0) for each in NOT_MEANT)]
)
def test_a_target_that_says_so_is_about_it_and_no_other(
    target: str, hits: int, inject: Inject
) -> None:
    got = bytearray()
    fault = inject("network_failure", mode="truncate", after_bytes=CUT, rate=1, target=target)
    with active_ftp(sending) as port, fault as truncation:
        fetch(port, got)
    assert (bytes(got), truncation.hits) == (FILE[:CUT] if hits else FILE, hits)


def test_the_error_names_it_and_says_why(inject: Inject) -> None:
    with (
        active_ftp(sending) as port,
        inject("network_failure", mode="reset", rate=1, target=f"!{HOST}:{port}") as failure,
    ):
        fetch(port, bytearray())
    assert never_fired(failure).seen == (
        f"network.connect {HOST}:{port}",
        f"network.accept from {HOST} (accepted here: only target='from {HOST}' is about it)",
    )


def test_of_a_server_and_its_client_in_one_process_the_client_is_hit_once(inject: Inject) -> None:
    for target in ("!10.0.0.1", HOST, "*#1", "*:1-65535"):
        with serve(echo) as port, inject("network_latency", delay=0.01, target=target) as latency:
            with socket.create_connection((HOST, port)) as client:
                client.sendall(b"hello")
                assert client.recv(100) == b"hello"
            assert latency.hits == 2  # connecting, and the response


def test_the_server_of_a_test_is_hit_where_a_target_says_so(inject: Inject) -> None:
    with (
        serve(echo) as port,
        inject("network_failure", mode="reset", rate=1, target=f"from {HOST}") as failure,
    ):
        with socket.create_connection((HOST, port)) as client:
            client.sendall(b"hello")
            assert client.recv(100) == b""  # what reads is told of a reset, and leaves
        assert failure.hits == 1


def test_an_error_does_not_name_what_a_server_accepts_from_a_client_in_here(inject: Inject) -> None:
    with (
        serve(echo) as port,
        inject("network_failure", mode="reset", rate=1, target="x") as failure,
        socket.create_connection((HOST, port)) as client,
    ):
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
    assert never_fired(failure).seen == (f"network.connect {HOST}:{port}",)
