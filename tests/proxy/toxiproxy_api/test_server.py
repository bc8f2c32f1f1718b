"""Toxiproxy's HTTP API, spoken without anybody's client."""

from __future__ import annotations

import contextlib
import json
import socket
import threading

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from pytest_resilience import ConfigurationError
from pytest_resilience import DuplicateNameError
from pytest_resilience.proxy import ChaosProxy
from pytest_resilience.proxy import ControlServer
from tests.proxy.conftest import Serve
from tests.proxy.conftest import ask
from tests.proxy.conftest import echo
from tests.proxy.conftest import whole_response


@pytest.fixture
def control() -> Iterator[ControlServer]:
    with ControlServer(listen=("127.0.0.1", 0), seed=1) as control:
        yield control


@pytest.fixture
def upstream(serve: Serve) -> str:
    return f"127.0.0.1:{serve(echo)}"


def call(control: ControlServer, line: str, body: Any = None) -> tuple[int, Any]:
    """The status and the JSON that `"POST /proxies"` is answered."""
    method, path = line.split()
    answer = requests.request(method, control.url + path, json=body, timeout=10)
    assert answer.headers["Content-Type"] == "application/json"
    return answer.status_code, answer.json() if answer.content else None


def works(proxy: dict[str, Any]) -> bool:
    host, port = proxy["listen"].split(":")
    try:
        with socket.create_connection((host, int(port)), timeout=10) as client:
            return ask(client) == b"ping"
    except OSError:
        return False


def test_the_life_of_a_proxy(control: ControlServer, upstream: str) -> None:
    assert call(control, "GET /proxies") == (200, {})
    status, made = call(control, "POST /proxies", {"name": "shop", "upstream": upstream})
    assert status == 201
    port = control.proxies["shop"].port
    assert made == {
        "name": "shop", "listen": f"127.0.0.1:{port}", "upstream": upstream, "enabled": True,
        "toxics": [],
    }  # fmt: skip
    assert call(control, "GET /proxies/shop") == (200, made)
    assert call(control, "GET /proxies") == (200, {"shop": made})
    assert works(made)
    for method, enabled in (("POST", False), ("PATCH", True)):
        status, changed = call(control, f"{method} /proxies/shop", {"enabled": enabled})
        assert (status, changed) == (200, made | {"enabled": enabled})
        assert works(made) is enabled
    assert call(control, "DELETE /proxies/shop") == (204, None)
    assert not works(made)
    assert call(control, "GET /proxies/shop") == NO_PROXY


NO_PROXY = (404, {"error": "proxy not found", "status": 404})
NO_TOXIC = (404, {"error": "toxic not found", "status": 404})


def test_the_life_of_a_toxic(control: ControlServer, upstream: str) -> None:
    call(control, "POST /proxies", {"name": "shop", "upstream": upstream})
    status, made = call(
        control,
        "POST /proxies/shop/toxics",
        {"type": "latency", "attributes": {"latency": 1000, "jitter": 5}},
    )
    assert (status, made) == (
        200,
        {
            "name": "latency_downstream", "type": "latency", "stream": "downstream",
            "toxicity": 1.0, "attributes": {"latency": 1000, "jitter": 5},
        },
    )  # fmt: skip
    path = "/proxies/shop/toxics/latency_downstream"
    assert call(control, f"GET {path}") == (200, made)
    assert call(control, "GET /proxies/shop/toxics") == (200, [made])
    assert call(control, "GET /proxies/shop")[1]["toxics"] == [made]
    changed = made | {"attributes": {"latency": 7, "jitter": 5}}
    assert call(control, f"POST {path}", {"attributes": {"latency": 7}}) == (200, changed)
    changed["toxicity"] = 0.5
    assert call(control, f"PATCH {path}", {"toxicity": 0.5}) == (200, changed)
    (toxic,) = control.proxies["shop"].toxics
    assert (toxic.toxicity, toxic.attributes) == (0.5, {"latency": 7, "jitter": 5})
    assert call(control, f"DELETE {path}") == (204, None)
    assert call(control, f"DELETE {path}") == NO_TOXIC
    assert control.proxies["shop"].toxics == ()


def test_reset_is_for_all(control: ControlServer, upstream: str) -> None:
    for name in ("a", "b"):
        call(control, "POST /proxies", {"name": name, "upstream": upstream})
        call(control, f"POST /proxies/{name}/toxics", {"type": "timeout"})
        call(control, f"POST /proxies/{name}", {"enabled": False})
    assert call(control, "POST /reset") == (204, None)
    for shown in call(control, "GET /proxies")[1].values():
        assert shown["enabled"]
        assert shown["toxics"] == []
        assert works(shown)


