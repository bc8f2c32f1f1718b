"""Applications that are called in this process are noticed by experiments that never fire."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import warnings

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from pytest_resilience import NeverFiredError
from pytest_resilience.diagnosis import never_fired
from tests.injecting import Inject
from tests.interceptors.conftest import echo
from tests.interceptors.conftest import serve


Lost = Callable[..., NeverFiredError]


@pytest.fixture
def lost(inject: Inject) -> Lost:
    """Does something in an experiment of the network, and gives the error that it is owed."""

    def run(action: Callable[[], object], **given: Any) -> NeverFiredError:
        with inject("network_failure", mode="reset", **given) as active_experiment:
            action()
        assert active_experiment.matched == 0
        return never_fired(active_experiment)

    return run


def hello(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"hello"]


async def hello_async(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def answer(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, text="hello")


def by_asgi() -> None:
    async def ask() -> str:
        transport = httpx.ASGITransport(hello_async)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            return (await client.get("/")).text

    assert asyncio.run(ask()) == "hello"


def by_wsgi() -> None:
    with httpx.Client(transport=httpx.WSGITransport(hello), base_url="http://app") as client:
        assert client.get("/").text == "hello"


def by_mock() -> None:
    with httpx.Client(transport=httpx.MockTransport(answer), base_url="http://app") as client:
        assert client.get("/").text == "hello"


def by_mock_async() -> None:
    async def ask() -> str:
        transport = httpx.MockTransport(answer)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            return (await client.get("/")).text

    assert asyncio.run(ask()) == "hello"


def by_starlette() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would rather have another version of httpx
        from starlette.testclient import TestClient

    assert TestClient(hello_async, base_url="http://app").get("/").text == "hello"


def by_flask() -> None:
    import flask

    app = flask.Flask("app")
    app.add_url_rule("/", view_func=lambda: "hello")
    assert app.test_client().get("/", base_url="http://app").text == "hello"


def by_werkzeug() -> None:
    from werkzeug.test import Client

    assert Client(hello).get("/", base_url="http://app").text == "hello"


CALLS: dict[str, tuple[Callable[[], None], str, str]] = {
    "ASGITransport": (by_asgi, "httpx.ASGITransport", "uvicorn"),
    "WSGITransport": (by_wsgi, "httpx.WSGITransport", "wsgiref.simple_server"),
    "starlette": (by_starlette, "starlette's TestClient", "uvicorn"),
    "flask": (by_flask, "werkzeug's test client", "werkzeug.serving.make_server"),
    "werkzeug": (by_werkzeug, "werkzeug's test client", "werkzeug.serving.make_server"),
}


@pytest.mark.parametrize("target", ["app:80", None])
@pytest.mark.parametrize(("call", "name", "server"), CALLS.values(), ids=CALLS)
def test_an_application(
    lost: Lost, call: Callable[[], None], name: str, server: str, target: str | None
) -> None:
    error = lost(call, **({} if target is None else {"target": target}))
    assert error.seen == (f"http.request app:80 (by {name}, in this process)",)
    assert str(error).splitlines()[-1] == (
        f"  {name} called the application in this process, so that no network was between them: "
        f"serve it on 127.0.0.1 with {server} and call it there, or aim at what the application "
        "connects to."
    )


@pytest.mark.parametrize("call", [by_mock, by_mock_async])
def test_a_handler(lost: Lost, call: Callable[[], None]) -> None:
    error = lost(call)
    assert error.seen == ("http.request app:80 (by httpx.MockTransport, in this process)",)
    assert (
        "httpx.MockTransport called its handler in this process, so that no network was between "
        "them: mock with respx or pytest-httpx, whose answers faults reach, or serve it on "
    ) in str(error)


DJANGO = """
import asyncio
import django

from django.conf import settings
from django.http import HttpResponse
from django.urls import path
from pytest_resilience import ChaosExperiment
from pytest_resilience.diagnosis import never_fired
from pytest_resilience.runtime import new_engine

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"])
django.setup()
urlpatterns = [path("", lambda request: HttpResponse(b"hello"))]

from django.test import AsyncClient, Client

def ask():
    assert Client().get("/").content == b"hello"

def ask_async():
    assert asyncio.run(AsyncClient().get("/")).content == b"hello"

for call in (ask, ask_async):
    engine = new_engine()
    running = engine.start(ChaosExperiment("x", "network_latency"), seed=1)
    call()
    running.stop()
    print(never_fired(running))
"""


def test_django() -> None:
    done = subprocess.run(  # its settings are those of a process
        [sys.executable, "-c", DJANGO], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    for name, place in (("Client", "testserver:80"), ("AsyncClient", "127.0.0.1:80")):
        assert f"http.request {place} (by Django's test {name}, in this process)" in done.stdout
        assert (
            f"  Django's test {name} called the application in this process, so that no network "
            "was between them: serve it on 127.0.0.1 with live_server of pytest-django, or "
            "LiveServerTestCase, and call it there"
        ) in done.stdout


def test_an_aim_elsewhere_gets_no_such_advice(lost: Lost) -> None:
    error = lost(by_wsgi, target="payments:443")
    assert error.seen == ("http.request app:80 (by httpx.WSGITransport, in this process)",)
    assert "Correct the target" in str(error)


def test_what_the_application_does_in_turn_comes_first(lost: Lost) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.sendto(b"x", ("127.0.0.1", 9))
        return hello(environ, start_response)

    def call() -> None:
        with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://app") as client:
            client.get("/")

    assert "Datagrams went to 127.0.0.1:9" in str(lost(call))


def test_what_it_connects_to_is_reached(inject: Inject) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        with serve(echo) as port, socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(b"x")
            sock.recv(1)
        return []

    client = httpx.Client(transport=httpx.WSGITransport(app), base_url="http://app")
    reset = inject("network_failure", mode="reset", target="127.0.0.1")
    with reset, client, pytest.raises(ConnectionResetError):  # in the application, as it is
        client.get("/")


def test_errors_pass_as_they_are_and_everything_is_put_back(inject: Inject) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        raise LookupError("of the application")

    before = vars(httpx.WSGITransport)["handle_request"]
    client = httpx.Client(transport=httpx.WSGITransport(app), base_url="http://app")
    with inject("network_latency"), client:
        assert vars(httpx.WSGITransport)["handle_request"] is not before
        with pytest.raises(LookupError, match="of the application"):
            client.get("/")
    assert vars(httpx.WSGITransport)["handle_request"] is before


def test_what_makes_no_sense_is_for_the_client_to_say(inject: Inject) -> None:
    transport: Any = httpx.MockTransport(answer)
    with inject("network_latency"), pytest.raises(AttributeError):
        transport.handle_request(None)
