"""The chaos types of the network: peers that are far away, or cannot be reached.

And the parameters of an injected HTTP response: status, headers and body.
"""

from __future__ import annotations

import contextlib
import functools
import re

from collections.abc import Callable
from collections.abc import Mapping
from email.utils import parsedate
from typing import Any
from typing import NoReturn

from pytest_resilience.chaos.faults import network
from pytest_resilience.chaos.faults import response
from pytest_resilience.chaos.faults.response import StatusResponse
from pytest_resilience.chaos.parsing import quantities
from pytest_resilience.chaos.parsing.experiment_specs import split_patterns
from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.chaos.types.schema import CHILDREN_PARAMETER
from pytest_resilience.chaos.types.schema import DELAY_NAMES
from pytest_resilience.chaos.types.schema import REQUEST_PARAMETERS
from pytest_resilience.chaos.types.schema import STREAM_PARAMETER
from pytest_resilience.chaos.types.schema import TARGET_PARAMETERS
from pytest_resilience.chaos.types.schema import Parameter
from pytest_resilience.chaos.types.schema import TypeSchema
from pytest_resilience.chaos.types.schema import delay_parameters
from pytest_resilience.chaos.types.schema import distribution_of
from pytest_resilience.chaos.types.schema import mode_of
from pytest_resilience.chaos.types.schema import one_of
from pytest_resilience.chaos.types.schema import trigger_parameters
from pytest_resilience.errors import ConfigurationError


__all__ = [
    "NETWORK_FAILURE", "NETWORK_LATENCY", "STATUS_PARAMETERS", "parse_body", "status_response",
]  # fmt: skip

_LEAST_STATUS, _MOST_STATUS = 400, 599
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection"})
MOST_LATENCY = 2.0  # seconds at intensity 1
MOST_PAUSE = 0.02  # seconds at intensity 1
MOST_BANDWIDTH = 100_000  # bytes a second at intensity 0
LEAST_BANDWIDTH = 1_000  # and at 1
TRUNCATED_TO = 0.5
_ENDS = ("eof", "reset")
CORRUPTED = 0.01
_WAITS: dict[str, Callable[..., network.Fault]] = {
    "round_trip": network.Latency,
    "slow_close": response.SlowClose,
    "slow_dns": network.SlowResolution,
}
_SLOW_MODES = (*_WAITS, "bandwidth", "dribble")
_LATENCY_MODES_OF: dict[str, tuple[str, ...]] = {
    "bandwidth": ("bandwidth",),
    "piece": ("dribble",),
    **dict.fromkeys(DELAY_NAMES, tuple(_WAITS)),
    "delay": (*_WAITS, "dribble"),
    **dict.fromkeys(("after_items", "after_bytes", "after"), ("round_trip",)),
}


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
        return tuple(_header_of(name, *each) for each in value.items())
    texts = split_patterns(value) or [value]
    return tuple(_header_of(name, *_header_parts(name, each)) for each in texts)


def _header_parts(parameter: str, text: Any) -> tuple[str, str]:
    name, colon, value = text.partition(":") if isinstance(text, str) else ("", "", "")
    return (name, value) if colon else _no_header(parameter, text)


def _header_of(parameter: str, name: Any, value: Any) -> tuple[str, str]:
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


def _begins(given: Mapping[str, Any]) -> response.From | None:
    """From where on in a response it happens; None if it is not said."""
    names = [name for name in _PLACES if name in given]
    if len(names) > 1:
        said = ", ".join(f"{name}={given[name]}" for name in names)
        raise ConfigurationError(f"{said}: give one of them")
    if not names:
        return None
    return response.From(**{_PLACES[names[0]]: given[names[0]]})


_PLACES = {"after_items": "items", "after_bytes": "size", "after": "seconds"}


def _ending(whole: network.Fault, end: str, given: Mapping[str, Any]) -> network.Fault:
    """The failure of a `whole` response, or from somewhere in it on."""
    begins = _begins(given)
    return whole if begins is None else response.Truncation(begins=begins, end=end)


