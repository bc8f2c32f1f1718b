"""Applications that are called in this process are hit where a target names them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

from collections.abc import AsyncIterator
from typing import Any

import fastapi
import httpx
import pytest
import respx

from werkzeug.test import Client as WerkzeugClient

from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.engine import FaultInjected
from pytest_resilience.chaos.recorder import Recorder
from pytest_resilience.diagnosis import never_fired
from pytest_resilience.errors import NeverFired
from tests.injecting import Inject
from tests.interceptors.conftest import echo
from tests.interceptors.conftest import serve
from tests.interceptors.http_mocks.in_process_clients import BODY
from tests.interceptors.http_mocks.in_process_clients import STARLETTE
from tests.interceptors.http_mocks.in_process_clients import WAYS
from tests.interceptors.http_mocks.in_process_clients import App
from tests.interceptors.http_mocks.in_process_clients import TestClient
from tests.interceptors.http_mocks.in_process_clients import Way
from tests.interceptors.http_mocks.in_process_clients import met


every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@every_way
def test_an_answer_that_is_lost_was_given(way: Way, inject: Inject) -> None:
    app = App()
    with inject("network_failure", mode="lose_answer", target="shop.example") as fault:
        met(lambda: way(app))
    assert (app.calls, fault.hits) == (1, 1)


@every_way
def test_a_status(way: Way, inject: Inject) -> None:
    app = App()
    with inject("network_failure", status=429, retry_after=7, target="shop.example") as fault:
        status, body, headers = way(app)
    assert (status, body) == (429, b"Too Many Requests")
    assert {name.lower(): value for name, value in headers.items()}["retry-after"] == "7"
    assert (app.calls, fault.hits) == (0, 1)
    assert way(app)[:2] == (200, BODY)


@every_way
def test_a_damaged_body(way: Way, inject: Inject) -> None:
    app = App()
    with inject("network_failure", mode="corrupt", target="shop.example") as fault:
        status, body, headers = way(app)
    assert (status, len(body), body == BODY) == (200, len(BODY), False)
    assert {name.lower(): value for name, value in headers.items()}["content-type"]
    assert (app.calls, fault.hits) == (1, 1)


@every_way
def test_one_event_of_a_stream_is_lost(way: Way, inject: Inject) -> None:
    app = App(b"data: 1\n\ndata: 2\n\ndata: 3\n\n", "text/event-stream")
    with inject("network_failure", mode="drop_message", after_items=1, target="shop.example") as it:
        assert way(app)[:2] == (200, b"data: 1\n\ndata: 3\n\n")
    assert (app.calls, it.hits) == (1, 1)


@every_way
def test_a_delay(way: Way, inject: Inject, engine: Engine, events: list[FaultInjected]) -> None:
    app = App()
    began = engine.clock.monotonic()
    with inject("network_latency", delay="10ms", target="shop.example:80") as latency:
        assert way(app)[:2] == (200, BODY)
    assert engine.clock.monotonic() - began >= 0.02
    assert [(each.kind, each.target) for each in events] == [
        ("network.connect", "shop.example:80"),
        ("network.receive", "shop.example:80"),
    ]
    assert (app.calls, latency.hits) == (1, 2)


@every_way
def test_without_a_target_it_is_left_alone(way: Way, inject: Inject) -> None:
    app = App()
    with inject("network_failure", mode="reset") as fault:
        assert way(app)[:2] == (200, BODY)
    assert (app.calls, fault.matched) == (1, 0)
    error = never_fired(fault)
    assert error.why is NeverFired.IN_PROCESS
    assert error.seen == (f"network.connect shop.example:80 (by {way.name}, in this process)",)
    assert str(error).splitlines()[-1] == (
        f"  {way.name} called {way.callee} in this process, with no network in between. That is "
        f"hit where a target names it: target='shop.example:80'. To hit what {way.callee} "
        "connects to, aim at that."
    )


@every_way
def test_an_aim_elsewhere_gets_no_such_advice(way: Way, inject: Inject) -> None:
    with inject("network_failure", mode="reset", target="payments:443") as fault:
        assert way(App())[:2] == (200, BODY)
    error = never_fired(fault)
    assert error.seen == (f"network.connect shop.example:80 (by {way.name}, in this process)",)
    assert "Correct the target" in str(error)


@every_way
def test_only_the_requests_that_are_meant(way: Way, inject: Inject) -> None:
    app, aim = App(), {"mode": "status", "target": "shop.example"}
    with (
        inject("network_failure", path="/other", **aim) as other,
        inject("network_failure", method="POST", **aim) as post,
    ):
        assert way(app)[0] == 200
    assert (other.matched, post.matched) == (0, 0)
    assert "network.connect shop.example:80 GET /orders" in str(never_fired(post))
    with inject(
        "network_failure", method="GET", path="/ord*", header="host: shop.*", **aim
    ) as fault:
        assert way(app)[0] == 503
    assert (app.calls, fault.hits) == (1, 1)


@pytest.mark.parametrize("path", ["/caf%C3%A9/a%20b", "/café/a b"])
def test_a_path_that_a_gateway_decodes(path: str, inject: Inject) -> None:
    app = App()
    with inject("network_failure", mode="status", path=path, target="shop.example"):
        reply = WerkzeugClient(app.wsgi).get("/caf%C3%A9/a%20b", base_url="http://shop.example")
    assert (reply.status_code, app.calls) == (503, 0)


def test_a_service_is_a_target(engine: Engine) -> None:
    from pytest_resilience.chaos.types.service import Service

    engine.services.add(Service.at("shop", ["shop.example"]))
    fault = engine.start(
        ChaosExperiment("busy", "service_failure", target_services="shop", mode="status", rate=1),
        seed=1,
    )
    assert WAYS["flask"](App())[0] == 503
    fault.stop()


def test_the_matrix_runs_only_experiments_that_name_it(engine: Engine) -> None:
    aimed = ChaosExperiment("aimed", "network_failure", mode="reset", target="shop.example")
    other = ChaosExperiment("other", "network_failure", mode="reset", target="payments")
    anybody = ChaosExperiment("anybody", "network_failure", mode="reset")
    recorder = Recorder([aimed, other, anybody])
    with engine.recording(recorder), engine.recording_test():
        WAYS["werkzeug"](App())
    assert [recorder.could_hit(each) for each in (aimed, other, anybody)] == [True, False, False]


def test_a_stream_comes_as_it_is_sent_when_only_its_start_is_late(inject: Inject) -> None:
    api = fastapi.FastAPI()
    sent: list[int] = []

    @api.get("/")
    def stream() -> fastapi.responses.StreamingResponse:
        async def numbers() -> AsyncIterator[str]:
            for number in range(3):
                sent.append(number)
                yield f"{number}\n"

        return fastapi.responses.StreamingResponse(numbers())

    with (
        inject("network_latency", delay="1ms", target="testserver"),
        TestClient(api) as client,
        client.stream("GET", "/") as response,
    ):
        lines = response.iter_lines()
        assert next(lines) == "0"
        assert sent != [0, 1, 2]
        assert list(lines) == ["1", "2"]


def test_a_websocket_is_opened_late_or_not_at_all(inject: Inject) -> None:
    api = fastapi.FastAPI()

    @api.websocket("/ws")
    async def talk(websocket: fastapi.WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello")

    client = TestClient(api)
    with (
        inject("network_latency", delay="1ms", target="testserver:80") as latency,
        client.websocket_connect("/ws") as session,
    ):
        assert session.receive_text() == "hello"
    assert latency.hits == 2
    with inject("network_failure", target="testserver:80"), pytest.raises(STARLETTE.ConnectError):
        client.websocket_connect("/ws").__enter__()


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("network_failure", {"mode": "truncate", "after_items": 1}),
        ("network_failure", {"mode": "drop_message"}),
        ("network_failure", {"mode": "corrupt"}),
        ("network_failure", {"mode": "reset", "after_items": 1}),
        ("network_failure", {"mode": "timeout", "after": "1ms"}),
        ("network_latency", {"mode": "bandwidth", "bandwidth": "1kB"}),
        ("network_latency", {"delay": "1ms", "after_items": 1}),
    ],
    ids=str,
)
def test_what_is_said_on_a_websocket_is_told_to_be_out_of_reach(
    kind: str, given: dict[str, Any], inject: Inject
) -> None:
    api = fastapi.FastAPI()

    @api.websocket("/ws")
    async def talk(websocket: fastapi.WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello")
        await websocket.send_text("goodbye")

    with (
        inject(kind, target="testserver", rate=1, **given) as running,
        inject("network_failure", mode="corrupt", target="elsewhere") as elsewhere,
        TestClient(api).websocket_connect("/ws") as session,
    ):
        assert [session.receive_text(), session.receive_text()] == ["hello", "goodbye"]
    told = never_fired(running)
    assert "network.receive testserver:80 (a WebSocket, in this process)" in told.seen
    assert "starlette's TestClient is hit while it is opened, as by mode='refuse'" in str(told)
    assert "is hit while it is opened" not in str(never_fired(elsewhere))


def test_respx_behind_a_transport_is_hit_once(inject: Inject) -> None:
    router = respx.Router()
    router.get("http://shop.example/").respond(200)
    with (
        inject("network_latency", delay="1ms", target="shop.example") as latency,
        httpx.Client(transport=httpx.MockTransport(router.handler)) as client,
    ):
        assert client.get("http://shop.example/").status_code == 200
    assert latency.hits == 2


DJANGO = """
import asyncio, json, os, sys
import django

