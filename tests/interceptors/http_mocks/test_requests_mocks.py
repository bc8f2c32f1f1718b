"""requests, mocked by responses or requests-mock."""

from __future__ import annotations

import contextlib
import gzip
import io
import re
import socket
import threading

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import requests
import requests_mock
import responses
import respx

from requests.adapters import HTTPAdapter
from responses.registries import OrderedRegistry
from urllib3 import Retry

from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.engine import FaultInjected
from pytest_resilience.clock import ManualClock
from pytest_resilience.diagnosis import never_fired
from pytest_resilience.interceptors.http_mocks.interceptor import HttpMockInterceptor
from tests.injecting import Inject
from tests.interceptors.conftest import serve


URL = "http://api.example.com/orders"
SAFE = "https://api.example.com/orders"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def mock() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


@pytest.fixture
def session() -> Iterator[requests.Session]:
    """One whose adapter tries again, as in production."""
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            retry = Retry(3, backoff_factor=0, status_forcelist=[503], raise_on_status=False)
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        yield session


def mock_of(kind: str, **options: Any) -> Any:
    """A started mock with a response for both URLs."""
    mock = (
        responses.RequestsMock(assert_all_requests_are_fired=False)
        if kind == "responses"
        else requests_mock.Mocker()
    )
    mock.start()
    mock.get(URL, json={"paid": True})
    mock.get(SAFE, json={"paid": True})
    return mock


both = pytest.mark.parametrize("kind", ["responses", "requests-mock"])


@both
@pytest.mark.parametrize(
    ("url", "place"), [(URL, "api.example.com:80"), (SAFE, "api.example.com:443")]
)
def test_a_call_is_a_resolution_a_connect_and_a_response(
    kind: str, url: str, place: str, inject: Inject, events: list[FaultInjected]
) -> None:
    mock = mock_of(kind)
    with (
        inject("network_latency", delay="1s", name="far"),
        inject("network_latency", mode="slow_dns", delay="2s", name="slow"),
    ):
        assert requests.get(url, timeout=10).json() == {"paid": True}
    mock.stop()
    assert [(each.kind, each.target) for each in events] == [
        ("network.resolve", place),
        ("network.connect", place),
        ("network.receive", place),
    ]


@both
def test_each_call_is_a_connection_of_its_own(
    kind: str, inject: Inject, clock: ManualClock
) -> None:
    mock = mock_of(kind)
    with inject("network_latency", delay="1s") as latency, requests.Session() as session:
        began = clock.monotonic()
        for _ in range(3):
            assert session.get(URL).ok
        assert clock.monotonic() - began == pytest.approx(6)
    mock.stop()
    assert (latency.matched, latency.hits) == (6, 6)
    assert latency.delay == pytest.approx(6)


@both
def test_only_the_requests_that_are_meant(kind: str, inject: Inject) -> None:
    mock = mock_of(kind)
    with (
        inject("network_failure", rate=1, method="POST") as post,
        inject("network_failure", status=503, header="x-tenant: ac*", rate=1) as tenant,
        inject("network_failure", path="/ord*", rate=1, target="api.example.com:443") as orders,
    ):
        assert requests.get(URL).ok
        assert requests.get(URL, headers={"X-Tenant": "acme"}).status_code == 503
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{SAFE}?page=2")
    mock.stop()
    assert (post.matched, tenant.hits, orders.hits) == (0, 1, 1)


def test_an_address_is_not_resolved(mock: responses.RequestsMock, inject: Inject) -> None:
    mock.get("http://192.0.2.7/", body="here")
    mock.get("http://[2001:db8::7]:8080/", body="there")
    mock.get("http://[2001:db8:0::7]:8080/", body="there")
    with inject("network_failure", mode="dns", rate=1) as dns:
        assert requests.get("http://192.0.2.7/").text == "here"
        assert requests.get("http://[2001:db8::7]:8080/").text == "there"
    assert dns.matched == 0
    with inject("network_failure", rate=1, target="[2001:db8::7]:8080") as refuse:
        with pytest.raises(requests.ConnectionError):
            requests.get("http://[2001:db8::7]:8080/")
        assert requests.get("http://192.0.2.7/").text == "here"
        with pytest.raises(requests.ConnectionError):
            requests.get("http://[2001:db8:0::7]:8080/")
    assert refuse.hits == 2


