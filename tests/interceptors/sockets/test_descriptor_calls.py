"""What is done by descriptor is a receive or a send of its connection like any other."""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from multiprocessing.connection import Client
from multiprocessing.connection import Connection
from typing import Any
from typing import BinaryIO

import pytest

from tests.clocks import MovableClock
from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Handler
from tests.interceptors.conftest import outcome
from tests.interceptors.conftest import reset as reset_when_asked
from tests.interceptors.conftest import serve
from tests.interceptors.sockets.test_send_faults import LIMIT
from tests.interceptors.sockets.test_send_faults import UPLOAD
from tests.interceptors.sockets.test_send_faults import UPSTREAM
from tests.interceptors.sockets.test_send_faults import Sink
from tests.interceptors.sockets.test_send_faults import reset
from tests.resets import reset_when_closed
from tests.waiting import PATIENCE


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


def closing_in_good_order(connection: socket.socket) -> None:
    """Though there is more to read."""
    connection.shutdown(socket.SHUT_RDWR)


def by_send(client: socket.socket, file: BinaryIO) -> int:
    return client.send(file.read())


def by_one_write(client: socket.socket, file: BinaryIO) -> int:
    return os.write(client.fileno(), file.read())


def by_one_os_sendfile(client: socket.socket, file: BinaryIO) -> int:
    return os.sendfile(client.fileno(), file.fileno(), 0, len(UPLOAD))


@pytest.mark.parametrize(
    "way",
    [by_send, by_one_write, by_one_os_sendfile, by_sendfile_that_blocks],
    ids=lambda each: each.__name__,
)
@pytest.mark.parametrize(
    ("end", "real"), [("reset", reset), ("eof", closing_in_good_order)], ids=["reset", "close"]
)
def test_each_call_after_the_cut_meets_what_it_really_meets(
    way: Callable[[socket.socket, BinaryIO], int | None], end: str, real: Any, inject: Inject
) -> None:
    """The first may have sent some. What is told first, and to whom, is the kernel's business."""

    def met_by_each(port: int) -> list[str]:
        with socket.create_connection((HOST, port)) as client, file_of(UPLOAD) as file:

            def upload() -> str:
                file.seek(0)
                sent = way(client, file)
                return "some" if sent is not None and sent < len(UPLOAD) else "all"

            return [outcome(upload) for _ in range(3)]  # the first as long as nobody has gone

    with serve(Sink(LIMIT, end=real)) as port:
        expected = met_by_each(port)
    with (
        serve(Sink()) as port,
        inject("network_failure", after_bytes=LIMIT, end=end, **UPSTREAM),
    ):
        assert met_by_each(port) == expected


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


# Each receives what there is on a connection, which it knows by its number only.


def by_read(number: int, size: int) -> bytes:
    return os.read(number, size)


def by_readv(number: int, size: int) -> bytes:
    first, second = bytearray(1), bytearray(size - 1)
    found = os.readv(number, [first, second])
    return bytes(first + second)[:found]


def by_a_pipe(number: int, size: int) -> bytes:
    """As managers and listeners of multiprocessing do, which say how long a message is."""
    pipe = Connection(os.dup(number), writable=False)
    try:
        return pipe.recv_bytes()
    except EOFError:
        return b""
    finally:
        pipe.close()


Read = Callable[[int, int], bytes]
every_read = pytest.mark.parametrize(
    "read", [by_read, by_readv, by_a_pipe], ids=lambda each: each.__name__
)
MESSAGE = b"\0\0\0\5hello"  # of multiprocessing, which a line is as well


def closing(connection: socket.socket) -> None:
    connection.recv(100)


def half(connection: socket.socket) -> None:
    connection.sendall(connection.recv(100)[:6])


def half_then_reset(connection: socket.socket) -> None:
    half(connection)
    client_has_it.wait(10)
    reset_when_closed(connection)


client_has_it = threading.Event()


