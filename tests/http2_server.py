"""A server that speaks HTTP/2 on one connection."""

from __future__ import annotations

import contextlib
import socket

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from tests.interceptors.conftest import Handler
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import serve


__all__ = ["BODY", "Answer", "RawCodec", "Serve", "ok", "serving_http2", "speaking_http2"]

BODY = b"0123456789" * 10
Answer = Callable[[h2.connection.H2Connection, int, str], None]
Serve = Callable[[Answer], contextlib.AbstractContextManager[str]]


class RawCodec:
    """Of grpclib, for messages that are bytes."""

    __content_subtype__ = "raw"

    def encode(self, message: bytes, message_type: object) -> bytes:
        return message

    def decode(self, data: bytes, message_type: object) -> bytes:
        return data


def ok(connection: h2.connection.H2Connection, stream_id: int, path: str) -> None:
    length = [(":status", "200"), ("content-length", str(len(BODY)))]
    connection.send_headers(stream_id, length)
    connection.send_data(stream_id, BODY, end_stream=True)


def speaking_http2(answer: Answer = ok, *, closes: bool = False) -> Handler:
    """Answers each request once all of it has come; `closes`: and says that it sends no more."""

    def handle(sock: socket.socket) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        connection = h2.connection.H2Connection(config)
        connection.initiate_connection()
        sock.sendall(connection.data_to_send())
        paths: dict[int, str] = {}
        while data := sock.recv(65536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    head: Any = dict(event.headers)
                    paths[event.stream_id] = head[":path"]
                elif isinstance(event, h2.events.StreamEnded):
                    with contextlib.suppress(h2.exceptions.ProtocolError):  # it is reset already
                        answer(connection, event.stream_id, paths.pop(event.stream_id))
                elif isinstance(event, h2.events.ConnectionTerminated):
                    return
            sock.sendall(connection.data_to_send())
            if closes and connection.highest_inbound_stream_id and not paths:
                sock.shutdown(socket.SHUT_WR)

    return handle


def serving_http2(trust: Trust | None) -> Serve:
    """`with start(answer) as url:`, over TLS if there is somebody to trust."""
    if trust is not None:
        trust.server.set_alpn_protocols(["h2"])

    @contextlib.contextmanager
    def start(answer: Answer) -> Iterator[str]:
        handler = speaking_http2(answer)
        with serve(handler if trust is None else trust.over_tls(handler)) as port:
            yield f"{'http' if trust is None else 'https'}://127.0.0.1:{port}"

    return start
