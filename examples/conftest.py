"""Services on loopback, healthy all the time: what fails is the way to them."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading

from collections.abc import Iterator

import pytest


class PriceService(http.server.BaseHTTPRequestHandler):
    """Answers every GET with a price."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = json.dumps({"item": self.path.rpartition("/")[2], "price": 4}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Be silent."""


class ShopServices(http.server.BaseHTTPRequestHandler):
    """All services of a shop; each answers with what it was asked, and POST with success."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer({"path": self.path, "stock": 15})

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({"status": "success", "size": len(sent)})

    def _answer(self, answer: dict[str, object]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Be silent."""


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Clients vanish here on purpose."""


@contextlib.contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def prices_url() -> Iterator[str]:
    with serving(PriceService) as url:
        yield url


@pytest.fixture(scope="session")
def services_url() -> Iterator[str]:
    with serving(ShopServices) as url:
        yield url
