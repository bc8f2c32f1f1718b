"""Reading requests of HTTP, and choosing among them."""

from __future__ import annotations

from typing import Any

import h2.config
import h2.connection
import h11
import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ChaosExperiment
from pytest_resilience import ConfigurationError
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import HttpDetails
from pytest_resilience.chaos.operation import HttpRequest
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.parsing.http_requests import FrameReader
from pytest_resilience.chaos.parsing.http_requests import RequestReader


def receive(request: HttpRequest | None) -> Operation:
    return Operation(
        kind=RECEIVE, target="api:80", names=("api:80",), http=HttpDetails(request=request)
    )


def failure(**parameters: Any) -> ChaosExperiment:
    return ChaosExperiment("x", "network_failure", mode="reset", **parameters)


PAYMENT = HttpRequest.of(
    "POST", "/v1/payments/7?full=1", [("X-Tenant", "acme-eu"), ("Accept", "*/*")]
)
CALL = HttpRequest.of("POST", "/shop.Payments/Charge", [("Content-Type", "application/grpc+proto")])


@pytest.mark.parametrize(
    ("parameters", "matches"),
    [
        ({"method": "POST"}, True),
        ({"method": "post"}, True),
        ({"method": "GET|POST"}, True),
        ({"method": ["GET", "PUT"]}, False),
        ({"path": "/v1/payments*"}, True),
        ({"path": "/v1/payments/7"}, True),
        ({"path": "/v1/payments"}, False),
        ({"path": "/V1/*"}, False),
        ({"path": "/v2/* | *payments/?"}, True),
        ({"header": "x-tenant"}, True),
        ({"header": "X-Tenant: acme*"}, True),
        ({"header": "X-Tenant:acme"}, False),
        ({"header": "x-other | accept"}, True),
        ({"header": "x-*"}, True),
        ({"header": "X-T?nan[rt]: acme*"}, True),
        ({"header": "y-*"}, False),
        ({"rpc": "*"}, False),
        ({"method": "POST", "path": "/v1/*", "target": "api:80"}, True),
        ({"method": "GET", "path": "/v1/*"}, False),
        ({"method": "POST", "target": "web:80"}, False),
    ],
)
def test_a_request_is_meant_if_all_that_is_said_of_it_is_so(
    parameters: dict[str, Any], matches: bool
) -> None:
    experiment = failure(**parameters)
    assert experiment.matches_target(receive(PAYMENT)) is matches
    assert not experiment.matches_target(receive(None))


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("/caf%C3%A9/a%20b/*", True),
        ("/café/a b/*", True),
        ("/café/?*/1%2F2", False),
        ("*/1/2", True),
        ("*/1%2F2", True),
        ("/cafe/*", False),
    ],
)
def test_a_path_is_given_as_it_is_sent_or_as_it_is_read(pattern: str, matches: bool) -> None:
    request = HttpRequest.of("GET", "/caf%C3%A9/a%20b/1%2F2?c=d")
    assert failure(path=pattern).matches_target(receive(request)) is matches


@pytest.mark.parametrize(
    ("rpc", "matches"),
    [
        ("shop.Payments/Charge", True),
        ("/shop.Payments/Charge", True),
        ("shop.Payments/*", True),
        ("*/Charge", True),
        ("*/Refund", False),
        ("*", True),
    ],
)
def test_a_call_of_grpc_is_meant_by_its_method(rpc: str, matches: bool) -> None:
    assert failure(rpc=rpc).matches_target(receive(CALL)) is matches


def test_until_the_request_is_known_it_may_be_meant() -> None:
    experiment = failure(method="POST", target="api")
    assert experiment.matches_target(receive(None), ahead=True)
    assert experiment.matches_target(receive(PAYMENT), ahead=True)
    assert not experiment.matches_target(receive(HttpRequest.of("GET", "/")), ahead=True)
    assert not failure(method="POST", target="web").matches_target(receive(None), ahead=True)
    assert str(experiment) == "x: reset, rate 0.5, target api, method POST"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"method": "PO ST"}, "method='PO ST' is no method of HTTP; give a method such as 'POST'"),
        ({"method": ""}, "method='': give a method such as 'POST', or several between |"),
        ({"method": 7}, "method=7: give a method such as 'POST'"),
        ({"path": "v1/payments"}, "path='v1/payments' can match nothing: paths begin with /"),
        ({"path": "http://api/v1"}, "path='http://api/v1' is a URL; the host is for target"),
        ({"path": "/v1?full=1"}, "path='/v1?full=1' can match nothing: the query is not compared"),
        ({"header": "x y: 1"}, "header='x y: 1' is no header; give the name of a header"),
        ({"rpc": "Charge"}, "rpc='Charge' is no method of gRPC; give service and method of gRPC"),
        ({"method": "POST", "mode": "partition"}, "mode='partition': it happens to connections"),
        ({"path": "/", "mode": "down"}, "mode='down': it happens to connections, whatever they"),
    ],
)
def test_what_no_request_could_be_is_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ChaosExperiment("x", "network_failure", **parameters)
    assert message in str(caught.value)