def asked(read: Read, port: int, *, before: contextlib.AbstractContextManager[Any]) -> list[str]:
    """What is received in answer, on a connection that nobody has used before the experiment."""
    client_has_it.clear()
    with socket.create_connection((HOST, port)) as client:
        number = client.fileno()
        with before:
            os.write(number, MESSAGE)
            if read is by_a_pipe:  # which reads until it has all or meets the end
                client_has_it.set()
            met = [outcome(lambda: read(number, 100))]
            client_has_it.set()
            if read is not by_a_pipe:
                met += [outcome(lambda: read(number, 100)) for _ in range(2)]
            return met


@every_read
@pytest.mark.parametrize(
    ("real", "given"),
    [
        (reset_when_asked, {"mode": "reset"}),
        (closing, {"mode": "close"}),
        (half, {"mode": "truncate", "after_bytes": 6}),
        (half_then_reset, {"mode": "truncate", "after_bytes": 6, "end": "reset"}),
    ],
    ids=["reset", "close", "cut off", "cut off by reset"],
)
def test_a_receive_meets_what_it_meets_with_such_a_server(
    read: Read, real: Handler, given: dict[str, Any], echo_port: int, inject: Inject
) -> None:
    with serve(real) as port:
        expected = asked(read, port, before=contextlib.nullcontext())
    assert asked(read, echo_port, before=inject("network_failure", **given)) == expected


@every_read
@pytest.mark.parametrize(
    ("kind", "given"),
    [("network_latency", {"delay": 0.05}), ("network_latency", {"bandwidth": "100B"})],
    ids=["late", "slow"],
)
def test_a_receive_is_late_when_it_is(
    read: Read, kind: str, given: dict[str, Any], echo_port: int, inject: Inject
) -> None:
    with socket.create_connection((HOST, echo_port)) as client, inject(kind, **given) as late:
        started = time.monotonic()
        client.sendall(MESSAGE)
        received = b""
        while len(received) < 5:
            received += read(client.fileno(), 100)
        assert time.monotonic() - started >= 0.05
    assert (late.matched, late.hits) == (1, 1)


@pytest.mark.parametrize("before", [True, False])
def test_who_waits_for_a_silent_peer_hears_nothing(
    echo_port: int, movable: MovableClock, inject_by: Inject, *, before: bool
) -> None:
    """Nor does who polls, as `Connection.poll` does, by a number that nobody has used before."""
    client = socket.create_connection((HOST, echo_port))
    with (
        contextlib.closing(Connection(client.detach())) as pipe,
        inject_by("network_failure", mode="timeout", duration="1h") as silence,
    ):
        if before:
            assert not pipe.poll(0)
        pipe.send_bytes(b"hello")
        assert not pipe.poll(0.05)
        movable.advance(3600 - 0.2)
        with pytest.raises(TimeoutError):
            pipe.recv_bytes()
    assert (silence.matched, silence.hits) == (1, 1)


def test_who_does_not_block_is_told_of_nothing_before_it_is_due(
    echo_port: int, inject: Inject
) -> None:
    with (
        socket.create_connection((HOST, echo_port), timeout=10) as client,
        inject("network_latency", delay=0.05) as late,
    ):
        started, received = time.monotonic(), b""
        os.write(client.fileno(), b"hello")
        while not received:
            assert time.monotonic() < started + PATIENCE
            with contextlib.suppress(BlockingIOError):
                received = os.read(client.fileno(), 100)
        assert time.monotonic() - started >= 0.05
    assert received == b"hello"
    assert (late.matched, late.hits) == (1, 1)


def test_one_line_is_lost_to_who_reads_by_number(inject: Inject) -> None:
    def tell(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"milk\ntea\njuice\n")

    with (
        serve(tell) as port,
        socket.create_connection((HOST, port)) as client,
        inject("network_failure", mode="drop_message", after_items=1) as lost,
    ):
        os.write(client.fileno(), b"what?\n")
        received = b""
        while data := os.read(client.fileno(), 100):
            received += data
    assert received == b"milk\njuice\n"
    assert lost.hits == 1


