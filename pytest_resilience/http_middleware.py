"""HTTP clients with a circuit breaker for each host: transports, an adapter, a middleware.

    breakers = HostBreakers(CircuitBreakerConfig(failure_threshold=5, timeout=30))

    httpx.Client(transport=httpx_transport(breakers))
    httpx.AsyncClient(transport=httpx_async_transport(breakers))
    session.mount("https://", requests_adapter(breakers))
    aiohttp.ClientSession(middlewares=[aiohttp_middleware(breakers)])

Each imports its library when it is called. Usable in production, as the patterns are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
from typing import TYPE_CHECKING
from typing import Any
from typing import Self
from urllib.parse import urlsplit

from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.errors import CircuitBreakerError
from pytest_resilience.errors import missing_extra
from pytest_resilience.locks import OfThisProcess
from pytest_resilience.patterns import validation
from pytest_resilience.patterns.circuit_breaker.breaker import CircuitBreaker
from pytest_resilience.patterns.circuit_breaker.breaker import CircuitBreakerRegistry
from pytest_resilience.patterns.circuit_breaker.config import CircuitBreakerConfig
from pytest_resilience.patterns.circuit_breaker.config import Outcome
from pytest_resilience.patterns.circuit_breaker.store import RedisStore
from pytest_resilience.patterns.circuit_breaker.wrappers import Permit
from pytest_resilience.patterns.event_loops import wait_for
from pytest_resilience.patterns.retry.delays import retry_after_of
from pytest_resilience.patterns.timeout import in_thread


if TYPE_CHECKING:
    from aiohttp import ClientHandlerType
    from aiohttp import ClientMiddlewareType
    from aiohttp import ClientRequest
    from aiohttp import ClientResponse
    from httpx import AsyncBaseTransport
    from httpx import BaseTransport
    from httpx import Request
    from httpx import Response
    from requests.adapters import BaseAdapter


__all__ = [
    "HostBreakers",
    "aiohttp_middleware",
    "httpx_async_transport",
    "httpx_transport",
    "requests_adapter",
]

_PORTS = {"http": 80, "https": 443}
_ASKS_TO_WAIT = frozenset({429, 503})  # the statuses that a Retry-After comes with
_ENDLESS = "text/event-stream"


class HostBreakers(OfThisProcess):
    """A circuit breaker for each host and port, and what counts as a failure of one.

    A request that is rejected is not sent. It raises a `CircuitBreakerError` that is an error of
    the library as well (`httpx.TransportError`, `requests.RequestException`,
    `aiohttp.ClientError`), so that who is prepared for those is prepared for this.

    A request fails by its status, by an error of the connection or its timeouts, in the body too,
    and by what `config` says: `is_failed_result` is given the client's response, when its headers
    are there, `is_failure` and the like the client's exception. What is wrong in the request
    itself, and waiting for a connection of the client's own pool in vain, count neither way.

    Of a body that is streamed this is known to the end by httpx, but for server-sent events,
    which have succeeded as they begin. Under aiohttp, and for `stream=True` of requests, a
    request has succeeded when its headers are there.

    A response 429 or 503 with `Retry-After` (or what else retries read) opens the breaker at
    once, for as long as it says, whatever else `config` says.

    Attributes:
        registry: of the breakers, by names as ``"prices.internal:443"``. One that is created
            there beforehand may have another configuration.
        failed_statuses: the statuses of failures.
        max_retry_after: the most seconds that a response can open a breaker for; 0 to let none.
    """

    def __init__(
        self,
        config: CircuitBreakerConfig | None = None,
        *,
        failed_statuses: Collection[int] = range(500, 600),
        max_retry_after: float = 300.0,
        clock: Clock = SYSTEM_CLOCK,
        store: RedisStore | None = None,
    ) -> None:
        """`store`: where the states of the breakers are shared with other processes."""
        self.registry = CircuitBreakerRegistry(config, clock=validation.clock(clock), store=store)
        self.failed_statuses = frozenset(failed_statuses)
        self.max_retry_after = validation.number("max_retry_after", max_retry_after)
        self._now = clock.time

    def breaker(self, host: str, port: int = 443) -> CircuitBreaker:
        """The breaker of a host; made when first needed."""
        return self.registry.get_or_create(f"{host}:{port}")

    def wait_of(self, status: int, response: Any) -> float:
        """The seconds for which a response asks not to be called, at most `max_retry_after`."""
        if not self.max_retry_after or status not in _ASKS_TO_WAIT:
            return 0.0
        return min(retry_after_of(response, self._now()) or 0.0, self.max_retry_after)


class _Exchange:
    """A request that was let through; how it ended is said once, by whoever knows first."""

    __slots__ = ("_breaker", "_breakers", "_client", "_notify_async", "_permit", "_wait")

    def __init__(
        self, client: _Client, breakers: HostBreakers, breaker: CircuitBreaker, permit: Permit
    ) -> None:
        self._client = client
        self._breakers = breakers
        self._breaker = breaker
        self._permit: Permit | None = permit
        self._notify_async = permit.notify_async
        self._wait = 0.0  # seconds for which the host asks to be left alone

    def responded(self, status: int, response: Any) -> None:
        """The headers are there. Calls `is_failed_result`."""
        try:
            judged = self._breaker.config.judge_result(response)
        except BaseException:
            self._end(Permit.release)
            raise
        if judged is Outcome.FAILURE or status in self._breakers.failed_statuses:
            self._end(Permit.failed)
        self._wait = self._breakers.wait_of(status, response)

    def ended(self) -> None:
        """The body is there, or of no interest any more."""
        self._end(Permit.succeeded)

    def raised(self, error: BaseException) -> None:
        if isinstance(error, self._client.own):
            self._end(Permit.release)
        else:
            self._end(lambda permit: permit.raised(error))

    def _end(self, how: Callable[[Permit], None]) -> None:
        permit, self._permit = self._permit, None
        if permit is not None:
            how(permit)

    def _open(self) -> None:
        wait, self._wait = self._wait, 0.0
        self._breaker.open_for(wait)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._left(error)
        if self._wait:
            self._open()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._left(error)
        if isinstance(error, GeneratorExit):  # which can await nothing
            return
        if self._wait:  # in a thread, for a breaker with a store asks that
            await wait_for(in_thread(self._open, self._breaker.name), None)
        await self._notify_async()

    def _left(self, error: BaseException | None) -> None:
        if isinstance(error, GeneratorExit):  # whoever reads the body has had enough of it
            self.ended()
        elif error is not None:
            self.raised(error)


class _Client:
    """What is particular to a library.

    Attributes:
        own: errors of the client itself, which say nothing of the host.
    """

    def __init__(
        self, breakers: HostBreakers, error: type[Exception], *own: type[Exception]
    ) -> None:
        """`error`: the library's own for a request that has failed."""
        self._breakers = breakers
        self.own = own

        class RejectedRequestError(CircuitBreakerError, error):  # type: ignore[misc, valid-type]
            """So that who is prepared for a request to fail is prepared for this too."""

            __qualname__ = "RejectedRequestError"  # tracebacks show it

            def __reduce__(self) -> tuple[Any, ...]:
                return CircuitBreakerError, self.args  # this class is of this process

        self._rejection = RejectedRequestError

    def begin(self, request: Any, scheme: str, host: str | None, port: int | None) -> _Exchange:
        """Raises CircuitBreakerError, which is an error of the library too."""
        breaker = self._breakers.breaker(host or "", port or _PORTS.get(scheme, 0))
        try:
            permit = breaker.acquire()
        except CircuitBreakerError as error:
            raise self._rejected(error, request) from None
        return _Exchange(self, self._breakers, breaker, permit)

    async def begin_async(
        self, request: Any, scheme: str, host: str | None, port: int | None
    ) -> _Exchange:
        breaker = self._breakers.breaker(host or "", port or _PORTS.get(scheme, 0))
        try:
            permit = await breaker.acquire_async()
        except CircuitBreakerError as error:
            raise self._rejected(error, request) from None
        return _Exchange(self, self._breakers, breaker, permit)

    def _rejected(self, error: CircuitBreakerError, request: Any) -> Exception:
        # Without `__init__`: that of the library takes other arguments.
        rejection = self._rejection.__new__(self._rejection)
        rejection.args = error.args
        rejection.request, rejection.response = request, None
        return rejection


