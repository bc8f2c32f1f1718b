"""What stands between a transport and its protocol, and what the protocol is told."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time

from collections.abc import AsyncIterator
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.active_experiment import Hit
from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.faults.network import Latency
from pytest_resilience.chaos.faults.network import Partition
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.interceptors.sockets import delaying_protocol
from pytest_resilience.interceptors.sockets.delaying_protocol import DelayingProtocol
from tests.another_fault import AN_OPERATION
from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import reset
from tests.interceptors.conftest import serve
from tests.interceptors.conftest import silent
from tests.resets import reset_when_closed


PATIENCE = 30  # seconds
DELAY = 0.05


class Plain(asyncio.Protocol):
    """Notes what it is told."""

    __slots__ = ("lost", "told")

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.told.append(data)

    def eof_received(self) -> None:
        self.told.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append(type(exc))
        self.lost.set_result(None)


class Buffered(asyncio.BufferedProtocol):
    """The same, with a buffer of its own of three bytes."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._buffer = bytearray(3)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.told.append(bytes(self._buffer[:nbytes]))

    def eof_received(self) -> None:
        self.told.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append(type(exc))
        self.lost.set_result(None)


def run(story: Any) -> Any:
    return asyncio.run(asyncio.wait_for(story, PATIENCE))


@contextlib.asynccontextmanager
async def connected(
    port: int, make: Callable[[], Any] = Plain
) -> AsyncIterator[tuple[asyncio.Transport, Any]]:
    transport, protocol = await asyncio.get_running_loop().create_connection(make, HOST, port)
    try:
        yield transport, protocol
    finally:
        transport.abort()
        await protocol.lost


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  # protocols note, and tell nobody
        await asyncio.sleep(0.001)


def say_and_go(connection: socket.socket) -> None:
    connection.recv(100)
    for part in (b"ab", b"cd", b"ef"):
        connection.sendall(part)


@pytest.mark.parametrize("make", [Plain, Buffered])
def test_everything_comes_late_and_in_its_order(make: Callable[[], Any], inject: Inject) -> None:
    async def story(port: int) -> None:
        async with connected(port, make) as (transport, protocol):
            started = time.monotonic()
            transport.write(b"x")
            await protocol.lost
            assert time.monotonic() - started >= DELAY
            *data, end, lost = protocol.told
            assert b"".join(data) == b"abcdef"
            assert (end, lost) == ("eof", type(None))

    with serve(say_and_go) as port, inject("network_latency", delay=DELAY) as latency:
        run(story(port))
    assert latency.matched == 2


def test_an_answer_to_the_second_is_not_earlier_than_the_first(
    echo_port: int, inject: Inject
) -> None:
    """Two requests on their way at once, each with a delay of its own."""

    async def story() -> None:
        async with connected(echo_port) as (transport, protocol):
            with inject("network_latency", delay=0.2) as latency:
                transport.write(b"first")
                await until(lambda: latency.matched == 1)
                started = time.monotonic()
                transport.write(b"second")
                await until(lambda: latency.matched == 2)
                assert protocol.told == []
                await until(lambda: len(protocol.told) == 2)
                assert time.monotonic() - started >= 0.2
            assert protocol.told == [b"first", b"second"]

    run(story())


def test_it_steps_aside_when_there_is_nothing_left_to_hold(echo_port: int, inject: Inject) -> None:
    async def story() -> None:
        async with connected(echo_port) as (transport, protocol):
            with inject("network_latency", delay=DELAY) as latency:
                transport.write(b"hello")
                await until(lambda: latency.matched)
                found: Any = transport.get_protocol()
                assert isinstance(found, DelayingProtocol)
                assert found.told is protocol.told  # whoever asks a transport for its protocol
                await until(lambda: protocol.told)
                left: Any = transport.get_protocol()
                assert left is protocol
            transport.write(b"again")
            await until(lambda: len(protocol.told) == 2)

    run(story())


def response_under(running: ActiveExperiment, fault: Fault) -> ResponseStream:
    """One that has begun to come."""
    stream = ResponseStream(Effect.of([Hit(running, fault, 1, AN_OPERATION)], MACHINE_CLOCK))
    stream.arrive(time.monotonic())
    return stream


