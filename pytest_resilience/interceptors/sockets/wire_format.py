"""HTTP requests and TLS records of a client: what they ask for, seen from outside.

Where TLS is made above the socket, as asyncio and anyio do, a connection that has been
opened says more than requests: a handshake of one or two round trips, and goodbyes. The
first is one operation of its own and the last is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pytest_resilience.chaos.operation import BODILESS
from pytest_resilience.chaos.operation import EXPECTANT
from pytest_resilience.chaos.operation import FRAMED


__all__ = [
    "RECORD",
    "asks_something",
    "beginning",
    "begins_with_whole_record",
    "client_random",
    "is_hello",
    "is_sealed",
    "kind_of",
    "may_bring_tickets",
    "may_seal",
]

_PREFACE = b"PRI * HTTP/2.0\r\n"
_END_OF_HEAD = b"\r\n\r\n"
_EXPECTATION = b"\r\nexpect: 100-continue\r\n"


def kind_of(message: bytes) -> str:
    """Of the beginning of what was sent at once: as in `TcpDetails.form`."""
    if message.startswith(b"HEAD "):
        return BODILESS
    if message.startswith(_PREFACE):
        return FRAMED
    if message.endswith(_END_OF_HEAD) and _EXPECTATION in message.lower():
        return EXPECTANT
    return ""


RECORD = (16 << 10) + 256 + 5  # bytes: the longest there is, in TLS 1.3
_CHANGE_CIPHER, _HANDSHAKE, _APPLICATION = 20, 22, 23
_CLIENT_HELLO = 1
_HEADER = 5  # bytes: type, version in two, length in two
# A Finished message in TLS 1.3: 4 bytes of header, a hash of 32 or 48, 1 of type, 16 of tag.
_FINISHED = (53, 69)
_MOST_SEALED = 16 << 10  # bytes of the client's in one record
# Bytes that a record has beside those: type and tag; before TLS 1.3 it depends on the cipher.
_BESIDE = {"TLSv1.3": range(17, 18)}
_BESIDE_BEFORE = range(16, 85)
_ENOUGH = 16 << 10  # bytes: more than anybody's handshake


def beginning(message: Any) -> bytes:
    """Of what was given to one of a socket's sending methods; empty for a file."""
    if isinstance(message, (list, tuple)):  # sendmsg
        return b"".join(map(beginning, message))[:_ENOUGH]
    try:
        with memoryview(message) as view, view.cast("B") as octets:
            return bytes(octets[:_ENOUGH])
    except Exception:  # no buffer, or from Python 3.12 on one of the user's, which may raise any
        return b""


def is_hello(data: bytes) -> bool:
    """Whether `data` begins a handshake."""
    return (
        len(data) > _HEADER
        and data[0] == _HANDSHAKE
        and data[1] == 3
        and data[_HEADER] == _CLIENT_HELLO
    )


def is_sealed(data: bytes) -> bool:
    """Whether `data` is, by all appearances, what a TLS connection that is open sends."""
    return any(kind == _APPLICATION and length for kind, length in [*_records(data)][:1])


def may_seal(record: bytes, size: int, version: str | None) -> bool:
    """Whether `record` may be, or begin with, `size` bytes in this version of TLS."""
    lengths = [length for kind, length in [*_records(record)][:1] if kind == _APPLICATION]
    beside = _BESIDE.get(version or "", _BESIDE_BEFORE)
    return any(length - min(size, _MOST_SEALED) in beside for length in lengths)


def client_random(hello: bytes) -> bytes:
    """The 32 random bytes of a hello, after its type, length and version: no other has them."""
    start = _HEADER + 6
    return hello[start : start + 32]


def asks_something(data: bytes) -> bool:
    """Whether `data`, sent after a hello, asks for a response.

    What ends a handshake may go out together with the first request. In TLS 1.3 it is
    dressed as application data, but follows a change of cipher that means nothing else.
    """
    types = list(_records(data))
    if not types or types[0][0] == _APPLICATION:
        return True
    if [kind for kind, _ in types[:2]] != [_CHANGE_CIPHER, _APPLICATION]:
        return any(kind == _APPLICATION for kind, _ in types)
    lengths = [length for _, length in types[1:]]
    return any(length in _FINISHED for length in lengths[:-1])


def _records(data: bytes) -> Iterator[tuple[int, int]]:
    """Type and length of each record; none where `data` begins in the middle of one."""
    at = 0
    while len(data) >= at + _HEADER and data[at] in range(20, 24) and data[at + 1] == 3:
        length = int.from_bytes(data[at + 3 : at + _HEADER], "big")
        yield data[at], length
        at += _HEADER + length


def begins_with_whole_record(data: bytes) -> bool:
    """Whether `data` begins with a TLS record, and all of that is in it."""
    return any(len(data) >= _HEADER + length for _, length in [*_records(data)][:1])


def may_bring_tickets(sock: Any) -> bool:
    """Whether `sock` speaks TLS 1.3, whose servers send tickets before their first response."""
    version = getattr(sock, "version", None)
    return version is not None and version() == "TLSv1.3"
