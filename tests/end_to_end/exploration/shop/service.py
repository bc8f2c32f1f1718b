"""What the shop depends on: a service in HTTP, and a pool of connections to it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import http.server
import json
import threading

from collections.abc import Iterator
from typing import Any


__all__ = ["Pool", "Service", "ask", "checked", "running"]


class Service(http.server.ThreadingHTTPServer):
    """Answers with JSON, and with a digest of it, for what comes over a network may be damaged.

    Attributes:
        charges: what was charged, by order.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.charges: dict[str, list[int]] = {}
        self._keys: set[str] = set()
        self._lock = threading.Lock()

    def charge(self, body: dict[str, Any]) -> None:
        """Once for each key, where there is one."""
        with self._lock:
            key = body.get("key")
            if key is None or key not in self._keys:
                self._keys.add(str(key))
                self.charges.setdefault(body["order"], []).append(body["amount"])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are the subject."""


_SAID: dict[str, dict[str, Any]] = {
    "price": {"price": 4}, "rate": {"rate": 7}, "invoice": {"text": "tea: 4"},
    "left": {"left": 3}, "item": {"text": "green"}, "count": {"count": 5},
}  # fmt: skip


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        self._answer(_SAID[self.path.split("/")[1]])

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.charge(json.loads(body))
        self._answer({"done": True})

    def _answer(self, what: dict[str, Any]) -> None:
        body = json.dumps(what).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Digest", hashlib.sha256(body).hexdigest())
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextlib.contextmanager
def running() -> Iterator[Service]:
    """A service for as long as the block lasts."""
    with Service() as service:
        thread = threading.Thread(target=service.serve_forever, args=(0.01,))
        thread.start()
        yield service
        service.shutdown()
        thread.join()


def checked(response: http.client.HTTPResponse) -> Any:
    """What a response says. Raises ValueError, OSError or HTTPException if it is not a good one."""
    return _verified(response.status, response.getheader("Digest"), response.read())


def _verified(status: int, digest: str | None, body: bytes) -> Any:
    if status != 200:
        raise ConnectionError(f"the service says {status}")
    if hashlib.sha256(body).hexdigest() != digest:
        raise ValueError("the response is damaged")
    return json.loads(body)


def ask(port: int, path: str, body: dict[str, Any] | None = None) -> Any:
    """One request, and what its response says."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=1)) as connection:
        given = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, given)
        return checked(connection.getresponse())


class Pool:
    """One connection at a time, and no more."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free = 1

    async def take(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection. Raises RuntimeError if all are taken."""
        if not self._free:
            raise RuntimeError("all connections of the pool are taken")
        self._free -= 1
        try:
            async with asyncio.timeout(1):
                return await asyncio.open_connection("127.0.0.1", self._port)
        except BaseException:
            self._free += 1
            raise

    async def give_back(self, writer: asyncio.StreamWriter) -> None:
        """Who has taken one gives it back."""
        self._free += 1
        writer.close()

    @staticmethod
    def checked(answer: bytes) -> Any:
        """What a whole response says, as `checked`."""
        head, _, body = answer.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        fields = dict(line.partition(": ")[::2] for line in lines[1:])
        status = lines[0].split(" ")[1] if " " in lines[0] else "0"
        return _verified(int(status), fields.get("Digest"), body)
