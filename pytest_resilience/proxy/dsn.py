"""Leading clients to another address: URLs, libpq connection strings, environment variables."""

from __future__ import annotations

import os
import re

from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from urllib.parse import parse_qsl
from urllib.parse import urlencode
from urllib.parse import urlsplit
from urllib.parse import urlunsplit

from pytest_resilience.errors import ConfigurationError
from pytest_resilience.proxy.addresses import Address


__all__ = ["libpq_variables", "redirect", "variables_set"]

_WHERE = ("host", "hostaddr", "port")  # as libpq calls them, in a string and in a URL's query
_SETTING = re.compile(
    r"\s*(?P<name>\w+)\s*=\s*(?P<value>'(?:\\.|[^'\\])*'|(?:\\.|[^\s'\\])*)(?=\s|$)", re.DOTALL
)
_PLAIN = re.compile(r"(?:\[[0-9a-fA-F:.%]+\]|[\w.\-]+):\d+")


def redirect(dsn: str, address: Address) -> str:
    """`dsn` with `address` for its host and port, and all else as it is.

    Takes URLs (`postgresql://`, `redis://`, `http://` …), libpq's `name=value` strings and
    plain `host:port`. Raises ConfigurationError for a text that is none of these.
    """
    if not dsn.strip():
        raise _unknown(dsn)
    if "://" in dsn:
        return _url(dsn, address)
    if _PLAIN.fullmatch(dsn.strip()):
        return str(address)
    return _connection_string(dsn, address)


def _unknown(dsn: object) -> ConfigurationError:
    return ConfigurationError(
        f"dsn={dsn!r} has no host to replace; give a URL with a host, a libpq string such as "
        "'host=db port=5432 dbname=app', or 'host:port'"
    )


def _url(dsn: str, address: Address) -> str:
    parts = urlsplit(dsn)
    postgres = parts.scheme.partition("+")[0] in ("postgresql", "postgres")
    if not parts.netloc and not postgres:  # libpq fills in a host that is missing
        raise _unknown(dsn)
    user, at, _ = parts.netloc.rpartition("@")
    query = parts.query
    if postgres and query:
        pairs = parse_qsl(query, keep_blank_values=True)
        if any(name in _WHERE for name, _ in pairs):
            query = urlencode([pair for pair in pairs if pair[0] not in _WHERE])
    replaced = parts._replace(netloc=f"{user}{at}{address}", query=query)
    return urlunsplit(replaced)


def _connection_string(dsn: str, address: Address) -> str:
    position, kept, host = 0, [], ""
    text = dsn.strip()
    while position < len(text):
        found = _SETTING.match(text, position)
        if found is None:
            raise _unknown(dsn)
        if found["name"] not in _WHERE:
            kept.append(f"{found['name']}={found['value']}")
        elif found["name"] == "host":
            host = found["value"].strip("'")
        position = found.end()
    # A name stays what certificates and password files are looked up by; `hostaddr` alone
    # says where to connect to. A directory, or several names, cannot stay.
    name = host if re.fullmatch(r"[\w.\-]+", host) else address.host
    return " ".join([*kept, f"host={name}", f"hostaddr={address.host}", f"port={address.port}"])


def libpq_variables(address: Address) -> dict[str, str]:
    """What libpq reads where a program does not say where to connect to."""
    return {"PGHOST": address.host, "PGHOSTADDR": address.host, "PGPORT": str(address.port)}


@contextmanager
def variables_set(variables: Mapping[str, str]) -> Iterator[None]:
    """Have these in `os.environ` for a while; then what was there before."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
