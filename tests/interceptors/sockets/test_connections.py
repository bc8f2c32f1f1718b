"""Which sockets pass straight through the interceptor, and until when."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import socket
import threading

from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from pytest_resilience.chaos.descriptors import open_descriptors
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.parsing.http_requests import RequestReader
from pytest_resilience.diagnosis import never_fired
from pytest_resilience.interceptors.sockets import abandoned
from pytest_resilience.interceptors.sockets import emulated_socketpairs
from pytest_resilience.interceptors.sockets import socket_classes
from pytest_resilience.interceptors.sockets.abandoned import kept_while_replaced
from pytest_resilience.interceptors.sockets.abandoned import put_abandoned
from pytest_resilience.interceptors.sockets.connections import ConnectionTable
from pytest_resilience.interceptors.sockets.peer_names import ForwardProxies
from pytest_resilience.interceptors.sockets.peer_names import HostNames
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection
from tests.hostile_objects import Prickly


ELSEWHERE = "elsewhere.example"
HERE = "127.0.0.1:*"


def aimed_at(target: str) -> ChaosExperiment:
    return ChaosExperiment("reset", "network_failure", mode="reset", rate=1, target=target)


@pytest.fixture
def engine() -> Engine:
    return Engine(lambda engine: [])


@pytest.fixture
def table(engine: Engine) -> ConnectionTable:
    return ConnectionTable(engine, HostNames())


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def connect(table: ConnectionTable, listener: socket.socket) -> socket.socket:
    client = socket.socket()
    connection = table.opened(client, listener.getsockname())
    assert connection is not None
    client.connect(listener.getsockname())
    table.connected(connection, client)
    if connection in table.proxies:
        table.sends(client, connection, b"hello")  # to no proxy, which asks for somebody else
    return client


def test_a_connection_passes_while_every_experiment_is_aimed_elsewhere(
    engine: Engine, table: ConnectionTable, listener: socket.socket
) -> None:
    elsewhere = engine.start(aimed_at(ELSEWHERE), seed=1)
    with connect(table, listener) as client:
        assert id(client) in table.passing
        here = engine.start(aimed_at(HERE), seed=1)
        table.refresh()
        assert id(client) not in table.passing
        connection = table.of(client, RECEIVE)
        assert connection is not None
        assert not connection.untargeted
        assert id(client) not in table.passing
        here.stop()
        table.refresh()
        assert table.of(client, SEND) is connection
        assert id(client) in table.passing
    assert never_fired(elsewhere).seen


@pytest.mark.parametrize("kind", [RECEIVE, SEND])
def test_it_knows_nothing_of_an_odd_object_nor_of_any_while_it_is_closed(
    engine: Engine, table: ConnectionTable, listener: socket.socket, kind: str
) -> None:
    engine.start(aimed_at(HERE), seed=1)
    with socket.create_connection(listener.getsockname()) as client:
        assert table.of(Prickly(), kind) is None  # type: ignore[arg-type]
        table.close()
        assert table.of(client, kind) is None
        table.open()
        connection = table.of(client, kind)
        assert connection is not None
        assert not connection.untargeted


def test_what_has_become_a_target_passes_no_more(
    engine: Engine, table: ConnectionTable, listener: socket.socket
) -> None:
    """As where the names that it has are known only now."""
    with closing(connect(table, listener)) as client:
        engine.start(aimed_at(HERE), seed=1)
        table.let_pass(client)
        connection = table.known(client)
        assert connection is not None
        connection.stale = True
        assert table.of(client, RECEIVE) is connection
        assert not connection.untargeted
        assert id(client) not in table.passing


def test_nothing_passes_about_which_the_experiments_change_just_then(
    engine: Engine, table: ConnectionTable, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would pass until they change again, in TLS of a loop as well."""
    other = threading.Thread(target=table.refresh)

    def contains(_: object, connection: object) -> bool:
        if not other.ident:
            other.start()
            other.join(0.1)  # it waits for who decides
        return False

    with socket.socket() as client:
        connection = table.opened(client, listener.getsockname())
        assert connection is not None
        client.connect(listener.getsockname())
        table.connected(connection, client)
        monkeypatch.setattr(ForwardProxies, "__contains__", contains)
        table.receives(client, connection)
        other.join()
        assert connection.stale
        assert id(client) not in table.passing


def test_what_a_server_accepted_passes_whatever_is_active(
    engine: Engine, table: ConnectionTable, listener: socket.socket
) -> None:
    engine.start(aimed_at(HERE), seed=1)
    with connect(table, listener), listener.accept()[0] as accepted:
        table.accepted(accepted.fileno(), listener)
        for _ in range(2):
            connection = table.of(accepted, RECEIVE)
            assert connection is not None
            assert connection.untargeted
            assert id(accepted) in table.passing
            table.refresh()


