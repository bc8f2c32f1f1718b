"""Data source names with another address: URLs, libpq strings, environment variables."""

from __future__ import annotations

import functools
import os
import re

from collections.abc import Iterable
from urllib.parse import unquote_plus

from pytest_resilience.chaos.parsing.texts import inline
from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.chaos.shared_settings import SharedSetting
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.proxy.addresses import Address


__all__ = ["libpq_variables", "redirect", "redirected_variables", "variable"]

_WHERE = ("host", "hostaddr", "port")  # as libpq calls them, in a string and in a URL's query
# What else than its host says in a URL where it leads to, by what its scheme begins with.
_WHERE_IN_QUERY = {"postgres": _WHERE, "mysql": ("unix_socket",), "mariadb": ("unix_socket",)}
_SCHEME = r"(?P<scheme>[A-Za-z][\w.+\-]*)://"
_REST = r"(?P<where>[^/?#@]*)(?P<path>(?:/[^?#]*)?)(?P<query>\?[^#]*)?(?P<rest>(?:#.*)?)"
_URL = re.compile(_SCHEME + r"(?P<who>[^/?#]*@)?" + _REST, re.DOTALL)
# As SQLAlchemy reads it, where a password can be anything but "@".
_LOOSE_URL = re.compile(_SCHEME + r"(?P<who>[^:/?#@]*:[^@]*@)" + _REST, re.DOTALL)
_HOSTS = re.compile(r"(\[[^\]]*\]|[^:,]*)(:\d*)?(,(\[[^\]]*\]|[^:,]*)(:\d*)?)*")
_PASSWORD = re.compile(r"(://[^:/?#@]*:).*@", re.DOTALL)
_SETTING = re.compile(
    r"\s*(?P<name>[a-z_]+)\s*=\s*(?P<value>'(?:\\.|[^'\\])*'|(?:\\.|[^\s'\\])*)(?=\s|$)", re.DOTALL
)
_PLAIN = re.compile(r"(?:\[[0-9a-fA-F:.%]+\]|[\w.\-]+):\d+")


def redirect(dsn: str, address: Address) -> str:
    """`dsn` with `address` for its host and port, and all else as it is.

    Takes URLs (`postgresql://`, `redis://`, `http://` …), libpq's `name=value` strings and
    plain `host:port`. Raises ConfigurationError for a text that is none of these.
    """
    if not dsn.strip():
        raise _unknown(dsn)
    if re.match(_SCHEME, dsn.strip()):
        return _url(dsn, address)
    if _PLAIN.fullmatch(dsn.strip()):
        return str(address)
    return _connection_string(dsn, address)


def _named(dsn: str) -> str:
    """It, for a message: these end up in logs, where a password should not."""
    return "dsn=" + shortened(_PASSWORD.sub(r"\1***@", dsn))


def _unknown(dsn: str) -> ConfigurationError:
    return ConfigurationError(
        f"{_named(dsn)} has no host to replace; give a URL with a host, a libpq string such as "
        "'host=db port=5432 dbname=app', or 'host:port'"
    )


def _url(dsn: str, address: Address) -> str:
    # Not urllib's functions: they take offence at a bracket in a password, and tidy up.
    parts, loose = _URL.fullmatch(dsn.strip()), _LOOSE_URL.fullmatch(dsn.strip())
    if parts and loose and not _HOSTS.fullmatch(parts["where"]):
        parts = loose
    if parts is None:
        raise _unknown(dsn)
    scheme = parts["scheme"].lower()
    if scheme.endswith("+srv"):
        raise ConfigurationError(
            f"{_named(dsn)} is looked up in the name service, hosts and ports; give one with the "
            f"host, such as '{scheme.removesuffix('+srv')}://host:port/...'"
        )
    if not parts["where"] and not scheme.startswith("postgres"):  # libpq fills it in
        raise _unknown(dsn)
    query = parts["query"] or ""
    for beginning, names in _WHERE_IN_QUERY.items():
        if scheme.startswith(beginning):
            query = _without(query, names)
    return f"{parts['scheme']}://{parts['who'] or ''}{address}{parts['path']}{query}{parts['rest']}"


def _without(query: str, names: tuple[str, ...]) -> str:
    """A URL's query without some of its fields; all else stays to the letter."""
    fields = query.removeprefix("?").split("&")
    kept = [each for each in fields if unquote_plus(each.partition("=")[0]) not in names]
    return query if len(kept) == len(fields) else "?" * bool(kept) + "&".join(kept)


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
    """The variables that libpq reads where a program names no host and port."""
    return {"PGHOST": address.host, "PGHOSTADDR": address.host, "PGPORT": str(address.port)}


def redirected_variables(names: Iterable[str], address: Address) -> dict[str, str]:
    """Variables of the environment that hold DSNs, leading to `address` instead.

    Raises ConfigurationError for one that is not set, or holds none.
    """
    for name in names:
        if not os.environ.get(name):
            raise ConfigurationError(
                f"{inline(name)} is not set in the environment; leave it out, or set it to the DSN "
                "that is to lead to the proxy"
            )
    redirected = {}
    for name in names:
        try:
            redirected[name] = redirect(os.environ[name], address)
        except ConfigurationError as error:
            raise ConfigurationError(f"{name} in the environment: {error}") from error
    return redirected


@functools.cache
def variable(name: str) -> SharedSetting[str | None]:
    """A variable of this process's environment; None where it is not set."""

    def write(value: str | None) -> None:
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value

    return SharedSetting(lambda: os.environ.get(name), write)
