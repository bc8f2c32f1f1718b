"""Suites that run inside a test, with a real HTTP server on loopback."""

from __future__ import annotations

import importlib
import pathlib

import pytest

from tests import ahead


# Loaded once here, not again for every inner run: some crash, of some there would be two, and what
# is the plugin's each run would rewrite.
LOADED = (
    "asyncpg", "psycopg", "psycopg2", "psycopg_pool", "redis.asyncio", "sqlalchemy", "trustme",
    "pytest_resilience.interceptors.databases.psycopg2", *ahead.LOADED,
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    if ahead.runs_tests(session.config):
        for name in LOADED:
            importlib.import_module(name)


SERVER = """
import http.server
import threading

import pytest


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        pass  # clients that vanish are the subject


@pytest.fixture(scope="session")
def url():
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()
"""


FREE_LOOPS = """
import sys

import pytest

sys.path.insert(0, {root!r})

from tests.free_loops import free_loops


@pytest.fixture(autouse=True)
def loops_stay_free():
    with free_loops():
        yield
"""


WITH_FREE_LOOPS = SERVER + FREE_LOOPS.format(root=str(pathlib.Path(__file__).parents[1]))


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """An empty suite whose tests can use the fixture `url`."""
    pytester.makeconftest(SERVER)
    return pytester


@pytest.fixture
def with_free_loops(pytester: pytest.Pytester) -> pytest.Pytester:
    """A suite in which whatever blocks an event loop raises."""
    pytester.makeconftest(WITH_FREE_LOOPS)
    return pytester
