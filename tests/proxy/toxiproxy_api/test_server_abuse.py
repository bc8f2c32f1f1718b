"""Hostile requests: each gets an error in words, and nobody else suffers."""

from __future__ import annotations

import contextlib
import json
import math
import resource
import socket
import threading

from collections.abc import Iterator
from typing import Any

import pytest

from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from pytest_resilience import ConfigurationError
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import ManualClock
from pytest_resilience.proxy import ChaosProxy
from pytest_resilience.proxy import ControlServer
from pytest_resilience.proxy import Toxic
from pytest_resilience.proxy.event_loop import EventLoop
from pytest_resilience.proxy.toxic_types import KINDS
from pytest_resilience.proxy.toxiproxy_api.server import _RequestReader
from tests.proxy.conftest import Serve
from tests.proxy.conftest import ask
from tests.proxy.conftest import echo
from tests.proxy.conftest import whole_response


@pytest.fixture
def control(caplog: pytest.LogCaptureFixture) -> Iterator[ControlServer]:
    """One that must have nothing to log when it is over."""
    with ControlServer(listen=("127.0.0.1", 0), seed=1) as control:
        yield control
    assert caplog.text == ""


@pytest.fixture
def upstream(serve: Serve) -> str:
    return f"127.0.0.1:{serve(echo)}"


def exchange(control: ControlServer, request: bytes) -> tuple[int, Any]:
    """The status and the JSON of the answer to a request, after which nothing more is sent."""
    head, _, body = whole_response(control, request).partition(b"\r\n\r\n")
    version, status, *_ = head.split(b" ")
    assert version == b"HTTP/1.0"
    return int(status), json.loads(body) if body else None


def post(control: ControlServer, path: str, document: Any) -> tuple[int, Any]:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return exchange(control, head.encode() + body)


GET = b"GET /version HTTP/1.1\r\n"
LOCAL = b"Host: localhost\r\n"
RESET = b"POST /reset HTTP/1.1\r\n" + LOCAL


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        (GET + b"\r\n", 400, "give one Host header"),
        (GET + LOCAL + b"Host: rebound.example\r\n\r\n", 400, "give one Host header"),
        (GET + LOCAL * 2 + b"\r\n", 400, "give one Host header"),
        (b"GET http://rebound.example/ HTTP/1.1\r\n" + LOCAL + b"\r\n", 403, "only loopback is"),
        (GET + b"Host: localhost@rebound.example\r\n\r\n", 403, "only loopback is"),
        (GET + b"Host: rebound.example[127.0.0.1]\r\n\r\n", 403, "only loopback is"),
        (GET + b"Host localhost\r\nHost: localhost\r\n\r\n", 400, "a header has no colon"),
        (GET + LOCAL + b"nothing\r\n\r\n", 400, "a header has no colon"),
        (b"GET /version HTTP/2.0\r\n" + LOCAL + b"\r\n", 505, "Invalid HTTP version"),
        (b"GET /version HTTP/" + b"9" * 5000 + b".1\r\n\r\n", 400, "Bad request version"),
        (b"GET /version HTTP/\xb2.1\r\n\r\n", 400, "Bad request version"),
        (b"POST /reset\r\n\r\n", 400, "request type"),
        (b"a b c d e\r\n\r\n", 400, "Bad request"),
        (b"\x1b[31m /reset HTTP/1.1\r\n" + LOCAL + b"\r\n", 501, r"method ('\x1b[31m')"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414, "Too Long"),
        (b"GET /a\0b HTTP/1.1\r\n" + LOCAL + b"\r\n", 404, "not found"),
        (b"GET /proxies/%ff%00 HTTP/1.1\r\n" + LOCAL + b"\r\n", 404, "not found"),
        (RESET + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n", 400, "two ways"),
        (
            RESET + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
            400, "two ways",
        ),
        (RESET + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400, "or unknown"),
    ],
)  # fmt: skip
def test_requests_that_mean_two_things_or_none(
    control: ControlServer, request_: bytes, status: int, words: str
) -> None:
    found, said = exchange(control, request_)
    assert (found, said["status"]) == (status, status)
    assert words in said["error"]
    assert len(said["error"]) < 300


