"""Patterns of hosts and ports, the targets of network experiments."""

from __future__ import annotations

import fnmatch
import re
import socket

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.chaos.parsing.texts import split_patterns
from pytest_resilience.errors import ConfigurationError


__all__ = ["Target", "as_shown", "parse_targets"]

_HIGHEST_PORT = 65535
_LONGEST = 300  # characters: a name of the DNS has 253, and globs take time to match
_HOST = re.compile(r"\[[0-9a-fA-F:.*?%]+\]|[\w.*?\-\[\]!]+")
_ONE_BRACKET = re.compile(r"\[[^\]]*\]")
_PORT = re.compile(r"(?:[0-9*?]|\[!?[0-9-]+\])+")


@dataclass(frozen=True)
class Target:
    """A `host`, `host:port` or `[v6]:port` pattern with shell globs, case-insensitive.

    Raises ConfigurationError for a text that no connection could ever match.
    """

    text: str

    def __post_init__(self) -> None:
        host, port = self._parts
        if "://" in self.text or "/" in self.text:
            raise self._useless("a URL", "give host and port only")
        if len(self.text) > _LONGEST:
            raise self._useless("no name is as long", f"give {_LONGEST} characters at most")
        if not host:
            raise self._useless("no host", f"for every host write '*:{port or '*'}'")
        if not _HOST.fullmatch(host):
            raise self._useless(
                f"{shortened(host)} is no host name or address", "bare IPv6 needs brackets"
            )
        if not _PORT.fullmatch(port):
            raise self._useless(f"port {port!r} is not a number", "e.g. 'api.example.com:443'")
        if port.isdigit() and not 0 < int(port) <= _HIGHEST_PORT:
            raise self._useless(f"there is no port {port}", f"ports are 1 to {_HIGHEST_PORT}")

    def _useless(self, why: str, cure: str) -> ConfigurationError:
        return ConfigurationError(
            f"target {shortened(self.text)} cannot match anything: {why}; {cure}"
        )

    @cached_property
    def _parts(self) -> tuple[str, str]:
        text = self.text.strip().lower()
        host, colon, port = text.rpartition(":")
        if not colon or _ONE_BRACKET.fullmatch(text):  # the latter: all of it is a v6 address
            host, port = text, "*"
        return host.removesuffix("."), port  # the dot of the root says nothing more

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        host, port = self._parts
        if host.startswith("[") and ":" in host:  # a v6 address, not a character class
            host = as_shown(host[1:-1])
        return re.compile(fnmatch.translate(host)), re.compile(fnmatch.translate(port))

    def matches(self, name: str) -> bool:
        """Whether a `host:port` is meant; an empty port is any port."""
        host, _, port = name.lower().rpartition(":")
        host_pattern, port_pattern = self._patterns
        return bool(
            host_pattern.match(host.strip("[]").rstrip("."))
            and (not port or port_pattern.match(port))
        )

    def __str__(self) -> str:
        return self.text


def as_shown(address: str) -> str:
    """An IPv6 address the way the system shows it; anything else as it is."""
    try:
        return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, address))
    except OSError:
        return address


def parse_targets(value: Any) -> tuple[Target, ...]:
    """One pattern, several in one text between `|`, or an iterable of patterns."""
    if isinstance(value, Target):
        return (value,)
    texts = split_patterns(value)
    if texts is None:
        raise ConfigurationError(
            f"target {shortened(value)} is not a text; e.g. 'api.example.com:443'"
        )
    targets = []
    for text in texts:
        if not isinstance(text, (str, Target)):
            raise ConfigurationError(
                f"target {shortened(text)} is not a text; e.g. 'api.example.com:443'"
            )
        targets.append(text if isinstance(text, Target) else Target(text.strip()))
    if not targets:
        raise ConfigurationError("target is empty; leave it out for every target")
    return tuple(targets)