def test_populate_makes_and_replaces(control: ControlServer, upstream: str) -> None:
    wanted = [{"name": "a", "upstream": upstream}, {"name": "b", "upstream": upstream}]
    status, made = call(control, "POST /populate", wanted)
    assert status == 201
    assert [proxy["name"] for proxy in made["proxies"]] == ["a", "b"]
    for name in "ab":
        control.proxies[name].add("latency")
    wanted[1]["upstream"] = "127.0.0.1:1"
    status, again = call(control, "POST /populate", wanted)
    assert [len(proxy["toxics"]) for proxy in again["proxies"]] == [1, 0]  # one is as new
    assert again["proxies"][0] | {"toxics": []} == made["proxies"][0]
    assert again["proxies"][1]["upstream"] == "127.0.0.1:1"


@pytest.mark.parametrize(
    "changed", [{"upstream": "nowhere.invalid:1"}, {"listen": "9.9.9.9:1"}, {"listen": "taken"}]
)
def test_a_proxy_that_cannot_be_replaced_stays(
    control: ControlServer, upstream: str, changed: dict[str, str]
) -> None:
    kept = {"name": "kept", "upstream": upstream}
    call(control, "POST /proxies", kept)
    before = call(control, "GET /proxies")
    changed = {name: upstream if how == "taken" else how for name, how in changed.items()}
    wanted = [{"name": "new", "upstream": upstream}] * ("9.9" in str(changed)) + [kept | changed]
    assert call(control, "POST /populate", wanted)[0] == 400
    assert call(control, "GET /proxies") == before


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ([{"upstream": "127.0.0.1:1"}], "missing required field: name at proxy 1"),
        (
            [{"name": "a", "upstream": "127.0.0.1:1"}, {"name": "b"}],
            "missing required field: upstream at proxy 2",
        ),
        (
            [{"name": "a", "upstream": "127.0.0.1:1"}] * 2,
            "bad request body: duplicate proxy name 'a'",
        ),
        ({}, "bad request body: give a list of proxies"),
        (
            [{"name": "a", "upstream": "127.0.0.1:1"}, {"name": "b", "upstream": "nowhere"}],
            "bad request body: upstream='nowhere' has no port; give 'host:port' or (host, port)",
        ),
    ],
)
def test_half_a_population_is_none(control: ControlServer, wanted: Any, error: str) -> None:
    assert call(control, "POST /populate", wanted) == (400, {"error": error, "status": 400})
    assert control.proxies == {}


def test_moving_a_proxy(control: ControlServer, upstream: str) -> None:
    call(control, "POST /proxies", {"name": "a", "upstream": "127.0.0.1:1"})
    status, moved = call(control, "POST /proxies/a", {"upstream": upstream})
    assert (status, moved["upstream"]) == (200, upstream)
    assert works(moved)
    status, same = call(control, "POST /proxies/a", moved)
    assert same == moved


