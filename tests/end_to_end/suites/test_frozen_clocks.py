"""A suite whose tests freeze or replace time: faults go by the machine's, and tell what it was."""

from __future__ import annotations

import pytest

from tests.ahead import runs
from tests.suites import SERVER


FROZEN = """
import asyncio
import time

import freezegun
import httpx
import pytest
import requests
import time_machine

machine = time.clock_gettime
FREEZERS = {
    "freezegun": lambda: freezegun.freeze_time("2020-01-01"),
    "freezegun, ticking": lambda: freezegun.freeze_time("2020-01-01", tick=True),
    "freezegun, real loop": lambda: freezegun.freeze_time("2020-01-01", real_asyncio=True),
    "time-machine": lambda: time_machine.travel("2020-01-01", tick=False),
}

@pytest.fixture(params=FREEZERS)
def frozen(request):
    with FREEZERS[request.param]():
        yield

@pytest.fixture
def url(url):
    return url.replace("localhost", "127.0.0.1")

@pytest.fixture
def took():
    began = machine(time.CLOCK_MONOTONIC)
    return lambda: machine(time.CLOCK_MONOTONIC) - began

def test_blocking(url, chaos, frozen, took):
    with chaos.network_latency(delay="30ms") as latency:
        assert requests.get(url, timeout=5).text == "ok"
    assert took() >= 0.059
    assert 0.0599 <= latency.delay <= took()

@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_in_a_loop(url, chaos, frozen, took, backend):
    async def main():
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(url)).text

    import anyio
    with chaos.network_latency(delay="30ms") as latency:
        assert anyio.run(main, backend=backend) == "ok"
    assert took() >= 0.059
    assert 0.0599 <= latency.delay <= took()

@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_in_a_loop_whose_time_leaps(url, chaos, took, backend):
    async def main():
        async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
            return (await client.get(url)).text

    import anyio
    with freezegun.freeze_time("2020-01-01", auto_tick_seconds=15):
        with chaos.network_latency(delay="300ms") as latency:
            assert anyio.run(main, backend=backend) == "ok"
    assert took() >= 0.599
    assert 0.5999 <= latency.delay <= took()

@pytest.mark.parametrize(
    "given", [{"mode": "timeout"}, {"mode": "lose_answer"}, {"mode": "reset"}, {"mode": "close"}]
)
def test_no_time_is_read(chaos, given):
    import contextlib, datetime, socket, threading

    def answer():
        with contextlib.suppress(OSError):
            while True:
                with listener.accept()[0] as client:
                    client.sendall(client.recv(100))

    def ask():
        began = datetime.datetime.now()
        with contextlib.suppress(OSError):
            with socket.create_connection(listener.getsockname(), timeout=0.3) as client:
                client.sendall(b"tea")
                client.recv(100)
        return datetime.datetime.now() - began

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=answer)
        server.start()
        with freezegun.freeze_time("2020-01-01", auto_tick_seconds=15):
            alone = ask()
            with chaos.network_failure(first=1, **given), chaos.network_latency(delay="10ms"):
                assert ask() == alone == datetime.timedelta(seconds=15)
        listener.shutdown(socket.SHUT_RDWR)
        server.join()

def test_mocked(chaos, frozen, took, chaos_responses):
    chaos_responses.get("http://shop/", body="ok")
    with chaos.network_latency(delay="30ms") as latency:
        assert requests.get("http://shop/", timeout=5).text == "ok"
    assert took() >= 0.058
    assert latency.delay >= 0.0599

def test_through_a_proxy(url, chaos_proxy, frozen, took):
    proxy = chaos_proxy(url.split("/")[2])
    with proxy.inject("network_latency", delay="30ms") as latency:
        assert requests.get(f"http://127.0.0.1:{proxy.port}/", timeout=5).text == "ok"
    assert took() >= 0.059
    assert latency.delay >= 0.0599

def test_files_and_databases(tmp_path, chaos, frozen, took):
    import contextlib, sqlite3
    with chaos.disk_failure(mode="slow_write", delay="20ms") as slow:
        (tmp_path / "x").write_text("x")
    with chaos.database_slowdown(delay="20ms") as late:
        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            connection.execute("SELECT 1")
    assert took() >= 0.039
    assert slow.delay >= 0.0199
    assert late.delay >= 0.0199

@pytest.mark.parametrize("freezer", FREEZERS)
@pytest.mark.chaos("network_failure", mode="refuse", duration="1h")
def test_frozen_in_the_test(url, freezer):
    with FREEZERS[freezer](), pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=5)

@pytest.mark.chaos("network_failure", mode="refuse", duration="1h")
def test_frozen_around(frozen, url):
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=5)

@pytest.mark.chaos("network_failure", mode="refuse", between="0s..1h", duration="2h")
def test_a_window(frozen, url):
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=5)

def test_workers(chaos, frozen):
    with chaos.cpu_stress(load=0.1, cores=1) as stress:
        time.sleep(0.1)
    assert stress.pressure.achieved < 1

def test_in_this_process(chaos, frozen):
    with chaos.cpu_stress(load=0.1, gil=True) as stress:
        time.sleep(0.1)
    assert stress.pressure.achieved < 1

def test_retries(url, chaos, monkeypatch, took):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with chaos.network_latency(delay="30ms") as latency:
        assert requests.get(url, timeout=5).text == "ok"
    assert not slept
    assert took() >= 0.059
    assert latency.delay >= 0.0599
"""

pytestmark = runs("-p", "no:randomly", "-rA", conftest=SERVER, test_it=FROZEN)


def passed(ran: pytest.RunResult, *names: str) -> int:
    """How many of these tests have, with all their parameters."""
    tests = [line.partition("::")[2] for line in ran.outlines if line.startswith("PASSED ")]
    return sum(test.partition("[")[0] in names for test in tests)


def test_a_delay_is_as_long_as_asked_and_booked_so(ran: pytest.RunResult) -> None:
    asked = ("test_blocking", "test_in_a_loop", "test_mocked", "test_through_a_proxy")
    assert passed(ran, *asked, "test_files_and_databases") == 24


def test_time_that_leaps_when_it_is_read_is_not_read_for_faults(ran: pytest.RunResult) -> None:
    assert passed(ran, "test_in_a_loop_whose_time_leaps", "test_no_time_is_read") == 6


def test_time_that_jumps_ends_and_begins_no_experiment(ran: pytest.RunResult) -> None:
    assert passed(ran, "test_frozen_in_the_test", "test_frozen_around", "test_a_window") == 12


def test_pressure_is_told_as_it_was(ran: pytest.RunResult) -> None:
    assert passed(ran, "test_workers", "test_in_this_process") == 8


def test_a_replaced_sleep_hears_nothing_of_our_waits(ran: pytest.RunResult) -> None:
    assert passed(ran, "test_retries") == 1
