"""What clients of the network meet when a fault is injected, and when it happens for real.

The tables of `docs/fidelity.md` are what these tests find.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import http.client
import ssl

from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.proxy import ChaosProxy
from tests import fidelity_page
from tests.end_to_end.network import hostile
from tests.end_to_end.network.clients import BEHIND_PROXY
from tests.end_to_end.network.clients import EVERY
from tests.end_to_end.network.clients import HTTP
from tests.end_to_end.network.clients import OTHERS
from tests.end_to_end.network.clients import UPLOADING
from tests.end_to_end.network.clients import Ask
from tests.end_to_end.network.clients import Client
from tests.end_to_end.network.clients import Peer
from tests.end_to_end.network.conftest import BODY
from tests.end_to_end.network.conftest import answer
from tests.end_to_end.network.hostile import Place
from tests.end_to_end.network.service_clients import MODELS
from tests.end_to_end.network.service_clients import SERVICES
from tests.end_to_end.network.service_clients import streamed
from tests.fidelity_page import Section
from tests.free_loops import no_loop_was_running
from tests.injecting import Inject
from tests.interceptors.conftest import Trust
from tests.waiting import eventually
from tests.waiting import side_by_side
from tests.waiting import until_all_wait


Lead = Callable[..., AbstractContextManager[Place]]
Tell = Callable[[Client, str], str]

TIMEOUT = 0.5
TRIES = 1.0  # seconds that it is tried for to connect, by those who do that again and again
NOBODY = "nobody.invalid"
PATIENT = 10.0
UNAVAILABLE = answer(b"busy", b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7")
NOT_JSON = answer(b'{"status": "ok", "items": [')
ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + BODY


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that can happen, and both ways to bring it about.

    Attributes:
        mood: of a place where it really happens.
        kind: the chaos type that injects it, with its parameters.
        kept: whether it happens to a connection that has served before.
        waits: whether it ends with the client's own timeout.
        before: how many operations that it could happen to come first, without TLS, which is
            one more: it shakes hands. None where there are none, with or without.
        answers: what the place says that is not its usual answer, by mood.
        host: where it looks for a place that is none.
    """

    mood: str
    kind: Any = "network_failure"
    parameters: dict[str, Any]
    kept: bool = False
    waits: bool = False
    before: int | None = None
    answers: dict[str, bytes] = field(default_factory=dict)
    host: str = ""

    def aimed_at(self, peer: Peer) -> dict[str, Any]:
        """All that the experiment has to be told."""
        given = {"target": f"{peer.host}:{peer.port}", **self.parameters}
        if self.before is not None:
            given["every"] = 1 + self.before + (peer.tls is not None)
        return given