LISTENER = """
from multiprocessing.connection import Listener

with Listener(("127.0.0.1", 0)) as listener:
    print(listener.address[1], flush=True)
    for _ in range(2):
        with listener.accept() as pipe:
            try:
                while True:
                    pipe.send(pipe.recv())
            except (EOFError, OSError):
                pass
"""


def test_a_client_of_multiprocessing_meets_what_a_listener_does(inject: Inject) -> None:
    """Its socket is let go of as soon as it is connected."""
    with (
        subprocess.Popen([sys.executable, "-c", LISTENER], stdout=subprocess.PIPE) as server,
        contextlib.closing(server.stdout or sys.stdin) as output,
    ):
        address = HOST, int(output.readline())
        with inject("network_latency", delay=0.05) as late, Client(address) as pipe:
            started = time.monotonic()
            pipe.send(["tea"])
            assert pipe.poll(10)
            assert time.monotonic() - started >= 0.05
            assert pipe.recv() == ["tea"]
        with inject("network_failure", mode="reset") as failure, Client(address) as pipe:
            pipe.send(["tea"])
            with pytest.raises(ConnectionResetError):
                pipe.recv()
    assert (late.matched, late.hits) == (2, 2)  # the connect as well
    assert (failure.matched, failure.hits) == (1, 1)


def test_a_first_send_by_number_is_one_on_a_connection_from_before(inject: Inject) -> None:
    sink = Sink()
    with (
        serve(sink) as port,
        socket.create_connection((HOST, port)) as client,
        inject("network_failure", mode="reset", **UPSTREAM) as failure,
    ):
        assert outcome(lambda: os.write(client.fileno(), b"tea")) == "ConnectionResetError 104"
        assert sink.over.wait(10)
    assert sink.received == 0
    assert (failure.matched, failure.hits) == (1, 1)


def test_what_gets_the_number_of_a_closed_connection_is_not_that(
    echo_port: int, inject: Inject
) -> None:
    """It gets it as that is closed: else a thread that accepts might."""
    with inject("network_failure", mode="reset") as failure, contextlib.ExitStack() as stack:
        numbers = []
        for end in os.pipe():
            client = socket.create_connection((HOST, echo_port))
            number = client.detach()
            stack.callback(os.close, number)
            os.write(number, b"hello")
            os.dup2(end, number)
            os.close(end)
            numbers.append(number)
        reader, writer = numbers
        assert os.write(writer, b"tea") == 3
        assert os.read(reader, 100) == b"tea"
    assert failure.hits == 0


def test_a_connection_that_gets_the_number_of_a_file_is_one(echo_port: int, inject: Inject) -> None:
    with inject("network_failure", mode="reset") as failure:
        reader, writer = os.pipe()
        for number in (reader, writer):
            os.set_blocking(number, False)
            with contextlib.suppress(OSError):
                os.read(number, 1)
            os.close(number)
        with socket.create_connection((HOST, echo_port)) as client:
            number = client.detach()
        assert number in {reader, writer}
        os.write(number, b"hello")
        assert outcome(lambda: os.read(number, 100)) == "ConnectionResetError 104"
        os.close(number)
    assert (failure.matched, failure.hits) == (1, 1)


def test_a_file_is_read_as_ever(inject: Inject) -> None:
    with inject("network_failure", mode="reset") as failure:
        with file_of(b"milk and tea") as file:
            assert os.read(file.fileno(), 4) == b"milk"
            assert os.readv(file.fileno(), [bytearray(100)]) == 8
            assert os.read(file.fileno(), 4) == b""
        with pytest.raises(TypeError):
            os.read("tea")  # type: ignore[call-arg, arg-type]
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.read(-1, 1)
    assert failure.matched == 0
