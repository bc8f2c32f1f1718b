"""Requests of HTTP: how they are read from what is sent, and which of them are meant. Sans-IO.

And what is told apart from them by what the client sends: protocols in which both sides speak at
any time. There is no response to a request in them: to who counts in it, all that comes is one.
After an upgrade of HTTP (101) another one is spoken, as that of a WebSocket; a client of NATS
speaks its own from the first line on, and one of Redis once it has subscribed to something.
"""

from __future__ import annotations

import fnmatch
import re
import struct
import urllib.parse

from collections.abc import Container
from collections.abc import Iterable
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from typing import Final

from pytest_resilience.chaos.operation import HttpRequest
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.parsing.experiment_specs import split_patterns
from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.errors import ConfigurationError


__all__ = [
    "REQUEST_LINE", "ConversationReader", "FrameReader", "RequestFilter", "RequestReader",
    "parse_request_filter", "read_pairs",
]  # fmt: skip

_UPGRADE = re.compile(rb"\nupgrade:[ \t]*(?!h2c)\w", re.IGNORECASE)
_FRAME_BEGINS = re.compile(rb"[\x01\x02\x41\x42\x80-\x82\x88-\x8a\xc1\xc2][\x80-\xff]")
_OF_NATS = re.compile(rb"CONNECT \{|SUB \S+ (?:\S+ )?\w+\r\n|H?PUB \S+ (?:\S+ )?\d+(?: \d+)?\r\n")
_OF_REDIS = re.compile(rb"\*\d+\r\n\$\d+\r\n([A-Za-z]+)\r\n")
_SUBSCRIBES = frozenset({b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE", b"MONITOR"})
_WHILE_SUBSCRIBED = frozenset({b"UNSUBSCRIBE", b"PUNSUBSCRIBE", b"SUNSUBSCRIBE", b"PING", b"QUIT"})
_METHOD = re.compile(r"[A-Za-z*?-]+")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z?\[\]-]+")  # and what else globs have
_RPC = re.compile(r"/?[\w.*?\[\]!-]+/[\w*?\[\]!-]+|\*")
REQUEST_LINE: Final = re.compile(rb"([A-Z][A-Z-]*) (\S+) HTTP/1\.[01]\r?\n")
_MAYBE_REQUEST_LINE = re.compile(rb"[A-Z][A-Z-]*(?: [^\r\n]*)?\r?")
_HEADER = re.compile(rb"\n([^:\s]+):[ \t]*([^\r\n]*)")
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_MOST_HEAD: Final = 64 << 10  # bytes; what goes on for longer is no head
_MOST_DIGITS: Final = 18  # of the length of a body: no position in a text has more
_OPAQUE = re.compile(rb"[\x14-\x17]\x03|PRI ")  # a record of TLS, or the beginning of HTTP/2
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME: Final = struct.Struct("!BHBBI")  # length in three bytes, type, flags, stream
_FRAME_HEAD: Final = _FRAME.size
_DATA, _HEADERS, _RST_STREAM, _CONTINUATION = 0, 1, 3, 9
_HEADS = frozenset({_HEADERS, _CONTINUATION})
_ENDING = frozenset({_DATA, _HEADERS})  # those that may have the next flag
_END_STREAM = 1
_END_HEADERS, _PADDED, _PRIORITY = 4, 8, 32


class ConversationReader:
    """Knows whether both sides speak at any time.

    Attributes:
        is_on: what the client sends last is said in one, and did not begin it.
    """

    __slots__ = ("_is_subscribed", "is_on")

    def __init__(self) -> None:
        self.is_on = False
        self._is_subscribed = False

    def end(self) -> None:
        """The client asks for something."""
        self.is_on = self._is_subscribed = False

    def upgrade(self, head: bytes) -> None:
        """The client sends what is no request, and had asked for something by this head."""
        self.is_on = self.is_on or _UPGRADE.search(head) is not None

    def feed(self, message: bytes) -> None:
        """The client sends this, or what begins so, and it is no HTTP."""
        command = _OF_REDIS.match(message)
        if command is None:
            is_one = self._is_subscribed or _is_of_websocket(message) or _OF_NATS.match(message)
            self.is_on = self.is_on or bool(is_one)
            return
        name = command[1].upper()
        goes_on = name in _SUBSCRIBES or name in _WHILE_SUBSCRIBED
        self.is_on = self._is_subscribed and goes_on
        self._is_subscribed = name in _SUBSCRIBES or self.is_on


def _is_of_websocket(message: bytes) -> bool:
    """Whether a client sends such frames, whose request was not seen: masked, and nothing else."""
    at = 0
    while at < len(message) and _FRAME_BEGINS.match(message, at):
        short = message[at + 1] & 0x7F
        extended = {126: 2, 127: 8}.get(short, 0)
        size = int.from_bytes(message[at + 2 : at + 2 + extended], "big") if extended else short
        at += 2 + extended + 4 + size
    return at == len(message) > 0


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """Accepts operations that belong to certain requests.

    Attributes:
        name: of the parameter, which says what of a request is compared.
        patterns: shell globs, one of which has to match. Of a header, its name in small letters,
            and its value after a colon.
    """

    name: str
    patterns: tuple[str, ...]

    def accepts(self, operation: Operation) -> bool:
        """Whether its request is known, and meant."""
        request = operation.http.request
        if request is None:
            return False
        return any(_MATCHES[self.name](request, pattern) for pattern in self.patterns)

    def __str__(self) -> str:
        return f"{self.name} {' | '.join(self.patterns)}"


def _has_method(request: HttpRequest, pattern: str) -> bool:
    return fnmatch.fnmatchcase(request.method, pattern)


def _has_path(request: HttpRequest, pattern: str) -> bool:
    ways = {request.path, urllib.parse.unquote(request.path)}  # who writes a glob may mean either
    return any(fnmatch.fnmatchcase(each, pattern) for each in ways)


def _has_header(request: HttpRequest, pattern: str) -> bool:
    name, _, value = pattern.partition(":")
    return any(
        fnmatch.fnmatchcase(each, name) and fnmatch.fnmatchcase(given, value.strip() or "*")
        for each, given in request.headers
    )


def _has_rpc(request: HttpRequest, pattern: str) -> bool:
    return _has_header(request, "content-type:application/grpc*") and fnmatch.fnmatchcase(
        request.path.removeprefix("/"), pattern
    )


_MATCHES = {"method": _has_method, "path": _has_path, "header": _has_header, "rpc": _has_rpc}


def parse_request_filter(name: str, value: Any) -> RequestFilter:
    """One glob, several in one text between `|`, or an iterable of them.

    Raises ConfigurationError for what no request could have.
    """
    texts = split_patterns(value)
    if not texts or not all(isinstance(each, str) and each.strip() for each in texts):
        raise ConfigurationError(f"{name}={shortened(value)}: give {_EXAMPLES[name]}")
    return RequestFilter(name, tuple(_PARSE[name](each.strip()) for each in texts))


_EXAMPLES = {
    "method": "a method such as 'POST', or several between |",
    "path": "a glob of paths such as '/v1/payments*'",
    "header": "the name of a header, or name and value such as 'x-tenant: acme*'",
    "rpc": "service and method of gRPC such as 'shop.Payments/Charge' or '*/Charge'",
}


def _useless(name: str, text: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"{name}={shortened(text)} {why}; give {_EXAMPLES[name]}")


def _method(text: str) -> str:
    if not _METHOD.fullmatch(text):
        raise _useless("method", text, "is no method of HTTP")
    return text.upper()


def _path(text: str) -> str:
    if "://" in text:
        raise _useless("path", text, "is a URL; the host is for target")
    if not text.startswith(("/", "*", "[", "?")):
        raise _useless("path", text, "can match nothing: paths begin with /")
    if re.search(r"\?[\w.]+=", text) or "#" in text:
        raise _useless("path", text, "can match nothing: the query is not compared")
    return text


def _header(text: str) -> str:
    name, colon, value = text.partition(":")
    if not _NAME.fullmatch(name.strip()):
        raise _useless("header", text, "is no header")
    return f"{name.strip().lower()}{colon and ': '}{value.strip()}"


def _rpc(text: str) -> str:
    if not _RPC.fullmatch(text):
        raise _useless("rpc", text, "is no method of gRPC")
    return text.removeprefix("/")


_PARSE = {"method": _method, "path": _path, "header": _header, "rpc": _rpc}


class RequestReader:
    """Reads the requests that a client sends over one connection, in HTTP/1.

    What is no HTTP is told apart by its first bytes, and a body by not being a request line:
    so it does not matter what was sent before anybody looked. Of several that are sent before there
    is a response (pipelining) it is the first, for this is responded to next.

    Attributes:
        conversation: knows whether what is sent is said in one that goes on.
        is_other: what was sent is no HTTP, or nothing was.
        is_whole: the head of the latest request was sent.
        lacks_end: the head of a request has begun, which certainly is one, and has no end yet.
    """

    __slots__ = (
        "_head", "_pipelined", "_request", "_was_seen", "conversation", "is_other", "is_whole",
        "lacks_end",
    )  # fmt: skip

    def __init__(self) -> None:
        self.is_other = True
        self.is_whole = False
        self.lacks_end = False
        self.conversation = ConversationReader()
        self._head = b""
        self._pipelined = False
        self._was_seen = True
        self._request: HttpRequest | None = None

    def feed(self, message: bytes, *, answered: bool) -> None:
        """The client sends this, or something that begins so.

        `answered`: the response to what was sent before has begun.
        """
        is_opaque = _OPAQUE.match(message) is not None
        if self.is_whole:
            if not REQUEST_LINE.match(message):  # more of a body, or of another protocol
                if answered and message and not is_opaque:
                    self.conversation.upgrade(self._head)
            elif answered or not self._was_seen:
                self._begin(message)
            elif not self._pipelined:
                self._pipelined, self._request = True, None
        elif not ((self._head and self._begin(self._head + message)) or self._begin(message)):
            self.conversation.feed(message)
        is_http = self._head or self.is_whole
        self.is_other = self.conversation.is_on or not (is_opaque or is_http)

    def look_away(self) -> None:
        """What is received from now on may not be seen: the next request is no other's."""
        self._was_seen = False

    def note(self, request: HttpRequest) -> None:
        """The client sends this request, in HTTP/2, which it takes a library to read."""
        self.forget()
        self.is_whole, self._request = True, request

    def forget(self) -> None:
        """What is received from now on belongs to none that was sent so far."""
        self._head, self._request, self._pipelined = b"", None, False
        self.is_other = self.is_whole = self.lacks_end = False
        self.conversation.end()

    def _begin(self, head: bytes) -> bool:
        """Take this for the head of a request, or what is there of it, if it is one."""
        is_one = REQUEST_LINE.match(head) or _MAYBE_REQUEST_LINE.fullmatch(head)
        self._head = head[:_MOST_HEAD] if is_one else b""
        if is_one:
            self.conversation.end()
        self.is_whole = bool(is_one) and (
            b"\r\n\r\n" in head or _END_OF_HEAD.search(head) is not None  # the latter takes long
        )
        self.lacks_end = self.is_partial and REQUEST_LINE.match(self._head) is not None
        self._request, self._pipelined, self._was_seen = None, False, True
        return bool(is_one)

    @property
    def is_partial(self) -> bool:
        """Whether a head has begun, and not all of it was sent."""
        return bool(self._head) and not self.is_whole

    @property
    def request(self) -> HttpRequest | None:
        """The latest whose head was sent; None if what was sent is none."""
        if self._request is None and self.is_whole:
            self._request = _parsed(self._head, pipelined=self._pipelined)
        return self._request


class _Frames:
    """The frames of HTTP/2 in what one side sends, in any pieces."""

    def __init__(self, preface: int) -> None:
        """`preface`: bytes before the first."""
        self._received = bytearray()
        self._skipped = preface

    def feed(
        self, data: bytes | memoryview, kept: Container[int]
    ) -> Iterator[tuple[int, int, int, bytes]]:
        """Each that is told by more `data`: its type, flags, stream, and what is in it.

        That is left out, and not waited for, unless the type is one to be `kept`.
        """
        skipped = min(self._skipped, len(data))
        self._skipped -= skipped
        self._received += data[skipped:]
        while len(self._received) >= _FRAME_HEAD and not self._skipped:
            high, low, kind, flags, stream = _FRAME.unpack_from(self._received)
            end = _FRAME_HEAD + (high << 16 | low)
            if kind in kept and len(self._received) < end:
                return
            payload = bytes(self._received[_FRAME_HEAD:end]) if kind in kept else b""
            self._skipped = max(0, end - len(self._received))
            del self._received[:end]
            yield kind, flags, stream, payload


class FrameReader:
    """Reads what is asked for over one connection in HTTP/2, from its beginning.

    What a head says depends on all that came before it, and takes the library hpack to read.

    Attributes:
        request: the latest; None where none was read.
        unanswered: the streams whose responses have not ended, by their numbers.
    """

    def __init__(self) -> None:
        """Raises ImportError where hpack is not installed."""
        import hpack

        self.request: HttpRequest | None = None
        self.unanswered = set[int]()
        self._decoder: Any = hpack.Decoder(_MOST_HEAD)
        self._requests, self._responses = _Frames(len(_PREFACE)), _Frames(0)
        self._block = b""  # of a head whose end is in another frame

    def feed(self, data: bytes) -> int:
        """The client sends this; returns how many requests have begun in it."""
        begun = 0
        for kind, flags, stream, payload in self._requests.feed(data, _HEADS):
            if kind == _RST_STREAM:
                self.unanswered.discard(stream)
            elif kind in _HEADS and self._read_head(kind, flags, payload):
                self.unanswered.add(stream)
                begun += 1
        return begun

    @property
    def is_unfinished(self) -> bool:
        """Whether the client waits for more of any of them."""
        return bool(self.unanswered)

    def feed_response(self, data: bytes | memoryview) -> None:
        """The server sends this."""
        for kind, flags, stream, _ in self._responses.feed(data, ()):
            if kind == _RST_STREAM or (kind in _ENDING and flags & _END_STREAM):
                self.unanswered.discard(stream)

    def _read_head(self, kind: int, flags: int, payload: bytes) -> bool:
        """Read what is in one frame; whether it has completed the head of a request."""
        if kind == _HEADERS:
            padding = payload[0] if flags & _PADDED else 0
            start = bool(flags & _PADDED) + 5 * bool(flags & _PRIORITY)
            payload = payload[start : len(payload) - padding]
        self._block += payload
        if not flags & _END_HEADERS:
            return False
        pairs, self._block = self._decoder.decode(self._block), b""
        request = read_pairs(pairs)
        self.request = request or self.request
        return request is not None


def read_pairs(headers: Iterable[Any]) -> HttpRequest | None:
    """The request that the headers of HTTP/2 ask for; None if they are trailers."""
    pairs = [(_text(name), _text(value)) for name, value, *_ in map(tuple, headers)]
    pseudo = {name: value for name, value in pairs if name.startswith(":")}
    if ":method" not in pseudo:
        return None
    plain = [("host", pseudo.get(":authority", "")), *pairs]
    return HttpRequest.of(
        pseudo[":method"],
        pseudo.get(":path", "/"),
        [each for each in plain if not each[0].startswith(":")],
    )


def _text(part: str | bytes) -> str:
    return part if isinstance(part, str) else part.decode("utf-8", "replace")


def _parsed(message: bytes, *, pipelined: bool) -> HttpRequest | None:
    """`pipelined`: others follow, in other messages."""
    line, end = REQUEST_LINE.match(message), _END_OF_HEAD.search(message)
    if line is None or end is None:
        return None
    headers = [
        (name.decode("latin-1"), value.decode("latin-1").rstrip())
        for name, value in _HEADER.findall(message, line.end() - 1, end.end())
    ]
    return HttpRequest.of(
        line[1].decode("ascii"),
        line[2].decode("latin-1"),
        headers,
        pipelined=pipelined or bool(REQUEST_LINE.match(message, end.end() + _length(headers))),
    )


def _length(headers: Iterable[tuple[str, str]]) -> int:
    """Of a body, in bytes; 0 where it is not said so."""
    given = (value for name, value in headers if name.lower() == "content-length")
    length = next(given, "")
    return int(length) if length.isdecimal() and len(length) <= _MOST_DIGITS else 0