def _truncation(given: Mapping[str, Any]) -> response.Truncation:
    share, begins, end = given.get("share", TRUNCATED_TO), _begins(given), given.get("end", "eof")
    if share == 1:
        raise ConfigurationError(f"share={share:g}: all of the response would arrive; give less")
    if "share" in given and begins is not None:
        raise ConfigurationError(f"share={share:g}, {begins}: give one of them")
    if begins is not None and begins.size is not None:
        return response.Truncation(limit=begins.size, end=end)
    return response.Truncation(share=share, begins=begins, end=end)


def _corruption(given: Mapping[str, Any]) -> response.Corruption:
    share = given.get("share", CORRUPTED)
    if share == 0:
        raise ConfigurationError(f"share={share:g}: nothing would be damaged; give more")
    return response.Corruption(share=share, begins=_begins(given))


_DOWN = "down"
_FAILURES: dict[str, Callable[[Mapping[str, Any]], network.Fault]] = {
    "refuse": lambda _: network.Refusal(),
    "reset": lambda given: _ending(network.Reset(), "reset", given),
    "close": lambda given: _ending(network.Closure(), "eof", given),
    "timeout": lambda given: _ending(network.Silence(), "silence", given),
    "dns": lambda _: network.ResolutionFailure(),
    "dns_not_found": lambda _: network.ResolutionFailure(known=False),
    "partition": lambda _: network.Partition(),
    "lose_answer": lambda _: network.LostResponse(),
    "drop": lambda _: network.Loss(),
    "duplicate": lambda _: network.Duplication(),
    "reorder": lambda _: network.Reordering(),
    "truncate": _truncation,
    "corrupt": _corruption,
    "drop_message": lambda given: response.DroppedMessage(items=given.get("after_items", 0)),
    "status": status_response,
    "malformed_json": lambda given: response.MalformedJson(
        body=given.get("body"), headers=given.get("headers", ())
    ),
}
_FAILURE_MODES = (*_FAILURES, _DOWN)
_ENDING_MODES = ("truncate", "reset", "close", "timeout", "corrupt")
_FAILURE_MODES_OF: dict[str, tuple[str, ...]] = {
    **{each.name: ("status",) for each in STATUS_PARAMETERS},
    "body": ("status", "malformed_json"),
    "headers": ("status", "malformed_json"),
    "share": ("truncate", "corrupt"),
    "after_bytes": _ENDING_MODES,
    "after": _ENDING_MODES,
    "after_items": (*_ENDING_MODES, "drop_message"),
    "end": ("truncate",),
}


def _size(name: str, value: Any) -> int:
    if isinstance(value, str) and value.rstrip().endswith("%"):
        raise ConfigurationError(
            f"{name}={shortened(value)}: give bytes; a part is share={value!r}"
        )
    return quantities.size(name, value)


def _bandwidth(name: str, value: Any) -> int:
    with contextlib.suppress(ConfigurationError):
        if rate := quantities.size(name, value):
            return rate
    raise ConfigurationError(f"{name}={shortened(value)}: give bytes a second, such as '64kB'")


def _latency(given: Mapping[str, Any], intensity: float) -> tuple[network.Fault, ...]:
    mode = mode_of(given, _LATENCY_MODES_OF, otherwise="round_trip")
    if mode == "bandwidth":
        usual = max(LEAST_BANDWIDTH, MOST_BANDWIDTH * (1 - intensity))
        return (response.Bandwidth(rate=given.get("bandwidth", usual)),)
    if mode == "dribble":
        pause = given.get("delay", intensity * MOST_PAUSE)
        return (response.Dribble(piece=given.get("piece", 1), pause=pause),)
    delay = given.get("delay", intensity * MOST_LATENCY)
    begins = _begins(given)
    if begins is not None:
        if distribution_of(given, delay) is not None:
            raise ConfigurationError(f"{begins}: there is one pause; give its delay alone")
        return (response.Pause(begins=begins, pause=delay),)
    return (_WAITS[mode](delay=delay, distribution=distribution_of(given, delay)),)