REFUSED = Event(mood=hostile.REFUSE, parameters={"mode": "refuse"})
RESET = Event(mood=hostile.RESET, parameters={"mode": "reset"}, before=0)
KEPT_RESET = Event(mood=hostile.RESET, parameters={"mode": "reset"}, kept=True)
CLOSED = Event(mood=hostile.CLOSE, parameters={"mode": "close"}, before=0)
KEPT_CLOSED = Event(mood=hostile.CLOSE, parameters={"mode": "close"}, kept=True)
BROKEN = Event(mood=hostile.BREAK, parameters={"mode": "truncate", "end": "reset"})
KEPT_DOWN = Event(mood=hostile.DOWN, parameters={"mode": "down"}, kept=True)
KEPT_BROKEN = Event(mood=hostile.BREAK, parameters={"mode": "truncate", "end": "reset"}, kept=True)
KEPT_LOST = Event(mood=hostile.LOSE, parameters={"mode": "lose_answer"}, kept=True)
NOT_CONNECTED = Event(mood=hostile.FULL, parameters={"mode": "timeout"}, waits=True)
SILENT = Event(mood=hostile.SILENT, parameters={"mode": "timeout"}, waits=True, before=1)
KEPT_SILENT = Event(mood=hostile.SILENT, parameters={"mode": "timeout"}, waits=True, kept=True)
HALF = Event(mood=hostile.HALF, parameters={"mode": "truncate"})
KEPT_HALF = Event(mood=hostile.HALF, parameters={"mode": "truncate"}, kept=True)
STATUS = Event(
    mood="busy",
    parameters={"mode": "status", "status": 503, "retry_after": 7, "body": "busy"},
    answers={"busy": UNAVAILABLE},
)
NAMES = {
    "name: temporary failure": Event(
        mood=hostile.GOOD, parameters={"mode": "dns"}, host="localhost"
    ),
    "name: not found": Event(
        mood=hostile.GOOD, parameters={"mode": "dns_not_found"}, host="localhost"
    ),
}
# TLS has to be shaken hands on before there is an answer.
SEALED = {
    "refused, TLS": REFUSED,
    "reset, TLS": RESET,
    "closed, TLS": CLOSED,
    "no answer, TLS": SILENT,
    "half a body, TLS": HALF,
    "reset within a body, TLS": BROKEN,
    "status 503, TLS": STATUS,
}
NO_END = Event(
    mood=hostile.SILENT,
    kind="network_latency",
    parameters={"mode": "slow_close", "delay": 3600},
    waits=True,
    answers={hostile.GOOD: ENDLESS, hostile.SILENT: ENDLESS},
)
OF_HTTP = {
    "refused": REFUSED,
    "reset": RESET,
    "reset, connection kept": KEPT_RESET,
    "closed": CLOSED,
    "closed, connection kept": KEPT_CLOSED,
    "down, connection kept": KEPT_DOWN,
    "answer lost": Event(mood=hostile.LOSE, parameters={"mode": "lose_answer"}),
    "not connected": NOT_CONNECTED,
    "no answer": SILENT,
    "half a body": HALF,
    "reset within a body": BROKEN,
    "no end": NO_END,
    "malformed JSON": Event(
        mood="malformed", parameters={"mode": "malformed_json"}, answers={"malformed": NOT_JSON}
    ),
    "status 503": STATUS,
}
OF_OTHERS = {
    "refused": REFUSED,
    "reset": KEPT_RESET,
    "closed": KEPT_CLOSED,
    "down": KEPT_DOWN,
    "answer lost": KEPT_LOST,
    "not connected": NOT_CONNECTED,
    "no answer": KEPT_SILENT,
    "half an answer": KEPT_HALF,
    "reset within an answer": KEPT_BROKEN,
}
LATE = Event(
    mood=hostile.LATE,
    kind="network_latency",
    parameters={"delay": 3600},
    waits=True,
    kept=True,
)
OF_SERVICES = OF_OTHERS | {"late answer": LATE}
OF_MYSQL = {
    "refused": REFUSED,
    # After the greeting, which is the first answer: the server speaks first.
    "reset": Event(mood=hostile.RESET, parameters={"mode": "reset"}, before=1),
    "closed": Event(mood=hostile.CLOSE, parameters={"mode": "close"}, before=1),
    "not connected": NOT_CONNECTED,
    "no answer": SILENT,
    "half an answer": HALF,
}


# What can happen to records that are shaken hands on already.
OF_OTHERS_SEALED = {
    "reset, TLS": KEPT_RESET,
    "closed, TLS": KEPT_CLOSED,
    "answer lost, TLS": KEPT_LOST,
    "no answer, TLS": KEPT_SILENT,
}


# Whose connection outlives the silence that a request has met: injected silence ends with the
# experiment, and the connection with it, as when a kernel gives up. Really it goes on.
KEEPS_WAITING = (
    "asyncpg", "websockets.sync", "websockets.asyncio", "grpc",
    "socket", "socket, polled", "paramiko", "pika", "paho-mqtt", "nats", "kafka-python",
    "websocket-client",
)  # fmt: skip


# Threads of theirs read all the time, and a loop may be told before its task asks. What is done to
# a connection as it is kept, they may notice before a request does, or not, also when it is real.
# So the request is sent and awaited already when it happens.
AWAITED = {
    "paramiko": {"reset", "closed", "down", "answer lost"},
    "paho-mqtt": {"down"},
    "asyncpg": {"down"},
    "websockets.sync": {"reset", "reset, TLS", "closed", "closed, TLS", "down"},
    "kafka-python": {"reset", "closed", "down"},
}


