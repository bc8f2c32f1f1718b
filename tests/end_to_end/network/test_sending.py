"""What clients meet that send much, or only send: injected, and when the server really does it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import select
import smtplib
import socket
import threading
import warnings

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx
import paho.mqtt.client as mqtt
import paho.mqtt.enums as mqtt_enums
import pytest
import requests
import urllib3

from tests.end_to_end.network.clients import EVERY
from tests.end_to_end.network.clients import UPLOADING
from tests.end_to_end.network.clients import Client
from tests.end_to_end.network.clients import everything_closed
from tests.end_to_end.network.hostile import Handler
from tests.end_to_end.network.hostile import Place
from tests.end_to_end.network.hostile import over_tls
from tests.end_to_end.network.hostile import place
from tests.end_to_end.network.hostile import will_reset
from tests.end_to_end.network.service_clients import SERVICES
from tests.end_to_end.network.test_fidelity import chain_of
from tests.end_to_end.network.test_fidelity import section_of
from tests.injecting import Inject
from tests.interceptors.conftest import Trust
from tests.proxy.conftest import until


UPLOAD = bytes(20 << 20)
LIMIT = 1 << 20
RESET: dict[str, Any] = {"after_bytes": LIMIT, "end": "reset", "stream": "upstream"}


def swallow(connection: socket.socket, limit: float) -> None:
    """Read so many bytes, and reset the connection then."""
    received = 0
    while received < limit:
        data = connection.recv(65536)
        if not data:
            return
        received += len(data)
    will_reset(connection)


def of_http(limit: float) -> Callable[[socket.socket, Place], None]:
    def handle(connection: socket.socket, _: Place) -> None:
        swallow(connection, limit)

    return handle


def of_smtp(limit: float) -> Callable[[socket.socket, Place], None]:
    """As far as the first message."""

    def handle(connection: socket.socket, _: Place) -> None:
        connection.sendall(b"220 tea\r\n")
        for answer in (b"250 tea\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go on\r\n"):
            connection.recv(1000)
            connection.sendall(answer)
        swallow(connection, limit)

    return handle


def with_requests(port: int, timeout: float = 10) -> None:
    requests.post(f"http://127.0.0.1:{port}/", data=UPLOAD, timeout=timeout)


def with_urllib3(port: int, timeout: float = 10) -> None:
    with urllib3.PoolManager() as pool:
        url = f"http://127.0.0.1:{port}/"
        pool.request("POST", url, body=UPLOAD, timeout=timeout, retries=False)


def with_http_client(port: int, timeout: float = 10) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    with contextlib.closing(connection) as client:
        client.request("POST", "/", body=UPLOAD)
        client.getresponse()


def with_httpx(port: int, timeout: float = 10) -> None:
    httpx.post(f"http://127.0.0.1:{port}/", content=UPLOAD, timeout=timeout)


def with_aiohttp(port: int, timeout: float = 10) -> None:
    async def post() -> None:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(timeout)) as session,
            session.post(f"http://127.0.0.1:{port}/", data=UPLOAD),
        ):
            pass

    async def story() -> None:
        try:
            await post()
        finally:
            await everything_closed()

    with warnings.catch_warnings():
        # It warns of so much in one piece. In several it may be between two when all ends, and
        # tells another error then.
        warnings.simplefilter("ignore", ResourceWarning)
        asyncio.run(story())


def with_a_socket(port: int, timeout: float = 10, tls: Trust | None = None) -> None:
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout))
        if tls is not None:
            sock = stack.enter_context(tls.client.wrap_socket(sock, server_hostname="127.0.0.1"))
        sock.sendall(UPLOAD)


def with_smtplib(port: int) -> None:
    with contextlib.closing(smtplib.SMTP("127.0.0.1", port, "here", timeout=10)) as client:
        client.sendmail("a@b.c", "d@e.f", UPLOAD)


def met(send: Callable[[int], None], port: int) -> str:
    """The kind of error that tells of it, and whether it was a reset."""
    try:
        send(port)
    except Exception as error:
        chain, behind = [], error.__cause__ or error.__context__
        while behind is not None:
            chain.append(behind)
            behind = behind.__cause__ or behind.__context__
        resets = isinstance(error, ConnectionError) or any(
            isinstance(each, (ConnectionResetError, BrokenPipeError)) for each in chain
        )
        return f"{type(error).__name__}, {resets}"
    return "sent"


@pytest.mark.parametrize(
    ("send", "server", "number"),
    [
        (with_requests, of_http, 1),
        (with_urllib3, of_http, 1),
        (with_http_client, of_http, 1),
        (with_httpx, of_http, 1),
        (with_aiohttp, of_http, 1),
        (with_smtplib, of_smtp, 5),  # after EHLO, MAIL, RCPT and DATA
    ],
)
def test_an_upload_that_is_reset_is_what_really_happens(
    send: Callable[[int], None], server: Any, number: int, inject: Inject
) -> None:
    with place(server(LIMIT)) as there:
        real = met(send, there.port)
    with (
        place(server(float("inf"))) as there,
        inject("network_failure", target=f"127.0.0.1:{there.port}", nth=number, **RESET) as cut,
    ):
        injected = met(send, there.port)
    assert injected == real != "sent"
    assert cut.hits == 1


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What can happen to an upload.

    Attributes:
        parameters: of the fault that injects it.
        after: how many bytes a server reads that really does it.
        end: and what it does then.
        timeout: of the client, in seconds.
    """

    parameters: dict[str, Any]
    after: int
    end: Callable[[socket.socket], object]
    timeout: float = 10