def _failure(given: Mapping[str, Any], _intensity: float) -> tuple[network.Fault, ...]:
    mode = mode_of(given, _FAILURE_MODES_OF, otherwise="refuse")
    aimed = [each.name for each in REQUEST_PARAMETERS if each.name in given]
    if aimed and mode in (_DOWN, "partition"):
        raise ConfigurationError(
            f"mode={mode!r}: it happens to connections, whatever they are for; leave out "
            f"{aimed[0]}, or give mode='timeout' or mode='reset'"
        )
    return network.SERVICE_DOWN if mode == _DOWN else (_FAILURES[mode](given),)


def _failure_rate(given: Mapping[str, Any], intensity: float) -> float:
    # A partition or an outage of some operations only would be none.
    return 1.0 if given.get("mode") in {"partition", _DOWN} else intensity


_PLACE_PARAMETERS = (
    Parameter(
        name="after_bytes", unit="bytes, or kB, MiB, …", default="none", parse=_size,
        help="how many of the response's bytes arrive before it happens (truncate, reset, close, "
        "timeout, corrupt; round_trip: a pause of `delay`)",
    ),
    Parameter(
        name="after_items", unit="number", default="none",
        parse=functools.partial(quantities.count, least=0),
        help="how many events, messages, lines or chunks arrive before it happens (the same, and "
        "drop_message, where it is 0)",
    ),
    Parameter(
        name="after", unit="seconds, or ms, …", default="none", parse=quantities.seconds,
        help="how long a response arrives before it happens (as after_bytes)",
    ),
)  # fmt: skip

NETWORK_LATENCY = TypeSchema(
    summary="the peer is further away: connecting and every response take longer",
    parameters=(
        Parameter(
            name="mode", unit=", ".join(_SLOW_MODES), default="round_trip",
            parse=one_of(_SLOW_MODES, network_failure=_FAILURE_MODES),
            help="each round trip takes longer, or the end of a connection, or name resolution; "
            "or responses come over a thin line, or in little pieces",
        ),
        *delay_parameters(
            f"intensity x {MOST_LATENCY:g}s (dribble: x {MOST_PAUSE * 1e3:g}ms)",
            "added to each round trip, close or resolution; between two pieces",
        ),
        Parameter(
            name="bandwidth", unit="bytes a second, or kB, MiB, …",
            default=f"(1 - intensity) x {MOST_BANDWIDTH // 1000}kB", parse=_bandwidth,
            help="what the line carries (bandwidth)",
        ),
        Parameter(
            name="piece", unit="bytes", default="1", parse=quantities.count,
            help="how much comes at a time (dribble)",
        ),
        *_PLACE_PARAMETERS,
        *TARGET_PARAMETERS,
        *REQUEST_PARAMETERS,
        STREAM_PARAMETER,
        *trigger_parameters(rate="1"),
        CHILDREN_PARAMETER,
    ),
    faults=_latency,
)  # fmt: skip

NETWORK_FAILURE = TypeSchema(
    summary="the peer cannot be reached, or goes away, or what it says is damaged",
    parameters=(
        Parameter(
            name="mode", unit=", ".join(_FAILURE_MODES), default="refuse",
            parse=one_of(_FAILURE_MODES, network_latency=_SLOW_MODES),
            help="connection refused, reset or closed while a response is awaited, silence until a "
            "timeout, name resolution that fails, nothing gets through either way, the response "
            "lost once it is given, cut off, damaged, an HTTP error, no JSON, or a service that "
            "is gone: connections refused, and those there were closed; of UDP, datagrams lost, "
            "doubled, or out of order",
        ),
        Parameter(
            name="share", unit="0..1 or %", parse=quantities.share,
            default=f"{TRUNCATED_TO:.0%} (truncate), {CORRUPTED:.0%} (corrupt)",
            help="of the response's bytes: that arrive, or are damaged",
        ),
        *_PLACE_PARAMETERS,
        Parameter(
            name="end", unit=", ".join(_ENDS), default="eof", parse=one_of(_ENDS),
            help="how the connection ends after that (truncate)",
        ),
        *STATUS_PARAMETERS,
        *TARGET_PARAMETERS,
        *REQUEST_PARAMETERS,
        STREAM_PARAMETER,
        *trigger_parameters(rate="1 in a test; by flag or profile intensity (partition: 1)"),
        CHILDREN_PARAMETER,
    ),
    faults=_failure,
    rate=_failure_rate,
)  # fmt: skip