def read(*messages: bytes, answered: bool = True) -> HttpRequest | None:
    reader = RequestReader()
    for each in messages:
        reader.feed(each, answered=answered)
    return reader.request


NEXT = b"GET /next HTTP/1.1\r\nHost: api\r\n\r\n"
HEAD = b"POST /v1/payments?id=7 HTTP/1.1\r\nHost: api\r\nX-Tenant:  acme \r\n\r\n"


@pytest.mark.parametrize("after", [(), (b"body",), (b"", b"more of\r\n\r\nit"), (b"GET it",)])
def test_a_request_is_read_and_its_body_is_not(after: tuple[bytes, ...]) -> None:
    request = read(HEAD, *after)
    assert request == HttpRequest(
        method="POST", path="/v1/payments", headers=(("host", "api"), ("x-tenant", "acme"))
    )


def test_the_latest_request_counts() -> None:
    assert str(read(HEAD, b"{}", NEXT)) == "GET /next"


WITH_BODY = b"POST /pay HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    "messages",
    [
        (WITH_BODY, NEXT),
        (WITH_BODY, NEXT, NEXT),
        (WITH_BODY[:-2], b"{}", NEXT),
        (WITH_BODY + NEXT,),
    ],
)
def test_of_several_without_a_response_the_first_counts(messages: tuple[bytes, ...]) -> None:
    assert str(read(*messages, answered=False)) == "POST /pay and others before its response"
    assert str(read(*messages, NEXT)) == "GET /next"


@pytest.mark.parametrize("length", ["9" * 20, "9" * 5000, "\u00b2", "-1"])
def test_a_length_that_no_body_has_is_none(length: str) -> None:
    head = f"POST /first HTTP/1.1\r\nContent-Length: {length}\r\n\r\n".encode("latin-1")
    request = read(head + b"GET /second HTTP/1.1\r\n\r\n")
    assert request is not None
    assert request.path == "/first"


def test_the_latest_counts_of_those_whose_responses_may_have_come_unseen() -> None:
    reader = RequestReader()
    reader.feed(HEAD, answered=True)
    reader.look_away()
    reader.feed(NEXT, answered=False)
    assert str(reader.request) == "GET /next"


def test_a_request_to_a_proxy_names_all_of_its_url() -> None:
    assert str(read(b"GET http://api:80/v1?x HTTP/1.1\r\n\r\n")) == "GET /v1"
    assert str(read(b"OPTIONS * HTTP/1.0\r\n\r\n")) == "OPTIONS *"


@pytest.mark.parametrize(
    "messages",
    [
        (b"*1\r\n$4\r\nPING\r\n",),
        (b"EHLO example\r\n",),
        (b"\x16\x03\x01\x02\x00",),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",),
        (b"GET / HTTP/1.1\r\nHost: api\r\n",),
        (b"GET ",),
        (b"",),
        (),
    ],
)
def test_what_is_none_is_none(messages: tuple[bytes, ...]) -> None:
    assert read(*messages) is None


