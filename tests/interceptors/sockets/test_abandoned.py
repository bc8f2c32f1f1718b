"""A connection in the place of another whose owner may close it at any moment."""

from __future__ import annotations

import contextlib
import errno
import os
import socket

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_resilience import socket_filters
from pytest_resilience.interceptors.sockets import abandoned
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.connections import ConnectionTable
from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection
from pytest_resilience.socket_filters import drop_incoming
from pytest_resilience.socket_filters import drops_incoming
from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import outcome
from tests.interceptors.conftest import serve
from tests.interceptors.conftest import silent
from tests.resets import reset_when_closed


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as sock,
    ):
        yield sock


def before_look(patch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    make = abandoned._abandoned

    def made(*, accepted: bool) -> contextlib.AbstractContextManager[KernelSocket]:
        act()
        return make(accepted=accepted)

    patch.setattr(abandoned, "_abandoned", made)


def before_act(patch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """As late as another thread can do it: when all is ready for the call."""
    duplicate = abandoned._duplicate()
    if duplicate is None:
        pytest.skip("there is no dup3 here")

    def late(source: int, target: socket.socket, flags: int) -> int:
        act()
        return duplicate(source, target, flags)

    patch.setattr(abandoned, "_duplicate", lambda: late)


@pytest.mark.parametrize("moment", [before_look, before_act])
@pytest.mark.parametrize("accepted", [False, True])
def test_who_has_got_the_number_of_a_closed_socket_keeps_it(
    accepted: bool,
    moment: Callable[[pytest.MonkeyPatch, Callable[[], object]], None],
    sock: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    number = sock.fileno()
    with contextlib.ExitStack() as stack:

        def act() -> None:
            sock.close()
            stack.enter_context(os.fdopen(os.open(__file__, os.O_RDONLY)))

        moment(monkeypatch, act)
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            abandoned.put_abandoned(sock, accepted=accepted)
        assert os.path.samestat(os.fstat(number), os.stat(__file__))


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("inheritable", [False, True])
def test_it_is_as_its_owner_has_set_it(
    inheritable: bool, blocking: bool, sock: socket.socket
) -> None:
    sock.setblocking(blocking)
    sock.set_inheritable(inheritable)
    number = sock.fileno()
    abandoned.put_abandoned(sock, accepted=False)
    assert sock.fileno() == number
    assert os.get_blocking(number) is blocking
    assert os.get_inheritable(number) is inheritable
    with pytest.raises(ConnectionResetError):
        sock.recv(1)


@pytest.mark.parametrize("accepted", [True, False])
def test_nothing_is_left_of_its_filter(sock: socket.socket, *, accepted: bool) -> None:
    """The kernel gives its number to another one, which has no filter."""
    drop_incoming(sock)
    before = set(socket_filters._filtered)
    abandoned.put_abandoned(sock, accepted=accepted)
    assert len(before - set(socket_filters._filtered)) == 1
    assert not drops_incoming(sock)


def test_all_that_is_done_after_a_reset_meets_what_it_really_does() -> None:
    def state(sock: socket.socket) -> list[str]:
        found = [outcome(lambda: sock.recv(1)) for _ in range(2)]
        found += [outcome(lambda: sock.send(b"?")), outcome(lambda: sock.recv(1))]
        return [*found, outcome(lambda: sock.shutdown(socket.SHUT_RDWR))]

    def after(act: Callable[[KernelSocket, socket.socket], object]) -> list[str]:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname()) as sock,
        ):
            accepted, _ = server.accept()
            with accepted:
                act(sock, accepted)
                return state(sock)

    def really(_: KernelSocket, accepted: socket.socket) -> None:
        reset_when_closed(accepted)
        accepted.close()

    assert after(lambda sock, _: abandoned.reset(sock)) == after(really)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    "fault",
    [{"mode": "reset"}, {"mode": "status"}, {"mode": "reset", "stream": "upstream"}],
    ids=["reset", "replaced", "reset in sending"],
)
def test_who_looks_as_a_fault_has_put_one_there_finds_no_new_connection(
    fault: dict[str, Any],
    inject: Inject,
    trust: Trust,
    monkeypatch: pytest.MonkeyPatch,
    *,
    tls: bool,
) -> None:
    tables: list[ConnectionTable] = []
    found: list[tuple[TcpConnection | None, TcpConnection | None]] = []
    opened, put = ConnectionTable.opened, abandoned.put_abandoned

    def opened_in(table: ConnectionTable, sock: socket.socket, address: Any) -> Any:
        tables.append(table)
        return opened(table, sock, address)

    def put_and_look(sock: socket.socket, *, accepted: bool) -> None:
        put(sock, accepted=accepted)
        found.append((tables[-1].known(sock), tables[-1].at(sock.fileno())))

    monkeypatch.setattr(ConnectionTable, "opened", opened_in)
    monkeypatch.setattr(effects, "put_abandoned", put_and_look)
    with (
        serve(trust.over_tls(silent) if tls else silent) as port,
        inject("network_failure", rate=1, **fault),
        contextlib.suppress(OSError),
        contextlib.ExitStack() as stack,
    ):
        sock = stack.enter_context(socket.create_connection((HOST, port)))
        if tls:  # and may be reset in its handshake
            wrapped = trust.client.wrap_socket(sock, server_hostname=HOST)
            sock = stack.enter_context(wrapped)
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while sock.recv(1 << 16):
            pass
    assert found
    assert all(there in {known, None} for known, there in found)
