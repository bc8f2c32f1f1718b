"""A price service on loopback, healthy all the time: what fails is the way to it."""

from __future__ import annotations

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


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Clients vanish here on purpose."""


@pytest.fixture(scope="session")
def prices_url() -> Iterator[str]:
    with Server(("127.0.0.1", 0), PriceService) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
