"""The parameters of an injected HTTP response: status, headers and body."""

from __future__ import annotations

import contextlib
import re

from collections.abc import Mapping
from email.utils import parsedate
from typing import Any
from typing import NoReturn

from pytest_resilience.chaos.faults.response import StatusResponse
from pytest_resilience.chaos.parsing import quantities
from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.chaos.parsing.texts import split_patterns
from pytest_resilience.chaos.types.schema import Parameter
from pytest_resilience.errors import ConfigurationError


__all__ = ["STATUS_PARAMETERS", "parse_body", "status_response"]

_LEAST_STATUS, _MOST_STATUS = 400, 599
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection"})


def parse_body(name: str, value: Any) -> str:
    """A text that can be sent. Raises ConfigurationError."""
    if not isinstance(value, str):
        raise ConfigurationError(f"{name}={shortened(value)}: give the text of the body")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # bytes of a command line that are no UTF-8, for one
        raise ConfigurationError(
            f"{name}={shortened(value)}: {value[error.start]!r} is no text; give what UTF-8 can "
            "encode"
        ) from None
    return value


def _status(name: str, value: Any) -> int:
    with contextlib.suppress(ConfigurationError):
        status = quantities.count(name, value)
        if _LEAST_STATUS <= status <= _MOST_STATUS:
            return status
    raise ConfigurationError(
        f"{name}={shortened(value)}: give the status of a failure, {_LEAST_STATUS}..{_MOST_STATUS}"
    )


def _retry_after(name: str, value: Any) -> float:
    """Seconds. Raises ConfigurationError, also for a date, which only HTTP has."""
    try:
        return quantities.seconds(name, value)
    except ConfigurationError:
        if not (isinstance(value, str) and parsedate(value)):
            raise
        given = shortened(value)
        raise ConfigurationError(
            f"{name}={given}: a date is a header only; give headers={{'Retry-After': {given}}}"
        ) from None


def _headers(name: str, value: Any) -> tuple[tuple[str, str], ...]:
    """Of a mapping, or of texts."""
    if isinstance(value, Mapping):
        return tuple(_header(name, *each) for each in value.items())
    texts = split_patterns(value) or [value]
    return tuple(_header(name, *_parts(name, each)) for each in texts)


def _parts(parameter: str, text: Any) -> tuple[str, str]:
    name, colon, value = text.partition(":") if isinstance(text, str) else ("", "", "")
    return (name, value) if colon else _no_header(parameter, text)


def _header(parameter: str, name: Any, value: Any) -> tuple[str, str]:
    text = str(value) if isinstance(value, (int, float)) else value
    if not (isinstance(name, str) and _HEADER_NAME.fullmatch(name.strip())):
        _no_header(parameter, name)
    if not (isinstance(text, str) and _HEADER_VALUE.fullmatch(text)):
        _no_header(parameter, value)
    if name.strip().lower() in _FRAMING:
        raise ConfigurationError(
            f"{parameter}={shortened(name)}: it is made for the body that there is; leave it out"
        )
    return name.strip(), text.strip()


def _no_header(parameter: str, value: Any) -> NoReturn:
    raise ConfigurationError(
        f"{parameter}={shortened(value)} is no header; give {{'X-Shard': '7'}} or 'X-Shard: 7'"
    )


STATUS_PARAMETERS = (
    Parameter(
        name="status", unit="400..599", default="503", parse=_status,
        help="the status that HTTP clients get",
    ),
    Parameter(
        name="retry_after", unit="seconds, or us, ms, s, m, h", default="none",
        parse=_retry_after,
        help="a Retry-After header with that response, of whole seconds but for clients that read "
        "retry-after-ms (openai, anthropic); an attribute of what callables raise",
    ),
    Parameter(
        name="body", unit="text", default="the status in words", parse=parse_body,
        help="the body of that response",
    ),
    Parameter(
        name="headers", unit="table, or 'name: value', several between |", parse=_headers,
        default="Content-Type by the body", help="headers of that response",
    ),
)  # fmt: skip


def status_response(given: Mapping[str, Any]) -> StatusResponse:
    """The response that the parameters ask for; 503 where they say nothing of it."""
    after = given.get("retry_after")
    headers = given.get("headers", ())
    if after is not None and any(name.lower() == "retry-after" for name, _ in headers):
        raise ConfigurationError("retry_after and a header Retry-After: give one of them")
    return StatusResponse(
        status=given.get("status", 503),
        retry_after=after,
        body=given.get("body"),
        headers=headers,
    )
