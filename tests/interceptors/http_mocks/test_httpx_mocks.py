"""httpx, mocked by respx or pytest-httpx, by a client that blocks and by one that does not."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import respx

from pytest_httpx import HTTPXMock

from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.engine import FaultInjected
from pytest_resilience.clock import Clock
from pytest_resilience.clock import ManualClock
from pytest_resilience.diagnosis import never_fired
from pytest_resilience.interceptors.http_mocks.interceptor import HttpMockInterceptor
from tests.clocks import MovableClock
from tests.clocks import leap_when_struck
from tests.injecting import Inject
from tests.interceptors.conftest import closed_port
from tests.interceptors.conftest import reset
from tests.interceptors.conftest import serve
from tests.interceptors.http_mocks.mocked_httpx import KINDS
from tests.interceptors.http_mocks.mocked_httpx import URL
from tests.interceptors.http_mocks.mocked_httpx import Caller
from tests.interceptors.http_mocks.mocked_httpx import Mock
from tests.interceptors.http_mocks.mocked_httpx import Respx
from tests.interceptors.http_mocks.mocked_httpx import started


SAFE = "https://api.example.com/orders"


WAYS = ["blocking", "awaited"]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def clock(way: str) -> ManualClock | MovableClock:
    return ManualClock() if way == "blocking" else MovableClock()


@pytest.fixture
def soon_over(clock: ManualClock | MovableClock, engine: Engine) -> None:
    leap_when_struck(engine, clock)


@pytest.fixture
def call(way: str, clock: Clock) -> Caller:
    return Caller(awaited=way == "awaited", clock=clock)


def paid(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"paid": True})


@pytest.fixture(params=KINDS)
def mock(request: pytest.FixtureRequest, call: Caller) -> Iterator[Mock]:
    """Each mock there is, with a response for `URL` and `SAFE`."""
    with started(request.param, request) as mock:
        mock.respond(URL, paid)
        mock.respond(SAFE, paid)
        call.mock = mock
        yield mock


# A router that is a transport's handler is all that its client has: nothing can pass it.
in_place_of_transports = pytest.mark.parametrize(
    "mock", [kind for kind in KINDS if kind != "respx as handler"], indirect=True
)


@pytest.mark.parametrize(("url", "port"), [(URL, 80), (SAFE, 443)])
@pytest.mark.usefixtures("mock")
def test_a_call_is_a_resolution_a_connect_and_a_response(
    url: str, port: int, call: Caller, inject: Inject, events: list[FaultInjected]
) -> None:
    place = f"api.example.com:{port}"
    with (
        inject("network_latency", delay="20ms", name="far"),
        inject("network_latency", mode="slow_dns", delay="10ms", name="slow"),
    ):
        assert call(url).json() == {"paid": True}
    assert [(each.kind, each.target) for each in events] == [
        ("network.resolve", place),
        ("network.connect", place),
        ("network.receive", place),
    ]
    assert call.has_taken(0.05)


def test_each_call_is_a_connection_of_its_own(mock: Mock, call: Caller, inject: Inject) -> None:
    with inject("network_latency", delay="10ms") as latency, call.client() as request:
        for _ in range(3):
            assert request("GET", URL).is_success
    assert (latency.matched, latency.hits) == (6, 6)
    assert latency.delay >= 0.06 - 1e-9


@pytest.mark.usefixtures("mock")
def test_only_the_requests_that_are_meant(call: Caller, inject: Inject) -> None:
    with (
        inject("network_failure", rate=1, method="POST") as post,
        inject("network_failure", status=503, path="/ord*", header="accept", rate=1) as orders,
    ):
        assert call(URL).status_code == 503
    assert (post.matched, orders.hits) == (0, 1)


@pytest.mark.usefixtures("mock")
def test_what_is_aimed_at_requests_spares_the_making_of_connections(
    call: Caller, inject: Inject
) -> None:
    """As over a network, where nobody knows yet what will be asked for."""
    with inject("network_latency", delay="1ms", path="/ord*") as latency:
        assert call(URL).is_success
    with (
        inject("network_failure", mode="timeout", path="/ord*", rate=1) as silence,
        pytest.raises(httpx.ReadTimeout),
    ):
        call(URL, timeout=0.01)
    assert (latency.matched, silence.matched) == (1, 1)


def test_an_address_is_not_resolved(mock: Mock, call: Caller, inject: Inject) -> None:
    mock.respond("http://192.0.2.7/", paid)
    mock.respond("http://[2001:db8::7]:8080/", paid)
    with inject("network_failure", mode="dns", rate=1) as dns:
        assert call("http://192.0.2.7/").is_success
        assert call("http://[2001:db8::7]:8080/").is_success
    assert dns.matched == 0
    with inject("network_failure", rate=1, target="[2001:db8::7]:8080") as refuse:
        with pytest.raises(httpx.ConnectError):
            call("http://[2001:db8::7]:8080/")
        assert call("http://192.0.2.7/").is_success
    assert refuse.hits == 1


@pytest.mark.parametrize(
    ("fault", "meets"),
    [
        ({"mode": "refuse"}, (httpx.ConnectError, 0)),
        ({"mode": "dns"}, (httpx.ConnectError, 0)),
        ({"mode": "reset"}, (httpx.ReadError, 0)),
        ({"mode": "lose_answer"}, (httpx.ReadError, 1)),
        ({"mode": "truncate"}, (httpx.RemoteProtocolError, 1)),
        ({"mode": "status"}, (None, 0)),
        ({"mode": "malformed_json"}, (None, 0)),
        ({"mode": "corrupt"}, (None, 1)),
        ({"mode": "reset", "nth": 2}, (None, 1)),
    ],
    ids=str,
)
def test_whether_the_server_has_done_it(
    fault: dict[str, Any],
    meets: tuple[type[Exception] | None, int],
    mock: Mock,
    call: Caller,
    inject: Inject,
) -> None:
    error, asked = meets
    with (
        inject("network_failure", rate=1, **fault) as failure,
        contextlib.nullcontext() if error is None else pytest.raises(error),
    ):
        call()
    assert mock.calls == asked
    assert failure.matched == 1


@pytest.mark.usefixtures("mock")
def test_each_call_is_a_connection_that_a_target_can_name(call: Caller, inject: Inject) -> None:
    with inject("network_failure", mode="reset", rate=1, target="api.example.com:80#2") as failure:
        call()
        with pytest.raises(httpx.ReadError):
            call()
        call()
    assert (failure.matched, failure.hits) == (1, 1)
    with inject(
        "network_failure", mode="refuse", rate=1, target="*.example.com|!api.*:1-80"
    ) as refused:
        call()
        with pytest.raises(httpx.ConnectError):
            call(SAFE)
    assert refused.hits == 1


@pytest.mark.parametrize("timeout", [0.03, httpx.Timeout(20, read=0.03), None])
def test_a_read_timeout_comes_at_its_time(
    timeout: Any, mock: Mock, call: Caller, inject: Inject
) -> None:
    with inject("network_latency", delay="90ms", from_nth=2):
        if timeout is None:
            assert call(timeout=timeout).is_success
        else:
            with pytest.raises(httpx.ReadTimeout):
                call(timeout=timeout)
    assert call.has_taken(0.03 if timeout else 0.09)
    assert mock.calls == (timeout is None)


def test_a_connect_timeout_comes_at_its_time(mock: Mock, call: Caller, inject: Inject) -> None:
    with inject("network_latency", delay="1h"), pytest.raises(httpx.ConnectTimeout):
        call(timeout=httpx.Timeout(20, connect=0.04))
    assert call.has_taken(0.04)


@pytest.mark.usefixtures("mock", "soon_over")
def test_silence_without_a_timeout_ends_with_the_experiment(
    call: Caller, clock: Clock, inject: Inject
) -> None:
    began = clock.monotonic()
    with (
        inject("network_failure", mode="timeout", rate=1, duration="1h"),
        pytest.raises(httpx.ConnectError if call.awaited else httpx.ConnectTimeout),
    ):
        call(timeout=None)
    assert clock.monotonic() - began >= 3600


@pytest.mark.usefixtures("soon_over")
def test_silence_while_a_response_is_awaited_ends_with_the_experiment(
    mock: Mock, call: Caller, inject: Inject
) -> None:
    with (
        inject("network_failure", mode="timeout", from_nth=2, rate=1, duration="1h"),
        pytest.raises(httpx.ReadError if call.awaited else httpx.ReadTimeout),
    ):
        call(timeout=None)
    assert mock.calls == 0


def test_a_partition_heals(mock: Mock, call: Caller, clock: Clock, inject: Inject) -> None:
    began = clock.monotonic()
    with inject("network_failure", mode="partition", duration="50ms"):
        assert call().is_success
    assert clock.monotonic() - began >= 0.05


def test_a_thin_line_takes_its_time_for_the_body(mock: Mock, call: Caller, inject: Inject) -> None:
    mock.respond(f"{URL}/1", lambda _: httpx.Response(200, content=b"x" * 10_000))
    with inject("network_latency", mode="bandwidth", bandwidth="100kB"):
        assert call(f"{URL}/1").content == b"x" * 10_000
    assert call.has_taken(0.1)


def test_a_body_that_dribbles_too_slowly(mock: Mock, call: Caller, inject: Inject) -> None:
    with inject("network_latency", mode="dribble", piece=5, delay="10ms"):
        assert call(timeout=0.5).json() == {"paid": True}
    assert call.has_taken(0.03)
    with (
        inject("network_latency", mode="dribble", piece=5, delay="1h"),
        pytest.raises(httpx.ReadTimeout),
    ):
        call(timeout=0.05)
    assert call.has_taken(0.05)


def parts_of(call: Caller, url: str) -> list[bytes]:
    """The body as it arrives."""
    transport = None if call.mock is None else call.mock.transport(awaited=call.awaited)
    if not call.awaited:
        client = httpx.Client(transport=transport, trust_env=False, verify=False)
        with client, client.stream("GET", url) as response:
            return list(response.iter_bytes())

    async def stream() -> list[bytes]:
        client = httpx.AsyncClient(transport=transport, trust_env=False, verify=False)
        async with client, client.stream("GET", url) as response:
            return [part async for part in response.aiter_bytes()]

    return asyncio.run(stream())


def test_a_dribbled_body_arrives_piece_by_piece(mock: Mock, call: Caller, inject: Inject) -> None:
    mock.respond(f"{URL}/1", lambda _: httpx.Response(200, content=b"abcde"))
    with inject("network_latency", mode="dribble", piece=2, delay="1ms"):
        assert parts_of(call, f"{URL}/1") == [b"ab", b"cd", b"e"]
    with inject("network_latency", delay="1ms"):
        assert b"".join(parts_of(call, f"{URL}/1")) == b"abcde"


class Parts(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that a mock makes while it is read."""

    closed = False

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True

    def __iter__(self) -> Iterator[bytes]:
        yield from (b"ab", b"cd")

    async def __aiter__(self) -> Any:
        for part in self:
            yield part


