from __future__ import annotations

import asyncio
import threading

from typing import Any

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.sockets.interceptor import SocketInterceptor
from pytest_resilience.interceptors.sockets.peer_names import HostNames
from pytest_resilience.interceptors.sockets.peer_names import addresses_in
from pytest_resilience.interceptors.sockets.peer_names import is_literal


@pytest.mark.parametrize(
    ("host", "literal"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("fe80::1%eth0", True),
        ("localhost", False),
        ("1.2.3", False),
        ("", False),
        (b"127.0.0.1", True),
        (None, False),
    ],
)
def test_what_is_an_address_already(host: object, literal: bool) -> None:
    assert is_literal(host) is literal


def test_an_address_is_known_by_what_resolved_to_it() -> None:
    names = HostNames()
    assert names.of("10.0.0.1", 80) == ("10.0.0.1:80",)
    names.learn("api.example.com", "10.0.0.1")
    assert names.of("10.0.0.1", 80) == ("api.example.com:80", "10.0.0.1:80")
    names.learn(b"bytes.example.com", "10.0.0.1")
    assert names.of("10.0.0.1", 80) == ("bytes.example.com:80", "10.0.0.1:80")


def test_loopback_is_localhost_unless_known_better() -> None:
    names = HostNames()
    assert names.of("127.0.0.1", 80) == ("127.0.0.1:80", "localhost:80")
    assert names.of("::1", 80) == ("[::1]:80", "localhost:80")
    names.learn("service.test", "127.0.0.1")
    assert names.of("127.0.0.1", 80) == ("service.test:80", "127.0.0.1:80")


def test_the_port_may_be_unknown() -> None:
    assert HostNames().of("example.com", None) == ("example.com:",)


def test_a_literal_undoes_what_this_thread_asked_before() -> None:
    names = HostNames()
    names.learn("one.example", "10.0.0.1")
    names.learn("10.0.0.1", "10.0.0.1")  # this time nobody asked by name
    assert names.of("10.0.0.1", 80) == ("10.0.0.1:80", "one.example:80")


def test_another_thread_gets_every_name() -> None:
    names = HostNames()
    for name in ("one.example", "two.example", "one.example"):
        names.learn(name, "10.0.0.1")
    seen: list[tuple[str, ...]] = []
    thread = threading.Thread(target=lambda: seen.append(names.of("10.0.0.1", 80)))
    thread.start()
    thread.join()
    assert names.of("10.0.0.1", 80) == ("one.example:80", "10.0.0.1:80")
    assert seen == [("two.example:80", "one.example:80", "10.0.0.1:80")]


def test_tasks_that_run_side_by_side_have_each_asked_for_their_own() -> None:
    names = HostNames()

    async def ask(name: str) -> tuple[str, ...]:
        names.learn(name, "10.0.0.1")
        await asyncio.sleep(0)
        return names.of("10.0.0.1", 80)

    async def both() -> tuple[tuple[str, ...], tuple[str, ...]]:
        return await asyncio.gather(ask("one.example"), ask("two.example"))

    one, two = asyncio.run(both())
    assert (one[0], two[0]) == ("one.example:80", "two.example:80")
    assert "two.example:80" not in one


def test_what_was_asked_long_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_resilience.interceptors.sockets.peer_names._MOST_ASKED", 2)
    names = HostNames()
    for number in range(4):
        names.learn(f"{number}.example", f"10.0.0.{number}")
        names.learn("other.example", f"10.0.0.{number}")
        names.ask(f"{number}.example", f"10.0.0.{number}")
    assert names.of("10.0.0.3", 80) == ("3.example:80", "10.0.0.3:80")
    assert names.of("10.0.0.0", 80) == ("0.example:80", "other.example:80", "10.0.0.0:80")


def test_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_resilience.interceptors.sockets.peer_names._MOST", 2)
    names = HostNames()

    def learn() -> None:
        for number in (1, 2, 3):
            names.learn(f"host{number}.example", f"10.0.0.{number}")

    learner = threading.Thread(target=learn)
    learner.start()
    learner.join()
    assert names.of("10.0.0.1", 80) == ("10.0.0.1:80",)
    assert names.of("10.0.0.3", 80) == ("host3.example:80", "10.0.0.3:80")


def test_where_the_addresses_are_in_what_was_resolved() -> None:
    assert addresses_in("10.0.0.1") == ["10.0.0.1"]
    assert addresses_in(("name", [], ["10.0.0.1", "10.0.0.2"])) == ["10.0.0.1", "10.0.0.2"]
    entries = [(2, 1, 6, "", ("10.0.0.1", 80)), (10, 1, 6, "", ("::1", 80, 0, 0))]
    assert addresses_in(entries) == ["10.0.0.1", "::1"]
    assert addresses_in([(10, 1, 6, "", (10, b"raw"))]) == []  # built without IPv6


@pytest.mark.parametrize("found", [None, 3, (), [()], [None], ("a",), [(1, 2)], object(), {"a": 1}])
def test_what_a_test_resolves_to_may_be_anything(found: object) -> None:
    names = HostNames()
    names.learn_all("shop.internal", found)
    assert names.of("127.0.0.1", 80)


def test_what_can_be_read_once_is_not_used_up() -> None:
    found = iter([(2, 1, 6, "", ("127.0.0.1", 80))])
    HostNames().learn_all("shop.internal", found)
    assert len(list(found)) == 1


@pytest.mark.parametrize("found", [None, 3, [None], [{}], [{"host": 3}], object()])
def test_what_aiohttp_is_told_by_a_stub_is_what_it_gets(
    monkeypatch: pytest.MonkeyPatch, found: object
) -> None:
    from aiohttp.connector import TCPConnector

    async def stub(*_: object, **__: object) -> object:
        return found

    monkeypatch.setattr(TCPConnector, "_resolve_host", stub)
    engine = Engine(lambda engine: [SocketInterceptor(engine)])
    running = engine.start(
        ChaosExperiment("x", "network_latency", delay=0.001, target="127.0.0.9:9"), seed=1
    )
    try:
        resolve: Any = TCPConnector._resolve_host
        assert asyncio.run(resolve(None, "shop.internal", 80)) is found
    finally:
        running.stop()
