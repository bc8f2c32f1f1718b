"""Servers of protocols that no package of Python's brings: as much of each as its client asks for.

Each is a generator for one connection, and touches no socket: it gives its greeting first, then
for all that the client has said the answer, which may be empty. `port` is where it is reached.
"""

from __future__ import annotations

import struct

from collections.abc import Callable
from collections.abc import Generator
from typing import Any


__all__ = ["STAND_INS", "Dialogue", "Speaker"]

Dialogue = Generator[bytes, bytes, None]
Speaker = Callable[[int], Dialogue]
Answer = Callable[[bytes], bytes]


def _whole(greeting: bytes, length_of: Callable[[bytes], int], answer: Answer) -> Dialogue:
    """Answers one message after the other. `length_of` says 0 as long as it cannot tell."""
    said = greeting
    pending = b""
    while True:
        pending += yield said
        said = b""
        while pending and 0 < (size := length_of(pending)) <= len(pending):
            message, pending = pending[:size], pending[size:]
            said += answer(message)


def _line(data: bytes) -> int:
    return data.find(b"\n") + 1


def of_lines(port: int) -> Dialogue:
    """An echo with a greeting and a prompt, as of old hosts and devices."""
    return _whole(b"Welcome\r\n> ", _line, lambda line: line + b"> ")


MAIL = b"From: tea@example.com\r\n\r\nA cup of tea\r\n"
_OF_IMAP = {
    b"CAPABILITY": b"* CAPABILITY IMAP4rev1\r\n",
    b"SELECT": b"* 1 EXISTS\r\n* 0 RECENT\r\n",
    b"FETCH": b"* 1 FETCH (RFC822 {%d}\r\n%b)\r\n" % (len(MAIL), MAIL),
    b"LOGOUT": b"* BYE\r\n",
}


def of_imap(port: int) -> Dialogue:
    def answer(line: bytes) -> bytes:
        tag, command = line.split()[:2]
        return _OF_IMAP.get(command, b"") + tag + b" OK done\r\n"

    return _whole(b"* OK ready\r\n", _line, answer)


# --- LDAP ---

_SUCCESS = bytes.fromhex("0a0100 0400 0400")
_ENTRY = bytes([0x04, 6]) + b"cn=tea" + bytes([0x30, 0])
# By what is asked for: how each part of the answer is tagged, and what is in it.
_OF_LDAP = {
    0x60: ((0x61, _SUCCESS),),  # bind
    0x63: ((0x64, _ENTRY), (0x65, _SUCCESS)),  # search
}


def _of_ber(data: bytes) -> tuple[int, int]:
    """How long its head is, and the value."""
    if len(data) < 2 or data[1] < 0x80:
        return 2, data[1] if len(data) > 1 else 0
    size = data[1] & 0x7F
    return 2 + size, int.from_bytes(data[2 : 2 + size], "big")


def of_ldap(port: int) -> Dialogue:
    def answer(message: bytes) -> bytes:
        head, _ = _of_ber(message)
        number = message[head : head + 2 + message[head + 1]]
        asked = message[head + len(number)]
        parts = [number + bytes([tag, len(body)]) + body for tag, body in _OF_LDAP.get(asked, ())]
        return b"".join(bytes([0x30, len(part)]) + part for part in parts)

    return _whole(b"", lambda data: sum(_of_ber(data)), answer)


# --- MQTT ---

_CONNECT, _PUBLISH, _SUBSCRIBE, _PING = 1, 3, 8, 12