def _of_httpx(breakers: HostBreakers) -> _Client:
    try:
        import httpx
    except ImportError:
        raise missing_extra("httpx_transport", "httpx", "httpx") from None

    own = httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.PoolTimeout
    return _Client(breakers, httpx.TransportError, *own)


def _httpx_responded(exchange: _Exchange, response: Response) -> None:
    exchange.responded(response.status_code, response)
    if response.headers.get("content-type", "").startswith(_ENDLESS):
        exchange.ended()


def httpx_transport(
    breakers: HostBreakers, transport: BaseTransport | None = None
) -> BaseTransport:
    """A transport for `httpx.Client`. `transport`: what sends; `httpx.HTTPTransport()` if None."""
    client = _of_httpx(breakers)
    import httpx

    inner = httpx.HTTPTransport() if transport is None else transport

    class Body(httpx.SyncByteStream):
        def __init__(self, stream: Any, exchange: _Exchange) -> None:
            self._stream, self._exchange = stream, exchange

        def __iter__(self) -> Iterator[bytes]:
            with self._exchange:
                yield from self._stream
            self._exchange.ended()

        def close(self) -> None:
            self._exchange.ended()
            self._stream.close()

    class BreakerTransport(httpx.BaseTransport):
        def handle_request(self, request: Request) -> Response:
            url = request.url
            with client.begin(request, url.scheme, url.host, url.port) as exchange:
                response = inner.handle_request(request)
                _httpx_responded(exchange, response)
            response.stream = Body(response.stream, exchange)
            return response

        def close(self) -> None:
            inner.close()

    return BreakerTransport()