@pytest.mark.parametrize(
    "request_",
    [
        GET + b"Host: localhost.:80\r\n\r\n",
        GET + b"Host: [::1]\r\n\r\n",
        b"GET http://127.0.0.1:8474/version HTTP/1.1\r\n" + LOCAL + b"\r\n",
        b"GET /version HTTP/1.0\r\n\r\n",
    ],
)
def test_requests_to_this_machine_however_it_is_written(
    control: ControlServer, request_: bytes
) -> None:
    assert exchange(control, request_)[0] == 200


@pytest.mark.parametrize("size", [b"0 ", b"\t0", b"00000"])
def test_a_size_with_space_around_it(control: ControlServer, size: bytes) -> None:
    assert exchange(control, RESET + b"Content-Length: " + size + b"\r\n\r\n")[0] == 204


def test_headers_take_no_more_room_than_they_may(control: ControlServer) -> None:
    headers = b"".join(b"a%d: %s\r\n" % (number, b"x" * 60_000) for number in range(90))
    with socket.create_connection(control.address, timeout=30) as client:
        with contextlib.suppress(OSError):
            client.sendall(GET + LOCAL + headers + b"\r\n")
        with contextlib.suppress(ConnectionResetError):  # there was more than it has read
            assert client.recv(100).startswith(b"HTTP/1.0 431 ")


def test_chunks_take_no_more_room_than_they_may(control: ControlServer) -> None:
    """Nine of ten bytes are about the chunks, and not in them."""
    chunks = b"1;" + b"x" * 1000 + b"\r\n \r\n"
    with socket.create_connection(control.address, timeout=30) as client:
        with contextlib.suppress(OSError):
            client.sendall(RESET + b"Transfer-Encoding: chunked\r\n\r\n" + chunks * 10_000)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(100).startswith(b"HTTP/1.0 413 ")


