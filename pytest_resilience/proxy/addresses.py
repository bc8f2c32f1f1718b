"""Addresses of proxies and servers: `host:port`, in every way it is written.

Data source names with another address: URLs, libpq strings, environment variables.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import re
import socket

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from pytest_resilience.chaos.parsing.messages import inline
from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.chaos.shared_settings import SharedSetting
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.errors import ConfigurationError


__all__ = [
    "Address", "Server", "SocketAddress", "libpq_variables", "loopback", "parse_address",
    "redirect", "redirected_variables", "resolve", "variable",
]  # fmt: skip

_HIGHEST_PORT = 65535
_DIGITS = 20  # of a port, with zeros in front
_LONGEST_HOST = 255  # characters: more has no name of the DNS, nor an address with its zone
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


@dataclass(frozen=True, slots=True)
class Address:
    """A host, by name or address, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """An address as the kernel takes it: a family, and its form of host and port."""

    family: int
    sockaddr: tuple[Any, ...]

    def __str__(self) -> str:
        return str(Address(*self.sockaddr[:2]))


@dataclass(frozen=True, slots=True)
class Server:
    """A host and port to connect to, and what they were resolved to, the preferred one first."""

    address: Address
    addresses: tuple[SocketAddress, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Every `host:port` that it is known by."""
        return tuple(dict.fromkeys(map(str, (self.address, *self.addresses))))

    def __str__(self) -> str:
        return str(self.address)


def parse_address(what: str, value: Any) -> Address:
    """`what` (for messages) from "host:port", "[v6]:port", a pair or an Address.

    Raises ConfigurationError for anything else. Port 0 stands for any free one.
    """
    if isinstance(value, Address):
        return value
    allowed = "give 'host:port' or (host, port)"
    if isinstance(value, str):
        if "://" in value:
            raise ConfigurationError(f"{what}={shortened(value)} is a URL; {allowed}")
        host, colon, number = value.strip().rpartition(":")
        bare = host.startswith("[") and host.endswith("]")
        if not colon or (":" in host and not bare):
            raise ConfigurationError(f"{what}={shortened(value)} has no port; {allowed}")
        pair: Any = (host[1:-1] if bare else host, number)
    else:
        pair = value
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[0], str):
        raise ConfigurationError(f"{what}={shortened(value)} is no address; {allowed}")
    if len(pair[0]) > _LONGEST_HOST:
        raise ConfigurationError(
            f"{what}={shortened(value)}: a host has at most {_LONGEST_HOST} characters; {allowed}"
        )
    return Address(pair[0], _port(what, value, pair[1]))


def _port(what: str, value: Any, port: Any) -> int:
    number = port if isinstance(port, int) and not isinstance(port, bool) else -1
    if isinstance(port, str) and port.isascii() and port.isdigit() and len(port) <= _DIGITS:
        number = int(port)
    if not 0 <= number <= _HIGHEST_PORT:
        raise ConfigurationError(
            f"{what}={shortened(value)}: a port is a number up to {_HIGHEST_PORT}; "
            "write 'db:5432', say"
        )
    return number


def resolve(what: str, value: Any) -> Server:
    """The server at an address, of which `what` is for messages. Raises ConfigurationError."""
    address = parse_address(what, value)
    if not address.host or not address.port:
        raise ConfigurationError(
            f"{what}={str(address)!r} needs a host and a port to connect to; write 'db:5432', say"
        )
    try:
        with limits_lifted():  # it reads files, and asks other machines
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{what}={str(address)!r} cannot be resolved: {error}; give a host that this "
            "machine knows"
        ) from error
    return Server(address, tuple(SocketAddress(family, where) for family, *_, where in found))


def loopback(value: Any) -> SocketAddress:
    """Where to listen. Raises ConfigurationError for what other machines could reach."""
    address = parse_address("listen", value)
    host = "127.0.0.1" if address.host.lower() == "localhost" else address.host
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        parsed = None
    if parsed is None or not parsed.is_loopback:
        raise ConfigurationError(
            f"listen={str(address)!r} is not loopback, and a proxy listens nowhere else; "
            f"give '127.0.0.1:{address.port}' or '[::1]:{address.port}'"
        )
    family = socket.AF_INET if parsed.version == 4 else socket.AF_INET6
    return SocketAddress(family, (host, address.port))


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