from django.conf import settings
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path
from pytest_resilience import ChaosExperiment
from pytest_resilience.diagnosis import never_fired
from pytest_resilience.runtime import new_engine

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"])
django.setup()
calls = []

def orders(request):
    calls.append(request.path)
    return HttpResponse(b'{"orders": [1, 2, 3]}', content_type="application/json")

def stream(request):
    calls.append(request.path)
    return StreamingHttpResponse([b"0123", b"4567"])

urlpatterns = [path("orders", orders), path("stream", stream), path("a b", orders)]

from django.test import AsyncClient, Client

def ask(place):
    return Client().get(place)

def ask_async(place):
    return asyncio.run(AsyncClient().get(place))

for call in (ask, ask_async):
    for place, given in json.loads(sys.argv[1]):
        del calls[:]
        engine = new_engine()
        running = engine.start(
            ChaosExperiment("x", given.pop("type", "network_failure"), rate=1, **given), seed=1
        )
        try:
            response = call(place)
        except Exception as error:
            met = [type(error).__name__, getattr(error, "errno", None)]
        else:
            body = b"".join(response) if response.streaming else response.content
            met = [response.status_code, body.decode("latin-1"), response.headers["content-type"]]
            assert response.client is not None and response.resolver_match.route
        running.stop()
        never = "" if running.matched else str(never_fired(running))
        print(json.dumps([met, len(calls), running.hits, never]))