@pytest.mark.parametrize("slow", [{"bandwidth": "1MB"}, {"delay": "1ms"}], ids=str)
def test_a_mock_that_streams(
    slow: dict[str, str], mock: Mock, call: Caller, inject: Inject
) -> None:
    body = Parts()
    mock.respond(f"{URL}/1", lambda _: httpx.Response(200, stream=body))
    with inject("network_latency", **slow) as latency:
        assert b"".join(parts_of(call, f"{URL}/1")) == b"abcd"
    assert latency.hits
    assert body.closed


@pytest.mark.parametrize("mode", ["truncate", "corrupt"])
def test_nothing_is_altered_where_there_is_no_body(
    mode: str, mock: Mock, call: Caller, inject: Inject
) -> None:
    mock.respond(f"{URL}/1", lambda _: httpx.Response(200, headers={"Content-Length": "15"}))
    mock.respond(f"{URL}/2", lambda _: httpx.Response(204))
    mock.respond(f"{URL}/3", lambda _: httpx.Response(200, content=b"whole"))
    with inject("network_failure", mode=mode, rate=1) as failure:
        assert call(f"{URL}/1", method="HEAD").headers["Content-Length"] == "15"
        assert "Content-Length" not in call(f"{URL}/2").headers
        assert (failure.matched, failure.hits) == (0, 0)
        with contextlib.suppress(httpx.RemoteProtocolError):
            assert call(f"{URL}/3").content != b"whole"
        assert failure.hits == 1


