"""What happens to one request, in this process and in HTTP/2, beside the real event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import h2.connection
import httpx
import pytest

from tests.fidelity_page import Section
from tests.fidelity_page import assert_complete
from tests.http2_server import BODY
from tests.http2_server import Serve
from tests.http2_server import ok
from tests.http2_server import serving_http2
from tests.injecting import Inject
from tests.interceptors.conftest import Trust
from tests.interceptors.http_mocks.in_process_clients import WAYS
from tests.interceptors.http_mocks.in_process_clients import App
from tests.interceptors.http_mocks.in_process_clients import Way
from tests.interceptors.http_mocks.in_process_clients import for_real
from tests.interceptors.http_mocks.in_process_clients import met
from tests.waiting import PATIENCE


# By the event: what injects it, and how often the application is called.
ACCIDENTS: dict[str, tuple[str, dict[str, Any], int]] = {
    "refused": ("refuse", {}, 0),
    "reset": ("reset", {}, 0),
    "no answer": ("timeout", {"nth": 2}, 0),  # the first is the connect
    "half a body": ("truncate", {}, 1),
}
CLIENTS = {name.replace("httpx ", ""): way for name, way in WAYS.items() if "httpx2" not in name}
IN_PROCESS = Section(
    title="Applications in this process",
    events=tuple(f"{event}, {client}" for event in ACCIDENTS for client in CLIENTS),
    libraries=("httpx", "starlette", "fastapi", "flask", "werkzeug"),
    about="For real: the same library at a server; for Flask's and Werkzeug's, `http.client`.",
)


def told(accident: tuple[type[BaseException], str]) -> str:
    kind, _ = accident
    return f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}".removeprefix("builtins.")


@pytest.mark.parametrize("event", ACCIDENTS)
@pytest.mark.parametrize(("client", "way"), CLIENTS.items(), ids=CLIENTS)
def test_an_application(event: str, client: str, way: Way, inject: Inject) -> None:
    app = App()
    mode, given, calls = ACCIDENTS[event]
    with inject("network_failure", target="shop.example:80", mode=mode, **given) as fault:
        injected = met(lambda: way(app))
    real = for_real(way.library, mode)
    assert (app.calls, fault.hits) == (calls, 1)
    IN_PROCESS.note(f"{event}, {client}", told(injected), told(real))
    if not ("MockTransport awaited" in client or "ASGI" in client or mode == "truncate"):
        assert injected[1] == real[1]  # the text; what is awaited has words of its own


Failure = Callable[[h2.connection.H2Connection, int], None]


@pytest.fixture(scope="module")
def over_http2(trust: Trust) -> Serve:
    return serving_http2(trust)


def reset(connection: h2.connection.H2Connection, stream_id: int) -> None:
    connection.reset_stream(stream_id, 2)


def half(connection: h2.connection.H2Connection, stream_id: int) -> None:
    head = [(":status", "200"), ("content-length", str(len(BODY)))]
    connection.send_headers(stream_id, head)
    connection.send_data(stream_id, BODY[: len(BODY) // 2])
    connection.reset_stream(stream_id, 2)


def unavailable(connection: h2.connection.H2Connection, stream_id: int) -> None:
    head = [(":status", "503"), ("content-type", "text/plain; charset=utf-8")]
    connection.send_headers(stream_id, [*head, ("retry-after", "7"), ("content-length", "4")])
    connection.send_data(stream_id, b"busy", end_stream=True)


def nothing(connection: h2.connection.H2Connection, stream_id: int) -> None:
    """Never answer."""


STREAMS: dict[str, tuple[dict[str, Any], Failure]] = {
    "one stream reset": ({"mode": "reset"}, reset),
    "one answer lost": ({"mode": "lose_answer"}, reset),
    "half a body": ({"mode": "truncate"}, half),
    "no answer": ({"mode": "timeout"}, nothing),
    "status 503": ({"status": 503, "body": "busy", "retry_after": 7}, unavailable),
}
HTTP2 = Section(
    title="httpx, HTTP/2",
    events=tuple(STREAMS),
    libraries=("httpx", "h2"),
    about="Three requests on one connection, of which the second is meant.",
)


def messages(url: str, trust: Trust, event: str) -> str:
    found = []
    with httpx.Client(http2=True, http1=False, verify=trust.client, trust_env=False) as client:
        for path in ("/a", "/v1/pay", "/b"):
            hears_nothing = (event, path) == ("no answer", "/v1/pay")
            timeout = httpx.Timeout(PATIENCE, read=0.3 if hears_nothing else PATIENCE)
            try:
                response = client.get(url + path, timeout=timeout)
                found.append(f"{response.status_code}, {len(response.content)} bytes")
                found[-1] += f", Retry-After {after}" if (after := retry_after(response)) else ""
            except httpx.HTTPError as error:
                found.append(f"httpx.{type(error).__name__}: {error}")
    return "; ".join(found)


def retry_after(response: httpx.Response) -> str:
    return str(response.headers.get("retry-after", ""))


@pytest.mark.parametrize("event", STREAMS)
def test_a_stream(event: str, over_http2: Serve, trust: Trust, inject: Inject) -> None:
    given, fail = STREAMS[event]

    def failing(connection: h2.connection.H2Connection, stream_id: int, path: str) -> None:
        if path == "/v1/pay":
            fail(connection, stream_id)
        else:
            ok(connection, stream_id, path)

    with over_http2(failing) as url:
        real = messages(url, trust, event)
    with over_http2(ok) as url, inject("network_failure", path="/v1/*", **given) as fault:
        injected = messages(url, trust, event)
    assert fault.hits == 1
    HTTP2.note(event, injected, real)


def test_the_page_has_every_row() -> None:
    assert_complete(IN_PROCESS, HTTP2)
