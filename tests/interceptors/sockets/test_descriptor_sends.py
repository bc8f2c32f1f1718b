"""What is sent by descriptor, as files are, is a send of its connection like any other."""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import socket
import tempfile
import time

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import BinaryIO

import pytest

from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import outcome
from tests.interceptors.conftest import serve
from tests.interceptors.sockets.test_send_faults import LIMIT
from tests.interceptors.sockets.test_send_faults import UPLOAD
from tests.interceptors.sockets.test_send_faults import UPSTREAM
from tests.interceptors.sockets.test_send_faults import Sink
from tests.interceptors.sockets.test_send_faults import reset


# Each sends a file over an open connection, of which it knows nothing but that.


def by_sendfile(client: socket.socket, file: BinaryIO) -> None:
    client.sendfile(file)


def by_sendfile_that_blocks(client: socket.socket, file: BinaryIO) -> None:
    client.settimeout(None)
    client.sendfile(file)


def by_os_sendfile(client: socket.socket, file: BinaryIO) -> None:
    client.settimeout(None)
    size, sent = os.fstat(file.fileno()).st_size, 0
    while sent < size:
        sent += os.sendfile(client.fileno(), file.fileno(), sent, size - sent)


def by_selector(client: socket.socket, file: BinaryIO) -> None:
    """As servers do, from where the file is."""
    client.setblocking(False)
    size, sent = os.fstat(file.fileno()).st_size, 0
    with selectors.DefaultSelector() as selector:
        selector.register(client, selectors.EVENT_WRITE)
        while sent < size:
            assert selector.select(10)
            with contextlib.suppress(BlockingIOError):
                sent += os.sendfile(
                    out_fd=client.fileno(), in_fd=file.fileno(), offset=None, count=1 << 22
                )
                assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == sent


def by_write(client: socket.socket, file: BinaryIO) -> None:
    client.settimeout(None)
    data = memoryview(file.read())
    while data:
        data = data[os.write(client.fileno(), data) :]


def by_writev(client: socket.socket, file: BinaryIO) -> None:
    client.settimeout(None)
    data = memoryview(file.read())
    while data:
        data = data[os.writev(client.fileno(), [data[:9], data[9:]]) :]


def in_a_loop(send: Callable[[socket.socket, BinaryIO], Awaitable[object]]) -> Any:
    def upload(client: socket.socket, file: BinaryIO) -> None:
        client.setblocking(False)
        asyncio.run(asyncio.wait_for(send(client, file), 10))

    upload.__name__ = send.__name__
    return upload


@in_a_loop
async def by_sock_sendfile(client: socket.socket, file: BinaryIO) -> None:
    await asyncio.get_running_loop().sock_sendfile(client, file)


@in_a_loop
async def by_transport(client: socket.socket, file: BinaryIO) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=client.dup())
    try:
        await loop.sendfile(transport, file)
    finally:
        transport.abort()


Way = Callable[[socket.socket, BinaryIO], None]
OF_SOCKETS: list[Way] = [by_sendfile, by_sendfile_that_blocks, by_sock_sendfile, by_transport]
every_way = pytest.mark.parametrize(
    "way",
    [*OF_SOCKETS, by_os_sendfile, by_selector, by_write, by_writev],
    ids=lambda each: each.__name__,
)


@contextlib.contextmanager
def file_of(content: bytes) -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        yield file


def met(way: Way, port: int, content: bytes) -> str:
    """Whether it was told that the connection has ended: how depends on who has come first."""
    with (
        socket.create_connection((HOST, port), timeout=10) as client,
        file_of(content) as file,
    ):
        try:
            way(client, file)
        except ConnectionError:
            return "ended"
    return "sent"


@every_way
def test_it_is_reset_in_the_middle(way: Way, inject: Inject) -> None:
    with serve(Sink(LIMIT, end=reset)) as port:
        real = met(way, port, UPLOAD)
    sink = Sink()
    with (
        serve(sink) as port,
        inject("network_failure", after_bytes=LIMIT, end="reset", **UPSTREAM) as cut,
    ):
        assert met(way, port, UPLOAD) == real == "ended"
        assert sink.over.wait(10)
    assert sink.received == LIMIT
    assert (cut.matched, cut.hits) == (1, 1)