def httpx_async_transport(
    breakers: HostBreakers, transport: AsyncBaseTransport | None = None
) -> AsyncBaseTransport:
    """A transport for `httpx.AsyncClient`; `httpx.AsyncHTTPTransport()` sends if None is given."""
    client = _of_httpx(breakers)
    import httpx

    inner = httpx.AsyncHTTPTransport() if transport is None else transport

    class Body(httpx.AsyncByteStream):
        def __init__(self, stream: Any, exchange: _Exchange) -> None:
            self._stream, self._exchange = stream, exchange

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async with self._exchange as exchange:
                async for chunk in self._stream:
                    yield chunk
                exchange.ended()

        async def aclose(self) -> None:
            async with self._exchange as exchange:
                exchange.ended()
                await self._stream.aclose()

    class BreakerTransport(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: Request) -> Response:
            url = request.url
            exchange = await client.begin_async(request, url.scheme, url.host, url.port)
            async with exchange:
                response = await inner.handle_async_request(request)
                _httpx_responded(exchange, response)
            response.stream = Body(response.stream, exchange)
            return response

        async def aclose(self) -> None:
            await inner.aclose()

    return BreakerTransport()


def requests_adapter(breakers: HostBreakers, adapter: BaseAdapter | None = None) -> BaseAdapter:
    """An adapter to mount in a `requests.Session`. `adapter`: what sends; `HTTPAdapter()` if None.

    Without `stream=True` the body is read here, so a response's `elapsed` holds that too.
    """
    from requests.adapters import BaseAdapter
    from requests.adapters import HTTPAdapter
    from requests.exceptions import RequestException

    client = _Client(breakers, RequestException, ValueError)
    inner = HTTPAdapter() if adapter is None else adapter

    class BreakerAdapter(BaseAdapter):
        def send(self, request: Any, stream: bool = False, **options: Any) -> Any:  # type: ignore[override]
            url = urlsplit(request.url)
            with client.begin(request, url.scheme, url.hostname, url.port) as exchange:
                response = inner.send(request, stream=stream, **options)
                exchange.responded(response.status_code, response)
                if not stream:
                    _ = response.content
            exchange.ended()
            return response

        def close(self) -> None:
            inner.close()

    return BreakerAdapter()


def aiohttp_middleware(breakers: HostBreakers) -> ClientMiddlewareType:
    """A middleware for `aiohttp.ClientSession(middlewares=[...])`, of aiohttp 3.12 or later."""
    try:
        from aiohttp import ClientError
    except ImportError:
        raise missing_extra("aiohttp_middleware", "aiohttp", "aiohttp") from None

    client = _Client(breakers, ClientError, ValueError)

    async def middleware(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        url = request.url
        async with await client.begin_async(request, url.scheme, url.host, url.port) as exchange:
            try:
                response = await handler(request)
            except BaseException as error:
                exchange.raised(_aiohttp_timeout(request) or error)
                raise
            exchange.responded(response.status, response)
            exchange.ended()
        return response

    return middleware


def _aiohttp_timeout(request: ClientRequest) -> TimeoutError | None:
    """Whether the request's total time is over, which its middlewares see as a cancellation."""
    try:
        request._timer.assert_timeout()  # noqa: SLF001  # nothing public tells one from the other
    except TimeoutError as error:
        return error
    except AttributeError:
        pass
    return None