def test_of_two_for_one_transport_the_one_in_place_holds(echo_port: int, inject: Inject) -> None:
    """One was made before the other, and only then is told to hold something."""

    async def story() -> None:
        async with connected(echo_port) as (transport, protocol):
            later = DelayingProtocol(transport)
            with inject("network_latency", delay=DELAY, target="elsewhere.example") as latency:
                for each in (DelayingProtocol(transport), later):
                    each.hold(response_under(latency, Latency(delay=DELAY)))
                transport.write(b"hello")
                await until(lambda: protocol.told)
                left: Any = transport.get_protocol()
            assert protocol.told == [b"hello"]
            assert left is protocol

    run(story())


def test_a_partition_that_began_later_than_it_had_seemed_ends_nothing(
    echo_port: int, inject: Inject
) -> None:
    """It begins when all is in place for it, and may have cut a connection just before."""
    window: dict[str, Any] = {"between": "0s..0.1s", "target": "elsewhere.example"}

    async def story() -> None:
        async with connected(echo_port) as (transport, protocol):
            with inject("network_failure", mode="partition", rate=1, **window) as cut:
                DelayingProtocol(transport).hold(response_under(cut, Partition()))
                cut.started_at += 0.2
                transport.write(b"hello")
                await until(lambda: protocol.told)
            assert protocol.told == [b"hello"]

    run(story())


def test_a_connection_that_our_side_closes_is_closed_at_once(
    echo_port: int, inject: Inject
) -> None:
    async def story() -> None:
        async with connected(echo_port) as (transport, protocol):
            with inject("network_failure", mode="timeout", rate=1) as silence:
                transport.write(b"hello")
                await until(lambda: silence.matched)
                transport.close()
                await protocol.lost
                assert protocol.told == [type(None)]

    run(story())


class Resetting:
    """A peer that answers once, and resets the connection when it is told to.

    Attributes:
        resets: tells it.
        gone: it has.
    """

    def __init__(self) -> None:
        self.resets, self.gone = threading.Event(), threading.Event()

    def __call__(self, connection: socket.socket) -> None:
        connection.sendall(connection.recv(len(b"hello")))
        assert self.resets.wait(PATIENCE)
        reset(connection)
        connection.close()
        self.gone.set()


def test_nothing_is_heard_of_a_peer_that_resets_in_silence(inject: Inject) -> None:
    peer = Resetting()

    async def story(port: int) -> None:
        async with connected(port) as (transport, protocol):
            with inject("network_failure", mode="timeout", rate=1) as silence:
                transport.write(b"hello")
                await until(lambda: silence.matched)
                peer.resets.set()
                transport.write(b"are you there?")
                await until(peer.gone.is_set)
                for _ in range(10):  # a loop is told of it in the first of these turns
                    await asyncio.sleep(0)
                assert protocol.told == []
            await protocol.lost
            assert protocol.told == [TimeoutError]

    with serve(peer) as port:
        run(story(port))


def test_who_is_woken_by_what_came_before_a_reset_is_told_of_that_too(inject: Inject) -> None:
    """A transport tells of them in turns of their own, and a reader of asyncio counts on it."""
    resets = threading.Event()

    def answer_and_reset(connection: socket.socket) -> None:
        connection.sendall(connection.recv(100))
        assert resets.wait(PATIENCE)
        reset_when_closed(connection)

    async def story(port: int) -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        with inject("network_latency", delay=2 * PATIENCE):
            writer.write(b"no whole line")
            reading = asyncio.create_task(reader.readline())
            await until(lambda: _holds(writer.transport))
            resets.set()
            await until(writer.transport.is_closing)
            assert not reading.done()
        with pytest.raises(ConnectionResetError):
            await reading

    with serve(answer_and_reset) as port:
        run(story(port))


