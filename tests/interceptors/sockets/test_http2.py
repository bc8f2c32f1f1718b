"""Faults of single responses in HTTP/2, on a connection that others share."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading

from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import freezegun
import h2.connection
import h2.events
import httpx
import pytest
import trio

from pytest_resilience.chaos.engine import FaultInjected
from pytest_resilience.diagnosis import never_fired
from pytest_resilience.errors import NeverFired
from tests.http2_server import BODY
from tests.http2_server import Answer
from tests.http2_server import RawCodec
from tests.http2_server import Serve
from tests.http2_server import ok
from tests.http2_server import serving_http2
from tests.http2_server import speaking_http2
from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import serve
from tests.resets import reset_when_closed
from tests.waiting import eventually
from tests.waiting import until_all_wait


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    """Of these tests alone: what speaks HTTP/2 once offers it to all."""
    return Trust(tmp_path_factory.mktemp("http2"))


@pytest.fixture(scope="module")
def over_http2(trust: Trust) -> Serve:
    return serving_http2(trust)


@pytest.fixture(params=["plain", "TLS"])
def some_http2(request: pytest.FixtureRequest, trust: Trust) -> Serve:
    return serving_http2(trust if request.param == "TLS" else None)


@pytest.fixture
def url(over_http2: Serve) -> Iterator[str]:
    with over_http2(ok) as url:
        yield url


def blocking(url: str, paths: list[str], context: ssl.SSLContext, read: float = 1) -> list[Any]:
    """Ask for one after the other."""
    timeout = httpx.Timeout(10, read=read)
    found: list[Any] = []
    with httpx.Client(http2=True, http1=False, verify=context, trust_env=False) as client:
        for path in paths:
            try:
                response = client.post(url + path, content=b"{}", timeout=timeout)
                found.append((response.status_code, response.content))
            except httpx.HTTPError as error:
                found.append(type(error).__name__)
    return found


class Awaited:
    """Asks for all at once, on one connection."""

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run

    def __call__(
        self, url: str, paths: list[str], context: ssl.SSLContext, read: float = 1
    ) -> list[Any]:
        found: dict[str, Any] = {}
        timeout = httpx.Timeout(10, read=read)

        async def get(client: httpx.AsyncClient, path: str) -> None:
            try:
                response = await client.post(url + path, content=b"{}", timeout=timeout)
                found[path] = (response.status_code, response.content)
            except httpx.HTTPError as error:
                found[path] = type(error).__name__

        async def get_all() -> None:
            import anyio

            limits = httpx.Limits(max_connections=1)
            async with (
                httpx.AsyncClient(
                    http2=True, http1=False, verify=context, trust_env=False, limits=limits
                ) as client,
                anyio.create_task_group() as group,
            ):
                for path in paths:
                    group.start_soon(get, client, path)

        self._run(get_all)
        return [found[path] for path in paths]


Client = Callable[..., list[Any]]

CLIENTS: dict[str, Client] = {
    "blocking": blocking,
    "asyncio": Awaited(lambda get_all: asyncio.run(get_all())),
    "trio": Awaited(trio.run),
}
every_client = pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
OK = (200, BODY)
PATHS = ["/a", "/v1/pay", "/b"]


@every_client
@pytest.mark.parametrize(
    "fault",
    [
        ({"status": 503, "body": "busy", "headers": {"X-Shard": 7}}, (503, b"busy")),
        ({"mode": "malformed_json", "body": "{"}, (200, b"{")),
        ({"mode": "reset"}, "RemoteProtocolError"),
        ({"mode": "lose_answer"}, "RemoteProtocolError"),
        ({"mode": "truncate"}, "RemoteProtocolError"),
        ({"mode": "timeout"}, "ReadTimeout"),
    ],
    ids=["status", "malformed_json", "reset", "lose_answer", "truncate", "timeout"],
)
def test_only_the_response_that_is_meant(
    client: Client, fault: tuple[dict[str, Any], object], url: str, trust: Trust, inject: Inject
) -> None:
    given, met = fault
    with inject("network_failure", path="/v1/*", **given) as failure:
        assert client(url, PATHS, trust.client) == [OK, met, OK]
    assert (failure.matched, failure.hits) == (1, 1)


@every_client
@pytest.mark.parametrize(
    ("given", "met"),
    [
        ({"mode": "reset"}, "RemoteProtocolError"),
        ({"mode": "close"}, "RemoteProtocolError"),
        ({"status": 503, "body": "busy"}, (503, b"busy")),
        ({"mode": "timeout"}, "ReadTimeout"),
    ],
    ids=["reset", "close", "status", "timeout"],
)
def test_who_waits_is_struck_though_no_response_ever_comes(  # noqa: PLR0917  # all by name
    client: Client,
    given: dict[str, Any],
    met: object,
    some_http2: Serve,
    trust: Trust,
    inject: Inject,
) -> None:
    with (
        some_http2(lambda *_: None) as url,
        inject("network_failure", path="/v1/*", **given) as failure,
    ):
        patience = 0.1 if met == "ReadTimeout" else 10
        assert client(url, ["/v1/pay"], trust.client, read=patience) == [met]
    assert (failure.matched, failure.hits) == (1, 1)


def test_what_needs_a_response_happens_to_none_that_never_comes(
    some_http2: Serve, trust: Trust, inject: Inject
) -> None:
    with (
        some_http2(lambda *_: None) as url,
        inject("network_failure", path="/v1/*", mode="lose_answer") as failure,
    ):
        assert blocking(url, ["/v1/pay"], trust.client, read=0.1) == ["ReadTimeout"]
    assert (failure.matched, failure.hits) == (1, 0)
    assert never_fired(failure).why == NeverFired.TOO_LITTLE


def test_a_timeout_is_over_in_time_where_a_test_has_frozen_it(
    some_http2: Serve, trust: Trust, inject: Inject
) -> None:
    with (
        ThreadPoolExecutor() as pool,
        some_http2(lambda *_: None) as url,
        inject("network_failure", path="/v1/*", mode="lose_answer"),
        freezegun.freeze_time("2020-01-01"),
    ):
        asked = pool.submit(blocking, url, ["/v1/pay"], trust.client, read=0.1)
        assert asked.result(10) == ["ReadTimeout"]


class Conversation:
    """A client that asks for all paths at once, and notes in which order the responses came.

    By hand, for some clients have responses that came wait for who reads the connection.
    """

    def __init__(self, url: str, came: list[str]) -> None:
        self.scheme, _, address = url.partition("://")
        self.host, _, port = address.partition(":")
        self.port = int(port)
        self.came = came
        self._connection = h2.connection.H2Connection()

    def ask(self) -> bytes:
        self._connection.initiate_connection()
        for path in LATE_FIRST:
            head = [(":method", "GET"), (":authority", self.host)]
            head += [(":scheme", self.scheme), (":path", path)]
            number = self._connection.get_next_available_stream_id()
            self._connection.send_headers(number, head, end_stream=True)
        return self._connection.data_to_send()

    def receive(self, data: bytes) -> bytes:
        assert data
        events = self._connection.receive_data(data)
        ended = [each for each in events if isinstance(each, h2.events.StreamEnded)]
        self.came += [LATE_FIRST[each.stream_id // 2] for each in ended]
        return self._connection.data_to_send()


LATE_FIRST = ["/v1/pay", "/a", "/b", "/c"]
Talk = Callable[[Conversation, ssl.SSLContext, int], None]


def with_a_socket(talk: Conversation, context: ssl.SSLContext, most: int) -> None:
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_connection((talk.host, talk.port), timeout=20))
        if talk.scheme == "https":
            sock = stack.enter_context(context.wrap_socket(sock, server_hostname=talk.host))
        sock.sendall(talk.ask())
        while len(talk.came) < most:
            sock.sendall(talk.receive(sock.recv(65536)))


def in_a_task(run: Callable[..., Any]) -> Talk:
    def ask(talk: Conversation, context: ssl.SSLContext, most: int) -> None:
        async def get_all() -> None:
            import anyio

            tls: Any = {"ssl_context": context} if talk.scheme == "https" else {}
            stream: Any = await anyio.connect_tcp(talk.host, talk.port, **tls)
            with anyio.fail_after(20):
                await stream.send(talk.ask())
                while len(talk.came) < most:
                    await stream.send(talk.receive(await stream.receive()))
            await anyio.aclose_forcefully(stream)

        run(get_all)

    return ask


@pytest.mark.parametrize(
    "converse",
    [with_a_socket, in_a_task(lambda get_all: asyncio.run(get_all())), in_a_task(trio.run)],
    ids=["blocking", "asyncio", "trio"],
)
@pytest.mark.parametrize(
    "given",
    [{"delay": "1h"}, {"mode": "bandwidth", "bandwidth": "1B"}, {"delay": "1h", "after_bytes": 20}],
    ids=["late", "slow", "pausing"],
)
def test_the_others_go_on_while_one_is_held_back_and_it_comes_when_that_ends(
    converse: Talk, given: dict[str, Any], some_http2: Serve, trust: Trust, inject: Inject
) -> None:
    came: list[str] = []
    trust.client.set_alpn_protocols(["h2"])
    with some_http2(ok) as url, inject("network_latency", path="/v1/*", **given) as late:

        def stop() -> None:
            assert eventually(lambda: len(came) == 3)
            until_all_wait()
            late.stop()

        thread = threading.Thread(target=stop)
        thread.start()
        converse(Conversation(url, came), trust.client, 4)
        thread.join()
    assert came[-1] == "/v1/pay"
    assert sorted(came[:-1]) == ["/a", "/b", "/c"]
    assert (late.matched, late.hits) == (1, 1)


def test_what_is_late_comes_before_the_end_of_the_connection(trust: Trust, inject: Inject) -> None:
    came: list[str] = []
    with (
        serve(speaking_http2(closes=True)) as port,
        inject("network_latency", path="/v1/*", delay="50ms") as late,
    ):
        with_a_socket(Conversation(f"http://{HOST}:{port}", came), trust.client, 4)
    assert (came[-1], late.hits) == ("/v1/pay", 1)


@every_client
def test_a_damaged_body(client: Client, url: str, trust: Trust, inject: Inject) -> None:
    with inject("network_failure", mode="corrupt", path="/v1/*", share=0.1) as fault:
        first, damaged, last = client(url, PATHS, trust.client)
    assert (first, last, fault.hits) == (OK, OK, 1)
    assert damaged[0] == 200
    assert len(damaged[1]) == len(BODY)
    assert damaged[1] != BODY


EVENTS = b"".join(b"data: %d\n\n" % number for number in range(6))


@pytest.mark.parametrize(
    ("given", "met"),
    [
        ({"mode": "truncate", "end": "reset"}, "RemoteProtocolError"),
        ({"mode": "timeout"}, "ReadTimeout"),
    ],
)
def test_a_stream_of_events_ends_after_so_many(
    given: dict[str, Any], met: str, over_http2: Serve, trust: Trust, inject: Inject
) -> None:
    def stream(connection: h2.connection.H2Connection, stream_id: int, path: str) -> None:
        head = [(":status", "200"), ("content-type", "text/event-stream")]
        connection.send_headers(stream_id, head)
        for start in range(0, len(EVENTS), 7):
            connection.send_data(stream_id, EVENTS[start : start + 7])
        connection.end_stream(stream_id)

    received, failed = b"", ""
    client = httpx.Client(http2=True, http1=False, verify=trust.client, trust_env=False)
    fault = inject("network_failure", path="/v1/*", after_items=3, rate=1, **given)
    with over_http2(stream) as url, client, fault as failure:
        assert client.get(url + "/a").content == EVENTS
        try:
            with client.stream("GET", url + "/v1/pay", timeout=1) as response:
                for piece in response.iter_bytes():
                    received += piece
        except httpx.HTTPError as error:
            failed = type(error).__name__
    assert (received, failed) == (b"data: 0\n\ndata: 1\n\ndata: 2\n\n", met)
    assert failure.hits == 1


def test_each_response_is_one_of_those_to_choose_from(
    url: str, trust: Trust, inject: Inject, events: list[FaultInjected]
) -> None:
    with inject("network_failure", status=503, nth=2) as fault:
        assert blocking(url, PATHS, trust.client) == [
            OK, (503, b"Service Unavailable"), OK
        ]  # fmt: skip
    assert (fault.matched, fault.hits) == (3, 1)
    assert [each.kind for each in events] == ["network.receive"]


def test_a_reset_without_a_request_is_one_of_the_connection(
    url: str, trust: Trust, inject: Inject
) -> None:
    def outcome(url: str) -> str:
        context = trust.client_without_tickets
        client = httpx.Client(http2=True, http1=False, verify=context, trust_env=False)
        with client, pytest.raises(httpx.TransportError) as caught:
            client.get(url)
        return f"{type(caught.value).__name__}: {caught.value}"

    def resetting(connection: socket.socket) -> None:
        received = b""
        while b"/reset" not in received and len(received) < 100:
            received += connection.recv(65536)
        reset_when_closed(connection)

    with serve(trust.over_tls(resetting)) as port:  # Pythons differ: for some it is an EOF
        real = outcome(f"https://localhost:{port}")
    with inject("network_failure", mode="reset", nth=2) as fault:  # 1 is the handshake
        assert outcome(url) == real
    assert fault.hits == 1


@every_client
def test_what_is_late_for_one_request(
    client: Client, url: str, trust: Trust, inject: Inject
) -> None:
    with inject("network_latency", delay="20ms", path="/v1/*") as latency:
        assert client(url, ["/v1/pay"], trust.client) == [OK]
    assert (latency.matched, latency.hits) == (1, 1)
    assert latency.delay > 0.01
    with inject("network_latency", delay="20ms", path="/v1/*") as latency:
        assert client(url, ["/a"], trust.client) == [OK]
    assert latency.matched == 0
    assert any(line.endswith(" POST /a (not path /v1/*)") for line in never_fired(latency).seen)


def test_much_that_is_lost_leaves_room_for_what_is_not(
    over_http2: Serve, trust: Trust, inject: Inject
) -> None:
    """The window of a connection is shared: what nobody reads has to be given back."""

    def much(connection: h2.connection.H2Connection, stream_id: int, path: str) -> None:
        connection.send_headers(stream_id, [(":status", "200")])
        for _ in range(4):
            assert connection.local_flow_control_window(stream_id) >= 16_000, "no room"
            connection.send_data(stream_id, b"x" * 16_000)
        connection.end_stream(stream_id)

    with (
        over_http2(much) as url,
        inject("network_failure", status=503, path="/v1/*", rate=1) as fault,
    ):
        found = blocking(url, ["/v1/pay"] * 25 + ["/a"], trust.client)
    assert [status for status, _ in found] == [503] * 25 + [200]
    assert fault.hits == 25


def reset_second(connection: h2.connection.H2Connection, stream_id: int, path: str) -> None:
    if path == "/b":
        connection.reset_stream(stream_id, 2)
    else:
        ok(connection, stream_id, path)


def busy_second(connection: h2.connection.H2Connection, stream_id: int, path: str) -> None:
    if path == "/b":
        connection.send_headers(stream_id, [(":status", "503"), ("content-length", "0")])
        connection.end_stream(stream_id)
    else:
        ok(connection, stream_id, path)


@pytest.mark.parametrize("known", [False, True], ids=["unknown", "known"])
@pytest.mark.parametrize(
    ("given", "really"),
    [({"mode": "reset"}, reset_second), ({"status": 503}, busy_second)],
    ids=["reset", "status"],
)
def test_a_connection_of_a_loop_that_was_open_before(  # noqa: PLR0917  # all by name
    given: dict[str, Any],
    really: Answer,
    known: bool,
    over_http2: Serve,
    trust: Trust,
    inject: Inject,
) -> None:
    """Within TLS, whether another experiment went on as it was opened or none did."""

    async def story(url: str, fault: AbstractContextManager[object]) -> list[str]:
        found = []
        async with httpx.AsyncClient(http2=True, verify=trust.client, trust_env=False) as client:
            elsewhere = inject("network_latency", delay="1ms", target="elsewhere", name="elsewhere")
            with elsewhere if known else contextlib.nullcontext():
                assert (await client.get(f"{url}/before")).status_code == 200
            with fault:
                for path in ("a", "b", "c"):
                    try:
                        found.append(str((await client.get(f"{url}/{path}")).status_code))
                    except httpx.RemoteProtocolError as error:
                        found.append(str(error))
        return found

    with over_http2(really) as url:
        real = asyncio.run(story(url, contextlib.nullcontext()))
    told: list[tuple[int, int]] = []

    @contextlib.contextmanager
    def injected() -> Iterator[None]:
        with inject("network_failure", path="/b", **given) as fault:
            yield
        told.append((fault.matched, fault.hits))

    with over_http2(ok) as url:
        assert asyncio.run(story(url, injected())) == real
    assert told == [(1, 1)]


def test_each_of_them_is_one_operation(over_http2: Serve, trust: Trust, inject: Inject) -> None:
    """Though more was asked for on it while nobody looked at what it sends."""

    async def story(url: str) -> tuple[int, int]:
        async with httpx.AsyncClient(http2=True, verify=trust.client, trust_env=False) as client:
            with inject("network_latency", delay="1ms", target="elsewhere", name="elsewhere"):
                await client.get(f"{url}/before")
            with inject("network_failure", status=503, rate=1) as fault:
                assert (await client.get(f"{url}/a")).status_code == 503
                assert (await client.get(f"{url}/b")).status_code == 503
            return fault.matched, fault.hits

    with over_http2(ok) as url:
        assert asyncio.run(story(url)) == (2, 2)


def test_everything_is_put_back(url: str, trust: Trust, inject: Inject) -> None:
    before = vars(h2.connection.H2Connection)["receive_data"]
    with inject("network_failure", status=503, path="/v1/*") as fault:
        assert vars(h2.connection.H2Connection)["receive_data"] is not before
        blocking(url, ["/v1/pay"], trust.client)
    assert fault.hits == 1
    assert vars(h2.connection.H2Connection)["receive_data"] is before


GRPC_REPLY = b"\x00\x00\x00\x00\x02ok"


@pytest.fixture
def grpc_port() -> Iterator[int]:
    def reply(connection: h2.connection.H2Connection, stream_id: int, path: str) -> None:
        head = [(":status", "200"), ("content-type", "application/grpc+raw")]
        connection.send_headers(stream_id, head)
        connection.send_data(stream_id, GRPC_REPLY)
        connection.send_headers(stream_id, [("grpc-status", "0")], end_stream=True)

    with serve(speaking_http2(reply)) as port:
        yield port


@contextlib.asynccontextmanager
async def calling(port: int) -> AsyncIterator[Callable[[str], Any]]:
    """A client of gRPC that is written in Python."""
    import grpclib.client
    import grpclib.exceptions

    codec: Any = RawCodec()
    channel = grpclib.client.Channel("127.0.0.1", port, codec=codec)

    async def call(name: str) -> Any:
        method: Any = grpclib.client.UnaryUnaryMethod(channel, name, bytes, bytes)
        try:
            return await method(b"x", timeout=1)
        except (grpclib.exceptions.GRPCError, grpclib.exceptions.StreamTerminatedError) as error:
            return type(error).__name__, getattr(error, "status", None)

    try:
        yield call
    finally:
        channel.close()


@pytest.mark.parametrize(
    ("given", "met"),
    [
        ({"status": 503}, ("GRPCError", "UNAVAILABLE")),
        ({"mode": "reset"}, ("StreamTerminatedError", None)),
    ],
    ids=["status", "reset"],
)
def test_a_call_of_grpc(
    given: dict[str, Any], met: tuple[str, str | None], grpc_port: int, inject: Inject
) -> None:
    async def run() -> list[Any]:
        async with calling(grpc_port) as call:
            return [await call("/shop.Payments/Charge"), await call("/shop.Orders/Add")]

    with inject("network_failure", rpc="shop.Payments/*", **given) as fault:
        failed, passed = asyncio.run(run())
    assert (failed[0], getattr(failed[1], "name", None)) == met
    assert passed == b"ok"
    assert fault.hits == 1
