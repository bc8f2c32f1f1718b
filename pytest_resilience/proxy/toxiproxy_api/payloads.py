"""The JSON of Toxiproxy's HTTP API: what is read from it, and how proxies are shown in it."""

from __future__ import annotations

import json

from collections.abc import Mapping
from typing import Any
from typing import NoReturn

from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.chaos.types.schema import nearest
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.proxy.addresses import parse_address
from pytest_resilience.proxy.proxy import ChaosProxy
from pytest_resilience.proxy.toxics.toxic import Toxic


__all__ = [
    "PROXY_FIELDS",
    "TOXIC_FIELDS",
    "RefusedError",
    "as_go_reads",
    "check_names",
    "enabled_in",
    "fields",
    "read",
    "same_address",
    "shown",
    "shown_toxic",
]

PROXY_FIELDS = ("name", "listen", "upstream", "enabled", "toxics")
_MOST_FIELDS = 100  # of one object: what each nearly is takes a search
TOXIC_FIELDS = ("name", "type", "stream", "toxicity", "attributes")


class RefusedError(Exception):
    """A request that cannot be met.

    Attributes:
        status: the HTTP status that says so.
    """

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        super().__init__(text)


def read(body: bytes) -> Any:
    """What a request says. Raises ConfigurationError if that is no JSON."""
    try:
        return json.loads(body, parse_constant=_refuse)
    except ValueError as error:
        raise ConfigurationError(str(error) if body else "EOF") from error
    except RecursionError as error:
        raise ConfigurationError("it is nested too deeply") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def fields(given: Any, known: tuple[str, ...]) -> dict[str, Any]:
    """An object of the API. What is nearly one of its fields is an error; else it is ignored.

    Toxiproxy ignores all that it does not know, and clients rely on it.
    """
    if not isinstance(given, dict):
        raise ConfigurationError(f"{shortened(given)} is no object")
    if len(given) > _MOST_FIELDS:
        raise ConfigurationError(f"an object of {len(given)} fields; give {_MOST_FIELDS} at most")
    told = as_go_reads(given)
    for name in told:
        if name not in known and nearest(name, known):
            raise ConfigurationError(f"unknown field {name!r}{nearest(name, known)}")
    return told


def as_go_reads(given: Mapping[str, Any]) -> dict[str, Any]:
    """An object without what is null, its names in small letters: Go minds neither, and
    there are clients that send `"Name"` and `"toxicity": null`.
    """
    return {name.lower(): value for name, value in given.items() if value is not None}


def check_names(given: Mapping[str, Any], where: str) -> str:
    """The name of a proxy that has all it needs. Raises RefusedError."""
    for field in ("name", "upstream"):
        if not given.get(field):
            raise RefusedError(400, f"missing required field: {field}{where}")
        if not isinstance(given[field], str):
            raise ConfigurationError(f"{field}={given[field]!r}: give a text")
    return str(given["name"])


def enabled_in(given: Mapping[str, Any], *, default: bool) -> bool:
    """Whether a proxy is to be enabled."""
    enabled = given.get("enabled", default)
    if not isinstance(enabled, bool):
        raise ConfigurationError(f"enabled={enabled!r}: give true or false")
    return enabled


def same_address(wanted: Any, there: str) -> bool:
    """Whether an address, if one is given, is the one that is there; port 0 is any."""
    if not wanted:
        return True
    address, now = parse_address("address", wanted), parse_address("address", there)
    host = "127.0.0.1" if address.host == "localhost" != now.host else address.host
    return host == now.host and address.port in (now.port, 0)


def shown(proxy: ChaosProxy) -> dict[str, Any]:
    """A proxy, as clients see it."""
    return {
        "name": proxy.name,
        "listen": proxy.listen,
        "upstream": proxy.upstream,
        "enabled": proxy.enabled,
        "toxics": [shown_toxic(toxic) for toxic in proxy.toxics],
    }


def shown_toxic(toxic: Toxic) -> dict[str, Any]:
    """A toxic, as clients see it."""
    return {
        "name": toxic.name,
        "type": toxic.type,
        "stream": toxic.stream,
        "toxicity": toxic.toxicity,
        "attributes": dict(toxic.attributes),
    }