@pytest.mark.parametrize("end", ["close", "abort"])
def test_our_side_ends_a_connection_that_is_lost_in_silence(inject: Inject, end: str) -> None:
    """Who gives up, and waits for its connection to be over, does not wait for ever."""
    peer = Resetting()

    async def story(port: int) -> None:
        async with connected(port) as (transport, protocol):
            with inject("network_failure", mode="timeout", rate=1) as silence:
                transport.write(b"hello")
                await until(lambda: silence.matched)
                peer.resets.set()
                transport.write(b"are you there?")
                await until(peer.gone.is_set)
                transport.write(b"are you?")  # of which the system tells the transport
                assert transport.is_closing()
                for _ in range(10):
                    await asyncio.sleep(0)
                assert protocol.told == []
                getattr(transport, end)()
                await protocol.lost
                assert protocol.told == [type(None)]

    with serve(peer) as port:
        run(story(port))


def test_a_reset_of_a_later_answer_ends_a_silence(echo_port: int, inject: Inject) -> None:
    """A peer that is there again knows nothing of the connection."""

    async def story() -> None:
        async with connected(echo_port) as (transport, protocol):
            silence = inject("network_failure", mode="timeout", nth=1)
            with silence as silenced, inject("network_failure", mode="reset", nth=2):
                transport.write(b"hello")
                await until(lambda: silenced.hits)
                transport.write(b"are you there?")
                await protocol.lost
                assert protocol.told == [ConnectionResetError]

    run(story())


def silent_below_tls(connection: socket.socket) -> None:
    """Answer nothing, and not the end of TLS either, once it has shaken hands."""
    while socket.socket.recv(connection, 65536):
        pass


SILENCES: list[dict[str, Any]] = [
    {"kind": "network_failure", "mode": "timeout"},
    {"kind": "network_failure", "mode": "partition"},
    {"kind": "network_latency", "delay": PATIENCE},
]
silences = pytest.mark.parametrize("given", SILENCES, ids=lambda given: given.get("mode", "late"))


@silences
def test_a_handshake_gives_up_in_silence_as_it_really_does(
    given: dict[str, Any], trust: Trust, inject: Inject
) -> None:
    limit = 10 * DELAY  # in which the server has answered, also on a busy machine

    async def shake_hands(port: int) -> str:
        context = trust.client
        with pytest.raises(ConnectionAbortedError) as met:
            await asyncio.open_connection(HOST, port, ssl=context, ssl_handshake_timeout=limit)
        return str(met.value)

    with serve(silent) as port:
        really = run(shake_hands(port))
    # The connect is spared, which comes first.
    with serve(trust.over_tls(silent)) as port, inject(**given, nth=2) as fault:
        assert run(shake_hands(port)) == really
    assert fault.hits == 1


@silences
def test_tls_is_ended_in_silence_as_it_really_is(
    given: dict[str, Any], trust: Trust, inject: Inject
) -> None:
    async def close(port: int, *, fault: AbstractContextManager[object]) -> str:
        reader, writer = await asyncio.open_connection(
            HOST, port, ssl=trust.client, ssl_shutdown_timeout=DELAY
        )
        with fault:
            writer.write(b"?")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), DELAY)
            writer.close()
            with pytest.raises(TimeoutError) as met:
                await writer.wait_closed()
        return str(met.value)

    with serve(trust.over_tls(silent_below_tls)) as port:
        really = run(close(port, fault=contextlib.nullcontext()))
        assert run(close(port, fault=inject(**given))) == really


class Picky(Plain):
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        raise ValueError("not this")


class Brief(Plain):
    """Wants the first part only."""

    def __init__(self) -> None:
        super().__init__()
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.transport.close()


@pytest.mark.parametrize("delay", [None, DELAY], ids=["at once", "late"])
def test_a_protocol_that_raises_loses_its_connection(
    delay: float | None, echo_port: int, inject: Inject
) -> None:
    async def story() -> tuple[list[Any], list[tuple[str, str]]]:
        reported: list[tuple[str, str]] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: reported.append((context["message"], repr(context["exception"])))
        )
        async with connected(echo_port, Picky) as (transport, protocol):
            with inject("network_latency", delay=delay) if delay else contextlib.nullcontext():
                transport.write(b"hello")
                await protocol.lost
            return protocol.told, reported

    told, reported = run(story())
    assert told == [b"hello", ValueError]
    assert reported == [
        ("Fatal error: protocol.data_received() call failed.", "ValueError('not this')")
    ]


