"""Toxiproxy's HTTP API, for its clients: an HTTP server on loopback."""

from __future__ import annotations

import contextlib
import io
import ipaddress
import json
import logging
import re
import socket
import sys
import threading

from collections.abc import Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from typing import Any
from typing import Self
from urllib.parse import unquote
from urllib.parse import urlsplit

from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.proxy.addresses import loopback
from pytest_resilience.proxy.proxy import ChaosProxy
from pytest_resilience.proxy.toxiproxy_api.routes import RefusedError
from pytest_resilience.proxy.toxiproxy_api.routes import Response
from pytest_resilience.proxy.toxiproxy_api.routes import Router
from pytest_resilience.proxy.toxiproxy_api.routes import error_response


__all__ = ["ControlServer"]

_logger = logging.getLogger("pytest_resilience.proxy")
PORT = 8474  # where Toxiproxy's clients look for it
_DEADLINE = 15.0  # seconds for the whole of a request to arrive, once connected
_MOST_HEAD = 2**17  # bytes of a request's first line and headers
_MOST_BODY = 2**20  # bytes of a request's body
_MOST_SENT = 4 * _MOST_BODY  # bytes by which a body may come: chunks have sizes and headers
_MOST_LINE = 2**10  # bytes of a line within it
_MOST_TRAILERS = 100  # lines behind a body in chunks
_MOST_CONNECTIONS = 64  # at once
_LOCAL = ("localhost", "localhost.")
_MOST_WORDS = 200  # characters of what is repeated of a request


class ControlServer:
    """Serves Toxiproxy's HTTP API: its clients list, make and change proxies, and add toxics.

    A context manager. It listens on loopback, and exists only if somebody makes it.

    Attributes:
        address: where it listens: host and port.
        proxies: what it controls, by name.
    """

    def __init__(
        self,
        proxies: Iterable[ChaosProxy] = (),
        listen: str | tuple[str, int] = ("127.0.0.1", PORT),
        *,
        seed: int | None = None,
    ) -> None:
        """Control `proxies`, and those that clients make, which end with it.

        `seed` decides all chance in the latter. Raises ConfigurationError for an address
        that is not loopback or is taken, DuplicateNameError for two proxies of one name.
        """
        address = loopback(listen)
        self._router = Router(proxies, seed=seed)
        try:
            with limits_lifted():
                self._server = _Server(address.family, address.sockaddr, self._router)
        except OSError as error:
            raise ConfigurationError(
                f"the control cannot listen on {address}: {error.strerror or error}; give "
                "another port, or port 0 for any that is free"
            ) from error
        self.address: tuple[str, int] = self._server.socket.getsockname()[:2]
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="proxy control", daemon=True)
        with limits_lifted():
            self._thread.start()

    def _serve(self) -> None:
        while not self._closed:
            self._server.handle_request()

    @property
    def url(self) -> str:
        """Where it listens, for a client."""
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def proxies(self) -> dict[str, ChaosProxy]:
        return self._router.proxies

    def close(self) -> None:
        """End it, and the proxies that clients made; harmless when it has ended."""
        self._closed = True
        self._server.disconnect()
        self._thread.join()
        self._server.disconnect()  # and on whom it let in meanwhile
        self._server.server_close()
        self._router.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # `server_close` waits for them

    def __init__(self, family: int, sockaddr: tuple[Any, ...], router: Router) -> None:
        self.address_family = socket.AddressFamily(family)
        self.router = router
        self._clients: set[socket.socket] = set()
        super().__init__((sockaddr[0], sockaddr[1]), _Handler)

    def server_bind(self) -> None:
        # Without HTTPServer's look-up of the host's name, which can take seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.socket.setblocking(False)  # the client may have gone before it is let in
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.socket.getsockname()[:2]

    def get_request(self) -> tuple[socket.socket, Any]:
        with limits_lifted():
            client, address = super().get_request()
        client.setblocking(True)
        self._clients.add(client)
        return client, address

    def process_request(self, request: Any, client_address: Any) -> None:
        with limits_lifted():  # it starts a thread
            super().process_request(request, client_address)

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002  # its names
        """Refuse a client where there is no room for one more: a thread and a descriptor."""
        if len(self._clients) <= _MOST_CONNECTIONS:
            return True
        words = f"there are {_MOST_CONNECTIONS} connections already; try again when one has ended"
        body = json.dumps(error_response(503, words).content)
        with contextlib.suppress(OSError):
            request.setblocking(False)
            request.send(
                "HTTP/1.0 503 Service Unavailable\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
            )
        return False

    def shutdown_request(self, request: Any) -> None:
        self._clients.discard(request)
        with limits_lifted():
            super().shutdown_request(request)

    def server_close(self) -> None:
        with limits_lifted():
            self.socket.close()
        super().server_close()  # waits for its threads

    def handle_error(self, *_: Any) -> None:
        error = sys.exception()
        if not isinstance(error, OSError):  # a client that leaves early is no news
            _logger.error("a request was given up", exc_info=error)

    def disconnect(self) -> None:
        """Wake the threads that wait for clients, or for what these send."""
        for client in (self.socket, *self._clients):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)


def _is_loopback(host: str) -> bool:
    """Is the `host:port` that a request is for a name of this machine?

    A web page whose own name resolves to loopback reaches this server, but says its name.
    """
    is_ipv6 = "[" in host
    bare = host.strip().removeprefix("[").partition("]")[0] if is_ipv6 else host.partition(":")[0]
    try:
        return bare.lower() in _LOCAL or ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False


