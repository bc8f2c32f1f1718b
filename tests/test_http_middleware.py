"""HTTP clients behind a breaker for each host, each against a real server."""

from __future__ import annotations

import asyncio
import pickle
import threading

from collections.abc import Callable
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from typing import Any
from typing import ClassVar
from urllib.parse import parse_qs
from urllib.parse import urlsplit

import aiohttp
import httpx
import pytest
import requests

from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import CircuitBreakerError
from pytest_resilience import Event
from pytest_resilience import ManualClock
from pytest_resilience import RedisStore
from pytest_resilience import RetryConfig
from pytest_resilience import RetryHandler
from pytest_resilience.assertions import assert_circuit_closed
from pytest_resilience.assertions import assert_circuit_open
from pytest_resilience.assertions import assert_circuit_transitions
from pytest_resilience.http_middleware import HostBreakers
from pytest_resilience.http_middleware import aiohttp_middleware
from pytest_resilience.http_middleware import httpx_async_transport
from pytest_resilience.http_middleware import httpx_transport
from pytest_resilience.http_middleware import requests_adapter
from tests.redis_server import redis_server


EPOCH = 1_800_000_000.0
CONFIG = CircuitBreakerConfig(failure_threshold=2, success_threshold=1, timeout=30.0)
PATIENCE = 60  # seconds


class Service(BaseHTTPRequestHandler):
    """Answers as the query says: `/?status=503&retry-after=7`, `/?cut=1`, `/?type=text/html`."""

    protocol_version = "HTTP/1.1"
    paths: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.paths.append(self.path)
        told = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        status, body = int(told.pop("status", 200)), b"tea"
        if status == 204:
            body = b""
        cut, kind = told.pop("cut", ""), told.pop("type", "text/plain")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) + bool(cut)))
        for name, value in told.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        if cut:
            self.close_connection = True

    def log_message(self, *args: object) -> None: ...


class Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: under chaos clients go away."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join(PATIENCE)


@pytest.fixture
def url(server: Server) -> str:
    Service.paths.clear()
    return f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(epoch=EPOCH)


@pytest.fixture
def breakers(clock: ManualClock) -> HostBreakers:
    return HostBreakers(CONFIG, clock=clock)


class Client:
    """One of the libraries, behind `breakers`. `error`: what it raises for the network."""

    error: type[Exception]

    def __init__(self, breakers: HostBreakers) -> None: ...

    def get(self, url: str) -> int:
        """The status; the body has been read."""
        raise NotImplementedError

    def close(self) -> None: ...


class Requests(Client):
    error = requests.RequestException

    def __init__(self, breakers: HostBreakers) -> None:
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.mount("http://", requests_adapter(breakers))

    def get(self, url: str) -> int:
        return self.session.get(url, timeout=PATIENCE).status_code

    def close(self) -> None:
        self.session.close()


class Httpx(Client):
    error = httpx.TransportError

    def __init__(self, breakers: HostBreakers) -> None:
        self.client = httpx.Client(transport=httpx_transport(breakers), timeout=PATIENCE)

    def get(self, url: str) -> int:
        return self.client.get(url).status_code

    def close(self) -> None:
        self.client.close()


class InLoop(Client):
    def __init__(self, breakers: HostBreakers) -> None:
        self.breakers = breakers
        self.runner = asyncio.Runner()
        self.client = self.runner.run(self.open())

    async def open(self) -> Any:
        raise NotImplementedError

    async def fetch(self, url: str) -> int:
        raise NotImplementedError

    def get(self, url: str) -> int:
        return self.runner.run(self.fetch(url))


class AsyncHttpx(InLoop):
    error = httpx.TransportError

    async def open(self) -> Any:
        return httpx.AsyncClient(transport=httpx_async_transport(self.breakers), timeout=PATIENCE)

    async def fetch(self, url: str) -> int:
        return int((await self.client.get(url)).status_code)

    def close(self) -> None:
        self.runner.run(self.client.aclose())
        self.runner.close()