def test_a_corrupted_body_is_what_the_client_decodes(
    mock: Mock, call: Caller, inject: Inject
) -> None:
    packed = gzip.compress(b"x" * 1000)
    headers = {"Content-Encoding": "gzip"}
    mock.respond(f"{URL}/1", lambda _: httpx.Response(200, headers=headers, content=packed))
    with inject("network_latency", mode="bandwidth", bandwidth="10MB"):
        assert call(f"{URL}/1").content == b"x" * 1000
    with (
        inject("network_failure", mode="corrupt", share=1, rate=1),
        pytest.raises(httpx.DecodingError),
    ):
        call(f"{URL}/1")


def test_an_altered_response_keeps_its_headers_and_cookies(
    mock: Mock, call: Caller, inject: Inject
) -> None:
    headers = [("Set-Cookie", "jar=full"), ("Set-Cookie", "lid=on"), ("X-Name", "here")]
    mock.respond(f"{URL}/1", lambda _: httpx.Response(203, headers=headers, text="sweet"))
    with inject("network_latency", mode="dribble", piece=5, delay="1ms"):
        found = call(f"{URL}/1")
    assert (found.status_code, found.text, found.headers["X-Name"]) == (203, "sweet", "here")
    assert dict(found.cookies) == {"jar": "full", "lid": "on"}


