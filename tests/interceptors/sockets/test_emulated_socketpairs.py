"""A client's own pair of connected sockets is no network; a test's own server on loopback is."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import threading

from collections.abc import Callable
from collections.abc import Coroutine
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
import trio

from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import echo
from tests.interceptors.conftest import serve


Pair = tuple[socket.socket, socket.socket]
MODES = ["reset", "refuse", "timeout", "partition"]


def as_clients_do() -> Pair:
    """As paho-mqtt and others have it."""
    listener = socket.socket()
    listener.bind((HOST, 0))
    listener.listen(1)
    one = socket.socket()
    one.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        one.connect(listener.getsockname())
    other, _ = listener.accept()
    one.setblocking(True)
    listener.close()
    return one, other


def as_python_does() -> Pair:
    """As `socket.socketpair` where the system has none, of Python 3.11 to 3.13."""
    listener = socket.socket()
    try:
        listener.bind((HOST, 0))
        listener.listen()
        one = socket.socket()
        try:
            one.connect(listener.getsockname())
            other, _ = listener.accept()
        except BaseException:
            one.close()
            raise
    finally:
        listener.close()
    return one, other


def in_either_of_two_ways(*, at_once: bool = False) -> Pair:
    listener = socket.create_server((HOST, 0))
    one = socket.socket()
    if at_once:
        one.connect(listener.getsockname())
        other, _ = listener.accept()
    else:
        one.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            one.connect(listener.getsockname())
        other, _ = listener.accept()
        one.setblocking(True)
    listener.close()
    return one, other


class Waker:
    """Keeps what it listens with, too."""

    def __init__(self) -> None:
        self.listener = socket.create_server((HOST, 0))
        self.one = socket.create_connection(self.listener.getsockname())
        self.other, _ = self.listener.accept()
        self.listener.close()


def as_a_class_does() -> Pair:
    waker = Waker()
    return waker.one, waker.other


def within_a_block() -> Pair:
    with socket.create_server((HOST, 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    return one, other


def in_several_steps() -> Pair:
    listener = socket.create_server((HOST, 0))

    def connect() -> socket.socket:
        return socket.create_connection(listener.getsockname())

    def accept() -> socket.socket:
        with listener:
            return listener.accept()[0]

    one = connect()
    return one, accept()


def in_a_loop() -> Pair:
    async def make() -> Pair:
        loop = asyncio.get_running_loop()
        with socket.create_server((HOST, 0)) as listener, contextlib.ExitStack() as undone:
            listener.setblocking(False)
            one = undone.enter_context(socket.socket())
            one.setblocking(False)
            await loop.sock_connect(one, listener.getsockname())
            other, _ = await loop.sock_accept(listener)
            undone.pop_all()
        return one, other

    return asyncio.run(make())


def in_trio() -> Pair:
    async def make() -> Pair:
        listener, one = trio.socket.socket(), trio.socket.socket()
        await listener.bind((HOST, 0))
        listener.listen()
        await one.connect(listener.getsockname())
        other, _ = await listener.accept()
        listener.close()
        return socket.socket(fileno=one.detach()), socket.socket(fileno=other.detach())

    return trio.run(make)


def in_a_gather() -> Pair:
    async def make() -> Pair:
        loop = asyncio.get_running_loop()
        with socket.create_server((HOST, 0)) as listener, contextlib.ExitStack() as undone:
            listener.setblocking(False)
            one = undone.enter_context(socket.socket())
            one.setblocking(False)
            (other, _), _ = await asyncio.gather(
                loop.sock_accept(listener), loop.sock_connect(one, listener.getsockname())
            )
            undone.pop_all()
        return one, other

    return asyncio.run(make())


def in_a_task_group() -> Pair:
    async def make() -> Pair:
        loop = asyncio.get_running_loop()
        with socket.create_server((HOST, 0)) as listener:
            listener.setblocking(False)
            one = socket.socket()
            one.setblocking(False)
            async with asyncio.TaskGroup() as group:
                accepted = group.create_task(loop.sock_accept(listener))
                group.create_task(loop.sock_connect(one, listener.getsockname()))
        return one, accepted.result()[0]

    return asyncio.run(make())


def in_a_nursery() -> Pair:
    async def make() -> Pair:
        listener, one = trio.socket.socket(), trio.socket.socket()
        await listener.bind((HOST, 0))
        listener.listen()
        others = []

        async def accept() -> None:
            others.append((await listener.accept())[0])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            nursery.start_soon(one.connect, listener.getsockname())
        listener.close()
        return socket.socket(fileno=one.detach()), socket.socket(fileno=others[0].detach())

    return trio.run(make)


def in_a_task_group_of_anyio() -> Pair:
    async def make() -> Pair:
        loop = asyncio.get_running_loop()
        others = []
        with socket.create_server((HOST, 0)) as listener:
            listener.setblocking(False)
            one = socket.socket()
            one.setblocking(False)

            async def accept() -> None:
                others.append((await loop.sock_accept(listener))[0])

            async with anyio.create_task_group() as group:
                group.start_soon(accept)
                group.start_soon(loop.sock_connect, one, listener.getsockname())
        return one, others[0]

    return anyio.run(make)


PAIRS = [
    as_clients_do, as_python_does, in_either_of_two_ways, as_a_class_does, within_a_block,
    in_a_loop, in_trio, in_a_gather, in_a_task_group, in_a_nursery, in_a_task_group_of_anyio,
]  # fmt: skip


@contextlib.contextmanager
def opened(make: Callable[[], Pair]) -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        pair = make()
        for end in pair:
            stack.enter_context(end).settimeout(10)
        yield pair


def wake(pair: Pair) -> None:
    for one, other in (pair, pair[::-1]):
        one.sendall(b"x")
        assert other.recv(1) == b"x"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", PAIRS)
def test_a_pair_is_left_alone(make: Callable[[], Pair], mode: str, inject_briefly: Inject) -> None:
    with inject_briefly("network_failure", rate=1, mode=mode) as failure, opened(make) as pair:
        wake(pair)
    assert failure.matched == 0


@pytest.mark.parametrize("make", [as_clients_do, as_python_does, in_several_steps])
def test_one_that_was_there_before_is_left_alone_too(
    make: Callable[[], Pair], inject: Inject
) -> None:
    with opened(make) as pair, inject("network_failure", mode="reset", rate=1) as failure:
        wake(pair)
        wake(pair)
    assert failure.matched == 0


def test_one_whose_making_is_seen_only_in_the_end_is_known_from_then_on(inject: Inject) -> None:
    """Its connect can be refused: nothing tells before that nobody else will be connected."""
    with (
        inject("network_failure", mode="reset", rate=1) as failure,
        inject("network_latency", delay="1ms") as latency,
        opened(in_several_steps) as pair,
    ):
        wake(pair)
    assert (failure.matched, latency.matched) == (0, 1)


def detached(sock: socket.socket) -> socket.socket:
    return socket.socket(fileno=sock.detach())


def duplicated(sock: socket.socket) -> socket.socket:
    with sock:
        return sock.dup()


def under_another_number(sock: socket.socket) -> socket.socket:
    with sock:
        number = os.open(os.devnull, os.O_RDONLY)
        os.dup2(sock.fileno(), number)
        return socket.socket(fileno=number)


def before_the_other_is_accepted(move: Callable[[socket.socket], socket.socket]) -> Pair:
    listener = socket.create_server((HOST, 0))
    one = socket.socket()
    one.connect(listener.getsockname())
    one = move(one)
    other, _ = listener.accept()
    listener.close()
    return one, move(other)


def after_it_was_made(move: Callable[[socket.socket], socket.socket]) -> Pair:
    one, other = as_python_does()
    return move(one), move(other)


def of_one_end(move: Callable[[socket.socket], socket.socket]) -> Pair:
    one, other = as_clients_do()
    return one, move(other)


def seen_only_in_the_end(move: Callable[[socket.socket], socket.socket]) -> Pair:
    one, other = in_several_steps()
    return move(one), move(other)


@pytest.mark.parametrize("move", [detached, duplicated, under_another_number])
@pytest.mark.parametrize(
    "make",
    [before_the_other_is_accepted, after_it_was_made, of_one_end, seen_only_in_the_end],
)
def test_ends_that_have_another_descriptor_since_are_left_alone_too(
    make: Callable[[Callable[[socket.socket], socket.socket]], Pair],
    move: Callable[[socket.socket], socket.socket],
    inject: Inject,
) -> None:
    with (
        inject("network_failure", mode="reset", rate=1) as failure,
        opened(lambda: make(move)) as pair,
    ):
        wake(pair)
    assert failure.matched == 0


def test_so_are_those_of_a_pair_that_was_made_while_others_were_meant(inject: Inject) -> None:
    with (
        inject("network_failure", mode="reset", rate=1, target="nobody.example:1"),
        opened(lambda: after_it_was_made(duplicated)) as pair,
        inject("network_failure", mode="reset", rate=1) as failure,
    ):
        wake(pair)
    assert failure.matched == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_tests_own_server_whose_listener_stays_is_hit(mode: str, inject_briefly: Inject) -> None:
    def ask() -> None:
        listener = socket.create_server((HOST, 0))
        with listener, socket.create_connection(listener.getsockname(), timeout=10) as client:
            server, _ = listener.accept()
            with server:
                client.sendall(b"x")
                server.sendall(server.recv(1))
                assert client.recv(1) == b"x"
            listener.close()

    with inject_briefly("network_failure", rate=1, mode=mode) as failure:
        with contextlib.suppress(OSError):
            ask()
        assert failure.hits


def test_a_server_of_another_thread_is_hit_though_it_accepts_one_alone(inject: Inject) -> None:
    listener = socket.create_server((HOST, 0))

    def once() -> None:
        with listener:
            connection, _ = listener.accept()
        with contextlib.suppress(OSError):
            echo(connection)
        connection.close()

    thread = threading.Thread(target=once)
    thread.start()
    with inject("network_failure", mode="reset", rate=1) as failure:
        with socket.create_connection(listener.getsockname(), timeout=10) as client:
            client.sendall(b"x")
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        assert failure.hits == 1
    thread.join(10)


def test_who_waits_in_accept_already_is_no_client_though_the_listener_goes_then(
    inject: Inject,
) -> None:
    waiting: Callable[[socket.socket], tuple[int, object]] = socket.socket._accept  # type: ignore[attr-defined]
    listener = socket.create_server((HOST, 0))
    with inject("network_failure", mode="reset", rate=1):
        client = socket.create_connection(listener.getsockname(), timeout=10)
        with socket.socket(fileno=waiting(listener)[0]) as server:
            listener.close()
            client.close()
            assert server.recv(1) == b""


async def serve_one(listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    server, _ = await loop.sock_accept(listener)
    with server, contextlib.suppress(OSError):
        await loop.sock_sendall(server, await loop.sock_recv(server, 1))


async def beside_its_server(listener: socket.socket, one: socket.socket) -> None:
    """Which is served by a task that is not only for accepting."""
    loop = asyncio.get_running_loop()

    async def serve() -> None:
        server, _ = await loop.sock_accept(listener)
        with server:
            await loop.sock_sendall(server, await loop.sock_recv(server, 1))

    await asyncio.gather(serve(), loop.sock_connect(one, listener.getsockname()))


async def before_it_talks(listener: socket.socket, one: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    (server, _), _ = await asyncio.gather(
        loop.sock_accept(listener), loop.sock_connect(one, listener.getsockname())
    )
    with server:
        await loop.sock_sendall(one, b"x")


async def by_a_stream(listener: socket.socket, _: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    accepted, opened = await asyncio.gather(
        loop.sock_accept(listener), asyncio.open_connection(*listener.getsockname())
    )
    accepted[0].close()
    opened[1].close()


async def by_a_client_that_talks(listener: socket.socket, one: socket.socket) -> None:
    loop = asyncio.get_running_loop()

    async def ask() -> None:
        await loop.sock_connect(one, listener.getsockname())
        await loop.sock_sendall(one, b"x")

    await asyncio.gather(serve_one(listener), ask())


@pytest.mark.parametrize(
    "ask", [beside_its_server, before_it_talks, by_a_stream, by_a_client_that_talks]
)
def test_a_server_beside_its_client_in_a_gather_is_hit(
    ask: Callable[[socket.socket, socket.socket], Coroutine[Any, Any, None]], inject: Inject
) -> None:
    async def main() -> None:
        with socket.create_server((HOST, 0)) as listener, socket.socket() as one:
            listener.setblocking(False)
            one.setblocking(False)
            await asyncio.wait_for(ask(listener, one), 10)
            listener.close()

    with inject("network_failure", mode="refuse", rate=1) as failure:
        with pytest.raises(ConnectionRefusedError):
            asyncio.run(main())
        assert failure.hits


def test_many_clients_of_a_server_are_hit(inject: Inject) -> None:
    with serve(echo) as port, inject("network_failure", mode="reset", rate=1) as failure:
        for _ in range(3):
            with socket.create_connection((HOST, port), timeout=10) as client:
                client.sendall(b"x")
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
    assert failure.hits == 3


def test_a_failed_connect_is_kept_alive_by_nobody(inject: Inject) -> None:
    """To look at the locals of a frame would make a copy of them, which lives as long as it."""

    async def connect() -> OSError:
        loop = asyncio.get_running_loop()
        with pytest.raises(ConnectionRefusedError) as caught:
            await loop.create_connection(asyncio.Protocol, HOST, port)
        return caught.value

    with socket.socket() as nobody:
        nobody.bind((HOST, 0))
        port = nobody.getsockname()[1]
        with inject("network_latency", delay=1, target="127.0.0.9:9"):
            error = asyncio.run(connect())
    assert not [each for each in gc.get_referrers(error) if isinstance(each, list)]