@pytest.mark.parametrize(
    ("line", "body", "expected"),
    [
        ("POST /proxies", {"upstream": "a:1"}, "400 missing required field: name"),
        ("POST /proxies", {"name": "x"}, "400 missing required field: upstream"),
        ("POST /proxies", {"name": "shop", "upstream": "a:1"}, "409 proxy already exists"),
        ("POST /proxies", [], "400 bad request body: [] is no object"),
        (
            "POST /proxies", {"name": "x", "upstream": "127.0.0.1:1", "listen": "0.0.0.0:0"},
            ("400 bad request body: listen='0.0.0.0:0' is not loopback, and a proxy listens "
            "nowhere else; give '127.0.0.1:0' or '[::1]:0'"),
        ),
        (
            "POST /proxies", {"name": "x", "upstream": "127.0.0.1:1", "enabled": "yes"},
            "400 bad request body: enabled='yes': give true or false",
        ),
        (
            "POST /proxies", {"name": "x", "upstreem": "127.0.0.1:1"},
            "400 bad request body: unknown field 'upstreem' (did you mean 'upstream'?)",
        ),
        ("POST /proxies/none", {}, "404 proxy not found"),
        ("DELETE /proxies/none", None, "404 proxy not found"),
        ("GET /proxies/none/toxics", None, "404 proxy not found"),
        ("POST /proxies/none/toxics", {}, "404 proxy not found"),
        ("GET /proxies/shop/toxics/none", None, "404 toxic not found"),
        ("POST /proxies/shop/toxics/none", {}, "404 toxic not found"),
        ("POST /proxies/shop/toxics", {"type": "lag"}, "400 invalid toxic type"),
        (
            "POST /proxies/shop/toxics", {"type": "latency", "stream": "up"},
            "400 stream was invalid, can be either upstream or downstream",
        ),
        ("POST /proxies/shop/toxics", {"type": ["latency"]}, "400 invalid toxic type"),
        (
            "POST /proxies/shop/toxics", {"type": "bandwidth", "attributes": {"rate": 10**400}},
            f"400 bad request body: rate=1{'0' * 99}…{'0' * 100}: give a number, 0 or more",
        ),
        ("POST /proxies/shop/toxics", {"type": "timeout"}, "409 toxic already exists"),
        (
            "POST /proxies/shop/toxics", {"type": "latency", "attributes": {"latency": -1}},
            (
                "400 bad request body: latency=-1: a duration is finite and not negative; give "
                "milliseconds, or a text with us, ms, s, m or h, such as '200ms'"
            ),
        ),
        (
            "POST /proxies/shop/toxics", {"type": "latency", "attributes": {"x": 1}},
            "400 bad request body: latency has no attribute 'x'; it has: latency, jitter",
        ),
        (
            "PATCH /proxies/shop/toxics/timeout_downstream", {"attributes": {"timeout": -1}},
            (
                "400 bad request body: timeout=-1: a duration is finite and not negative; give "
                "milliseconds, or a text with us, ms, s, m or h, such as '200ms'"
            ),
        ),
        ("GET /elsewhere", None, "404 404 page not found"),
        ("DELETE /proxies", None, "405 DELETE is not allowed here; GET, POST is"),
        ("GET /reset", None, "405 GET is not allowed here; POST is"),
        ("PUT /version", None, "405 PUT is not allowed here; GET is"),
    ],
)  # fmt: skip
def test_what_cannot_be_done(
    control: ControlServer, upstream: str, line: str, body: Any, expected: str
) -> None:
    call(control, "POST /proxies", {"name": "shop", "upstream": upstream})
    call(control, "POST /proxies/shop/toxics", {"type": "timeout"})
    before = call(control, "GET /proxies")
    status, answer = call(control, line, body)
    assert f"{status} {answer['error']}" == expected
    assert answer["status"] == status
    assert call(control, "GET /proxies") == before


def test_bodies_that_are_no_json(control: ControlServer) -> None:
    for body, error in (
        (b"", "bad request body: EOF"),
        (b"{", "bad request body: Expecting"),
        (b"[" * 100_000, "bad request body: it is nested too deeply"),
    ):
        answer = requests.post(f"{control.url}/proxies", data=body, timeout=10)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith(error)


@pytest.mark.parametrize("headers", [{"User-Agent": "Mozilla/5.0"}, {"Origin": "http://a.b"}])
def test_web_pages_are_kept_out(control: ControlServer, headers: dict[str, str]) -> None:
    answer = requests.post(f"{control.url}/reset", headers=headers, timeout=10)
    assert (answer.status_code, answer.json()["error"]) == (403, "User agent not allowed")


def test_bodies_that_come_in_pieces(control: ControlServer, upstream: str) -> None:
    """As .NET's clients send them."""
    pieces = iter([b'{"name": "x", ', f'"upstream": "{upstream}"'.encode(), b"}"])
    answer = requests.post(f"{control.url}/proxies", data=pieces, timeout=10)
    assert (answer.status_code, answer.json()["name"]) == (201, "x")