@pytest.mark.httpx_mock(assert_all_requests_were_expected=False)
@pytest.mark.parametrize("mode", ["refuse", "reset", "lose_answer", "status", "truncate"])
def test_what_a_mock_has_no_response_for_is_its_own_affair(
    mode: str, mock: Mock, call: Caller, inject: Inject
) -> None:
    with (
        inject("network_failure", mode=mode, rate=1) as failure,
        pytest.raises(mock.unknown),
    ):
        call("http://api.example.com/unknown")
    assert failure.matched == 0
    assert "(the mock has no response)" in str(never_fired(failure))


@pytest.mark.parametrize("fault", [{"mode": "lose_answer"}, {"mode": "truncate"}, {"nth": 9}])
def test_what_a_mock_raises_is_raised_as_it_is(
    fault: dict[str, Any], mock: Mock, call: Caller, inject: Inject
) -> None:
    error = httpx.ReadError("the mock's own")

    def fail(request: httpx.Request) -> httpx.Response:
        raise error

    mock.respond(f"{URL}/1", fail)
    with pytest.raises(httpx.ReadError) as without:
        call(f"{URL}/1")
    before = (type(error.__cause__), type(error.__context__))
    error.__cause__ = error.__context__ = None
    with inject("network_failure", rate=1, **fault), pytest.raises(httpx.ReadError) as within:
        call(f"{URL}/1")
    assert within.value is without.value is error
    assert (type(error.__cause__), type(error.__context__)) == before


@in_place_of_transports
def test_the_transports_retries_are_tried(mock: Mock, call: Caller, inject: Inject) -> None:
    with inject("network_failure", mode="refuse", rate=1, first=1) as failure:
        assert call(retries=1).json() == {"paid": True}
        assert (failure.matched, failure.hits) == (2, 1)
    with inject("network_failure", mode="refuse", rate=1) as failure:
        with pytest.raises(httpx.ConnectError):
            call(retries=1)
        assert failure.hits == 2
    with inject("network_failure", mode="reset", rate=1) as failure:  # as in production: once
        with pytest.raises(httpx.ReadError):
            call(retries=1)
        assert failure.hits == 1


