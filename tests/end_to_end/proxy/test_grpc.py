"""gRPC, which is C all the way down: a real server, and a client that is led through the proxy."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

from collections.abc import Callable
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import pytest

from pytest_resilience import NeverFiredError
from pytest_resilience.proxy import ChaosProxy
from tests.proxy.conftest import until


grpc: Any = pytest.importorskip("grpc")

Call = Callable[..., bytes]

# Its own reconnecting would wait longer after each failure.
IMPATIENT = [
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 10_000),  # for how long it connects, at least
    ("grpc.max_reconnect_backoff_ms", 50),
    ("grpc.use_local_subchannel_pool", 1),
]


def keep(request: bytes, context: Any) -> Iterator[bytes]:
    """Say it once, and then nothing more."""
    over = threading.Event()
    yield request
    if context.add_callback(over.set):
        over.wait(30)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a server that answers with what it is asked, or with it four times in a stream."""
    methods = {
        "Say": grpc.unary_unary_rpc_method_handler(lambda request, _: request),
        "Keep": grpc.unary_stream_rpc_method_handler(keep),
        "Repeat": grpc.unary_stream_rpc_method_handler(lambda request, _: iter([request] * 4)),
    }
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Echo", methods),))
    number = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield number
    server.stop(None).wait()


@pytest.fixture
def proxy(port: int) -> Iterator[ChaosProxy]:
    with ChaosProxy(("127.0.0.1", port), seed=1) as proxy:
        yield proxy


@pytest.fixture
def call(proxy: ChaosProxy) -> Iterator[Call]:
    """Calls the server through the proxy; `timeout` in seconds."""
    with grpc.insecure_channel(proxy.listen, options=IMPATIENT) as channel:
        say = channel.unary_unary("/Echo/Say")

        def run(request: bytes = b"hello", timeout: float = 20) -> bytes:
            answer: bytes = say(request, timeout=timeout)
            return answer

        yield run


def code(call: Call, **given: Any) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        call(**given)
    return caught.value.code()


def recovers(call: Call) -> bool:
    """Whether calls work again, when the channel has noticed."""

    def works() -> bool:
        with contextlib.suppress(grpc.RpcError):
            return call() == b"hello"
        return False

    until(works)
    return True


@pytest.mark.parametrize("stream", ["downstream", "upstream"])
def test_latency(proxy: ChaosProxy, call: Call, stream: Any) -> None:
    assert call() == b"hello"
    with proxy.inject("network_latency", delay="50ms", stream=stream) as latency:
        started = time.monotonic()
        assert call() == b"hello"
        assert time.monotonic() - started >= 0.05
    assert latency.hits >= 1


@pytest.mark.parametrize("stream", ["downstream", "upstream"])
def test_latency_beyond_the_deadline(proxy: ChaosProxy, call: Call, stream: Any) -> None:
    assert call() == b"hello"
    with proxy.inject("network_latency", delay="60s", stream=stream):
        assert code(call, timeout=0.2) is grpc.StatusCode.DEADLINE_EXCEEDED
    assert recovers(call)


@pytest.mark.parametrize("mode", ["timeout", "partition"])
def test_silence(proxy: ChaosProxy, call: Call, mode: Any) -> None:
    assert call() == b"hello"
    with proxy.inject("network_failure", mode=mode, rate=1) as silence:
        assert code(call, timeout=0.2) is grpc.StatusCode.DEADLINE_EXCEEDED
    assert silence.hits >= 1
    assert recovers(call)


@pytest.mark.parametrize("mode", ["reset", "close"])
@pytest.mark.parametrize("window", [{}, {"between": "200ms..60s"}])
def test_who_waits_for_more_of_a_stream_is_struck(
    proxy: ChaosProxy, mode: Any, window: dict[str, Any]
) -> None:
    pytest.importorskip("hpack")
    with grpc.insecure_channel(proxy.listen, options=IMPATIENT) as channel:
        replies = channel.unary_stream("/Echo/Keep")(b"hello", timeout=10)
        assert next(replies) == b"hello"
        with proxy.inject("network_failure", mode=mode, **window) as outage:
            with pytest.raises(grpc.RpcError) as caught:
                next(replies)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert outage.hits == 1


@pytest.mark.parametrize("stream", ["downstream", "upstream"])
def test_a_reset(proxy: ChaosProxy, call: Call, stream: Any) -> None:
    assert call() == b"hello"
    with proxy.inject("network_failure", mode="reset", rate=1, stream=stream) as reset:
        assert code(call) is grpc.StatusCode.UNAVAILABLE
    assert reset.hits >= 1
    assert recovers(call)


def test_a_lost_answer(proxy: ChaosProxy, call: Call) -> None:
    assert call() == b"hello"
    with proxy.inject("network_failure", mode="lose_answer", rate=1):
        assert code(call) is grpc.StatusCode.UNAVAILABLE
    assert recovers(call)


