"""Addresses of proxies and servers: `host:port`, in every way it is written."""

from __future__ import annotations

import ipaddress
import socket

from dataclasses import dataclass
from typing import Any

from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.errors import ConfigurationError


__all__ = ["Address", "Server", "SocketAddress", "loopback", "parse_address", "resolve"]

_HIGHEST_PORT = 65535
_DIGITS = 20  # of a port, with zeros in front
_LONGEST_HOST = 255  # characters: more has no name of the DNS, nor an address with its zone


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