class Aiohttp(InLoop):
    error = aiohttp.ClientError

    async def open(self) -> Any:
        return aiohttp.ClientSession(middlewares=[aiohttp_middleware(self.breakers)])

    async def fetch(self, url: str) -> int:
        async with self.client.get(url) as response:
            await response.read()
            return int(response.status)

    def close(self) -> None:
        self.runner.run(self.client.close())
        self.runner.close()


CLIENTS = [Requests, Httpx, AsyncHttpx, Aiohttp]
READS_BODIES = [Requests, Httpx, AsyncHttpx]
Make = Callable[..., Client]


@pytest.fixture
def make(breakers: HostBreakers) -> Iterator[Make]:
    made: list[Client] = []

    def make(kind: type[Client], behind: HostBreakers = breakers) -> Client:
        made.append(kind(behind))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(params=CLIENTS, ids=lambda kind: kind.__name__)
def client(request: pytest.FixtureRequest, make: Make) -> Client:
    return make(request.param)


def breaker_of(breakers: HostBreakers, url: str) -> Any:
    return breakers.breaker("127.0.0.1", urlsplit(url).port or 0)


def test_failures_open_the_breaker_and_a_trial_closes_it(
    client: Client, breakers: HostBreakers, url: str, clock: ManualClock
) -> None:
    assert client.get(f"{url}/?status=500") == 500
    assert client.get(f"{url}/?status=502") == 502
    breaker = breaker_of(breakers, url)
    assert_circuit_open(breaker)
    sent = len(Service.paths)
    with pytest.raises(CircuitBreakerError) as rejected:
        client.get(url)
    assert rejected.value.name == urlsplit(url).netloc
    assert rejected.value.retry_after == 30
    assert len(Service.paths) == sent
    clock.advance(30)
    assert client.get(url) == 200
    assert_circuit_transitions(breaker, ["CLOSED", "OPEN", "HALF_OPEN", "CLOSED"])


@pytest.mark.parametrize("status", [200, 204, 301, 404, 429])
def test_what_is_no_failure(client: Client, breakers: HostBreakers, url: str, status: int) -> None:
    client.get(f"{url}/?status=500")
    client.get(f"{url}/?status={status}")
    client.get(f"{url}/?status=500")
    assert_circuit_closed(breaker_of(breakers, url))


def test_each_host_has_a_breaker_of_its_own(
    client: Client, breakers: HostBreakers, url: str
) -> None:
    for _ in range(2):
        client.get(f"{url}/?status=500")
    other = url.replace("127.0.0.1", "localhost")
    assert client.get(other) == 200
    assert breakers.registry.names == (urlsplit(url).netloc, urlsplit(other).netloc)


def test_a_host_with_a_configuration_of_its_own(
    client: Client, breakers: HostBreakers, url: str
) -> None:
    name = urlsplit(url).netloc
    breaker = breakers.registry.create(name, CircuitBreakerConfig(failure_threshold=1))
    client.get(f"{url}/?status=500")
    assert_circuit_open(breaker)


@pytest.mark.parametrize(
    ("query", "seconds"),
    [
        ("status=503&Retry-After=7", 7),
        ("status=429&retry-after=7", 7),
        (f"status=429&Retry-After={formatdate(EPOCH + 9, usegmt=True)}", 9),
        ("status=503&Retry-After=86400", 300),  # max_retry_after
        ("status=429&X-RateLimit-Remaining=0&X-RateLimit-Reset=12", 12),
    ],
)
def test_a_host_that_asks_to_be_left_alone_is(
    client: Client, url: str, clock: ManualClock, query: str, seconds: int
) -> None:
    client.get(f"{url}/?{query}")
    with pytest.raises(CircuitBreakerError) as rejected:
        client.get(url)
    assert rejected.value.retry_after == seconds
    clock.advance(seconds)
    assert client.get(url) == 200
    assert client.get(url) == 200