class _Elapsing:
    """A client whose every byte comes when a second has gone by."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._clock = ManualClock()
        self.patience: list[float] = []
        monkeypatch.setattr(
            "pytest_resilience.proxy.toxiproxy_api.server.MACHINE_CLOCK", self._clock
        )

    def settimeout(self, seconds: float) -> None:
        self.patience.append(seconds)

    def recv_into(self, buffer: Any, size: int) -> int:
        self._clock.advance(1)
        buffer[:1] = b"x"
        return min(1, size)


def test_patience_is_for_the_whole_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    client: Any = _Elapsing(monkeypatch)
    incoming = _RequestReader(client, 5.0, room=1000)
    read = bytearray(10)
    for left in (5.0, 4.0, 3.0, 2.0, 1.0):
        assert incoming.readinto(read) == 1
        assert client.patience[-2] == left
    with pytest.raises(TimeoutError):
        incoming.readinto(read)


def test_who_is_too_slow_is_told(control: ControlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_resilience.proxy.toxiproxy_api.server._DEADLINE", 0.1)
    with socket.create_connection(control.address, timeout=30) as client:
        client.sendall(RESET + b"Content-Length: 10\r\n\r\n{")
        answer = client.recv(1000)
    assert answer.startswith(b"HTTP/1.0 408 ")


def test_who_finds_no_room_is_told(control: ControlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_resilience.proxy.toxiproxy_api.server._MOST_CONNECTIONS", 1)
    with socket.create_connection(control.address, timeout=30) as first:
        first.sendall(b"GET ")
        with socket.create_connection(control.address, timeout=30) as second:
            answer = second.recv(1000)
    assert answer.startswith(b"HTTP/1.0 503 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {
        "error": "there are 1 connections already; try again when one has ended",
        "status": 503,
    }


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b'{"a": NaN}', "NaN is no JSON"),
        (b'{"a": -Infinity}', "-Infinity is no JSON"),
        ({str(number): 1 for number in range(101)}, "an object of 101 fields; give 100 at most"),
        ({"name": "a", "upstream": "x" * 256 + ":1"}, "a host has at most 255 characters"),
        ({"name": "a", "upstream": "h\0:1"}, "cannot be resolved"),
        ({"name": "a", "upstream": "\ud800:1"}, "cannot be resolved"),
        ({"name": "a", "upstream": "[fe80::1%nope]:80"}, "cannot be resolved"),
        ({"name": "a", "upstream": "127.0.0.1:1", "listen": "[::1%nope]:0"}, "cannot listen on"),
        ({"name": "a", "upstream": "127.0.0.1:1", "listen": ["::1", -1]}, "a port is a number"),
        ({"name": "a", "upstream": "127.0.0.1:1", "listen": [1] * 3}, "is no address"),
        ([[[[]]]], "is no object"),
    ],
)
def test_documents_that_make_no_proxy(control: ControlServer, document: Any, words: str) -> None:
    status, said = post(control, "/proxies", document)
    assert (status, said["status"]) == (400, 400)
    assert words in said["error"]
    assert len(said["error"]) < 600
    assert control.proxies == {}


def test_more_proxies_than_there_may_be(control: ControlServer, upstream: str) -> None:
    status, said = post(control, "/populate", [{"name": "a", "upstream": upstream}] * 20_000)
    assert (status, said["error"]) == (
        400, "bad request body: 20000 proxies; give 200 at most",
    )  # fmt: skip
    assert control.proxies == {}


def test_one_proxy_more_than_there_may_be(
    control: ControlServer, upstream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_resilience.proxy.toxiproxy_api.routes._MOST_PROXIES", 2)
    for name in ("a", "b"):
        assert post(control, "/proxies", {"name": name, "upstream": upstream})[0] == 201
    status, said = post(control, "/proxies", {"name": "c", "upstream": upstream})
    assert (status, said["error"]) == (400, "there are 2 proxies already; delete some")
    assert set(control.proxies) == {"a", "b"}


def test_one_toxic_more_than_there_may_be(
    control: ControlServer, upstream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_resilience.proxy.toxiproxy_api.routes._MOST_TOXICS", 1)
    post(control, "/proxies", {"name": "shop", "upstream": upstream})
    assert post(control, "/proxies/shop/toxics", {"type": "latency"})[0] == 200
    status, said = post(control, "/proxies/shop/toxics", {"type": "timeout"})
    assert (status, said["error"]) == (400, "there are 1 toxics already; delete some")


def test_a_population_that_fails_on_the_way_is_none(control: ControlServer, upstream: str) -> None:
    threads = threading.active_count()
    wanted = [
        {"name": "a", "upstream": upstream},
        {"name": "b", "upstream": upstream, "listen": upstream},  # which is taken
    ]
    assert post(control, "/populate", wanted)[0] == 400
    assert control.proxies == {}
    assert threading.active_count() <= threads + 1  # that of the request may not have ended


def test_where_there_is_no_descriptor_left(control: ControlServer, upstream: str) -> None:
    wanted = [{"name": str(number), "upstream": upstream} for number in range(100)]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (150, before[1]))
    try:
        status, said = post(control, "/populate", wanted)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert (status, said["status"]) in {(500, 500), (400, 400)}
    assert "Too many open files" in said["error"]
    assert control.proxies == {}
    assert post(control, "/proxies", wanted[0])[0] == 201


def test_where_there_is_no_thread_left(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        with pytest.raises(RuntimeError):
            EventLoop("none", MACHINE_CLOCK)
    assert len(os.listdir("/proc/self/fd")) == before


BIG: list[Any] = [
    10**400, 2**63, 1e308, -1, 5e-324, math.nan, math.inf, True, None, [], {}, "²", "9" * 5000, "",
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, there in KINDS.items() for name in there]
)
@pytest.mark.parametrize("value", BIG, ids=lambda value: f"{str(value)[:9]}")
def test_attributes_are_taken_or_refused_in_words(kind: str, name: str, value: Any) -> None:
    try:
        toxic = Toxic.make(kind, {name: value})
    except ConfigurationError as error:
        words = str(error)
    else:
        words = f"{name}="
        assert 0 <= toxic.attributes[name] < 2**63
    assert words.startswith(f"{name}=")
    assert len(words) < 400


@pytest.mark.parametrize(
    ("kind", "attributes", "heard"),
    [
        ("bandwidth", {"rate": 2**62}, b"ping"),
        ("corrupt", {"share": 5e-324}, b"ping"),
        ("corrupt", {"share": 5e-324, "skip": 2**63 - 1}, b"ping"),
        ("corrupt", {"share": 1e-17}, b"ping"),
        ("limit_data", {"bytes": 2**63 - 1}, b"ping"),
        ("slicer", {"average_size": 2**63 - 1, "size_variation": 2**63 - 2}, b"ping"),
        ("truncate", {"answer": 2**63 - 1}, b"ping"),
        ("lose_answer", {"answer": 2**63 - 1}, b"ping"),
        ("slow_close", {"delay": 3.6e12}, b"ping"),
    ],
)
def test_the_largest_and_smallest_work(
    proxy: ChaosProxy,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    attributes: dict[str, Any],
    heard: bytes,
) -> None:
    with (
        proxy.having(kind, **attributes),
        socket.create_connection(proxy.address, timeout=30) as client,
    ):
        assert ask(client) == heard
    assert caplog.text == ""


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.integers() | st.just(10**500),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)
NAMES = ("name", "upstream", "listen", "enabled", "toxics", "type", "stream", "toxicity")
VALUES = (
    JSON | st.sampled_from(sorted(KINDS))
    | st.sampled_from(["127.0.0.1:1", "127.0.0.1:0", "[::1]:0", "[::1%lo]:1", ":1", "h:", "a:b:1"])
)  # fmt: skip
ATTRIBUTES = st.dictionaries(
    st.sampled_from(sorted({name for there in KINDS.values() for name in there})) | st.text(), JSON
)
DOCUMENTS = st.fixed_dictionaries(
    {}, optional={**dict.fromkeys(NAMES, VALUES), "attributes": ATTRIBUTES | JSON}
)
PATHS = ("/proxies", "/populate", "/reset", "/proxies/shop", "/proxies/shop/toxics", "/nowhere")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(PATHS), DOCUMENTS | JSON | st.lists(DOCUMENTS, max_size=3))
def test_whatever_a_document_says_it_is_answered_in_words(
    caplog: pytest.LogCaptureFixture, path: str, document: Any
) -> None:
    with ControlServer(listen=("127.0.0.1", 0), seed=1) as control:
        post(control, "/proxies", {"name": "shop", "upstream": "127.0.0.1:1"})
        status, said = post(control, path, document)
        if status >= 400:
            assert status in {400, 404, 405, 409}
            assert said["status"] == status
            assert said["error"].strip()
        assert exchange(control, GET + LOCAL + b"\r\n")[0] == 200
    assert caplog.text == ""


HEADERS = st.lists(
    st.sampled_from(
        [
            b"Host: localhost", b"Host: x", b"Content-Length: 5", b"Content-Length: -5",
            b"Content-Length: 1_0", b"Transfer-Encoding: chunked", b"Transfer-Encoding: x",
            b"Origin: null", b"Expect: 100-continue", b"Connection: keep-alive", b" folded",
            b"no colon", b"\xff: \xff", b"a\0: b", b": empty", b"Content-Length :5",
        ]
    ),
    max_size=5,
)  # fmt: skip
FIRST = st.sampled_from(
    [
        b"GET /proxies HTTP/1.1", b"POST /reset HTTP/1.0", b"POST http://[x/ HTTP/1.1",
        b"PUT * HTTP/1.1", b"GET", b"GET / HTTP/1.1 x", b"\0\0\0", b"HEAD /version HTTP/1.1",
        b"PRI * HTTP/2.0", b"\x16\x03\x01\x02\x00\x01", b"OPTIONS / HTTP/1.1",
        b"CONNECT a:1 HTTP/1.1",
    ]
)  # fmt: skip


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(FIRST, HEADERS, st.sampled_from([b"", b"12345", b"5\r\n12345\r\n0\r\n\r\n", b"0\r\n"]))
def test_whatever_a_head_says_it_is_answered_in_words(
    caplog: pytest.LogCaptureFixture, first: bytes, headers: list[bytes], body: bytes
) -> None:
    with ControlServer(listen=("127.0.0.1", 0), seed=1) as control:
        status, said = exchange(control, b"\r\n".join([first, *headers, b"", body]))
        if status >= 400 and not first.startswith(b"HEAD"):
            assert said["status"] == status
            assert said["error"].strip()
        assert exchange(control, GET + LOCAL + b"\r\n")[0] == 200
    assert caplog.text == ""
