"""A suite under gevent, which has put sockets of its own in the place of Python's."""

from __future__ import annotations

import pytest

from tests.ahead import runs


CONFTEST = """
from gevent import monkey

monkey.patch_all()

import ssl
import time

import gevent
import pytest
import trustme

from gevent.server import StreamServer

ANSWER = b"HTTP/1.1 200 OK\\r\\nContent-Length: 1000\\r\\n\\r\\n" + b"x" * 1000


def answer(sock, _):
    try:
        while sock.recv(65536):
            sock.sendall(ANSWER)
    except OSError:  # what clients are made to do
        pass


@pytest.fixture(params=["http", "https"])
def url(request, tmp_path, monkeypatch):
    options = {}
    if request.param == "https":
        authority = trustme.CA()
        options["ssl_context"] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(options["ssl_context"])
        authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "authority.pem"))
    server = StreamServer(("127.0.0.1", 0), answer, **options)
    server.start()
    yield f"{request.param}://localhost:{server.server_port}/"
    server.stop()
"""

TESTS = """
import contextlib
import selectors
import socket
import time

import gevent
import pytest
import requests

from gevent.server import StreamServer


def test_nobody_else_is_late(url, chaos):
    with contextlib.ExitStack() as ending, gevent.Timeout(60):
        latency = ending.enter_context(chaos.network_latency(delay=30))

        def beat():
            while not latency.hits:
                gevent.sleep(0.001)
            ending.close()

        heart = gevent.spawn(beat)
        assert requests.get(url, timeout=60).text == "x" * 1000
        assert heart.ready()  # it is what has ended the delay


def test_at_once(url, chaos):
    with contextlib.ExitStack() as ending, gevent.Timeout(60):
        latency = ending.enter_context(chaos.network_latency(delay=30))
        jobs = [gevent.spawn(requests.get, url, timeout=60) for _ in range(10)]
        while latency.hits < 10:  # and none of them has come further than to connect
            gevent.sleep(0.001)
        ending.close()
        assert [job.get().status_code for job in jobs] == [200] * 10


def test_each_is_late(url, chaos):
    with chaos.network_latency(delay=0.01) as latency:
        started = time.monotonic()
        jobs = [gevent.spawn(requests.get, url, timeout=60) for _ in range(10)]
        assert [job.get().status_code for job in jobs] == [200] * 10
        assert time.monotonic() - started >= 0.02  # to connect, and to be answered
    assert latency.hits == (30 if url.startswith("https") else 20)


def test_the_place_is_where_a_greenlet_was_started(url, chaos):
    with chaos.network_latency(delay=0.001):
        gevent.spawn(requests.get, url, timeout=5).get()
    assert {event.place.rpartition(" in ")[2] for event in chaos.events} == {
        "test_the_place_is_where_a_greenlet_was_started"
    }


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("refuse", requests.ConnectionError),
        ("reset", requests.ConnectionError),
        ("lose_answer", requests.ConnectionError),
        ("timeout", requests.ConnectTimeout),
        ("partition", requests.ConnectTimeout),
        ("truncate", requests.exceptions.ChunkedEncodingError),
        ("dns", requests.ConnectionError),
    ],
)
def test_failures(url, chaos, mode, error):
    connects_in = 0.2 if error is requests.ConnectTimeout else 60
    with chaos.network_failure(mode=mode, rate=1), pytest.raises(error):
        requests.get(url, timeout=(connects_in, 60))
    assert requests.get(url, timeout=5).status_code == 200


def test_what_was_sent_in_a_partition_comes_when_it_heals(url, chaos):
    with requests.Session() as session:
        session.get(url, timeout=5)
        with contextlib.ExitStack() as ending, gevent.Timeout(60):
            partition = ending.enter_context(chaos.network_failure(mode="partition"))

            def heal():
                while not partition.hits:
                    gevent.sleep(0.001)
                ending.close()

            gevent.spawn(heal)
            assert session.get(url, timeout=60).status_code == 200
        with chaos.network_failure(mode="partition"), pytest.raises(requests.ReadTimeout):
            session.get(url, timeout=0.1)  # and closes
    assert partition.hits


def test_names_where_gevent_itself_resolves_them(url, chaos):
    host, port = url.rstrip("/").rpartition("//")[2].split(":")
    with chaos.network_failure(mode="dns", rate=1), pytest.raises(socket.gaierror):
        socket.create_connection((host, int(port)))


def test_a_server_that_begins_meanwhile_is_left_alone(chaos):
    def echo(sock, _):
        while data := sock.recv(100):
            sock.sendall(data)

    servers = [StreamServer(("127.0.0.1", 0), echo) for _ in range(2)]
    with chaos.network_latency(delay=0.01) as latency:
        for server in servers:
            server.start()
            with socket.create_connection(server.address) as client:
                client.sendall(b"hello")
                assert client.recv(100) == b"hello"
            server.stop()
    assert latency.hits == 4


@pytest.mark.parametrize("mode", ["reset", "close"])
def test_who_polls_by_a_selector_is_told_though_no_answer_comes(chaos, mode):
    server = StreamServer(("127.0.0.1", 0), lambda sock, _: gevent.sleep(60))
    server.start()
    with (
        socket.create_connection(server.address) as client,
        selectors.DefaultSelector() as selector,
        chaos.network_failure(mode=mode),
    ):
        client.sendall(b"hello")
        selector.register(client, selectors.EVENT_READ)
        assert selector.select(10)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(100) == b""
    server.stop(timeout=0)


def test_answers_that_nobody_gave(url, chaos):
    with chaos.network_failure(mode="status", status=503, rate=1):
        assert requests.get(url, timeout=5).status_code == 503
"""


@runs(loaded=(), conftest=CONFTEST, test_it=TESTS)
def test_its_sockets_are_reached_and_its_hub_goes_on(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=2 * 14 + 3)


UNPATCHED = """
import gevent
import pytest

from gevent import socket
from gevent.server import StreamServer


def echo(sock, _):
    while data := sock.recv(100):
        sock.sendall(data)


def test_of_its_own(chaos):
    server = StreamServer(("127.0.0.1", 0), echo)
    server.start()
    with chaos.network_latency(delay=60, must_fire=False) as latency, gevent.Timeout(10):
        with socket.create_connection(server.address) as client:
            client.sendall(b"hello")
            assert client.recv(100) == b"hello"
    server.stop()
    assert latency.hits == 0
"""


@runs(loaded=(), test_it=UNPATCHED)
def test_a_hub_that_cannot_wait_elsewhere_is_not_stopped(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=1)