def test_what_is_no_tcp_passes(engine: Engine, table: ConnectionTable) -> None:
    engine.start(aimed_at("*"), seed=1)
    one, other = socket.socketpair()
    with one, other, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        assert table.of(one, SEND) is None
        assert id(one) in table.passing
        assert table.of(datagrams, SEND) is None
        assert id(datagrams) not in table.passing  # it has many peers


def test_a_socket_that_tries_another_peer_is_looked_at_again(
    engine: Engine, table: ConnectionTable, listener: socket.socket
) -> None:
    port = listener.getsockname()[1]
    engine.start(aimed_at(f"127.0.0.1:{port}"), seed=1)
    with socket.socket() as client:
        first = table.opened(client, ("127.0.0.1", 9))  # refused, and tried again elsewhere
        assert first is not None
        table.sends(client, first, b"hello")
        assert id(client) in table.passing
        table.opened(client, listener.getsockname())
        assert id(client) not in table.passing


def test_who_may_be_a_proxy_is_looked_at_until_something_is_sent(
    engine: Engine, table: ConnectionTable, listener: socket.socket
) -> None:
    engine.start(aimed_at("shop.internal:443"), seed=1)
    with socket.socket() as client, socket.socket() as other:
        to_proxy = table.opened(client, listener.getsockname())
        to_server = table.opened(other, listener.getsockname())
        assert to_proxy is not None
        assert to_server is not None
        table.receives(other, to_server)
        table.sends(client, to_proxy, b"CONNECT shop.internal:443 HTTP/1.1\r\n\r\n")
        table.receives(client, to_proxy)
        assert list(table.passing) == [id(other)]
        assert to_proxy.untargeted
        table.sends(client, to_proxy, b"hello")
        assert not to_proxy.untargeted


