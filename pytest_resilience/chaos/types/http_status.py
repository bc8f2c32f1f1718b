"""The parameters of an injected HTTP response: status, Retry-After and body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_resilience.chaos.faults.response import StatusResponse
from pytest_resilience.chaos.parsing import quantities
from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.chaos.types.schema import Parameter
from pytest_resilience.errors import ConfigurationError


__all__ = ["STATUS_PARAMETERS", "parse_body", "status_response"]

_LEAST_STATUS, _MOST_STATUS = 400, 599


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
    status = quantities.count(name, value)
    if not _LEAST_STATUS <= status <= _MOST_STATUS:
        raise ConfigurationError(
            f"{name}={shortened(value)}: a failure is {_LEAST_STATUS}..{_MOST_STATUS}"
        )
    return status


STATUS_PARAMETERS = (
    Parameter(
        name="status", unit="400..599", default="503", parse=_status,
        help="what HTTP clients are answered",
    ),
    Parameter(
        name="retry_after", unit="seconds, or us, ms, s, m, h", default="none",
        parse=quantities.seconds, help="a Retry-After header with that answer",
    ),
    Parameter(
        name="body", unit="text", default="the status in words", parse=parse_body,
        help="the body of that answer",
    ),
)  # fmt: skip


def status_response(given: Mapping[str, Any]) -> StatusResponse:
    """The response that the parameters ask for; 503 where they say nothing of it."""
    return StatusResponse(
        status=given.get("status", 503),
        retry_after=given.get("retry_after"),
        body=given.get("body"),
    )