def test_a_protocol_that_closes_is_told_no_more(inject: Inject) -> None:
    arrived = threading.Event()

    def twice(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"one")
        assert arrived.wait(PATIENCE)
        connection.sendall(b"two")

    async def story(port: int) -> None:
        async with connected(port, Brief) as (transport, protocol):
            with inject("network_latency", delay=DELAY) as latency:
                transport.write(b"x")
                await until(lambda: latency.matched)
                arrived.set()
                await protocol.lost
            assert protocol.told == [b"one", type(None)]

    with serve(twice) as port:
        run(story(port))


def test_more_than_fits_waits_in_the_kernel(
    inject: Inject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delaying_protocol, "_MOST_HELD", 1000)
    size = 1 << 20

    def pour(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(bytes(size))
        connection.recv(100)

    async def story(port: int) -> None:
        async with connected(port) as (transport, protocol):
            with inject("network_latency", delay=DELAY) as latency:
                transport.write(b"x")
                await until(lambda: latency.matched)
                await until(lambda: not transport.is_reading())
                await until(lambda: sum(map(len, protocol.told)) == size)
                assert transport.is_reading()

    with serve(pour) as port:
        run(story(port))


def test_writing_is_paused_and_resumed_as_ever(inject: Inject) -> None:
    paused = threading.Event()

    def answer_once(connection: socket.socket) -> None:
        connection.sendall(connection.recv(100))
        assert paused.wait(PATIENCE)
        silent(connection)

    class Writer(Plain):
        def pause_writing(self) -> None:
            self.told.append("pause")

        def resume_writing(self) -> None:
            self.told.append("resume")

    async def story(port: int) -> None:
        async with connected(port, Writer) as (transport, protocol):
            with inject("network_latency", delay=3600) as latency:
                transport.write(b"hello")
                await until(lambda: latency.matched)
                transport.set_write_buffer_limits(0)
                transport.write(bytes(16 << 20))
                assert protocol.told == ["pause"]
                paused.set()
                await until(lambda: protocol.told == ["pause", "resume"])

    with serve(answer_once) as port:
        run(story(port))


def test_a_protocol_that_wants_no_more_for_now_is_heard(
    inject: Inject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was held back is more than a slow reader takes at a time, and yet more is to come."""
    monkeypatch.setattr(delaying_protocol, "_MOST_HELD", 1 << 16)
    content = bytes(range(256)) * (1 << 14)

    def pour(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(content)

    async def read(port: int) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection(HOST, port, limit=1000)
        writer.write(b"go")
        got = await reader.readexactly(1)
        for _ in range(100):
            await asyncio.sleep(0.001)  # it would go on reading meanwhile
        held = len(reader._buffer)  # type: ignore[attr-defined]
        got += await reader.readexactly(len(content) - 1)
        writer.close()
        await writer.wait_closed()
        return held, got

    with serve(pour) as port, inject("network_latency", delay=DELAY):
        held, got = run(read(port))
    assert got == content
    assert held < len(content) // 4


@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_RDWR])
@pytest.mark.parametrize(
    ("chaos_type", "given"),
    [
        ("network_latency", {"delay": "60s"}),
        ("network_latency", {"bandwidth": "1B"}),
        ("network_failure", {"mode": "timeout"}),
        ("network_failure", {"mode": "partition"}),
    ],
)
def test_who_reads_is_told_of_the_end_when_this_side_takes_no_more(
    how: int, chaos_type: str, given: dict[str, str], echo_port: int, inject: Inject
) -> None:
    """As the kernel tells, whatever is on its way."""

    async def story() -> bytes:
        reader, writer = await asyncio.open_connection(HOST, echo_port)
        with inject(chaos_type, **given) as fault:
            writer.write(b"tea" * 100)
            reading = asyncio.create_task(reader.read())
            transport = writer.transport
            await until(lambda: _holds(transport))
            assert fault.hits
            assert not reading.done()
            transport.get_extra_info("socket").shutdown(how)
            told = await asyncio.wait_for(reading, PATIENCE)
        transport.abort()
        return told

    assert len(asyncio.run(story())) < 10


def _holds(transport: Any) -> bool:
    return isinstance(transport.get_protocol(), DelayingProtocol) or not transport.is_reading()