@every_way
@pytest.mark.parametrize("mode", ["reset", "close"])
def test_nothing_arrives_where_the_peer_has_gone(way: Way, mode: str, inject: Inject) -> None:
    sink = Sink()
    with serve(sink) as port, inject("network_failure", mode=mode, **UPSTREAM) as gone:
        assert met(way, port, UPLOAD) == "ended"
        assert sink.over.wait(10)
    assert sink.received == 0
    assert (gone.matched, gone.hits) == (1, 1)


@pytest.mark.parametrize("way", OF_SOCKETS, ids=lambda each: each.__name__)
def test_it_goes_over_a_thin_line_from_a_connection_that_was_there_before(
    way: Way, inject: Inject
) -> None:
    """By its number alone it would not be known."""
    sink = Sink()
    with (
        serve(sink) as port,
        socket.create_connection((HOST, port), timeout=10) as client,
        file_of(bytes(5000)) as file,
        inject("network_latency", bandwidth="100kB", stream="upstream") as thin,
    ):
        started = time.monotonic()
        way(client, file)
        assert time.monotonic() - started >= 0.04
    assert sink.over.wait(10)
    assert sink.received == 5000
    assert thin.hits == 1


@every_way
def test_its_answer_is_late_when_it_is(way: Way, echo_port: int, inject: Inject) -> None:
    with (
        inject("network_latency", delay=0.05, stream="upstream") as late,
        socket.create_connection((HOST, echo_port), timeout=10) as client,
        file_of(b"hello") as file,
    ):
        started = time.monotonic()
        way(client, file)
        client.settimeout(10)
        assert client.recv(100) == b"hello"
        assert time.monotonic() - started >= 0.05
    assert (late.matched, late.hits) == (1, 1)


@pytest.mark.parametrize(
    "given", [{"mode": "timeout", **UPSTREAM}, {"mode": "partition", "rate": 1}], ids=str
)
def test_it_meets_the_timeout_where_nothing_gets_through(
    given: dict[str, Any], inject: Inject
) -> None:
    sink = Sink()
    with (
        serve(sink) as port,
        socket.create_connection((HOST, port), timeout=0.05) as client,
        file_of(UPLOAD) as file,
        inject("network_failure", **given) as silence,
    ):
        assert outcome(lambda: client.sendfile(file)) == "TimeoutError None"
        with pytest.raises(BlockingIOError):
            os.sendfile(client.fileno(), file.fileno(), 0, 1)
        with pytest.raises(BlockingIOError):
            os.write(client.fileno(), b"tea")
        assert sink.received == 0
    assert silence.hits >= 1


def test_what_is_kept_of_it_during_a_partition_arrives_afterwards(inject: Inject) -> None:
    sink = Sink()
    with serve(sink) as port, socket.create_connection((HOST, port), timeout=10) as client:
        with file_of(b"milk and tea") as file, inject("network_failure", mode="partition", rate=1):
            client.sendall(b"hot ")
            assert os.sendfile(client.fileno(), file.fileno(), None, 4) == 4
            assert os.sendfile(client.fileno(), file.fileno(), None, 99) == 8
            assert os.sendfile(client.fileno(), file.fileno(), None, 99) == 0
            assert os.write(client.fileno(), b", please") == 8
        client.close()
        assert sink.over.wait(10)
    assert sink.received == len(b"hot milk and tea, please")


def test_a_file_is_written_and_copied_as_ever(inject: Inject, tmp_path: Any) -> None:
    with inject("network_failure", mode="reset", **UPSTREAM) as failure:
        with file_of(b"tea") as source, (tmp_path / "copy").open("wb") as copy:
            assert os.sendfile(copy.fileno(), source.fileno(), 0, 9) == 3
            assert os.write(copy.fileno(), b"!") == 1
        with pytest.raises(TypeError):
            os.write("tea")  # type: ignore[call-arg, arg-type]
        with pytest.raises(TypeError):
            os.sendfile()  # type: ignore[call-arg]
    assert (tmp_path / "copy").read_bytes() == b"tea!"
    assert failure.matched == 0