def test_a_body_is_left_for_the_mock_to_read(mock: Mock, call: Caller, inject: Inject) -> None:
    seen: list[bytes] = []

    def note(request: httpx.Request) -> httpx.Response:
        seen.append(request.content)
        return httpx.Response(201)

    mock.respond(f"{URL}/1", note)
    with inject("network_latency", delay="1ms") as latency:
        assert call(f"{URL}/1", method="POST", content=b"tea=1").status_code == 201
        assert call(f"{URL}/1", method="PUT", data={"tea": "2"}).status_code == 201
    with inject("network_failure", mode="lose_answer", rate=1), pytest.raises(httpx.ReadError):
        call(f"{URL}/1", method="POST", files={"list": b"from a file"})
    assert seen[:2] == [b"tea=1", b"tea=2"]
    assert b"from a file" in seen[2]
    assert latency.hits == 4


def test_the_request_is_the_callers_own(mock: Mock, call: Caller, inject: Inject) -> None:
    with inject("network_failure", mode="status", rate=1):
        found = call(method="POST", content=b"tea", headers={"X-Name": "me"})
    assert (found.request.content, found.request.headers["X-Name"]) == (b"tea", "me")
    assert found.elapsed.total_seconds() >= 0
    with inject("network_failure", rate=1), pytest.raises(httpx.ConnectError) as caught:
        call(method="POST", content=b"tea")
    assert (caught.value.request.content, str(caught.value.request.url)) == (b"tea", URL)


def ok(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")


@in_place_of_transports
@pytest.mark.httpx_mock(should_mock=lambda request: request.url.host != "127.0.0.1")
def test_what_mocks_let_pass_is_hit_once(mock: Mock, call: Caller, inject: Inject) -> None:
    with serve(ok) as port:
        url = f"http://127.0.0.1:{port}/"
        if isinstance(mock, Respx):
            mock.router.route(host="127.0.0.1").pass_through()
        with inject("network_latency", delay="1ms") as latency:
            assert call(url).text == "ok"
        assert latency.matched == 2


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_mock_may_start_before_or_during_and_stop_before_the_end(
    kind: str, call: Caller, inject: Inject, request: pytest.FixtureRequest
) -> None:
    with contextlib.ExitStack() as outlives:
        with started(kind, request) as before:
            before.respond(URL, paid)
            with inject("network_failure", rate=1) as failure:
                with pytest.raises(httpx.ConnectError):
                    call()
                during = outlives.enter_context(started(kind, request))
                during.respond(SAFE, paid)
                with pytest.raises(httpx.ConnectError):
                    call(SAFE)
                assert failure.hits == 2
        assert call(SAFE).is_success  # it outlives the experiment


def test_everything_is_put_back(inject: Inject) -> None:
    from respx.mocks import AbstractRequestMocker
    from respx.transports import TryTransport

    places: list[tuple[type, str]] = [
        (AbstractRequestMocker, "_send_sync_request"),
        (AbstractRequestMocker, "_send_async_request"),
        (TryTransport, "handle_request"),
        (TryTransport, "handle_async_request"),
        (respx.Router, "resolve"),
        (respx.Router, "aresolve"),
        (HTTPXMock, "_handle_request"),
        (HTTPXMock, "_handle_async_request"),
    ]

    def found() -> list[object]:
        return [vars(owner)[name] for owner, name in places]

    before = found()
    with inject("network_failure", rate=1):
        assert not set(map(id, found())) & set(map(id, before))
        with inject("network_latency", delay="1s"), respx.mock:
            pass
    assert found() == before


def test_two_mocks_at_once(call: Caller, inject: Inject, request: pytest.FixtureRequest) -> None:
    """The one above httpx takes the call, and httpcore is not reached."""
    with started(KINDS[0], request) as below, started(KINDS[1], request) as above:
        for each in (below, above):
            each.respond(URL, paid)
        with (
            inject("network_failure", mode="lose_answer", rate=1) as failure,
            pytest.raises(httpx.ReadError),
        ):
            call()
        assert (below.calls, above.calls, failure.hits) == (0, 1, 1)


def test_two_engines_do_not_disturb_each_other(
    mock: Mock, call: Caller, clock: Clock, inject: Inject
) -> None:
    other = Engine(lambda engine: [HttpMockInterceptor(engine)], clock=clock)
    latency = other.start(ChaosExperiment("other", "network_latency", delay="10ms"), seed=1)
    with inject("network_latency", delay="10ms", name="ours") as ours:
        assert call().is_success
    latency.stop()
    assert (ours.hits, latency.hits) == (2, 2)
    assert call.has_taken(0.04)
    assert mock.calls == 1


def test_calls_that_are_not_meant_are_told_by_an_experiment_that_never_fired(
    mock: Mock, call: Caller, inject: Inject
) -> None:
    with inject("network_failure", target="other.example.com") as failure:
        assert call(SAFE).is_success
    assert failure.matched == 0
    assert "network.connect api.example.com:443" in str(never_fired(failure))


awaited_alone = pytest.mark.parametrize("way", ["awaited"], indirect=True)


def async_client(mock: Mock) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=mock.transport(awaited=True), trust_env=False, verify=False, timeout=20
    )