def test_a_refusal(proxy: ChaosProxy, call: Call) -> None:
    with proxy.inject("network_failure", mode="refuse", rate=1):
        assert code(call) is grpc.StatusCode.UNAVAILABLE
    assert recovers(call)


def test_nobody_answers_for_another_in_http_2(proxy: ChaosProxy, call: Call) -> None:
    with (
        pytest.raises(NeverFiredError) as caught,
        proxy.inject("network_failure", mode="status", rate=1),
    ):
        assert call() == b"hello"
    assert str(caught.value).endswith(
        f"network.receive {proxy.upstream} (HTTP/2)\n  Responses in HTTP/2 are told apart only by "
        "the library h2, in this process: elsewhere use HTTP/1.1, or a fault of connections."
    )


def test_half_an_answer(proxy: ChaosProxy, call: Call) -> None:
    assert call() == b"hello"
    with proxy.inject("network_failure", mode="truncate", rate=1) as cut:
        assert code(call) is grpc.StatusCode.UNAVAILABLE
    assert cut.hits >= 1
    assert recovers(call)


def test_damaged_frames(proxy: ChaosProxy, call: Call) -> None:
    assert call() == b"hello"
    with proxy.inject("network_failure", mode="corrupt", share=1, rate=1):
        assert code(call, timeout=5) in (
            grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        )  # fmt: skip
    assert recovers(call)


def test_a_thin_line(proxy: ChaosProxy, call: Call) -> None:
    message = bytes(20_000)
    assert call() == b"hello"
    with proxy.inject("network_latency", mode="bandwidth", bandwidth="200kB") as thin:
        started = time.monotonic()
        assert call(message) == message
        assert time.monotonic() - started >= 0.08
    assert thin.hits >= 1


def test_a_proxy_that_is_down(proxy: ChaosProxy, call: Call) -> None:
    assert call() == b"hello"
    with proxy.down():
        assert code(call) is grpc.StatusCode.UNAVAILABLE
    assert recovers(call)


def test_a_stream_of_answers_is_cut(proxy: ChaosProxy) -> None:
    with grpc.insecure_channel(proxy.listen, options=IMPATIENT) as channel:
        repeat = channel.unary_stream("/Echo/Repeat")
        assert len(list(repeat(bytes(1000), timeout=20))) == 4
        with proxy.having("limit_data", bytes=1500), pytest.raises(grpc.RpcError) as caught:
            list(repeat(bytes(1000), timeout=20))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_under_asyncio(proxy: ChaosProxy) -> None:
    async def run() -> Any:
        async with grpc.aio.insecure_channel(proxy.listen, options=IMPATIENT) as channel:
            say = channel.unary_unary("/Echo/Say")
            assert await say(b"hello", timeout=20) == b"hello"
            with (
                proxy.inject("network_failure", mode="reset", rate=1),
                pytest.raises(grpc.aio.AioRpcError) as caught,
            ):
                await say(b"hello", timeout=20)
            return caught.value.code()

    assert asyncio.run(run()) is grpc.StatusCode.UNAVAILABLE


def repeat(proxy: ChaosProxy) -> list[bytes]:
    with grpc.insecure_channel(proxy.listen, options=IMPATIENT) as channel:
        return list(channel.unary_stream("/Echo/Repeat")(b"x", timeout=20))


@pytest.mark.parametrize("chosen", [{"rpc": "Echo/Repeat"}, {"path": "/Echo/R*"}])
@pytest.mark.parametrize("opened_before", [False, True])
def test_only_the_calls_that_are_meant(
    proxy: ChaosProxy, call: Call, chosen: dict[str, Any], opened_before: bool
) -> None:
    if opened_before:
        assert call() == b"hello"
    with proxy.inject("network_failure", mode="reset", rate=1, **chosen) as reset:
        assert [call() for _ in range(3)] == [b"hello"] * 3
        assert reset.matched == 0
        with pytest.raises(grpc.RpcError) as caught:
            repeat(proxy)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reset.hits == 1
    assert repeat(proxy) == [b"x"] * 4


def test_only_the_calls_that_are_meant_are_late(proxy: ChaosProxy, call: Call) -> None:
    assert call() == b"hello"
    with proxy.inject("network_latency", delay="50ms", rpc="Echo/Say") as latency:
        assert repeat(proxy) == [b"x"] * 4
        assert latency.matched == 0
        assert call() == b"hello"
        assert call() == b"hello"
    assert latency.hits == 2
    assert latency.delay >= 0.09


def test_what_was_called_instead_is_told(proxy: ChaosProxy, call: Call) -> None:
    with (
        pytest.raises(NeverFiredError) as caught,
        proxy.inject("network_failure", mode="reset", rate=1, rpc="*/Charge"),
    ):
        call()
    assert f"network.receive {proxy.upstream} POST /Echo/Say" in str(caught.value)