def _of_mqtt(data: bytes) -> int:
    size = 0
    for index, byte in enumerate(data[1:5]):
        size += (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return 2 + index + size
    return 0


def of_mqtt(port: int) -> Dialogue:
    def answer(packet: bytes) -> bytes:
        kind, quality = packet[0] >> 4, packet[0] >> 1 & 3
        if kind == _CONNECT:
            return b"\x20\x02\x00\x00"
        if kind == _PING:
            return b"\xd0\x00"
        if kind == _PUBLISH and quality:
            named = 2 + int.from_bytes(packet[2:4], "big")  # all of it is short here
            return b"\x40\x02" + packet[2 + named : 4 + named]
        return b""

    return _whole(b"", _of_mqtt, answer)


# --- AMQP 0-9-1 ---


def of_amqp(port: int) -> Dialogue:
    from pika import frame
    from pika import spec

    answers: dict[type[Any], Callable[[Any], Any]] = {
        spec.Connection.StartOk: lambda _: spec.Connection.Tune(8, 131072, 60),
        spec.Connection.Open: lambda _: spec.Connection.OpenOk(),
        spec.Connection.Close: lambda _: spec.Connection.CloseOk(),
        spec.Channel.Open: lambda _: spec.Channel.OpenOk(),
        spec.Channel.Close: lambda _: spec.Channel.CloseOk(),
        spec.Basic.Consume: lambda asked: spec.Basic.ConsumeOk(asked.consumer_tag),
        spec.Basic.Cancel: lambda asked: spec.Basic.CancelOk(asked.consumer_tag),
    }
    consumer = ""

    def length_of(data: bytes) -> int:
        return int(frame.decode_frame(data)[0])

    def method(channel: int, made: Any) -> bytes:
        return bytes(frame.Method(channel, made).marshal())

    def answer(data: bytes) -> bytes:
        nonlocal consumer
        _, asked = frame.decode_frame(data)
        if isinstance(asked, frame.ProtocolHeader):
            return method(0, spec.Connection.Start(0, 9, {}, "PLAIN", "C"))
        if isinstance(asked, frame.Body):  # of what was published: the consumer gets it
            head = bytes(frame.Header(1, len(asked.fragment), spec.BasicProperties()).marshal())
            return method(1, spec.Basic.Deliver(consumer, 1, False, "", "tea")) + head + data
        if not isinstance(asked, frame.Method) or type(asked.method) not in answers:
            return b""
        if isinstance(asked.method, spec.Basic.Consume):
            consumer = asked.method.consumer_tag
        return method(asked.channel_number, answers[type(asked.method)](asked.method))

    return _whole(b"", length_of, answer)


# --- MongoDB ---

_HELLO = {
    "ok": 1,
    "helloOk": True,
    "isWritablePrimary": True,
    "ismaster": True,
    "minWireVersion": 0,
    "maxWireVersion": 21,
    "maxBsonObjectSize": 16 << 20,
    "maxMessageSizeBytes": 48_000_000,
    "maxWriteBatchSize": 100_000,
}
_HEAD = struct.Struct("<iiii")
_REPLY, _QUERY, _MESSAGE = 1, 2004, 2013


def of_mongodb(port: int) -> Dialogue:
    import bson

    def answer(message: bytes) -> bytes:
        _, number, _, code = _HEAD.unpack_from(message)
        document = bson.encode(_HELLO | {"n": 1})
        # A legacy hello is a query, everything else is a message with one section.
        said = struct.pack("<iqii", 8, 0, 0, 1) if code == _QUERY else struct.pack("<iB", 0, 0)
        answered = _REPLY if code == _QUERY else _MESSAGE
        size = _HEAD.size + len(said) + len(document)
        return _HEAD.pack(size, 0, number, answered) + said + document

    return _whole(
        b"", lambda data: int.from_bytes(data[:4], "little") if len(data) > 3 else 0, answer
    )


# --- Kafka, in the versions of its messages that all clients know ---


def of_kafka(port: int) -> Dialogue:
    from kafka.protocol import metadata
    from kafka.protocol.producer import ProduceRequest
    from kafka.protocol.producer import ProduceResponse

    def versions(version: int) -> Any:
        kinds = (metadata.ApiVersionsResponse, 0), (metadata.MetadataResponse, 1)
        key = metadata.ApiVersionsResponse.ApiVersion
        keys = [
            key(api_key=kind.API_KEY, min_version=0, max_version=most, version=version)
            for kind, most in (*kinds, (ProduceResponse, 3))
        ]
        return metadata.ApiVersionsResponse(error_code=0, api_keys=keys, version=version)

    def about(version: int) -> Any:
        kind = metadata.MetadataResponse
        topic = kind.MetadataResponseTopic
        partition = topic.MetadataResponsePartition(
            error_code=0, partition_index=0, leader_id=1, replica_nodes=[1], isr_nodes=[1],
            version=version,
        )  # fmt: skip
        broker = kind.MetadataResponseBroker(
            node_id=1, host="127.0.0.1", port=port, rack=None, version=version
        )
        topics = [topic(error_code=0, name="tea", partitions=[partition], version=version)]
        return kind(brokers=[broker], controller_id=1, topics=topics, version=version)

    def produced(version: int) -> Any:
        topic = ProduceResponse.TopicProduceResponse
        done = topic.PartitionProduceResponse(
            index=0, error_code=0, base_offset=0, log_append_time_ms=-1, version=version
        )
        topics = [topic(name="tea", partition_responses=[done], version=version)]
        return ProduceResponse(responses=topics, version=version)

    answers = {
        metadata.ApiVersionsRequest.API_KEY: versions,
        metadata.MetadataRequest.API_KEY: about,
        ProduceRequest.API_KEY: produced,
    }

    def answer(message: bytes) -> bytes:
        kind, version, number = struct.unpack_from(">hhi", message, 4)
        response = answers[kind](version)
        response.with_header(correlation_id=number)
        return bytes(response.encode(header=True, framed=True))

    return _whole(
        b"", lambda data: 4 + int.from_bytes(data[:4], "big") if len(data) > 3 else 0, answer
    )


# --- TDS, of Microsoft SQL Server and Sybase, in version 7.4 ---

_PACKET = struct.Struct(">BBHHBB")
_OF_CLIENT_BEFORE, _OF_CLIENT_LOGIN = 0x12, 0x10
_ANSWERED, _LAST = 4, 1
# Version, encryption (there is none), instance, thread, several results: where each is, and how
# long; then what they are.
_BEFORE_LOGIN = bytes.fromhex(
    "00 001a 0006  01 0020 0001  02 0021 0001  03 0022 0000  04 0022 0001  ff"
    "0f0000000000  02  00  00"
)
_LOGGED_IN = bytes.fromhex("ad 0a00 01 74000004 00 0f000000")
_DONE = bytes.fromhex("fd 0000 0000 0000000000000000")


def of_tds(port: int) -> Dialogue:
    def answer(message: bytes) -> bytes:
        said = {_OF_CLIENT_BEFORE: _BEFORE_LOGIN, _OF_CLIENT_LOGIN: _LOGGED_IN + _DONE}
        body = said.get(message[0], _DONE)
        return _PACKET.pack(_ANSWERED, _LAST, _PACKET.size + len(body), 0, 1, 0) + body

    return _whole(
        b"", lambda data: int.from_bytes(data[2:4], "big") if len(data) > 3 else 0, answer
    )


STAND_INS: dict[str, Speaker] = {
    "lines": of_lines,
    "imap": of_imap,
    "ldap": of_ldap,
    "mqtt": of_mqtt,
    "amqp": of_amqp,
    "mongodb": of_mongodb,
    "kafka": of_kafka,
    "tds": of_tds,
}