async def until(told: Callable[[], bool]) -> None:
    while not told():  # noqa: ASYNC110  # nobody there knows of this loop
        await asyncio.sleep(0.001)


@awaited_alone
@pytest.mark.parametrize(
    "slow",
    [
        {"delay": "1m"},
        {"delay": "1m", "from_nth": 2},
        {"mode": "slow_dns", "delay": "1m"},
        {"bandwidth": "1"},
    ],
    ids=str,
)
def test_a_wait_does_not_stop_the_loop(slow: dict[str, Any], mock: Mock, inject: Inject) -> None:
    """What ends it is something else in the loop, which would wait with it."""

    async def main() -> None:
        async def end() -> None:
            await until(lambda: latency.hits > 0)
            ending.close()

        async with async_client(mock) as client:
            with contextlib.ExitStack() as ending:
                latency = ending.enter_context(inject("network_latency", **slow))
                other = asyncio.create_task(end())
                assert (await client.get(URL)).json() == {"paid": True}
                assert other.done()

    asyncio.run(main())


@awaited_alone
def test_calls_at_once_wait_at_once(mock: Mock, inject: Inject) -> None:
    async def main() -> None:
        async with async_client(mock) as client:
            with contextlib.ExitStack() as ending:
                latency = ending.enter_context(inject("network_latency", delay="1m"))
                responses = asyncio.gather(*(client.get(URL) for _ in range(50)))
                await until(lambda: latency.hits == 50)  # and nobody is connected
                ending.close()
                assert [each.status_code for each in await responses] == [200] * 50

    asyncio.run(main())
    assert mock.calls == 50


@awaited_alone
@pytest.mark.parametrize("place", [1, 2], ids=["connecting", "awaiting the response"])
def test_who_is_cancelled_while_waiting_has_not_asked_the_mock(
    place: int, mock: Mock, inject: Inject, events: list[FaultInjected]
) -> None:
    async def main() -> None:
        async with async_client(mock) as client:
            waiting = asyncio.create_task(client.get(URL))
            await until(lambda: bool(events))
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert (await client.get(URL)).json() == {"paid": True}

    with inject("network_latency", delay="1h", nth=place) as latency:
        asyncio.run(main())
        assert latency.hits == 1
        assert latency.delay < 60
    assert mock.calls == 1


@awaited_alone
def test_who_waits_goes_on_when_the_experiment_ends(
    mock: Mock, engine: Engine, events: list[FaultInjected]
) -> None:
    async def main() -> None:
        experiment = ChaosExperiment("far", "network_latency", delay="1h")
        active_experiment = engine.start(experiment, seed=1)
        async with async_client(mock) as client:
            waiting = asyncio.create_task(client.get(URL))
            await until(lambda: bool(events))
            active_experiment.stop()
            assert (await waiting).json() == {"paid": True}

    asyncio.run(main())
    assert mock.calls == 1


@awaited_alone
@pytest.mark.parametrize(
    ("kind", "fault", "error"),
    [
        ("network_latency", {"delay": "1h"}, httpx.ConnectTimeout),
        ("network_latency", {"delay": "1h", "from_nth": 2}, httpx.ReadTimeout),
        ("network_failure", {"rate": 1}, httpx.ConnectError),
        ("network_failure", {"mode": "reset", "rate": 1}, httpx.ReadError),
        ("network_latency", {"delay": "5ms"}, None),
    ],
    ids=str,
)
def test_in_trio(
    kind: str, fault: dict[str, Any], error: type[Exception] | None, mock: Mock, inject: Inject
) -> None:
    trio = pytest.importorskip("trio")

    async def main() -> None:
        async with async_client(mock) as client:
            assert (await client.get(URL, timeout=0.05 if error else 60)).json() == {"paid": True}

    with (
        inject(kind, **fault) as active_experiment,
        contextlib.nullcontext() if error is None else pytest.raises(error),
    ):
        trio.run(main)
    assert active_experiment.hits
    assert mock.calls == (error is None)