@both
def test_what_gets_through_is_the_mocks_own_response(kind: str, inject: Inject) -> None:
    mock = mock_of(kind)
    with inject("network_latency", delay="1s") as latency:
        found = requests.get(URL)
    assert latency.hits == 2
    calls = mock.calls if kind == "responses" else mock.request_history
    assert len(calls) == 1
    if kind == "responses":
        assert calls[0].response is found
    mock.stop()


@both
def test_who_is_refused_has_not_asked_the_mock(kind: str, inject: Inject) -> None:
    mock = mock_of(kind)
    with inject("network_failure", rate=1), pytest.raises(requests.ConnectionError):
        requests.get(URL)
    assert len(mock.calls if kind == "responses" else mock.request_history) == 0
    mock.stop()


@pytest.mark.parametrize(("mode", "done"), [("reset", 0), ("lose_answer", 1)])
def test_whether_the_server_has_done_it(
    mode: str, done: int, mock: responses.RequestsMock, inject: Inject
) -> None:
    orders: list[str] = []

    def order(request: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        orders.append(str(request.body))
        return 201, {}, "ordered"

    mock.add_callback("POST", URL, callback=order)
    with inject("network_failure", mode=mode, rate=1), pytest.raises(requests.ConnectionError):
        requests.post(URL, data="tea")
    assert orders == ["tea"] * done


@both
@pytest.mark.parametrize("timeout", [3, (20, 3), None])
def test_a_read_timeout_comes_at_its_time(
    kind: str, timeout: Any, inject: Inject, clock: ManualClock
) -> None:
    mock = mock_of(kind)
    began = clock.monotonic()
    with inject("network_latency", delay="10s", from_nth=2):
        if timeout is None:
            assert requests.get(URL, timeout=timeout).ok
        else:
            with pytest.raises(requests.ReadTimeout, match=r"read timeout=3"):
                requests.get(URL, timeout=timeout)
    mock.stop()
    assert clock.monotonic() - began == pytest.approx(3 if timeout else 10)


def test_a_connect_timeout_comes_at_its_time(
    mock: responses.RequestsMock, inject: Inject, clock: ManualClock
) -> None:
    mock.get(URL)
    began = clock.monotonic()
    with inject("network_latency", delay="10s"), pytest.raises(requests.ConnectTimeout):
        requests.get(URL, timeout=(4, 20))
    assert clock.monotonic() - began == pytest.approx(4)


def test_silence_without_a_timeout_ends_with_the_experiment(
    mock: responses.RequestsMock, inject: Inject, clock: ManualClock
) -> None:
    mock.get(URL)
    began = clock.monotonic()
    with (
        inject("network_failure", mode="timeout", rate=1, duration="5s"),
        pytest.raises(requests.ConnectionError, match="timed out"),
    ):
        requests.get(URL)
    assert clock.monotonic() - began == pytest.approx(5)


def test_a_partition_heals(
    mock: responses.RequestsMock, inject: Inject, clock: ManualClock
) -> None:
    mock.get(URL, body="here")
    with inject("network_failure", mode="partition", duration="5s"):
        assert requests.get(URL).text == "here"
    assert clock.monotonic() >= 5


def test_a_thin_line_takes_its_time_for_the_body(
    mock: responses.RequestsMock, inject: Inject, clock: ManualClock
) -> None:
    mock.get(URL, body=b"x" * 10_000)
    began = clock.monotonic()
    with inject("network_latency", mode="bandwidth", bandwidth="5kB"):
        assert requests.get(URL).content == b"x" * 10_000
    assert clock.monotonic() - began == pytest.approx(2)


def test_a_dribbled_body_arrives_piece_by_piece(
    mock: responses.RequestsMock, inject: Inject, clock: ManualClock
) -> None:
    mock.get(URL, body=b"abcdef")
    with inject("network_latency", mode="dribble", piece=2, delay="1s"):
        found = requests.get(URL, stream=True, timeout=2)
        began = clock.monotonic()
        arrived = [(part, round(clock.monotonic() - began, 6)) for part in found.iter_content(2)]
    assert arrived == [(b"ab", 1), (b"cd", 2), (b"ef", 3)]
    with (
        inject("network_latency", mode="dribble", piece=2, delay="3s"),
        pytest.raises(requests.ConnectionError, match="Read timed out"),
    ):
        requests.get(URL, timeout=2)


@pytest.mark.parametrize("name_length", [True, False])
def test_half_a_body_is_noticed(
    name_length: bool, mock: responses.RequestsMock, inject: Inject
) -> None:
    """Whether or not the mock names its length: a server does, of what it has whole."""
    mock.get(URL, json={"orders": [1, 2, 3]}, auto_calculate_content_length=name_length)
    with (
        inject("network_failure", mode="truncate", rate=1),
        pytest.raises(requests.exceptions.ChunkedEncodingError, match="10 bytes read, 11 more"),
    ):
        requests.get(URL)
    response = mock.calls[0].response
    assert isinstance(response, requests.Response)
    assert response.json() == {"orders": [1, 2, 3]}


@both
@pytest.mark.parametrize("mode", ["truncate", "corrupt"])
def test_nothing_is_altered_where_there_is_no_body(kind: str, mode: str, inject: Inject) -> None:
    mock = mock_of(kind)
    mock.head(URL, headers={"Content-Length": "15"})
    mock.delete(URL, status_code=204) if kind == "requests-mock" else mock.delete(URL, status=204)
    with inject("network_failure", mode=mode, rate=1) as failure:
        assert requests.head(URL).headers["Content-Length"] == "15"
        assert "Content-Length" not in requests.delete(URL).headers
        assert (failure.matched, failure.hits) == (0, 0)
        with contextlib.suppress(requests.exceptions.ChunkedEncodingError):
            assert requests.get(URL).content != b'{"paid": true}'
        assert failure.hits == 1
    mock.stop()


def test_a_corrupted_body_is_what_the_client_decodes(
    mock: responses.RequestsMock, inject: Inject
) -> None:
    packed = gzip.compress(b"x" * 1000)
    mock.get(URL, body=packed, headers={"Content-Encoding": "gzip"})
    with inject("network_latency", mode="dribble", piece=100, delay="1ms"):
        assert requests.get(URL).content == b"x" * 1000
    with (
        inject("network_failure", mode="corrupt", share=1, rate=1),
        pytest.raises(requests.exceptions.ContentDecodingError),
    ):
        requests.get(URL)


def test_an_altered_response_keeps_its_headers_and_cookies(
    mock: responses.RequestsMock, inject: Inject
) -> None:
    mock.get(
        URL,
        body="sweet",
        status=203,
        headers={"Set-Cookie": "jar=full", "X-Name": "é", "Transfer-Encoding": "chunked"},
    )
    with inject("network_latency", mode="dribble", piece=5, delay="1ms"):
        found = requests.get(URL)
    assert (found.status_code, found.text, found.headers["X-Name"]) == (203, "sweet", "é")
    assert found.cookies["jar"] == "full"


@pytest.mark.parametrize("mode", ["refuse", "reset", "lose_answer", "status", "truncate"])
def test_what_a_mock_has_no_response_for_is_its_own_affair(mode: str, inject: Inject) -> None:
    with inject("network_failure", mode=mode, rate=1) as failure:
        with responses.RequestsMock() as mock:
            mock.get(SAFE)
            with pytest.raises(requests.ConnectionError, match="Connection refused by Responses"):
                requests.get(URL)
            mock.reset()
        with requests_mock.Mocker(), pytest.raises(requests_mock.NoMockAddress):
            requests.get("http://192.0.2.7/")
    assert failure.matched == 0
    said = str(never_fired(failure))
    assert "network.connect api.example.com:80 (the mock has no response)" in said
    assert "network.connect 192.0.2.7:80 (the mock has no response)" in said


@pytest.mark.parametrize("mode", ["lose_answer", "truncate", "corrupt"])
def test_what_a_mock_raises_is_raised_as_it_is(
    mode: str, mock: responses.RequestsMock, inject: Inject
) -> None:
    error = requests.exceptions.SSLError("the mock's own")
    mock.get(URL, body=error)
    with inject("network_failure", mode=mode, rate=1) as failure, pytest.raises(OSError) as caught:
        requests.get(URL)
    assert caught.value is error
    assert (error.__cause__, error.__context__) == (None, None)
    assert failure.hits == 0  # there was no answer


def test_the_adapters_retries_are_tried(
    mock: responses.RequestsMock, session: requests.Session, inject: Inject
) -> None:
    mock.get(URL, body="here")
    for mode in ("refuse", "reset", "lose_answer", "status"):
        with inject("network_failure", mode=mode, rate=1, first=3, name=mode) as failure:
            assert session.get(URL).text == "here"
        assert (failure.matched, failure.hits) == (4, 3)
    with inject("network_failure", mode="refuse", rate=1) as failure:
        with pytest.raises(requests.ConnectionError, match="Max retries exceeded"):
            session.get(URL)
        assert failure.hits == 4
    with inject("network_failure", mode="status", rate=1) as failure:
        assert session.get(URL).status_code == 503
        assert failure.hits == 4


def test_retries_of_what_the_mock_responds_are_counted_together_with_ours(
    mock: responses.RequestsMock, session: requests.Session, inject: Inject
) -> None:
    """Three retries: two for connects that are refused, one for the mock's own 503."""
    mock.get(URL, status=503)
    with inject("network_failure", rate=1, first=2) as failure:
        assert session.get(URL).status_code == 503
    assert failure.hits == 2
    assert len(mock.calls) == 2


def test_where_responses_are_lost_only_the_client_tries_again(
    mock: responses.RequestsMock, session: requests.Session, inject: Inject
) -> None:
    mock.get(URL, status=503)
    with inject("network_failure", mode="lose_answer", rate=1, first=1):
        assert session.get(URL).status_code == 503
    assert len(mock.calls) == 4


def test_responses_in_an_order_are_not_used_up_by_what_never_asked(inject: Inject) -> None:
    with responses.RequestsMock(registry=OrderedRegistry) as mock:
        mock.get(URL, body="first")
        mock.get(URL, body="second")
        with inject("network_failure", rate=1, first=1), pytest.raises(requests.ConnectionError):
            requests.get(URL)
        with inject("network_latency", delay="1s"):
            assert [requests.get(URL).text for _ in range(2)] == ["first", "second"]


def test_a_body_is_left_for_the_mock_to_read(mock: responses.RequestsMock, inject: Inject) -> None:
    mock.post(URL, match=[responses.matchers.json_params_matcher({"tea": 1})])
    with inject("network_latency", delay="1s") as latency:
        assert requests.post(URL, json={"tea": 1}).ok
        mock.put(URL)
        assert requests.put(URL, data=io.BytesIO(b"from a file")).ok
    assert latency.hits == 4
    sent: Any = mock.calls[1].request.body
    assert (sent.read() if hasattr(sent, "read") else sent) == b"from a file"  # as in older ones


def test_the_request_is_the_callers_own(mock: responses.RequestsMock, inject: Inject) -> None:
    mock.post(URL)
    with inject("network_failure", mode="status", rate=1):
        found = requests.post(URL, data="tea")
    assert found.request.body == "tea"
    assert found.elapsed is not None
    with inject("network_failure", rate=1), pytest.raises(requests.ConnectionError) as caught:
        requests.post(URL, data="tea")
    assert caught.value.request is not None
    assert caught.value.request.body == "tea"  # type: ignore[union-attr]
    assert re.search(r"HTTPConnection(Pool)?\(host='api.example.com', port=80\)", str(caught.value))


class Hosts(HTTPAdapter):
    """An adapter of the user's, which marks what it builds."""

    def build_response(self, req: Any, resp: Any) -> Any:
        found = super().build_response(req, resp)
        found.headers["X-Built-By"] = "user"
        return found


def test_an_adapter_of_the_users_builds_the_response(
    mock: responses.RequestsMock, inject: Inject
) -> None:
    with requests.Session() as session, inject("network_failure", mode="status", rate=1):
        session.mount("http://", Hosts())
        mock.get(URL)
        assert session.get(URL).headers["X-Built-By"] == "user"


def ok(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")


def test_what_mocks_let_pass_is_hit_once(inject: Inject) -> None:
    def count(url: str) -> int:
        with inject("network_latency", delay="1ms") as latency:
            assert requests.get(url).text == "ok"
        return latency.matched

    with serve(ok) as port:
        url = f"http://127.0.0.1:{port}/"
        without = count(url)
        with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
            mock.add_passthru(url)
            assert count(url) == without
        with responses.RequestsMock() as mock:
            mock.add(responses.PassthroughResponse("GET", url))
            assert count(url) == without
        with requests_mock.Mocker(real_http=True):
            assert count(url) == without
        with requests_mock.Mocker() as other:
            other.get(url, real_http=True)
            assert count(url) == without
    assert without == 2


@both
def test_a_mock_may_start_before_or_during_and_stop_before_the_end(
    kind: str, inject: Inject, engine: Engine
) -> None:
    before = mock_of(kind)
    with inject("network_failure", rate=1, target="api.example.com") as failure:
        with pytest.raises(requests.ConnectionError):
            requests.get(URL)
        before.stop()
        during = mock_of(kind)
        with pytest.raises(requests.ConnectionError):
            requests.get(URL)
        assert failure.hits == 2
    assert requests.get(URL).ok  # it outlives the experiment
    during.stop()


def test_everything_is_put_back(inject: Inject) -> None:
    from requests_mock.adapter import Adapter
    from requests_mock.adapter import _Matcher

    places: list[tuple[type, str]] = [
        (responses.RequestsMock, "_on_request"),
        (responses.BaseResponse, "_req_attr_matches"),
        (Adapter, "send"),
        (_Matcher, "_match_additional"),
        (HTTPAdapter, "send"),
    ]

    def found() -> list[object]:
        return [vars(owner)[name] for owner, name in places]

    before = found()
    with inject("network_failure", rate=1):
        assert not set(map(id, found()[:4])) & set(map(id, before))
        with inject("network_latency", delay="1s"), responses.RequestsMock():
            pass
    assert found() == before


def test_both_mocks_at_once(mock: responses.RequestsMock, inject: Inject) -> None:
    """requests-mock takes the call before it gets to an adapter."""
    with (
        requests_mock.Mocker() as other,
        inject("network_failure", mode="status", rate=1) as failure,
    ):
        other.get(URL)
        assert requests.get(URL).status_code == 503
    assert failure.hits == 1


def test_two_engines_do_not_disturb_each_other(
    mock: responses.RequestsMock, inject: Inject, events: list[FaultInjected]
) -> None:
    mock.get(URL, body="here")
    other = Engine(lambda engine: [HttpMockInterceptor(engine)], clock=ManualClock())
    latency = other.start(ChaosExperiment("other", "network_latency", delay="1s"), seed=1)
    with inject("network_latency", delay="1s", name="ours") as ours:
        assert requests.get(URL).text == "here"
    assert (ours.hits, latency.hits) == (2, 2)
    latency.stop()


def test_a_mounted_adapter_of_requests_mock_is_reached(inject: Inject) -> None:
    adapter = requests_mock.Adapter()
    adapter.register_uri("GET", URL, text="here")
    adapter.register_uri("GET", "mock://nowhere", text="nowhere")
    with requests.Session() as session, inject("network_failure", rate=1) as failure:
        session.mount("http://", adapter)
        session.mount("mock://", adapter)
        with pytest.raises(requests.ConnectionError):
            session.get(URL)
        assert session.get("mock://nowhere").text == "nowhere"  # no protocol that has a network
    assert failure.matched == 1


FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("network_latency", {"delay": "1s"}),
    ("network_latency", {"bandwidth": "1MB"}),
    ("network_failure", {"rate": 1}),
    ("network_failure", {"mode": "status", "rate": 1}),
    ("network_failure", {"mode": "lose_answer", "rate": 1}),
    ("network_failure", {"rate": 1, "target": "other.example.com"}),
]


@both
@pytest.mark.parametrize(("type_", "fault"), FAULTS, ids=str)
def test_what_the_user_lets_choose_a_response_is_asked_only_once(
    kind: str, type_: str, fault: dict[str, Any], inject: Inject
) -> None:
    asked: list[str] = []

    def for_responses(request: Any) -> tuple[bool, str]:
        asked.append(request.url)
        return True, ""

    def for_requests_mock(request: Any) -> bool:
        asked.append(request.url)
        return True

    with inject(type_, **fault), contextlib.suppress(requests.ConnectionError):
        if kind == "responses":
            with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
                mock.get(URL, match=[for_responses])
                requests.get(URL)
        else:
            with requests_mock.Mocker() as other:
                other.get(URL, additional_matcher=for_requests_mock)
                requests.get(URL)
    assert asked == [URL]


def test_each_try_that_gets_to_the_mock_is_asked_about(
    mock: responses.RequestsMock, session: requests.Session, inject: Inject
) -> None:
    asked: list[bool] = []

    def matches(request: Any) -> tuple[bool, str]:
        asked.append(len(asked) < 2)
        return asked[-1], "enough"

    mock.get(URL, match=[matches], body="here")
    with inject("network_failure", rate=1, first=2):
        assert session.get(URL).text == "here"
    assert asked == [True]
    with inject("network_failure", mode="lose_answer", rate=1) as failure:
        with pytest.raises(requests.ConnectionError, match="enough"):
            session.get(URL)  # the second try finds no response
        assert (failure.matched, failure.hits) == (1, 1)
    assert asked == [True, True, False]


def test_a_matcher_of_the_users_is_asked_only_once(inject: Inject) -> None:
    asked: list[str] = []

    def matcher(request: Any) -> Any:
        asked.append(request.url)
        return requests_mock.create_response(request, text="here")

    with requests_mock.Mocker() as mock, inject("network_latency", delay="1s") as latency:
        mock.add_matcher(matcher)
        assert requests.get(URL).text == "here"
    assert (len(asked), latency.hits) == (1, 2)


def test_calls_that_are_not_meant_are_told_by_an_experiment_that_never_fired(
    mock: responses.RequestsMock, inject: Inject
) -> None:
    mock.get(SAFE)
    with inject("network_failure", target="other.example.com") as failure:
        assert requests.get(SAFE).ok
    assert failure.matched == 0
    assert "network.connect api.example.com:443" in str(never_fired(failure))


def test_what_has_no_meaning_for_a_mock_is_never_hit(
    mock: responses.RequestsMock, inject: Inject
) -> None:
    mock.get(SAFE)
    with inject("network_latency", mode="slow_close", delay="1s") as slow:
        assert requests.get(SAFE).ok
    assert slow.matched == 0
    assert "network.receive api.example.com:443" in str(never_fired(slow))


SLOW = pytest.mark.parametrize("slow", [{"delay": "1ms"}, {"bandwidth": "10MB"}], ids=str)


@SLOW
def test_redirects_hooks_and_cookies(
    slow: dict[str, str], mock: responses.RequestsMock, inject: Inject
) -> None:
    """Each request of the session is a call of its own."""
    heard: list[int] = []
    elsewhere = "http://other.example.com/"
    mock.get(URL, status=302, headers={"Location": elsewhere, "Set-Cookie": "jar=full"})
    mock.get(elsewhere, status=307, headers={"Location": SAFE})
    mock.get(SAFE, body="here")
    with requests.Session() as session, inject("network_latency", **slow) as latency:
        session.hooks["response"].append(lambda found, **_: heard.append(found.status_code))
        found = session.get(URL)
        assert session.cookies["jar"] == "full"
    assert (found.text, [each.status_code for each in found.history]) == ("here", [302, 307])
    assert heard == [302, 307, 200]
    assert latency.matched == (6 if "delay" in slow else 3)
    assert [each.request.url for each in mock.calls] == [URL, elsewhere, SAFE]


@SLOW
def test_what_is_added_to_a_response_stays(slow: dict[str, str], inject: Inject) -> None:
    def mark(found: Any) -> Any:
        found.seen_by = "callback"
        return found

    with inject("network_latency", **slow):
        with responses.RequestsMock(response_callback=mark) as mock:
            mock.get(URL, body="here")
            found: Any = requests.get(URL)
            assert (found.text, found.seen_by) == ("here", "callback")
            assert mock.assert_call_count(URL, 1)
        with requests_mock.Mocker() as other:
            other.get(URL, text="here", cookies={"jar": "full"})
            found = requests.get(URL)
            assert (found.text, found.cookies["jar"]) == ("here", "full")


@SLOW
def test_bodies_that_are_streamed_both_ways(
    slow: dict[str, str], mock: responses.RequestsMock, inject: Inject
) -> None:
    def echo(request: Any) -> tuple[int, dict[str, str], bytes]:
        return 200, {}, b"".join(request.body)

    mock.add_callback("POST", URL, callback=echo)
    with inject("network_latency", **slow):
        found = requests.post(URL, data=iter([b"a\nb", b"c\n"]), stream=True)
        assert list(found.iter_lines(chunk_size=1)) == [b"a", b"bc"]
        with requests.post(URL, data=iter([b"abcd"]), stream=True) as partly:
            assert partly.raw.read(2) == b"ab"


@SLOW
def test_an_adapter_that_passes_options_by_position(
    slow: dict[str, str], mock: responses.RequestsMock, inject: Inject
) -> None:
    class Positional(HTTPAdapter):
        def send(self, request: Any, *args: Any, **options: Any) -> Any:
            order = ("stream", "timeout", "verify", "cert", "proxies")
            return super().send(request, *(options[name] for name in order))

    mock.get(URL, body="here")
    with requests.Session() as session, inject("network_latency", **slow) as latency:
        session.mount("http://", Positional())
        assert session.get(URL, timeout=3).text == "here"
        assert HTTPAdapter().send(requests.Request("GET", URL).prepare()).text == "here"
    assert latency.hits


@both
def test_calls_of_many_threads(kind: str, inject: Inject) -> None:
    mock = mock_of(kind)
    with inject("network_latency", delay="1ms") as latency, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: requests.get(URL).json(), range(20)))
    mock.stop()
    assert found == [{"paid": True}] * 20
    assert latency.hits == 40