@pytest.mark.parametrize("query", ["status=200&Retry-After=7", "status=301&Retry-After=7"])
def test_who_else_says_retry_after_is_not_left_alone(
    client: Client, breakers: HostBreakers, url: str, query: str
) -> None:
    client.get(f"{url}/?{query}")
    assert_circuit_closed(breaker_of(breakers, url))


def test_a_retry_around_the_client_waits_as_long_as_the_host_asks(
    client: Client, url: str, clock: ManualClock
) -> None:
    retry = RetryHandler(RetryConfig(max_attempts=2, jitter=False), clock=clock)
    client.get(f"{url}/?status=503&Retry-After=7")
    assert retry.execute(client.get, url) == 200
    assert clock.sleeps == [7]


@pytest.mark.parametrize("kind", CLIENTS)
def test_what_counts_is_configured(kind: type[Client], make: Make, url: str) -> None:
    def is_poor(response: Any) -> bool:
        return bool(response.headers["Content-Type"] == "text/html")

    config = CircuitBreakerConfig(failure_threshold=1, is_failed_result=is_poor)
    breakers = HostBreakers(config, failed_statuses={404}, max_retry_after=0)
    client, breaker = make(kind, breakers), breaker_of(breakers, url)
    for query in ("status=500", "status=429&Retry-After=7"):
        client.get(f"{url}/?{query}")
    assert_circuit_closed(breaker)
    for query in ("status=404", "type=text/html"):
        client.get(f"{url}/?{query}")
        assert_circuit_open(breaker)
        breaker.reset()
    silent = CircuitBreakerConfig(failure_threshold=1, ignored_exception=client.error)
    breakers = HostBreakers(silent)
    with pytest.raises(client.error):
        make(kind, breakers).get("http://127.0.0.1:1")
    assert_circuit_closed(breakers.breaker("127.0.0.1", 1))


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_judge_that_raises_takes_no_slot(
    kind: type[Client], make: Make, url: str, clock: ManualClock
) -> None:
    answers = [False]
    config = CircuitBreakerConfig(success_threshold=1, is_failed_result=lambda _: answers.pop())
    breakers = HostBreakers(config, clock=clock)
    client, breaker = make(kind, breakers), breaker_of(breakers, url)
    breaker.open_for(1)
    clock.advance(1)
    answers.clear()
    with pytest.raises(IndexError):
        client.get(url)
    answers.append(False)
    assert client.get(url) == 200
    assert_circuit_closed(breaker)


@pytest.mark.parametrize("kind", READS_BODIES)
def test_a_body_that_breaks_off_is_a_failure(
    kind: type[Client], make: Make, breakers: HostBreakers, url: str
) -> None:
    client = make(kind)
    for _ in range(2):
        with pytest.raises(client.error):
            client.get(f"{url}/?cut=1")
    assert_circuit_open(breaker_of(breakers, url))


def test_bodies_that_are_streamed(breakers: HostBreakers, url: str, clock: ManualClock) -> None:
    breaker = breaker_of(breakers, url)
    breaker.open_for(1)
    clock.advance(1)
    with httpx.Client(transport=httpx_transport(breakers)) as client:
        with client.stream("GET", url) as response:
            with pytest.raises(CircuitBreakerError, match="trial calls are in progress"):
                client.get(url)
            for _ in response.iter_raw(1):
                break  # enough of it
        assert_circuit_closed(breaker)
        breaker.open_for(1)
        clock.advance(1)
        with client.stream("GET", f"{url}/?type=text/event-stream"):
            assert_circuit_closed(breaker)  # it may go on for ever
    with requests.Session() as session:
        session.mount("http://", requests_adapter(breakers))
        breaker.open_for(1)
        clock.advance(1)
        with session.get(url, stream=True, timeout=PATIENCE) as response_begun:
            assert_circuit_closed(breaker)
            assert response_begun.content == b"tea"