@given(
    method=st.sampled_from(["GET", "POST", "M-SEARCH"]),
    path=st.text("abc/%-._~", max_size=8),
    headers=st.dictionaries(
        st.text("abcX-", min_size=1, max_size=5).map(lambda name: f"h{name}"),
        st.text("abc: /=;", max_size=8).map(str.strip),
        max_size=3,
    ),
    body=st.binary(max_size=8),
    cuts=st.lists(st.integers(1, 60), max_size=3),
)
def test_it_reads_in_pieces_what_another_parser_reads_at_once(
    method: str, path: str, headers: dict[str, str], body: bytes, cuts: list[int]
) -> None:
    given_headers = [("Host", "api"), ("Content-Length", str(len(body))), *headers.items()]
    connection = h11.Connection(h11.CLIENT)
    head = connection.send(h11.Request(method=method, target=f"/{path}", headers=given_headers))
    assert head is not None
    ends = sorted({*(cut for cut in cuts if cut < len(head)), len(head)})
    pieces = [head[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    server = h11.Connection(h11.SERVER)
    server.receive_data(head)
    expected = server.next_event()
    assert isinstance(expected, h11.Request)
    request = read(*pieces, body)
    assert request is not None
    assert (request.method, request.path) == (method, f"/{path}")
    assert [(name.encode(), value.encode()) for name, value in request.headers] == list(
        expected.headers
    )


@given(
    paths=st.lists(st.text("abc/", max_size=300).map("/{}".format), min_size=1, max_size=4),
    body=st.binary(max_size=40_000),
    cuts=st.lists(st.integers(1, 90_000), max_size=5),
)
def test_http_2_is_read_in_any_pieces(paths: list[str], body: bytes, cuts: list[int]) -> None:
    client = h2.connection.H2Connection()
    client.initiate_connection()
    sent = client.data_to_send()
    for number, path in enumerate(paths):
        head = [(":method", "POST"), (":path", path), (":authority", "api"), (":scheme", "http")]
        client.send_headers(2 * number + 1, [*head, ("x-tenant", "acme" * 10)])
        client.send_data(2 * number + 1, body[:10_000], end_stream=False)
        client.send_headers(2 * number + 1, [("x-trailer", "1")], end_stream=True)
        sent += client.data_to_send()
    reader, begun = FrameReader(), 0
    ends = sorted({*(cut for cut in cuts if cut < len(sent)), len(sent)})
    for start, end in zip([0, *ends], ends, strict=False):
        begun += reader.feed(sent[start:end])
        if begun:
            assert str(reader.request) == f"POST {paths[begun - 1]}"
    assert begun == len(paths)
    assert reader.unanswered == {2 * number + 1 for number in range(len(paths))}
    assert reader.request is not None
    assert dict(reader.request.headers) == {"host": "api", "x-tenant": "acme" * 10}


@given(body=st.binary(min_size=1, max_size=10_000), cuts=st.lists(st.integers(1, 12_000)))
def test_responses_of_http_2_end_in_any_pieces(body: bytes, cuts: list[int]) -> None:
    client, server = (
        FrameReader(),
        h2.connection.H2Connection(h2.config.H2Configuration(client_side=False)),
    )
    asking = h2.connection.H2Connection()
    asking.initiate_connection()
    for stream in (1, 3, 5, 7):
        head = [(":method", "GET"), (":path", "/"), (":authority", "api"), (":scheme", "http")]
        asking.send_headers(stream, head, end_stream=True)
    asking.reset_stream(7)  # nobody waits for that one
    asked = asking.data_to_send()
    client.feed(asked)
    server.receive_data(asked)
    for stream in (1, 3, 5):
        server.send_headers(stream, [(":status", "200")])
        server.send_data(stream, body)
    server.send_data(1, b"", end_stream=True)
    server.reset_stream(5)
    sent = server.data_to_send()
    ends = sorted({*(cut for cut in cuts if cut < len(sent)), len(sent)})
    assert client.unanswered == {1, 3, 5}
    for start, end in zip([0, *ends], ends, strict=False):
        client.feed_response(sent[start:end])
    assert client.unanswered == {3}


ASKED = b"GET /talk HTTP/1.1\r\nUpgrade: %b\r\n\r\n"
FRAME = b"\x81\x82maskhi"
SUBSCRIBE = b"*2\r\n$9\r\nsubscribe\r\n$1\r\na\r\n"


@pytest.mark.parametrize(
    ("messages", "is_one"),
    [
        ((ASKED % b"websocket",), False),  # maybe it is refused
        ((ASKED % b"websocket", FRAME), True),
        ((ASKED % b"tcp", b"whatever"), True),
        ((ASKED % b"websocket", FRAME, FRAME), True),
        ((ASKED % b"websocket", b"GET /talk HTTP/1.1\r\n\r\n"), False),
        ((ASKED % b"websocket", FRAME, b"GET / HTTP/1.1\r\n\r\n"), False),
        ((ASKED % b"h2c", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), False),
        ((b"GET / HTTP/1.1\r\n\r\n", FRAME), False),
        ((ASKED % b"websocket", b"\x16\x03\x01hello"), False),
        ((FRAME,), True),  # the request was not seen
        ((FRAME + b"\x89\x80mask",), True),
        ((b"\x82\xfe\x01\x00mask" + bytes(256),), True),
        ((b"\x82\xff" + (70_000).to_bytes(8) + b"mask" + bytes(70_000),), True),
        ((FRAME[:-1],), False),
        ((FRAME + b"!",), False),
        ((b"\x81\x02hi",), False),  # not masked, as no client's is
        ((b"\x82\xff" + b"\xff" * 20,), False),  # of a length that no frame has
        ((b'CONNECT {"verbose": false}\r\n', b"PING\r\n"), True),
        ((b"SUB teas 1\r\n",), True),
        ((b"PUB teas 5\r\nhello\r\n",), True),
        ((SUBSCRIBE,), False),  # it is what begins it
        ((SUBSCRIBE, b"*1\r\n$4\r\nPING\r\n"), True),
        ((SUBSCRIBE, SUBSCRIBE), True),
        ((SUBSCRIBE, b"*1\r\n$4\r\nPING\r\n", b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n"), False),
        ((b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n",) * 2, False),
        ((b"*1\r\n$4\r\nPING\r\n",) * 2, False),
        ((b"list\r\n",), False),
        ((b"",), False),
    ],
    ids=repr,
)
def test_both_sides_speak_at_any_time(messages: tuple[bytes, ...], is_one: bool) -> None:
    reader = RequestReader()
    for message in messages:
        reader.feed(message, answered=True)
    assert reader.conversation.is_on is is_one
    assert not (is_one and not reader.is_other)
    reader.feed(b"POST / HTTP/1.1\r\n\r\n", answered=True)
    assert not reader.conversation.is_on


def test_what_is_sent_before_the_response_is_no_other_protocol() -> None:
    reader = RequestReader()
    reader.feed(ASKED % b"websocket", answered=True)
    reader.feed(b"body", answered=False)
    assert not reader.conversation.is_on
