"""As `clients.py`, for mail, files, remote shells, messages, directories and language models.

None connects again on its own, unless its library does: so the request after a failure shows
what was left of the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import selectors
import socket
import threading

from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from tests.end_to_end.network.clients import Ask
from tests.end_to_end.network.clients import AsyncAsk
from tests.end_to_end.network.clients import Client
from tests.end_to_end.network.clients import Peer
from tests.end_to_end.network.clients import of_asyncio
from tests.waiting import eventually


def keeping(
    connect: Callable[[Peer], Any],
    use: Callable[[Any, Peer], object],
    close: Callable[[Any], object],
) -> Callable[[Peer], AbstractContextManager[Ask]]:
    """Opens what connects at its first request, and then uses that."""

    @contextlib.contextmanager
    def opened(peer: Peer) -> Iterator[Ask]:
        connection: Any = None

        def ask() -> str:
            nonlocal connection
            if connection is None:
                connection = connect(peer)
            use(connection, peer)
            return "ok"

        try:
            yield ask
        finally:
            if connection is not None:
                close(connection)

    return opened


# --- Sockets ---

PROMPT = b"> "


def _dial(peer: Peer) -> socket.socket:
    sock = socket.create_connection((peer.host, peer.port), timeout=peer.connect_timeout)
    sock.settimeout(peer.timeout)
    return sock


def _converse(sock: socket.socket, peer: Peer) -> None:
    sock.sendall(b"tea\r\n")
    said = b""
    while not said.endswith(b"tea\r\n" + PROMPT):
        data = sock.recv(4096)
        if not data:
            raise EOFError("the host has hung up")
        said += data


def _dial_to_poll(peer: Peer) -> socket.socket:
    sock = _dial(peer)
    sock.settimeout(None)
    return sock


def _converse_by_polls(sock: socket.socket, peer: Peer) -> None:
    """As telnetlib did: without a timeout of its own, the socket is read once it is readable."""
    sock.sendall(b"tea\r\n")
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        while not said.endswith(b"tea\r\n" + PROMPT):
            if not selector.select(peer.timeout):
                raise TimeoutError("the host keeps silent")
            data = sock.recv(4096)
            if not data:
                raise EOFError("the host has hung up")
            said += data


# --- Mail and files ---


def _smtp(peer: Peer) -> Any:
    import smtplib

    return smtplib.SMTP(peer.host, peer.port, local_hostname="localhost", timeout=peer.only_timeout)


def _send_mail(smtp: Any, peer: Peer) -> None:
    assert smtp.sendmail("tea@example.com", ["cup@example.com"], "A cup of tea") == {}


def _imap(peer: Peer) -> Any:
    import imaplib

    imap = imaplib.IMAP4(peer.host, peer.port, timeout=peer.only_timeout)
    imap.login("somebody", "something")
    imap.select()
    return imap


def _fetch_mail(imap: Any, peer: Peer) -> None:
    assert imap.fetch("1", "(RFC822)")[0] == "OK"


def _ftp(peer: Peer) -> Any:
    import ftplib

    ftp = ftplib.FTP(timeout=peer.only_timeout)
    ftp.connect(peer.host, peer.port)
    ftp.login("somebody", "something")
    return ftp


def _fetch_file(ftp: Any, peer: Peer) -> None:
    found = io.BytesIO()
    ftp.retrbinary("RETR tea.txt", found.write)
    assert found.getvalue() == b"A cup of tea"


# --- Remote shells ---


def _ssh(peer: Peer) -> Any:
    import paramiko

    ssh = paramiko.SSHClient()
    ssh.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    try:
        ssh.connect(
            peer.host,
            peer.port,
            username="somebody",
            password="something",
            timeout=peer.connect_timeout,
            allow_agent=False,
            look_for_keys=False,
        )
    except BaseException:
        ssh.close()
        raise
    return ssh


def _run_remotely(ssh: Any, peer: Peer) -> None:
    try:
        given, out, _ = ssh.exec_command("cat", timeout=peer.timeout)
        given.write("A cup of tea")
        given.flush()
        given.channel.shutdown_write()
        assert out.read() == b"A cup of tea"
        # What comes for this request must not be taken for the answer to the next one.
        assert eventually(lambda: out.channel.closed)
    except (EOFError, ConnectionError):
        ssh.get_transport().join(10)  # it may not have noticed yet
        raise


# --- Messages ---


def _pika(peer: Peer) -> Any:
    import pika

    parameters = pika.ConnectionParameters(
        peer.host, peer.port, socket_timeout=peer.connect_timeout, heartbeat=0
    )
    connection = pika.BlockingConnection(parameters)
    channel, messages = connection.channel(), []
    channel.basic_consume("tea", lambda *message: messages.append(message), auto_ack=True)
    return connection, channel, messages


def _publish_and_consume(opened: Any, peer: Peer) -> None:
    connection, channel, messages = opened
    messages.clear()
    channel.basic_publish("", "tea", b"a cup")
    connection.process_data_events(time_limit=peer.timeout)
    if not messages:
        raise TimeoutError("no message")


def _close_pika(opened: Any) -> None:
    from pika.exceptions import AMQPError

    connection = opened[0]
    if connection.is_open:  # saying goodbye would wait for an answer
        with contextlib.suppress(AMQPError):
            connection._impl._transport._sock.shutdown(socket.SHUT_RDWR)
            connection.process_data_events(0)


class LostError(Exception):
    """What a client says in a callback, or not at all."""


class _Mqtt:
    def __init__(self, peer: Peer) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self.lost = ""
        self._heard = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, reconnect_on_failure=False)
        self._client.connect_timeout = peer.connect_timeout
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publish = lambda *_: self._heard.set()
        self._client.on_connect = lambda *_: self._heard.set()

    def _on_disconnect(self, client: Any, data: Any, flags: Any, code: Any, *_: Any) -> None:
        self.lost = str(code)
        self._heard.set()

    def publish(self, peer: Peer) -> None:
        if not self._client.is_connected():
            self.close()
            self._heard.clear()
            self.lost = ""
            self._client.connect(peer.host, peer.port)
            self._client.loop_start()
            self._wait(peer, "connect")
        self._heard.clear()
        self._client.publish("tea", b"a cup", qos=1)
        self._wait(peer, "publish")

    def _wait(self, peer: Peer, what: str) -> None:
        if not self._heard.wait(peer.timeout):
            raise TimeoutError(what)
        if self.lost:
            lost = self.lost
            self.close()
            raise LostError(lost)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextlib.asynccontextmanager
async def with_nats(peer: Peer) -> AsyncIterator[AsyncAsk]:
    import nats

    client: Any = None
    lost = asyncio.Event()
    failed: list[Exception] = []

    async def on_error(error: Exception) -> None:
        failed.append(error)

    async def on_close() -> None:
        lost.set()

    async def ask() -> str:
        nonlocal client
        if client is None:
            client = await nats.connect(
                f"nats://{peer.host}:{peer.port}",
                connect_timeout=peer.connect_timeout,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                error_cb=on_error,
                closed_cb=on_close,
            )
        flushed = asyncio.ensure_future(client.flush(peer.timeout))
        closed = asyncio.ensure_future(lost.wait())
        await asyncio.wait({flushed, closed}, return_when=asyncio.FIRST_COMPLETED)
        closed.cancel()
        if not flushed.done():
            flushed.cancel()
            raise client.last_error or LostError("closed")
        await flushed
        return "ok"

    yield ask
    if client is not None and not client.is_closed:
        await client.close()


def _tries(peer: Peer) -> int:
    """Milliseconds for as many attempts as there are, with pauses between them."""
    return int(max(1, peer.connect_timeout) * 1000)


def _producer(peer: Peer) -> Any:
    import kafka

    made = []

    def client(**settings: Any) -> Any:
        made.append(kafka.KafkaProducer.DEFAULT_CONFIG["kafka_client"](**settings))
        return made[-1]

    try:
        return _producer_of(kafka.KafkaProducer, client, peer), made[-1]
    except BaseException:
        made[-1].close()  # which it leaves at work
        raise


def _producer_of(kind: Any, client: Any, peer: Peer) -> Any:
    return kind(
        kafka_client=client,
        bootstrap_servers=[f"{peer.host}:{peer.port}"],
        enable_idempotence=False,
        acks=1,
        retries=0,
        metrics_enabled=False,
        bootstrap_timeout_ms=_tries(peer),
        max_block_ms=_tries(peer),
        request_timeout_ms=int(peer.timeout * 1000),
        delivery_timeout_ms=60_000,
        reconnect_backoff_ms=1,
        retry_backoff_ms=1,
    )


def _produce(opened: Any, peer: Peer) -> None:
    assert opened[0].send("tea", b"a cup").get(peer.timeout + 10).offset == 0


def _close_producer(opened: Any) -> None:
    producer, client = opened
    producer.close(1)
    producer._sender.join(10)  # it may be at work with the client still
    client.close()  # of which it may leave a connection


def _websocket(peer: Peer) -> Any:
    import websocket

    opened = websocket.create_connection(
        f"ws://{peer.host}:{peer.port}/", timeout=peer.connect_timeout
    )
    opened.settimeout(peer.timeout)
    return opened


def _talk(opened: Any, peer: Peer) -> None:
    opened.send("tea")
    assert opened.recv() == "tea"


# --- Directories and documents ---


def _ldap(peer: Peer) -> Any:
    import ldap3

    server = ldap3.Server(
        peer.host, peer.port, get_info=ldap3.NONE, connect_timeout=peer.connect_timeout
    )
    connection = ldap3.Connection(
        server,
        "cn=somebody",
        "something",
        receive_timeout=max(1, int(peer.timeout)),  # it takes whole seconds
    )
    try:
        connection.bind()
    except BaseException:
        connection.socket.close()  # which it leaves open
        raise
    return connection


def _look_up(connection: Any, peer: Peer) -> None:
    assert connection.search("dc=example", "(cn=tea)")


def _mongo(peer: Peer) -> Any:
    import pymongo
    import pymongo.common

    pymongo.common.MIN_HEARTBEAT_INTERVAL = 0.05  # or it looks for a server each half a second
    return pymongo.MongoClient(
        peer.host,
        peer.port,
        connectTimeoutMS=int(peer.connect_timeout * 1000),
        socketTimeoutMS=int(peer.timeout * 1000),
        serverSelectionTimeoutMS=_tries(peer),
        heartbeatFrequencyMS=3_600_000,  # or it may meet the fault before the request does
        directConnection=True,
        retryReads=False,
        retryWrites=False,
    )


def _insert(client: Any, peer: Peer) -> None:
    client.shop.teas.insert_one({"tea": 1})


# --- Streams of language models ---


@contextlib.contextmanager
def with_openai(peer: Peer) -> Iterator[Ask]:
    import openai

    with openai.OpenAI(
        api_key="none", base_url=peer.url, max_retries=0, timeout=_limits(openai, peer)
    ) as client:

        def ask() -> str:
            stream = client.chat.completions.create(
                model="tea", messages=[{"role": "user", "content": "tea?"}], stream=True
            )
            with stream:
                return _read(chunk.choices[0].delta.content for chunk in stream)

        yield ask


@contextlib.contextmanager
def with_anthropic(peer: Peer) -> Iterator[Ask]:
    import anthropic

    with anthropic.Anthropic(
        api_key="none", base_url=peer.url, max_retries=0, timeout=_limits(anthropic, peer)
    ) as client:

        def ask() -> str:
            with client.messages.stream(
                model="tea", max_tokens=9, messages=[{"role": "user", "content": "tea?"}]
            ) as stream:
                return _read(stream.text_stream)

        yield ask


def _limits(sdk: Any, peer: Peer) -> Any:
    return sdk.Timeout(peer.timeout, connect=peer.connect_timeout)


WORDS = ("A", " cup", " of", " tea", ".")
_EVENTS: dict[str, list[Any]] = {
    "openai": [
        *(
            {
                "id": "1", "object": "chat.completion.chunk", "created": 1, "model": "tea",
                "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}],
            }
            for word in WORDS
        ),
        "[DONE]",
    ],
    "anthropic": [
        {
            "type": "message_start",
            "message": {
                "id": "1", "type": "message", "role": "assistant", "model": "tea", "content": [],
                "stop_reason": None, "stop_sequence": None,
                "usage": {"input_tokens": 1, "output_tokens": 1},
            },
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *(
            {
                "type": "content_block_delta", "index": 0,
                "delta": {"type": "text_delta", "text": word},
            }
            for word in WORDS
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 5},
        },
        {"type": "message_stop"},
    ],
}  # fmt: skip


def streamed(speaks: str, *, chunked: bool = True) -> bytes:
    """What a model of that protocol answers, event by event; or an answer that does not end."""
    texts = []
    for event in _EVENTS[speaks]:
        name = f"event: {event['type']}\n" if speaks == "anthropic" else ""
        data = event if isinstance(event, str) else json.dumps(event)
        texts.append(f"{name}data: {data}\n\n".encode())
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    if not chunked:
        return b"".join([head, b"\r\n", *texts[:-1]])
    chunks = [b"%x\r\n%b\r\n" % (len(text), text) for text in (*texts, b"")]
    return b"".join([head, b"Transfer-Encoding: chunked\r\n\r\n", *chunks])


def _read(words: Iterable[str | None]) -> str:
    """Says what came before it failed."""
    came = 0
    try:
        for came, word in enumerate(words, 1):
            assert word == WORDS[came - 1]
    except Exception as error:
        error.add_note(f"after {came} words")
        raise
    return "ok" if came == len(WORDS) else f"{came} words"


def _client(
    name: str, library: str, speaks: str, *how: Callable[..., Any], warns: tuple[str, ...] = ()
) -> Client:
    libraries = (library,) if library else ()
    return Client(name=name, libraries=libraries, opened=keeping(*how), speaks=speaks, warns=warns)


SERVICES = (
    _client("socket", "", "lines", _dial, _converse, socket.socket.close),
    _client("socket, polled", "", "lines", _dial_to_poll, _converse_by_polls, socket.socket.close),
    _client("smtplib", "", "smtp", _smtp, _send_mail, lambda smtp: smtp.close()),
    _client("imaplib", "", "imap", _imap, _fetch_mail, lambda imap: imap.shutdown()),
    _client("ftplib", "", "ftp", _ftp, _fetch_file, lambda ftp: ftp.close()),
    _client("paramiko", "paramiko", "ssh", _ssh, _run_remotely, lambda ssh: ssh.close()),
    _client(
        "pika", "pika", "amqp", _pika, _publish_and_consume, _close_pika,
        warns=("ignore:unclosed:ResourceWarning",),  # what did not connect
    ),
    _client(
        "paho-mqtt", "paho-mqtt", "mqtt", _Mqtt, _Mqtt.publish, _Mqtt.close,
        warns=("ignore:unclosed:ResourceWarning",),  # its wake-up pipe, when it starts again
    ),
    of_asyncio("nats", ("nats-py",), with_nats, "nats"),
    _client(
        "kafka-python", "kafka-python", "kafka", _producer, _produce, _close_producer,
        warns=(
            "ignore:unclosed:ResourceWarning",  # connections that were refused
            "ignore:(open|read)_text is deprecated:DeprecationWarning",
        ),
    ),
    _client(
        "websocket-client", "websocket-client", "websocket",
        _websocket, _talk, lambda opened: opened.shutdown(),
    ),
    _client(
        "ldap3", "ldap3", "ldap", _ldap, _look_up, lambda kept: kept.strategy.close(),
        warns=("ignore:(tag|type)Map is deprecated:DeprecationWarning",),
    ),
    _client("pymongo", "pymongo", "mongodb", _mongo, _insert, lambda client: client.close()),
)  # fmt: skip
MODELS = (
    Client(name="openai", libraries=("openai", "httpx2"), opened=with_openai, speaks="openai"),
    Client(
        name="anthropic", libraries=("anthropic", "httpx2"), opened=with_anthropic,
        speaks="anthropic",
    ),
)  # fmt: skip