POST = b"POST /proxies HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
HOSTILE = {
    "no room for a chunk": (CHUNKED + b"100001\r\n", 413),
    "a negative chunk": (CHUNKED + b"-1\r\n", 400),
    "a chunk of words": (CHUNKED + b"much\r\n", 400),
    "a chunk with a sign": (CHUNKED + b"+4\r\nabcd\r\n0\r\n\r\n", 400),
    "a chunk in underscores": (CHUNKED + b"1_0\r\n", 400),
    "a chunk of many digits": (CHUNKED + b"f" * 1000 + b"\r\n", 413),
    "a line without an end": (CHUNKED + b"1" * 5000, 400),
    "a chunk that is longer": (CHUNKED + b"1\r\nabc\r\n0\r\n\r\n", 400),
    "a chunk that is shorter": (CHUNKED + b"5\r\nabc", 400),
    "no last chunk": (CHUNKED + b"1\r\na\r\n", 400),
    "endless trailers": (CHUNKED + b"0\r\n" + b"a: b\r\n" * 10_000, 400),
    "trailers without an end": (CHUNKED + b"0\r\na: b\r\n", 400),
    "a long trailer": (CHUNKED + b"0\r\na: " + b"b" * 5000 + b"\r\n\r\n", 400),
    "a short body": (POST + b"Content-Length: 100\r\n\r\n{}", 400),
    "a large body": (POST + b"Content-Length: 1048577\r\n\r\n{}", 413),
    "a body of many digits": (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 413),
    "a negative body": (POST + b"Content-Length: -1\r\n\r\n", 400),
    "a body of foreign digits": (POST + "Content-Length: \u0665\r\n\r\n".encode(), 400),
    "two sizes": (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
    "a size and chunks": (
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "another coding": (POST + b"Transfer-Encoding: gzip\r\n\r\n", 400),
    "too many headers": (POST + b"a: b\r\n" * 1000 + b"\r\n", 431),
    "a URL that is none": (b"GET http://[x/proxies HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "a method that is none": (b"BREW /proxies HTTP/1.1\r\nHost: localhost\r\n\r\n", 501),
}
BODIES = {
    "many digits": b'{"name": "x", "upstream": ' + b"1" * 5000 + b"}",
    "a port of many digits": b'{"name": "x", "upstream": "h:' + b"1" * 5000 + b'"}',
    "deep": b"[" * 100_000,
    "no UTF-8": b'{"name": "\xff"}',
    "half a surrogate": b'{"name": "\\ud800", "upstream": "h:1"}',
    "a NUL": b'{"name": "\\u0000", "upstream": "h:1"}',
    "a line end": b'{"name": "a\\n::error::b", "upstream": "h:1"}',
    "a long name": b'{"name": "' + b"x" * 1000 + b'", "upstream": "h:1"}',
    "a long field": b'{"' + b"upstrea" * 100_000 + b'": 1}',
    "no number": b'{"name": "x", "upstream": NaN}',
    "a pair": b'{"name": "x", "upstream": ["h", 1]}',
    "an object": b'{"name": {"a": 1}, "upstream": "h:1"}',
    "a port": b'{"name": "x", "upstream": "h:65536"}',
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_good_request_is_refused_in_words(
    control: ControlServer, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    request, status = HOSTILE[what]
    answer = whole_response(control, request)
    if answer:  # where there is more to come than anybody reads, the answer may be lost
        assert answer.startswith(b"HTTP/1.0 %d " % status)
        assert b"Traceback" not in answer
    assert caplog.text == ""
    assert call(control, "GET /proxies") == (200, {})


@pytest.mark.parametrize("what", BODIES)
def test_what_is_no_good_body_is_refused_in_words(
    control: ControlServer, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    body = BODIES[what]
    answer = whole_response(control, POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert answer.startswith(b"HTTP/1.0 400 ")
    said = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert said["status"] == 400
    assert caplog.text == ""
    assert call(control, "GET /proxies") == (200, {})


@settings(max_examples=80, deadline=None)
@given(
    head=st.sampled_from([b"", POST, CHUNKED, POST + b"Content-Length: 9\r\n\r\n"]),
    rest=st.binary(max_size=200),
)
def test_whatever_is_sent_is_answered_or_hung_up_on(head: bytes, rest: bytes) -> None:
    with ControlServer(listen=("127.0.0.1", 0), seed=1) as control:
        answer = whole_response(control, head + rest)
        assert not answer or answer.startswith((b"HTTP/1.0 ", b"<!DOCTYPE")) or b"Error" in answer
        assert call(control, "GET /proxies")[0] == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:8474", 200), ("127.0.0.1:1", 200), ("127.9.9.9", 200),
        ("[::1]:8474", 200), ("rebound.example", 403), ("rebound.example:8474", 403),
        ("10.0.0.1", 403), ("[fe80::1]", 403), ("127.0.0.1.example", 403), ("", 403),
    ],
)  # fmt: skip
def test_a_name_that_leads_here_is_not_enough(
    control: ControlServer, host: str, status: int
) -> None:
    answer = whole_response(control, f"GET /proxies HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.0 %d " % status)


def test_a_client_of_http_1_0_need_not_say_whom_it_means(control: ControlServer) -> None:
    assert whole_response(control, b"GET /proxies HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200 ")


def test_who_drips_bytes_is_given_up_on(
    control: ControlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_resilience.proxy.toxiproxy_api.server._DEADLINE", 0.2)
    with socket.create_connection(control.address, timeout=10) as client:
        client.sendall(POST + b"Content-Length: 1000000\r\n\r\n")
        client.settimeout(0.02)
        while True:  # a byte each time that nothing is heard: each is in time, all are not
            try:
                heard = client.recv(100)
            except TimeoutError:
                with contextlib.suppress(OSError):
                    client.send(b" ")
                continue
            except ConnectionResetError:
                heard = b""
            break
    assert heard == b"" or heard.startswith(b"HTTP/1.0 4")
    assert call(control, "GET /proxies") == (200, {})


def test_connections_are_bounded(control: ControlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_resilience.proxy.toxiproxy_api.server._MOST_CONNECTIONS", 3)
    with contextlib.ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection(control.address, timeout=10))
            for _ in range(3)
        ]
        refused = whole_response(control, b"GET /proxies HTTP/1.0\r\n\r\n")
        assert not refused or refused.startswith(b"HTTP/1.0 503 ")
        before = threading.active_count()
        for _ in range(20):
            whole_response(control, b"GET /proxies HTTP/1.0\r\n\r\n")
        assert threading.active_count() <= before
        for each in idle:
            each.sendall(b"GET /proxies HTTP/1.0\r\n\r\n")
            assert each.recv(100).startswith(b"HTTP/1.0 200 ")


def test_names_and_nulls_are_read_as_go_reads_them(control: ControlServer, upstream: str) -> None:
    """There are clients that send them so."""
    shop = {"Name": "shop", "Upstream": upstream, "Listen": None, "Enabled": None}
    assert call(control, "POST /proxies", shop)[0] == 201
    toxic = {
        "Type": "latency", "Name": "slow", "Stream": "Upstream", "Toxicity": None,
        "Attributes": {"Latency": 7, "Jitter": None},
    }  # fmt: skip
    status, made = call(control, "POST /proxies/shop/toxics", toxic)
    assert (status, made) == (
        200,
        {
            "type": "latency", "name": "slow", "stream": "upstream", "toxicity": 1.0,
            "attributes": {"latency": 7, "jitter": 0},
        },
    )  # fmt: skip
    change = {"Toxicity": None, "Attributes": {"Jitter": 3, "latency": None}}
    status, changed = call(control, "PATCH /proxies/shop/toxics/slow", change)
    assert (status, changed["attributes"]) == (200, {"latency": 7, "jitter": 3})


def test_bodies_without_end_are_not_read(control: ControlServer) -> None:
    with socket.create_connection(control.address, timeout=10) as client:
        client.sendall(POST + b"Content-Length: 99999999999\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.0 413 ")


def test_proxies_made_here_can_be_controlled(proxy: ChaosProxy) -> None:
    with ControlServer([proxy], ("127.0.0.1", 0)) as control:
        assert call(control, f"POST /proxies/{proxy.name}", {"enabled": False})[0] == 200
        assert not proxy.enabled
        proxy.enable()
        assert call(control, f"GET /proxies/{proxy.name}")[1]["enabled"]
    assert proxy.enabled  # it is not the control's to end


def test_two_of_one_name(proxy: ChaosProxy) -> None:
    with pytest.raises(DuplicateNameError):
        ControlServer([proxy, proxy], ("127.0.0.1", 0))


def test_it_ends_with_all_it_made(upstream: str) -> None:
    threads = threading.active_count()
    control = ControlServer(listen=("127.0.0.1", 0))
    _, made = call(control, "POST /proxies", {"name": "shop", "upstream": upstream})
    with socket.create_connection(control.address) as mute:  # it says nothing, and is waited for
        control.close()
        control.close()
        with contextlib.suppress(ConnectionResetError):  # if it was not let in yet
            assert mute.recv(1) == b""
    assert not works(made)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(control.address)
    assert threading.active_count() <= threads


def test_it_is_off_unless_asked_for(proxy: ChaosProxy) -> None:
    import psutil

    listening = {
        each.laddr.port
        for each in psutil.Process().net_connections("tcp")
        if each.status == psutil.CONN_LISTEN
    }
    assert proxy.port in listening
    assert 8474 not in listening
    assert not [thread for thread in threading.enumerate() if thread.name == "proxy control"]


def test_it_listens_on_loopback_only() -> None:
    with pytest.raises(ConfigurationError, match="is not loopback"):
        ControlServer(listen="0.0.0.0:8474")


def test_a_port_that_is_taken(control: ControlServer) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ControlServer(listen=control.address)
    assert str(caught.value) == (
        f"the control cannot listen on 127.0.0.1:{control.address[1]}: Address already in use; "
        "give another port, or port 0 for any that is free"
    )


def test_it_listens_on_six_too() -> None:
    with ControlServer(listen="[::1]:0") as control:
        assert control.url.startswith("http://[::1]:")
        version = call(control, "GET /version")[1]
    assert json.dumps(version) == '{"version": "2.12.0", "server": "pytest-resilience"}'
