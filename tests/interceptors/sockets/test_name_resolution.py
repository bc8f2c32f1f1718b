"""Names that do not resolve: what is injected happens all the same, and needs no server."""

from __future__ import annotations

import asyncio
import gc
import socket
import time

from collections.abc import Callable
from typing import Any

import httpx
import pytest
import requests

from pytest_resilience.chaos.descriptors import open_descriptors
from pytest_resilience.diagnosis import never_fired
from tests.free_loops import no_loop_was_running
from tests.injecting import Inject
from tests.name_server import without_a_name_server


HOST = "payments.production.invalid"
URL = f"http://{HOST}/charge"
BODY = "x" * 300_000


@pytest.fixture(autouse=True)
def _no_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        monkeypatch.setattr(socket, name, without_a_name_server(getattr(socket, name)))


def by_requests(url: str = URL) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.post(url, data=b"y" * 100_000, timeout=5)


def by_httpx_in(run: Callable[..., Any]) -> Callable[[], httpx.Response]:
    async def ask(url: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False) as client:
            return await client.post(url, content=b"y" * 100_000, timeout=5)

    return lambda url=URL: run(ask, url)  # type: ignore[misc]


def in_trio(ask: Callable[..., Any], url: str) -> Any:
    trio = pytest.importorskip("trio")
    return trio.run(ask, url)


CLIENTS: dict[str, Callable[..., Any]] = {
    "requests": by_requests,
    "httpx, asyncio": by_httpx_in(lambda ask, url: asyncio.run(ask(url))),
    "httpx, trio": by_httpx_in(in_trio),
}
each_client = pytest.mark.parametrize("name", CLIENTS)


def met(action: Callable[[], object]) -> BaseException:
    """The exception at the bottom of what an action raises."""
    with pytest.raises((requests.RequestException, httpx.HTTPError)) as caught:
        action()
    error: BaseException | None = caught.value
    met: BaseException = caught.value
    while error is not None and not no_loop_was_running(error):
        met, error = error, error.__cause__ or error.__context__
    return met.exceptions[0] if isinstance(met, BaseExceptionGroup) else met


@each_client
@pytest.mark.parametrize("target", ["*", f"{HOST}:80", "!nobody"])
def test_a_status_comes_with_its_whole_body(name: str, target: str, inject: Inject) -> None:
    given = {"mode": "status", "status": 429, "body": BODY, "retry_after": 7, "rate": 1}
    with inject("network_failure", target=target, **given) as failure:
        response = CLIENTS[name]()
    assert (response.status_code, response.headers["Retry-After"]) == (429, "7")
    assert response.text == BODY
    assert failure.hits == 1


@each_client
def test_a_refusal_is_one(name: str, inject: Inject) -> None:
    with inject("network_failure", mode="refuse", rate=1) as failure:
        assert isinstance(met(CLIENTS[name]), ConnectionRefusedError)
    assert failure.hits


@each_client
def test_a_reset_comes_where_an_answer_is_awaited(name: str, inject: Inject) -> None:
    with inject("network_failure", mode="reset", rate=1) as failure:
        assert isinstance(met(CLIENTS[name]), ConnectionResetError)
    assert failure.hits


@each_client
def test_a_latency_is_taken_before_the_name_is_not_known(name: str, inject: Inject) -> None:
    began = time.monotonic()
    with inject("network_latency", delay="30ms") as latency:
        met(CLIENTS[name])
    assert time.monotonic() - began >= 0.03
    assert latency.hits


def test_a_request_that_is_spared_gets_no_answer_at_once(inject: Inject) -> None:
    with inject("network_failure", mode="status", rate=1, nth=2) as failure:
        met(by_requests)
        assert by_requests().status_code == 503
    assert (failure.matched, failure.hits) == (2, 1)


def test_where_all_are_spared_a_connect_the_name_is_not_known(inject: Inject) -> None:
    with inject("network_failure", mode="refuse", rate=1, nth=2):
        assert isinstance(met(by_requests), socket.gaierror)
        assert isinstance(met(by_requests), ConnectionRefusedError)


@pytest.mark.parametrize(
    "fault", [{"mode": "truncate"}, {"mode": "dns"}, {"mode": "status", "target": "elsewhere"}]
)
def test_what_needs_a_server_or_is_about_another_changes_nothing(
    fault: dict[str, Any], inject: Inject
) -> None:
    with inject("network_failure", rate=1, **fault) as failure:
        assert isinstance(met(by_requests), socket.gaierror)
    if fault["mode"] != "dns":
        error = never_fired(failure)
        assert f"network.resolve {HOST}:80 (does not resolve here)" in error.seen


def test_tls_says_at_once_that_nobody_is_there(inject: Inject) -> None:
    """A status cannot be written there; the handshake does not hang for it."""
    with inject("network_failure", mode="status", rate=1) as failure:
        with pytest.raises(requests.exceptions.SSLError):
            by_requests(f"https://{HOST}/")
        assert not failure.hits
    with inject("network_failure", mode="reset", rate=1) as failure:
        assert isinstance(met(lambda: by_requests(f"https://{HOST}/")), ConnectionResetError)
        assert failure.hits


@pytest.mark.parametrize("port", [80, "80", "http"])
def test_every_way_to_resolve_finds_the_same_address(port: int | str, inject: Inject) -> None:
    with inject("network_failure", mode="status", rate=1):
        family, kind, _, _, found = socket.getaddrinfo(HOST, port)[0]
        address = found[0]
        assert (family, kind, found[1]) == (socket.AF_INET, socket.SOCK_STREAM, 80)
        assert socket.gethostbyname(HOST) == address
        assert socket.gethostbyname_ex(HOST) == (HOST, [], [address])
        assert socket.getaddrinfo("other.invalid", port)[0][4][0] != address
        for asked in ({"family": socket.AF_INET6}, {"type": socket.SOCK_DGRAM}):
            with pytest.raises(socket.gaierror):
                socket.getaddrinfo(HOST, port, **asked)
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo(HOST, port)


def test_nothing_is_left_open(inject: Inject) -> None:
    gc.collect()
    before = set(open_descriptors())
    with inject("network_failure", mode="status", rate=1):
        for _ in range(3):
            by_requests()
        gc.collect()
        assert set(open_descriptors()) == before
        client = socket.create_connection((HOST, 80), timeout=5)
    client.close()
    assert set(open_descriptors()) == before