def shut(connection: socket.socket) -> None:
    """Close in good order, though there is more to read."""
    socket.socket.shutdown(connection, socket.SHUT_RDWR)  # of TCP, also where TLS is above it


def stall(connection: socket.socket) -> None:
    """Read no more, until the client has gone."""
    gone = select.poll()
    gone.register(connection, select.POLLRDHUP)
    gone.poll(10_000)


TROUBLES = {
    "upload reset": Trouble(parameters={"mode": "reset"}, after=1, end=will_reset),
    "upload reset in the middle": Trouble(
        parameters={"after_bytes": LIMIT, "end": "reset"}, after=LIMIT, end=will_reset
    ),
    "upload closed": Trouble(parameters={"mode": "close"}, after=1, end=shut),
    "upload cut in the middle": Trouble(
        parameters={"after_bytes": LIMIT, "end": "eof"}, after=LIMIT, end=shut
    ),
    "upload stalled": Trouble(parameters={"mode": "timeout"}, after=1, end=stall, timeout=0.25),
}
UPLOADERS: dict[str, Callable[..., None]] = {
    "requests": with_requests,
    "urllib3": with_urllib3,
    "httpx": with_httpx,
    "aiohttp": with_aiohttp,
    "http.client": with_http_client,
    "socket": with_a_socket,
}


@pytest.mark.parametrize(
    ("client", "name"),
    [
        pytest.param(client, name, id=f"{client}: {name}")
        for client in EVERY + SERVICES
        for name in UPLOADING.get(client.name, ())
    ],
)
def test_it_is_what_really_happens_to_an_upload(
    client: Client, name: str, trust: Trust, inject: Inject
) -> None:
    trouble = TROUBLES[name.removesuffix(", TLS")]
    tls = trust if name.endswith(", TLS") else None
    given = {"tls": tls} if tls else {}

    def refuse(connection: socket.socket, _: Place) -> None:
        received = 0
        while received < trouble.after:
            received += len(connection.recv(min(65536, trouble.after - received)))
        trouble.end(connection)

    def accept(connection: socket.socket, _: Place) -> None:
        while connection.recv(65536):
            pass

    def story(handler: Handler) -> str:
        with place(over_tls(handler, tls.server) if tls else handler) as there:
            aimed = {"target": f"127.0.0.1:{there.port}", "stream": "upstream"}
            with contextlib.ExitStack() as stack:
                if handler is accept:
                    stack.enter_context(inject("network_failure", **aimed, **trouble.parameters))
                try:
                    UPLOADERS[client.name](there.port, trouble.timeout, **given)
                except Exception as error:
                    return chain_of(error)
            return "sent"

    section_of(client).note(name, story(accept), story(refuse))


def broker(resets_after: float) -> Callable[[socket.socket, Place], None]:
    """Of MQTT, as far as those go who only publish: a message of QoS 0 is not answered."""

    def handle(connection: socket.socket, place: Place) -> None:
        connection.recv(1000)
        connection.sendall(b"\x20\x02\x00\x00")  # CONNACK
        while (data := connection.recv(1000)) and place.requests < resets_after:
            place.requests += data.count(b"tea/")
        if data:
            will_reset(connection)

    return handle


@pytest.mark.parametrize("really", [True, False])
def test_who_only_publishes_is_disconnected(inject: Inject, really: bool) -> None:
    """The third message is the one that is lost: the first operation is CONNECT."""
    gone = threading.Event()
    connected = threading.Event()
    reasons: list[bool] = []

    def left(_client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        reasons.append(reason.is_failure)
        gone.set()

    client = mqtt.Client(mqtt_enums.CallbackAPIVersion.VERSION2, client_id="tea")
    client.on_connect = lambda *_: connected.set()
    client.on_disconnect = left
    with place(broker(2 if really else float("inf"))) as there, contextlib.ExitStack() as stack:
        lost = None
        if not really:
            target = f"127.0.0.1:{there.port}"
            lost = stack.enter_context(
                inject("network_failure", mode="reset", stream="upstream", target=target, nth=4)
            )
        client.connect("127.0.0.1", there.port)
        client.loop_start()
        stack.callback(client.loop_stop)
        stack.callback(client.disconnect)
        assert connected.wait(10)
        for number in range(100):
            client.publish(f"tea/{number}", b"hot").rc  # noqa: B018
            if gone.wait(0.01):
                break
        assert gone.wait(10)
        assert reasons[0]
        assert lost is None or lost.hits == 1
        if not really:
            until(lambda: there.requests == 2)