def test_async_bodies_that_are_streamed(
    breakers: HostBreakers, url: str, clock: ManualClock
) -> None:
    async def story() -> None:
        async with httpx.AsyncClient(transport=httpx_async_transport(breakers)) as client:
            async with client.stream("GET", url) as response:
                with pytest.raises(CircuitBreakerError, match="trial calls are in progress"):
                    await client.get(url)
                await response.aread()
            assert_circuit_closed(breaker)

    breaker = breaker_of(breakers, url)
    breaker.open_for(1)
    clock.advance(1)
    asyncio.run(story())


def test_an_error_of_the_client_itself_is_none_of_the_host(
    breakers: HostBreakers, url: str
) -> None:
    port = urlsplit(url).port
    limits = httpx.Limits(max_connections=1)
    inner = httpx.HTTPTransport(limits=limits)
    timeout = httpx.Timeout(PATIENCE, pool=0.001)
    with httpx.Client(transport=httpx_transport(breakers, inner), timeout=timeout) as client:
        with client.stream("GET", url):
            for _ in range(3):
                with pytest.raises(httpx.PoolTimeout):
                    client.get(url)
        for _ in range(3):
            with pytest.raises(httpx.UnsupportedProtocol):
                client.get(f"gopher://127.0.0.1:{port}")
    with requests.Session() as session:
        session.mount("http://", requests_adapter(breakers))
        for _ in range(3):
            with pytest.raises(ValueError, match="Invalid timeout"):
                session.get(url, timeout=(1, 2, 3))  # type: ignore[arg-type]
    assert_circuit_closed(breaker_of(breakers, url))


def test_who_is_prepared_for_a_failure_is_prepared_for_a_rejection(
    client: Client, url: str
) -> None:
    client.get(f"{url}/?status=503&Retry-After=7")
    with pytest.raises(client.error) as rejected:
        client.get(url)
    assert isinstance(rejected.value, CircuitBreakerError)
    assert str(rejected.value) == f"{urlsplit(url).netloc} is OPEN: try again in 7 s"
    if not isinstance(client, Aiohttp):
        assert str(rejected.value.request.url).rstrip("/") == url  # type: ignore[attr-defined]
    assert rejected.exconly().startswith("pytest_resilience.http_middleware.RejectedRequestError: ")
    elsewhere = pickle.loads(pickle.dumps(rejected.value))
    assert type(elsewhere) is CircuitBreakerError
    assert elsewhere.retry_after == 7


@pytest.mark.parametrize("kind", [AsyncHttpx, Aiohttp])
def test_coroutine_functions_listen(
    kind: type[Client], make: Make, breakers: HostBreakers, url: str
) -> None:
    heard: list[str] = []

    async def listener(event: Event) -> None:
        heard.append(type(event).__name__)

    breaker = breaker_of(breakers, url)
    breaker.listeners.add(listener)
    client = make(kind)
    for _ in range(2):
        client.get(f"{url}/?status=500")
    with pytest.raises(CircuitBreakerError):
        client.get(url)
    breaker.reset()
    client.get(f"{url}/?status=503&Retry-After=7")
    assert heard == ["CircuitTransition", "CircuitRejection", *["CircuitTransition"] * 2]


@pytest.mark.parametrize("kind", CLIENTS)
def test_hosts_are_left_alone_by_all_who_share_the_state(
    kind: type[Client], make: Make, url: str
) -> None:
    with redis_server() as (port, _):
        store = RedisStore(f"redis://127.0.0.1:{port}")
        here, there = [make(kind, HostBreakers(CONFIG, store=store)) for _ in range(2)]
        assert here.get(f"{url}/?status=500") == 500
        assert there.get(f"{url}/?status=500") == 500
        with pytest.raises(CircuitBreakerError):
            here.get(url)
        breaker = breaker_of(HostBreakers(CONFIG, store=store), url)
        breaker.reset()
        assert there.get(f"{url}/?status=503&Retry-After=70") == 503
        with pytest.raises(CircuitBreakerError) as rejected:
            here.get(url)
        assert rejected.value.retry_after == pytest.approx(70, abs=PATIENCE)