class _RequestReader(io.RawIOBase):
    """Reads what a client sends until a deadline: byte by byte there is no more time.

    Attributes:
        room: how many bytes more are taken.
    """

    def __init__(self, client: socket.socket, seconds: float, room: int) -> None:
        self.room = room
        self._client = client
        self._ends = MACHINE_CLOCK.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._ends - MACHINE_CLOCK.monotonic()
        if left <= 0:
            raise TimeoutError("the request takes too long")
        if self.room <= 0:
            raise RefusedError(413, "request too large")
        self._client.settimeout(left)
        try:
            size = self._client.recv_into(buffer, min(len(buffer), self.room))
        finally:
            self._client.settimeout(_DEADLINE)
        self.room -= size
        return size


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _DEADLINE
    default_request_version = "HTTP/1.0"  # in 0.9 a response has no status

    def setup(self) -> None:
        super().setup()
        self._incoming = _RequestReader(self.connection, _DEADLINE, _MOST_HEAD)
        self.rfile = io.BufferedReader(self._incoming)

    def parse_request(self) -> bool:
        try:
            return super().parse_request()
        except RefusedError:
            self.send_error(431, "Too many headers")
            return False

    def _handle(self) -> None:
        self._incoming.room = _MOST_SENT
        try:
            response = self._respond()
        except RefusedError as error:
            response = error_response(error.status, str(error))
        except TimeoutError:
            response = error_response(408, f"the request did not arrive within {_DEADLINE:g} s")
        except (ValueError, RecursionError) as error:  # numbers, URLs and texts of every kind
            response = error_response(400, f"bad request: {error}")
        self._send(response)

    def _respond(self) -> Response:
        # Web pages can send requests to loopback, also by a name that leads here; none of them
        # is to change a proxy.
        browser = self.headers.get("User-Agent", "").startswith("Mozilla/")
        if browser or "Origin" in self.headers:
            raise RefusedError(403, "User agent not allowed")
        target = urlsplit(self.path)
        self._check_host(target.netloc)
        body = self._body()
        path = [unquote(step) for step in target.path.strip("/").split("/")]
        return self.server.router.respond(self.command, path, body)

    def _check_host(self, authority: str) -> None:
        """Raise RefusedError for a request to another host than this one.

        It stands in the Host header, and, as clients of a proxy write it, in the URL.
        """
        if self.headers.defects:
            raise RefusedError(400, "bad request: a header has no colon")
        hosts = self.headers.get_all("Host", [])
        if len(hosts) > 1 or not (hosts or self.request_version == "HTTP/1.0"):
            raise RefusedError(400, "bad request: give one Host header")
        if not all(map(_is_loopback, [*hosts, *filter(None, [authority])])):
            raise RefusedError(403, "Host not allowed: only loopback is")

    def _body(self) -> bytes:
        """The body of the request. Raises RefusedError."""
        codings = [each.strip().lower() for each in self.headers.get_all("Transfer-Encoding", [])]
        sizes = {each.strip() for each in self.headers.get_all("Content-Length", [])}
        if codings:
            if sizes or codings != ["chunked"]:
                raise RefusedError(400, "bad request body: it is sent in two ways, or unknown")
            return self._chunks()
        size = sizes.pop() if sizes else "0"
        if sizes or not (size.isascii() and size.isdecimal()):
            raise RefusedError(400, "bad request body: Content-Length is no number")
        if len(size) > len(str(_MOST_BODY)) or int(size) > _MOST_BODY:
            raise RefusedError(413, "request body too large")
        return self._read(int(size))

    def _read(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) < size:
            raise RefusedError(400, "bad request body: it is shorter than it says")
        return data

    def _chunks(self) -> bytes:
        """A body that tells no size before, and the headers behind it."""
        body = bytearray()
        while chunk := self._chunk(_MOST_BODY - len(body)):
            body += chunk
        for _ in range(_MOST_TRAILERS):
            if not self._line().strip():
                return bytes(body)
        raise RefusedError(400, "bad request body: too many headers behind it")

    def _chunk(self, room: int) -> bytes:
        digits = self._line().partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9A-Fa-f]+", digits):
            raise RefusedError(400, "bad request body: a chunk has no size")
        size = int(digits, 16)
        if size > room:
            raise RefusedError(413, "request body too large")
        chunk = self._read(size)
        if size and self._line().strip():
            raise RefusedError(400, "bad request body: a chunk is longer than it says")
        return chunk

    def _line(self) -> bytes:
        line = self.rfile.readline(_MOST_LINE)
        if not line.endswith(b"\n"):
            raise RefusedError(400, "bad request body: it has no end, or too long a line")
        return line

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = do_HEAD = _handle  # noqa: N815  # its names

    def _send(self, response: Response) -> None:
        body = b"" if response.content is None else json.dumps(response.content).encode() + b"\n"
        self.send_response(response.status)
        self.send_header("Content-Type", "application/json")
        if response.status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse, as everything else is refused, what is not even HTTP."""
        words = message or explain or HTTPStatus(code).phrase
        self._send(error_response(code, words[:_MOST_WORDS]))

    def log_message(self, *_: Any) -> None:
        """Write nothing: this is a test's output."""
