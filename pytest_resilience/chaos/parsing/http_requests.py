"""Requests of HTTP: how they are read from what is sent, and which of them are meant. Sans-IO."""

from __future__ import annotations

import fnmatch
import re

from dataclasses import dataclass
from typing import Any
from typing import Final

from pytest_resilience.chaos.operation import HttpRequest
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.chaos.parsing.texts import split_patterns
from pytest_resilience.errors import ConfigurationError


__all__ = ["RequestFilter", "RequestReader", "parse_request_filter"]

_METHOD = re.compile(r"[A-Za-z*?-]+")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_RPC = re.compile(r"/?[\w.*?\[\]!-]+/[\w*?\[\]!-]+|\*")
_REQUEST_LINE = re.compile(rb"([A-Z][A-Z-]*) (\S+) HTTP/1\.[01]\r?\n")
_MAYBE_REQUEST_LINE = re.compile(rb"[A-Z][A-Z-]*(?: [^\r\n]*)?\r?")
_HEADER = re.compile(rb"\n([^:\s]+):[ \t]*([^\r\n]*)")
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_MOST_HEAD: Final = 64 << 10  # bytes; what goes on for longer is no head


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """Accepts operations that belong to certain requests.

    Attributes:
        name: of the parameter, which says what of a request is compared.
        patterns: shell globs, one of which has to match. Of a header, its name in small letters,
            and a glob of its value after a colon.
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
    return fnmatch.fnmatchcase(request.path, pattern)


def _has_header(request: HttpRequest, pattern: str) -> bool:
    name, _, value = pattern.partition(":")
    return any(
        each == name and fnmatch.fnmatchcase(given, value.strip() or "*")
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
    so it does not matter what was sent before anybody looked.
    """

    __slots__ = ("_head", "_is_whole", "_request")

    def __init__(self) -> None:
        self._head = b""
        self._is_whole = False
        self._request: HttpRequest | None = None

    def feed(self, message: bytes) -> None:
        """The client sends this, or something that begins so."""
        if self._is_whole:
            if _REQUEST_LINE.match(message):
                self._begin(message)
        elif not (self._head and self._begin(self._head + message)):
            self._begin(message)

    def note(self, request: HttpRequest) -> None:
        """The client sends this request, in HTTP/2, which it takes a library to read."""
        self._head, self._is_whole, self._request = b"", True, request

    def forget(self) -> None:
        """What is received from now on belongs to none that was sent so far."""
        self._head, self._is_whole, self._request = b"", False, None

    def _begin(self, head: bytes) -> bool:
        """Take this for the head of a request, or what is there of it, if it is one."""
        is_one = _REQUEST_LINE.match(head) or _MAYBE_REQUEST_LINE.fullmatch(head)
        self._head = head[:_MOST_HEAD] if is_one else b""
        self._is_whole = bool(is_one) and _END_OF_HEAD.search(head) is not None
        self._request = None
        return bool(is_one)

    @property
    def is_partial(self) -> bool:
        """Whether a head has begun, and not all of it was sent."""
        return bool(self._head) and not self._is_whole

    @property
    def request(self) -> HttpRequest | None:
        """The latest whose head was sent; None if what was sent is none."""
        if self._request is None and self._is_whole:
            self._request = _parsed(self._head)
        return self._request


def _parsed(message: bytes) -> HttpRequest | None:
    line, end = _REQUEST_LINE.match(message), _END_OF_HEAD.search(message)
    if line is None or end is None:
        return None
    return HttpRequest.of(
        line[1].decode("ascii"),
        line[2].decode("latin-1"),
        (
            (name.decode("latin-1"), value.decode("latin-1").rstrip())
            for name, value in _HEADER.findall(message, line.end() - 1, end.end())
        ),
    )
