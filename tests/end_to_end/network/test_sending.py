"""What clients meet that send much, or only send: injected, and when the server really does it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import smtplib
import socket
import threading

from collections.abc import Callable
from typing import Any

import aiohttp
import httpx
import paho.mqtt.client as mqtt
import paho.mqtt.enums as mqtt_enums
import pytest
import requests
import urllib3

from tests.end_to_end.network.hostile import Place
from tests.end_to_end.network.hostile import place
from tests.end_to_end.network.hostile import will_reset
from tests.injecting import Inject
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


def with_requests(port: int) -> None:
    requests.post(f"http://127.0.0.1:{port}/", data=UPLOAD, timeout=10)


def with_urllib3(port: int) -> None:
    with urllib3.PoolManager() as pool:
        url = f"http://127.0.0.1:{port}/"
        pool.request("POST", url, body=UPLOAD, timeout=10, retries=False)


def with_http_client(port: int) -> None:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as client:
        client.request("POST", "/", body=UPLOAD)


def with_httpx(port: int) -> None:
    httpx.post(f"http://127.0.0.1:{port}/", content=UPLOAD, timeout=10)


def with_aiohttp(port: int) -> None:
    async def post() -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://127.0.0.1:{port}/", data=io.BytesIO(UPLOAD)),
        ):
            pass

    asyncio.run(post())


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