LEFT_OUT = {
    # A delay begins when the response is there, of which a poll tells: only its receive is late.
    "socket, polled": {"late answer"},
    # It never closes what did not connect, and keeps it for longer than a test.
    "kafka-python": {"not connected"},
}


def events_of(client: Client) -> dict[str, Event]:
    without = LEFT_OUT.get(client.name, set())
    return {name: event for name, event in _possible(client).items() if name not in without}


def _possible(client: Client) -> dict[str, Event]:
    if client.speaks == "http":
        return OF_HTTP | SEALED | NAMES
    if client.speaks == "mysql":
        return OF_MYSQL | NAMES
    if client in SERVICES:
        return OF_SERVICES
    if client in MODELS:
        endless = streamed(client.speaks, chunked=False)
        no_end = replace(NO_END, answers={hostile.GOOD: endless, hostile.SILENT: endless})
        return {name: OF_HTTP[name] for name in OF_HTTP if name != "malformed JSON"} | {
            "no end": no_end
        }
    if client not in BEHIND_PROXY:
        return OF_OTHERS | OF_OTHERS_SEALED | NAMES
    # libpq has a timeout for connecting only, of two seconds at least: one driver is enough.
    without = {"psycopg": {"no answer"}, "grpc": set()}.get(
        client.name, {"no answer", "not connected"}
    )
    return {name: event for name, event in OF_OTHERS.items() if name not in without}


def section_of(client: Client) -> Section:
    events = [*events_of(client), *(["corrupted JSON"] if client in HTTP else [])]
    events += UPLOADING.get(client.name, ())
    return Section(title=client.name, events=tuple(events), libraries=client.libraries)


def cases(*clients: Client, events: dict[str, Event]) -> pytest.MarkDecorator:
    """Each client, with each event of these that it can meet."""
    return pytest.mark.parametrize(
        ("client", "name"),
        [
            case(client, name, id=f"{client}: {name}")
            for client in clients
            for name in events_of(client)
            if name in events
        ],
    )


def case(client: Client, *more: str, id: str) -> Any:  # noqa: A002
    marks = [pytest.mark.filterwarnings(each) for each in client.warns]
    return pytest.param(client, *more, id=id, marks=marks)


def quick(*clients: Client) -> pytest.MarkDecorator:
    """Each client, with each event that it need not wait for."""
    every = OF_HTTP | SEALED | OF_SERVICES | OF_OTHERS_SEALED | OF_MYSQL
    return cases(*clients, events={name: each for name, each in every.items() if not each.waits})


def waiting(client: Client) -> list[str]:
    return [name for name, event in events_of(client).items() if event.waits]


def warm_up(client: Client, lead_to: Lead) -> None:
    """Load what it loads when it is first used: in several threads at once, loops would wait."""
    with lead_to(client.speaks) as place, client.opened(Peer(port=place.port)) as ask:
        assert ask() == "ok"


