"""What clients see through the proxy is what they see when it happens for real."""

from __future__ import annotations

import contextlib
import http.client
import socket
import urllib.request

from collections.abc import Callable
from collections.abc import Iterator

import pytest
import requests

from pytest_resilience.proxy import ChaosProxy
from tests.proxy.conftest import Serve
from tests.resets import reset_when_closed


BODY = b"x" * 100
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + BODY

Client = Callable[[int, float], object]
PATIENCE = 10.0

Chain = list[tuple[str, int | None]]


def met(action: Callable[[], object]) -> Chain:
    """The exception an action raises and all behind it, each with its errno."""
    with pytest.raises(Exception) as caught:
        action()
    chain: Chain = []
    error: BaseException | None = caught.value
    while error is not None:
        chain.append((type(error).__qualname__, getattr(error, "errno", None)))
        error = error.__cause__ or error.__context__
    return chain


def with_socket(port: int, timeout: float) -> object:
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        got = b""
        while len(got) < len(ANSWER):
            more = client.recv(1000)
            if not more:
                raise EOFError(len(got))
            got += more
    return got


def with_http_client(port: int, timeout: float) -> object:
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    ) as client:
        client.request("GET", "/")
        return client.getresponse().read()


def with_urllib(port: int, timeout: float) -> object:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=timeout) as answer:
        return answer.read()


def with_requests(port: int, timeout: float) -> object:
    return requests.get(f"http://127.0.0.1:{port}/", timeout=timeout).content


def good(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(ANSWER)


def resets(connection: socket.socket) -> None:
    connection.recv(65536)
    reset_when_closed(connection)


def gives_half(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(ANSWER[: len(ANSWER) // 2])


def resets_half(connection: socket.socket) -> None:
    gives_half(connection)
    reset_when_closed(connection)


def closes(connection: socket.socket) -> None:
    connection.recv(65536)


def is_silent(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


@contextlib.contextmanager
def closed(proxy: ChaosProxy) -> Iterator[None]:
    with proxy.inject("network_failure", mode="refuse", rate=1):
        yield


HANDLERS = {
    "reset": resets,
    "half": gives_half,
    "reset within a body": resets_half,
    "closed": closes,
    "closed unanswered": closes,
    "silence": is_silent,
}
FAULTS: dict[str, Callable[[ChaosProxy], contextlib.AbstractContextManager[object]]] = {
    "refused": closed,
    "reset": lambda proxy: proxy.inject("network_failure", mode="reset", rate=1),
    "half": lambda proxy: proxy.having("truncate"),
    "reset within a body": lambda proxy: proxy.inject(
        "network_failure",
        after_bytes=len(ANSWER) // 2 - (len(ANSWER) - len(BODY)),
        end="reset",
        rate=1,
    ),
    "closed": lambda proxy: proxy.inject("network_failure", mode="close", rate=1),
    "closed unanswered": lambda proxy: proxy.having("lose_answer", reset=False),
    "silence": lambda proxy: proxy.having("timeout"),
}


@pytest.mark.parametrize("client", [with_socket, with_http_client, with_urllib, with_requests])
@pytest.mark.parametrize("event", FAULTS)
def test_it_is_what_really_happens(serve: Serve, client: Client, event: str) -> None:
    if event == "refused":
        with socket.create_server(("127.0.0.1", 0)) as gone:
            real = int(gone.getsockname()[1])
    else:
        real = serve(HANDLERS[event])
    timeout = 0.05 if event == "silence" else PATIENCE
    with ChaosProxy(("127.0.0.1", serve(good))) as proxy:
        assert client(proxy.port, PATIENCE)
        with FAULTS[event](proxy):
            injected = met(lambda: client(proxy.port, timeout))
            assert injected == met(lambda: client(real, timeout))
        assert client(proxy.port, PATIENCE)