def test_what_sends_can_be_given_and_is_closed(breakers: HostBreakers) -> None:
    closed: list[str] = []

    class Adapter(requests.adapters.HTTPAdapter):
        def close(self) -> None:
            closed.append("adapter")
            super().close()

    class Transport(httpx.HTTPTransport):
        def close(self) -> None:
            closed.append("transport")
            super().close()

    class AsyncTransport(httpx.AsyncHTTPTransport):
        async def aclose(self) -> None:
            closed.append("async transport")
            await super().aclose()

    requests_adapter(breakers, Adapter()).close()
    httpx_transport(breakers, Transport()).close()
    asyncio.run(httpx_async_transport(breakers, AsyncTransport()).aclose())
    assert closed == ["adapter", "transport", "async transport"]


# Chaos below them: what the client meets is what the real event would give it.


@pytest.mark.chaos("network_failure", mode="refuse", first=2)
def test_chaos_refused_connections(
    client: Client, breakers: HostBreakers, url: str, clock: ManualClock
) -> None:
    for _ in range(2):
        with pytest.raises(client.error):
            client.get(url)
    assert_circuit_open(breaker_of(breakers, url))
    with pytest.raises(CircuitBreakerError):
        client.get(url)
    assert Service.paths == []
    clock.advance(30)
    assert client.get(url) == 200
    assert_circuit_closed(breaker_of(breakers, url))


@pytest.mark.chaos("network_failure", mode="reset")
def test_chaos_reset_connections(client: Client, breakers: HostBreakers, url: str) -> None:
    with pytest.raises(client.error):
        client.get(url)
    with pytest.raises((client.error, CircuitBreakerError)):  # aiohttp has tried twice by now
        client.get(url)
    assert_circuit_open(breaker_of(breakers, url))


@pytest.mark.chaos("network_failure", mode="status", status=503, retry_after=7)
def test_chaos_statuses(client: Client, breakers: HostBreakers, url: str) -> None:
    assert client.get(url) == 503
    with pytest.raises(CircuitBreakerError) as rejected:
        client.get(url)
    assert rejected.value.retry_after == 7
    assert_circuit_open(breaker_of(breakers, url))


@pytest.mark.parametrize("kind", READS_BODIES)
@pytest.mark.chaos("network_failure", mode="truncate", after_bytes=1)
def test_chaos_truncated_bodies(
    kind: type[Client], make: Make, breakers: HostBreakers, url: str
) -> None:
    client = make(kind)
    for _ in range(2):
        with pytest.raises(client.error):
            client.get(url)
    assert_circuit_open(breaker_of(breakers, url))


@pytest.mark.parametrize("phase", ["connect", "response"])
def test_chaos_timeouts_of_aiohttp(
    chaos: Any, breakers: HostBreakers, url: str, phase: str
) -> None:
    """A total timeout reaches a middleware as a cancellation, in the connect."""
    mode = "partition" if phase == "connect" else "timeout"

    async def story() -> None:
        async with aiohttp.ClientSession(
            middlewares=[aiohttp_middleware(breakers)], timeout=aiohttp.ClientTimeout(total=0.05)
        ) as session:
            for _ in range(2):
                with pytest.raises(TimeoutError):
                    await session.get(url)

    with chaos.network_failure(mode=mode):
        asyncio.run(story())
    assert_circuit_open(breaker_of(breakers, url))


def test_a_request_that_its_caller_cancels_says_nothing(
    chaos: Any, breakers: HostBreakers, url: str
) -> None:
    async def story() -> None:
        async with aiohttp.ClientSession(middlewares=[aiohttp_middleware(breakers)]) as session:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await session.get(url)

    with chaos.network_failure(mode="partition"):
        asyncio.run(story())
    assert_circuit_closed(breaker_of(breakers, url))