class Meeting:
    """A clock on which threads wait for each other before the first of them has waited."""

    def __init__(self, threads: int) -> None:
        self.together = threading.Barrier(threads)
        self._clock = ManualClock()
        self._met = threading.local()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def time(self) -> float:
        return self._clock.time()

    def sleep(self, seconds: float) -> None:
        if not hasattr(self._met, "others"):
            self._met.others = True
            with contextlib.suppress(threading.BrokenBarrierError):
                self.together.wait(10)
        self._clock.sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        await self._clock.asleep(seconds)


@both
@pytest.mark.parametrize("slow", [{"delay": "1s"}, {"bandwidth": "1kB"}, {"mode": "slow_dns"}])
@pytest.mark.parametrize("redirects", [0, 2])
def test_threads_wait_at_the_same_time(kind: str, slow: dict[str, Any], redirects: int) -> None:
    """By one session, and after redirects as well."""
    mock = mock_of(kind)
    status = "status" if kind == "responses" else "status_code"
    for number in range(redirects):
        there = f"{URL}/{number}" if number else URL
        mock.get(f"{URL}/{number + 1}", headers={"Location": there}, **{status: 302})
    clock = Meeting(3)
    engine = Engine(lambda engine: [HttpMockInterceptor(engine)], clock=clock)
    latency = engine.start(ChaosExperiment("slow", "network_latency", **slow), seed=1)
    url = f"{URL}/{redirects}" if redirects else URL
    with requests.Session() as session, ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: session.get(url).json(), range(3)))
    latency.stop()
    mock.stop()
    assert found == [{"paid": True}] * 3
    assert not clock.together.broken


