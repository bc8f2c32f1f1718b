"""Control from outside while a proxy runs: Toxiproxy's HTTP API, for the clients it has."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import sys
import threading

from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from typing import Any
from typing import Self
from urllib.parse import unquote
from urllib.parse import urlsplit

from pytest_resilience.errors import ConfigurationError
from pytest_resilience.proxy.addresses import loopback
from pytest_resilience.proxy.addresses import parse_address
from pytest_resilience.proxy.api import Requests
from pytest_resilience.proxy.api import Response
from pytest_resilience.proxy.proxy import ChaosProxy


__all__ = ["ControlServer"]

_logger = logging.getLogger("pytest_resilience.proxy")
PORT = 8474  # where Toxiproxy's clients look for it
_PATIENCE = 15.0  # seconds for a request to arrive, once connected
_MOST = 2**20  # bytes of a request's body
_LINE = 2**10  # bytes of a line within it


class ControlServer:
    """Lets clients of Toxiproxy's HTTP API see, make, change and harm proxies.

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
        address = parse_address("listen", listen)
        endpoint = loopback(address)
        self._requests = Requests(proxies, seed=seed)
        try:
            self._server = _Server(endpoint.family, endpoint.sockaddr, self._requests)
        except OSError as error:
            raise ConfigurationError(
                f"the control cannot listen on {address}: {error.strerror or error}; give "
                "another port, or port 0 for any that is free"
            ) from error
        self.address: tuple[str, int] = self._server.socket.getsockname()[:2]
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="proxy control", daemon=True)
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
        return self._requests.proxies

    def close(self) -> None:
        """End it, and the proxies that clients made; harmless when it has ended."""
        self._closed = True
        self._server.hang_up()
        self._thread.join()
        self._server.hang_up()  # and on whom it let in meanwhile
        self._server.server_close()
        self._requests.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # `server_close` waits for them

    def __init__(self, family: int, sockaddr: tuple[Any, ...], requests: Requests) -> None:
        self.address_family = socket.AddressFamily(family)
        self.requests = requests
        self._clients: set[socket.socket] = set()
        super().__init__((sockaddr[0], sockaddr[1]), _Handler)

    def server_bind(self) -> None:
        # Without HTTPServer's look-up of the host's name, which can take seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.socket.getsockname()[:2]

    def get_request(self) -> tuple[socket.socket, Any]:
        client, address = super().get_request()
        self._clients.add(client)
        return client, address

    def shutdown_request(self, request: Any) -> None:
        self._clients.discard(request)
        super().shutdown_request(request)

    def handle_error(self, *_: Any) -> None:
        error = sys.exception()
        if not isinstance(error, OSError):  # a client that leaves early is no news
            _logger.error("a request was given up", exc_info=error)

    def hang_up(self) -> None:
        """Wake whoever waits for clients to come, or to say something."""
        for client in (self.socket, *self._clients):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _PATIENCE

    def _meet(self) -> None:
        # Web pages can send requests to loopback; none of them is to change a proxy.
        browser = self.headers.get("User-Agent", "").startswith("Mozilla/")
        if browser or "Origin" in self.headers:
            self._answer(Response(403, {"error": "User agent not allowed", "status": 403}))
            return
        body = self._body()
        if body is None:
            self._answer(Response(413, {"error": "request body too large", "status": 413}))
            return
        path = [unquote(step) for step in urlsplit(self.path).path.strip("/").split("/")]
        self._answer(self.server.requests.meet(self.command, path, body))

    def _body(self) -> bytes | None:
        """What was sent with the request; None if that is too much, or has no end."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            size = self.headers.get("Content-Length", "0")
            fits = size.isdecimal() and int(size) <= _MOST
            return self.rfile.read(int(size)) if fits else None
        body = b""
        while chunk := self._chunk(_MOST - len(body)):
            body += chunk
        return None if chunk is None else body

    def _chunk(self, room: int) -> bytes | None:
        """The next piece of a body that tells no size before; None if there is no room for it."""
        try:
            size = int(self.rfile.readline(_LINE).partition(b";")[0], 16)
        except ValueError:
            return None
        if not 0 <= size <= room:
            return None
        chunk = self.rfile.read(size)
        while self.rfile.readline(_LINE).strip():
            pass  # headers, behind the last one; behind the others is the end of the line
        return chunk

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = do_HEAD = _meet  # noqa: N815  # its names

    def _answer(self, response: Response) -> None:
        body = b"" if response.content is None else json.dumps(response.content).encode() + b"\n"
        self.send_response(response.status)
        self.send_header("Content-Type", "application/json")
        if response.status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Keep still: this is a test's output."""