@awaited_alone
@pytest.mark.parametrize(
    ("mode", "really"), [("refuse", closed_port), ("reset", lambda: serve(reset))]
)
def test_trio_says_what_it_says_of_a_server(mode: str, really: Any, inject: Inject) -> None:
    trio = pytest.importorskip("trio")

    def said(url: str) -> str:
        async def main() -> None:
            async with httpx.AsyncClient(trust_env=False) as client:
                await client.get(url)

        with pytest.raises(httpx.TransportError) as caught:
            trio.run(main)
        return str(caught.value)

    with really() as port:
        url = f"http://127.0.0.1:{port}/"
        real = said(url)
    with respx.mock(assert_all_called=False) as mock, inject("network_failure", mode=mode, rate=1):
        mock.get(url)
        assert said(url) == real


@awaited_alone
def test_a_side_effect_that_is_awaited(mock: Mock, call: Caller, inject: Inject) -> None:
    async def later(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        return httpx.Response(200, text="later")

    mock.respond(f"{URL}/1", later)
    with inject("network_latency", mode="dribble", piece=2, delay="1ms"):
        assert call(f"{URL}/1").text == "later"
    with inject("network_latency", delay="1ms"):
        assert call(f"{URL}/1").text == "later"


def test_redirects_hooks_and_a_second_request_to_authenticate(
    mock: Mock, call: Caller, inject: Inject
) -> None:
    """Each request of the client is a call of its own."""
    heard: list[str] = []

    def hooked(each: httpx.Request | httpx.Response) -> Any:
        heard.append(type(each).__name__)
        return asyncio.sleep(0) if call.awaited else None

    def guarded(request: httpx.Request) -> httpx.Response:
        if "Authorization" in request.headers:
            return httpx.Response(302, headers={"Location": URL})
        challenge = 'Digest realm="tea", nonce="1", qop="auth", algorithm=MD5'
        return httpx.Response(401, headers={"WWW-Authenticate": challenge})

    mock.respond(f"{URL}/1", guarded)
    options: dict[str, Any] = {
        "auth": httpx.DigestAuth("me", "secret"),
        "follow_redirects": True,
        "event_hooks": {"request": [hooked], "response": [hooked]},
    }
    with inject("network_latency", delay="1ms") as latency, call.client(**options) as request:
        found = request("GET", f"{URL}/1")
    assert found.json() == {"paid": True}
    assert [each.status_code for each in found.history] == [401, 302]
    assert heard == ["Request", "Response"] * 3
    assert (latency.hits, mock.calls) == (6, 3)
    with (
        inject("network_failure", mode="status", status=503, rate=1, nth=2) as failure,
        call.client(**options) as request,
    ):
        assert request("GET", f"{URL}/1").status_code == 503
    assert (failure.hits, mock.calls) == (1, 4)


@pytest.mark.may_block("with a client that is not awaited, and waits")
def test_a_mock_that_calls_what_is_mocked(mock: Mock, call: Caller, inject: Inject) -> None:
    def forward(request: httpx.Request) -> httpx.Response:
        with httpx.Client(transport=mock.transport(awaited=False), verify=False) as client:
            return httpx.Response(200, json=client.get(SAFE).json())

    mock.respond(f"{URL}/1", forward)
    with inject("network_failure", mode="lose_answer", rate=1, target="*:443") as inner:
        with pytest.raises(httpx.ReadError):
            call(f"{URL}/1")
        assert inner.hits == 1
    with inject("network_latency", mode="dribble", piece=9, delay="1ms") as latency:
        assert call(f"{URL}/1").json() == {"paid": True}
    assert latency.hits == 2