"""


@pytest.fixture(scope="module")
def django_cases() -> list[tuple[str, dict[str, Any]]]:
    aimed = {"target": "testserver"}
    return [
        ("/orders", {"mode": "refuse"} | aimed),
        ("/orders", {"mode": "reset"} | aimed),
        ("/orders", {"mode": "timeout", "duration": "500ms"} | aimed),
        ("/orders", {"mode": "truncate"} | aimed),
        ("/orders", {"mode": "lose_answer"} | aimed),
        ("/orders", {"mode": "status", "status": 502} | aimed),
        ("/stream", {"mode": "corrupt", "share": 1} | aimed),
        ("/stream", {"type": "network_latency", "delay": "1ms"} | aimed),
        ("/a%20b", {"mode": "status", "path": "/a%20b"} | aimed),
        ("/orders", {"mode": "reset"}),
    ]


def test_django(django_cases: list[tuple[str, dict[str, Any]]]) -> None:
    done = subprocess.run(  # its settings are those of a process
        [sys.executable, "-c", DJANGO, json.dumps(django_cases)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == 2 * len(django_cases)
    for client, found in (("Client", results[:10]), ("AsyncClient", results[10:])):
        refused, reset, silence, cut, lost, status, damaged, late, quoted, anybody = found
        assert refused[:3] == [["ConnectionRefusedError", 111], 0, 1]
        assert reset[:3] == [["ConnectionResetError", 104], 0, 1]
        assert silence[:3] == [["TimeoutError", 110], 0, 1]
        assert cut[:3] == [["IncompleteRead", None], 1, 1]
        assert lost[:3] == [["ConnectionResetError", 104], 1, 1]
        assert status[:3] == [[502, "Bad Gateway", "text/plain; charset=utf-8"], 0, 1]
        assert damaged[0][0] == 200
        assert len(damaged[0][1]) == 8
        assert not set(damaged[0][1]) & set("01234567")
        assert late[:3] == [[200, "01234567", "text/html; charset=utf-8"], 1, 2]
        assert (quoted[0][0], *quoted[1:3]) == (503, 0, 1)
        assert anybody[:3] == [[200, BODY.decode(), "application/json"], 1, 0]
        assert f"testserver:80 (by Django's test {client}, in this process)" in anybody[3]
        assert "target='testserver:80'" in anybody[3]


def test_what_the_application_does_in_turn_comes_first(inject: Inject) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.sendto(b"x", ("127.0.0.1", 9))
        start_response("200 OK", [])
        return []

    with (
        inject("network_failure", mode="reset") as fault,
        httpx.Client(transport=httpx.WSGITransport(app), base_url="http://app") as client,
    ):
        client.get("/")
    assert "Datagrams went to 127.0.0.1:9" in str(never_fired(fault))


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


@pytest.mark.parametrize("target", ["app", None])
def test_errors_pass_as_they_are_and_everything_is_put_back(
    inject: Inject, target: str | None
) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        raise LookupError("of the application")

    before = vars(httpx.WSGITransport)["handle_request"]
    client = httpx.Client(transport=httpx.WSGITransport(app), base_url="http://app")
    given = {"target": target} if target else {}
    with inject("network_latency", delay="1ms", **given), client:
        assert vars(httpx.WSGITransport)["handle_request"] is not before
        with pytest.raises(LookupError, match="of the application") as caught:
            client.get("/")
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert vars(httpx.WSGITransport)["handle_request"] is before


def test_what_makes_no_sense_is_for_the_client_to_say(inject: Inject) -> None:
    transport: Any = httpx.MockTransport(lambda _: httpx.Response(200))
    with inject("network_latency", target="app"), pytest.raises(AttributeError):
        transport.handle_request(None)