def test_a_connection_may_be_opened_while_the_experiments_change(
    table: ConnectionTable, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(connect(table, listener))
        # Another thread's, just then.
        monkeypatch.setattr(
            RequestReader, "look_away", lambda _: stack.enter_context(connect(table, listener))
        )
        table.refresh()


def test_a_socket_leaves_when_it_dies(
    engine: Engine, table: ConnectionTable, listener: socket.socket
) -> None:
    engine.start(aimed_at(ELSEWHERE), seed=1)
    with closing(connect(table, listener)) as client:
        assert list(table.passing) == [id(client)]
    del client
    gc.collect()
    assert not table.passing


@pytest.mark.parametrize("told", [True, False])
def test_a_descriptor_is_no_target_any_more_when_it_is_closed(
    engine: Engine, table: ConnectionTable, listener: socket.socket, *, told: bool
) -> None:
    engine.start(aimed_at(HERE), seed=1)
    with closing(connect(table, listener)) as client, closing(connect(table, listener)) as other:
        assert table.targeted.keys() == {client.fileno(), other.fileno()}
        if told:
            table.closing(client)
            assert table.targeted.keys() == {other.fileno()}
        client.close()
        table.refresh()
        assert table.targeted.keys() == {other.fileno()}


def test_nothing_is_kept_when_interception_ends(
    engine: Engine, table: ConnectionTable, listener: socket.socket
) -> None:
    engine.start(aimed_at(ELSEWHERE), seed=1)
    with connect(table, listener):
        table.forget()
        assert not table.passing


def test_the_new_owner_of_a_connection_is_looked_at(
    engine: Engine, table: ConnectionTable, listener: socket.socket
) -> None:
    engine.start(aimed_at(ELSEWHERE), seed=1)
    old = connect(table, listener)
    with socket.socket(fileno=old.detach()) as new:
        assert id(new) not in table.passing
        connection = table.of(new, SEND)
        assert connection is not None
        assert connection.owner() is new
        assert id(new) in table.passing


@pytest.mark.parametrize("default", [None, 5.0])
def test_asking_who_listens_changes_nothing(listener: socket.socket, default: float | None) -> None:
    one, other = socket.socketpair()
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(default)
    try:
        ports = socket_classes.listening_ports()
    finally:
        socket.setdefaulttimeout(previous)
    assert listener.getsockname()[1] in ports
    with one, other:
        assert os.get_blocking(one.fileno())
        one.sendall(b"x")
        assert other.recv(1) == b"x"
    with socket.create_connection(listener.getsockname()) as client:
        assert client.getsockname()[1] not in socket_classes.listening_ports()


def test_who_listens_is_found_however_many_were_closed_below(listener: socket.socket) -> None:
    below = [os.dup(listener.fileno()) for _ in range(500)]
    with socket.create_server(("127.0.0.1", 0)) as above:
        for each in below:
            os.close(each)
        found = socket_classes.listening_ports()
        assert {above.getsockname()[1], listener.getsockname()[1]} <= found


def test_who_listens_is_found_where_few_descriptors_may_be_open(listener: socket.socket) -> None:
    """Fewer than are asked for at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        assert listener.getsockname()[1] in socket_classes.listening_ports()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_who_has_opened_a_connection_is_found_out_once(
    engine: Engine, table: ConnectionTable, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[None] = []

    def listening() -> frozenset[int]:
        times.append(None)
        return frozenset({listener.getsockname()[1]})

    monkeypatch.setattr(emulated_socketpairs, "listening_ports", listening)
    engine.start(aimed_at(HERE), seed=1)
    with socket.create_connection(listener.getsockname()) as client, listener.accept()[0] as server:
        for _ in range(2):
            sides = [table.of(client, SEND), table.of(server, SEND)]
            assert [each.operation(RECEIVE).tcp.accepted for each in sides if each] == [False, True]
            table.forget()  # as between two tests
    assert len(times) == 1


def test_who_has_just_connected_is_left_to_who_waits_for_that(
    table: ConnectionTable, listener: socket.socket
) -> None:
    """Another thread that looks at all descriptors meanwhile takes it for none of before."""
    with socket.socket() as client:
        connection = table.opened(client, listener.getsockname())
        assert connection is not None
        client.connect(listener.getsockname())
        assert table.at(client.fileno()) is None
        table.connected(connection, client)
        assert table.at(client.fileno()) is connection
        assert table.of(client, SEND) is connection


def test_one_that_is_replaced_by_an_ended_one_is_still_the_same_to_who_looks_meanwhile(
    table: ConnectionTable, listener: socket.socket
) -> None:
    with connect(table, listener) as client:
        connection = table.at(client.fileno())
        assert connection is not None
        with kept_while_replaced(connection, client):
            put_abandoned(client, accepted=True)
            assert table.at(client.fileno()) is connection
        assert table.at(client.fileno()) is connection


@pytest.mark.parametrize("accepted", [False, True])
def test_none_of_what_is_made_to_be_put_in_the_place_of_another_is_known(
    table: ConnectionTable,
    listener: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    accepted: bool,
) -> None:
    """Its numbers may be those of somebody who was seen to wait just before, and was closed."""
    looks: list[list[TcpConnection | None]] = []
    close, before = os.close, open_descriptors()

    def look() -> None:
        looks.append([table.at(each) for each in sorted(open_descriptors() - before)])

    class Poll:
        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *_: look()

    def close_later(descriptor: int) -> None:
        look()
        close(descriptor)

    with connect(table, listener) as client:
        table.forget()
        assert table.at(client.fileno())  # and who listens was looked up for it
        before = open_descriptors()
        monkeypatch.setattr(abandoned, "below", lambda _: Poll)
        monkeypatch.setattr(abandoned, "_duplicate", lambda: None)
        monkeypatch.setattr(os, "close", close_later)
        put_abandoned(client, accepted=accepted)
        monkeypatch.undo()
        assert {len(each) for each in looks} == ({1, 3} if accepted else {1})
        assert {each for found in looks for each in found} == {None}


def test_two_threads_that_are_first_at_the_same_time_see_one_connection(
    engine: Engine, table: ConnectionTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.start(aimed_at(HERE), seed=1)
    together = threading.Barrier(2)

    def listening() -> frozenset[int]:
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(0.2)  # as long as it takes the other one to come in, if it can
        return frozenset()

    monkeypatch.setattr(emulated_socketpairs, "listening_ports", listening)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        closing(socket.create_connection(listener.getsockname())) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        first, second = pool.map(lambda kind: table.of(client, kind), (SEND, RECEIVE))
    assert first is second is not None


def test_a_connection_that_takes_the_descriptor_meanwhile_stays_a_target(
    engine: Engine, table: ConnectionTable, listener: socket.socket
) -> None:
    engine.start(aimed_at(HERE), seed=1)
    table.refresh()
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(connect(table, listener))
        descriptor = client.fileno()
        (closed,) = table.targeted.values()

        def another_takes_its_place() -> None:
            client.close()
            stack.enter_context(connect(table, listener))

        closed.owner = another_takes_its_place
        assert table.targeted_at(descriptor) is None
        found = table.targeted_at(descriptor)
        assert found is not None
        assert found is not closed
