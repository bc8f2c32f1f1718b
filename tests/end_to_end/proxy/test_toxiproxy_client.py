"""An existing client of Toxiproxy, which knows nothing of us."""

from __future__ import annotations

import contextlib
import socket
import time

from collections.abc import Iterator
from typing import Any

import pytest

from pytest_resilience.proxy import ControlServer
from tests.proxy.conftest import Serve
from tests.proxy.conftest import ask
from tests.proxy.conftest import echo
from tests.proxy.conftest import receive


toxiproxy: Any = pytest.importorskip("toxiproxy")
exceptions: Any = pytest.importorskip("toxiproxy.exceptions")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with ControlServer(listen=("127.0.0.1", 0), seed=1) as control:
        host, port = control.address
        consumer = toxiproxy.api.APIConsumer
        monkeypatch.setattr(consumer, "host", host)
        monkeypatch.setattr(consumer, "port", port)
        yield toxiproxy.Toxiproxy()


@pytest.fixture
def upstream(serve: Serve) -> str:
    return f"127.0.0.1:{serve(echo)}"


@contextlib.contextmanager
def client_of(proxy: Any) -> Iterator[socket.socket]:
    host, port = proxy.listen.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        yield client


def test_the_server_is_found(server: Any) -> None:
    assert server.running()
    assert b"2.12.0" in server.version()


def test_making_and_destroying(server: Any, upstream: str) -> None:
    proxy = server.create(upstream=upstream, name="shop")
    assert (proxy.name, proxy.upstream, proxy.enabled) == ("shop", upstream, True)
    assert list(server.proxies()) == ["shop"]
    with pytest.raises(exceptions.ProxyExists):
        server.create(upstream=upstream, name="shop")
    assert server.destroy(proxy)
    assert server.get_proxy("shop") is None
    with pytest.raises(exceptions.NotFound):
        proxy.destroy()


def test_latency(server: Any, upstream: str) -> None:
    proxy = server.create(upstream=upstream, name="shop")
    with client_of(proxy) as client:
        assert ask(client) == b"ping"
        proxy.add_toxic(type="latency", attributes={"latency": 30})
        started = time.monotonic()
        assert ask(client) == b"ping"
        assert time.monotonic() - started >= 0.03
        assert proxy.get_toxic("latency_downstream").attributes["latency"] == 30
        assert proxy.destroy_toxic("latency_downstream")
        assert proxy.toxics() == {}


@pytest.mark.parametrize(
    ("type_", "attributes"),
    [
        ("bandwidth", {"rate": 1000}),
        ("slow_close", {"delay": 10}),
        ("timeout", {"timeout": 10}),
        ("reset_peer", {"timeout": 10}),
        ("slicer", {"average_size": 10, "size_variation": 5, "delay": 10}),
        ("limit_data", {"bytes": 10}),
    ],
)
def test_every_toxic(server: Any, upstream: str, type_: str, attributes: dict[str, int]) -> None:
    proxy = server.create(upstream=upstream, name="shop")
    proxy.add_toxic(type=type_, stream="upstream", toxicity=0.5, attributes=attributes)
    (toxic,) = proxy.toxics().values()
    assert (toxic.name, toxic.type, toxic.stream) == (f"{type_}_upstream", type_, "upstream")
    assert (toxic.toxicity, toxic.attributes) == (0.5, attributes)


def test_a_toxic_that_there_is_not(server: Any, upstream: str) -> None:
    proxy = server.create(upstream=upstream, name="shop")
    with pytest.raises(exceptions.InvalidToxic, match="invalid toxic type"):
        proxy.add_toxic(type="lag")
    with pytest.raises(exceptions.NotFound, match="toxic not found"):
        proxy.destroy_toxic("lag")


def test_down(server: Any, upstream: str) -> None:
    proxy = server.create(upstream=upstream, name="shop")
    with proxy.down(), pytest.raises(ConnectionRefusedError), client_of(proxy):
        pass
    with client_of(proxy) as client:
        assert ask(client) == b"ping"


def test_reset(server: Any, upstream: str) -> None:
    proxy = server.create(upstream=upstream, name="shop")
    proxy.add_toxic(type="limit_data", attributes={"bytes": 2})
    with client_of(proxy) as client:
        client.sendall(b"ping")
        assert receive(client, 4) == b"pi"
    proxy.disable()
    assert server.reset()
    with client_of(proxy) as client:
        assert ask(client) == b"ping"


def test_populate(server: Any, upstream: str) -> None:
    wanted = [{"name": name, "upstream": upstream, "listen": "127.0.0.1:0"} for name in ("a", "b")]
    assert [proxy.name for proxy in server.populate(wanted)] == ["a", "b"]
    server.destroy_all()
    assert server.proxies() == {}