@pytest.fixture(autouse=True)
def _complains_while_it_may(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a client leaves open by itself is no matter of the tests after it."""
    yield
    client = getattr(request.node, "callspec", None) and request.node.callspec.params.get("client")
    if client is not None and any("unclosed" in each for each in client.warns):
        while gc.collect():  # coroutines, and then what they have kept
            pass
        gc.freeze()  # the next of them need not look at all that clients have loaded


def code_of(error: Any) -> str:
    """What else than its type says which error it is."""
    number = error.errno if isinstance(error, OSError) else None  # Kafka's are its own
    if isinstance(error, ssl.SSLError) or (isinstance(number, int) and number < 0):
        return ""  # OpenSSL's, and the resolver's, differ from one machine to the next
    if isinstance(number, int):
        return errno.errorcode.get(number, str(number))
    if hasattr(type(error), "debug_error_string"):  # gRPC's
        return str(error.code().name)
    response = getattr(error, "response", None)
    headers = getattr(error, "headers", getattr(response, "headers", None))
    if isinstance(response, dict):
        headers = response["ResponseMetadata"]["HTTPHeaders"]
    after = None if headers is None else headers.get("Retry-After", headers.get("retry-after"))
    if after is not None:
        return f"(Retry-After {after})"
    library = type(error).__module__.partition(".")[0]
    if library.startswith("psycopg"):  # without a code, and with libpq's own words
        return f"({str(error).partition(chr(10))[0].rpartition(': ')[2]})"
    told = {"pymysql": error.args[:1], "tests": error.args[:1], "pymssql": tds_code_of(error)}
    return "".join(map(str, told.get(library, ())))


def tds_code_of(error: Any) -> tuple[int, ...]:
    """What FreeTDS calls it."""
    number = getattr(error, "number", None)
    return () if number is None else (number,)


def chain_of(error: BaseException) -> str:
    """An exception and all behind it, but for how the end of a text was found."""
    found: list[str] = []
    behind: BaseException | None = error
    while behind is not None and not isinstance(behind, StopIteration):
        if no_loop_was_running(behind):
            break
        kind = type(behind)
        name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
        notes = ", ".join(getattr(behind, "__notes__", ()))
        found.append(f"{name} {code_of(behind)} {notes}".strip())
        behind = behind.__cause__ or behind.__context__
    return " ← ".join(found)


def outcome(ask: Ask) -> str:
    try:
        return ask()
    except Exception as error:
        return chain_of(error)


def story(
    client: Client,
    peer: Peer,
    event: Event,
    trouble: AbstractContextManager[Any],
    awaited_at: Place | None = None,
) -> str:
    """What a request meets in trouble, and the next one after it.

    `awaited_at`: where it is awaited already when that begins.
    """
    with client.opened(peer) as ask:
        if event.kept:
            assert ask() == "ok"
        if awaited_at is None:
            with trouble:
                met = outcome(ask)
        else:
            with ThreadPoolExecutor(1) as thread, awaited_at.holding() as until_held:
                asked = thread.submit(outcome, ask)
                until_held()
                until_all_wait()
                with trouble:
                    met = asked.result()
        if event is KEPT_SILENT and client.name in KEEPS_WAITING:
            return met
        return f"{met}; then {outcome(ask)}"


@contextlib.contextmanager
def treated(place: Place, mood: str) -> Iterator[None]:
    place.turn(mood)
    try:
        yield
    finally:
        place.turn(hostile.GOOD)


@contextlib.contextmanager
def answered_in(trouble: AbstractContextManager[ActiveExperiment], place: Place) -> Iterator[None]:
    """The place answers when that has begun to happen to who waits for it."""
    with trouble as active_experiment:
        assert eventually(lambda: active_experiment.matched > 0)
        place.turn(hostile.GOOD)
        yield


def peer_of(place: Place, event: Event, tls: Trust | None) -> Peer:
    answered, connected = PATIENT, PATIENT
    if event is NOT_CONNECTED:
        connected = TIMEOUT
    elif event.waits:
        answered = TIMEOUT
    elif event is REFUSED:
        connected = TRIES
    return Peer(port=place.port, timeout=answered, connect_timeout=connected, tls=tls)


@contextlib.contextmanager
def place_of(
    client: Client, name: str, event: Event, lead_to: Lead, trust: Trust
) -> Iterator[tuple[Place, Peer]]:
    """Where the client meets it, and what it knows of that."""
    tls = trust if name.endswith(", TLS") else None
    with lead_to(client.speaks, event.answers, tls) as place:
        yield place, peer_of(place, event, tls)


@pytest.fixture
def really(lead_to: Lead, trust: Trust) -> Tell:
    """The story of a client to whom it really happens."""

    def told(client: Client, name: str) -> str:
        event = events_of(client)[name]
        with place_of(client, name, event, lead_to, trust) as (place, peer):
            trouble = treated(place, event.mood)
            awaited_at = place if name in AWAITED.get(client.name, ()) else None
            return story(client, peer, event, trouble, awaited_at)

    return told


@pytest.fixture
def injected(lead_to: Lead, trust: Trust, inject: Inject) -> Tell:
    """The story of a client into which it is injected."""

    def told(client: Client, name: str) -> str:
        event = events_of(client)[name]
        with place_of(client, name, event, lead_to, trust) as (place, peer):
            trouble: AbstractContextManager[Any] = inject(event.kind, **event.aimed_at(peer))
            awaited_at = place if name in AWAITED.get(client.name, ()) else None
            if awaited_at and name == "answer lost":  # the others happen before there is any
                trouble = answered_in(trouble, place)
            return story(client, peer, event, trouble, awaited_at)

    return told


@pytest.fixture
def proxied(lead_to: Lead) -> Tell:
    """The story of a client to whom a proxy does it."""

    def told(client: Client, name: str) -> str:
        event = events_of(client)[name]
        with (
            lead_to(client.speaks) as place,
            ChaosProxy(("127.0.0.1", place.port), seed=1) as proxy,
        ):
            peer = replace(peer_of(place, event, None), port=proxy.port)
            trouble = proxy.inject(event.kind, rate=1, **event.parameters)
            return story(client, peer, event, trouble)

    return told


@quick(*HTTP, *OTHERS, *SERVICES, *MODELS)
def test_it_is_what_really_happens(client: Client, name: str, really: Tell, injected: Tell) -> None:
    section_of(client).note(name, injected(client, name), really(client, name))


@pytest.mark.parametrize(
    "client",
    [case(client, id=str(client)) for client in (*HTTP, *OTHERS, *SERVICES, *MODELS)],
)
def test_waiting_is_what_really_happens(
    client: Client, lead_to: Lead, really: Tell, injected: Tell
) -> None:
    """First all that are real, while nothing is intercepted."""
    warm_up(client, lead_to)
    names = waiting(client)
    real = side_by_side(partial(really, client, name) for name in names)
    met = side_by_side(partial(injected, client, name) for name in names)
    for row in zip(names, met, real, strict=True):
        section_of(client).note(*row)


@quick(*BEHIND_PROXY)
def test_behind_a_proxy_it_is_what_really_happens(
    client: Client, name: str, really: Tell, proxied: Tell
) -> None:
    section_of(client).note(name, proxied(client, name), really(client, name))


@pytest.mark.parametrize("client", [*filter(waiting, BEHIND_PROXY)], ids=str)
def test_waiting_behind_a_proxy_is_what_really_happens(
    client: Client, lead_to: Lead, really: Tell, proxied: Tell
) -> None:
    """Both at once: a proxy is not in the way of others."""
    warm_up(client, lead_to)
    for name in waiting(client):
        met, real = side_by_side(partial(tell, client, name) for tell in (proxied, really))
        section_of(client).note(name, met, real)


@cases(*HTTP, *OTHERS, events=NAMES)
def test_names_are_not_found_as_really_happens(
    client: Client, name: str, lead_to: Lead, inject: Inject
) -> None:
    """Which of its codes a resolver gives depends on how it is set up, so it is left out."""
    event = NAMES[name]
    with lead_to(client.speaks) as place:
        peer = Peer(host=NOBODY, port=place.port)
        with client.opened(peer) as ask:
            real = outcome(ask)
        peer = Peer(host="localhost", port=place.port)
        trouble = inject("network_failure", **event.aimed_at(peer))
        with client.opened(peer) as ask, trouble as failure:
            injected = outcome(ask)
        assert failure.hits >= 1
        with client.opened(peer) as ask:
            assert ask() == "ok"
    section_of(client).note(name, injected, real)


@pytest.mark.parametrize("client", HTTP, ids=str)
def test_damage_is_read_as_it_is_when_it_really_happens(
    client: Client, lead_to: Lead, inject: Inject
) -> None:
    """The same damage for both: what it is, the seed of the experiment decides."""
    damage = {"mode": "corrupt", "share": 1.0}

    def heard(port: int) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENT)
        with (
            contextlib.closing(connection),
            inject("network_failure", target=f"127.0.0.1:{port}", **damage),
        ):
            connection.request("GET", "/")
            return connection.getresponse().read()

    with lead_to("http") as place:
        peer = Peer(port=place.port)
        answers = {"damaged": answer(heard(place.port))}
        trouble = inject("network_failure", target=f"127.0.0.1:{place.port}", **damage)
        injected = story(client, peer, HALF, trouble)
    with lead_to("http", answers) as place:
        real = story(client, Peer(port=place.port), HALF, treated(place, "damaged"))
    section_of(client).note("corrupted JSON", injected, real)


def test_all_of_it_is_on_the_page() -> None:
    fidelity_page.assert_complete(*map(section_of, EVERY + SERVICES + MODELS))