@pytest.mark.parametrize("client", [requests, httpx], ids=["responses", "respx"])
@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ({"mode": "drop_message"}, None),
        ({"mode": "close"}, (requests.exceptions.ChunkedEncodingError, httpx.RemoteProtocolError)),
        ({"mode": "reset"}, (requests.exceptions.ChunkedEncodingError, httpx.ReadError)),
    ],
)
def test_a_mocked_stream_is_one(
    client: Any, parameters: dict[str, str], error: Any, inject: Inject
) -> None:
    received = b""
    mocking: Any = responses.RequestsMock() if client is requests else respx.mock()
    body, headers = b"data: 1\n\ndata: 2\n\ndata: 3\n\n", {"content-type": "text/event-stream"}
    mock: Any
    with mocking as mock, inject("network_failure", after_items=1, **parameters) as fault:
        if client is requests:
            mock.get("http://shop/feed", body, content_type="text/event-stream")
            with pytest.raises(error) if error else contextlib.nullcontext():
                for piece in requests.get("http://shop/feed", stream=True).iter_content(1):
                    received += piece
        else:
            mock.get("http://shop/feed").respond(content=body, headers=headers)
            with (
                pytest.raises(error) if error else contextlib.nullcontext(),
                httpx.stream("GET", "http://shop/feed") as response,
            ):
                for piece in response.iter_bytes():
                    received += piece
    assert received == b"data: 1\n\n" + (b"" if error else b"data: 3\n\n")
    assert fault.hits == 1
