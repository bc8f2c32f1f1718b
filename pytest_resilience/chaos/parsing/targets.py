"""Patterns of hosts and ports, the targets of network experiments."""

from __future__ import annotations

import fnmatch
import re
import socket

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from typing import Protocol

from pytest_resilience.chaos.operation import ACCEPTED_FROM
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.chaos.parsing.texts import split_patterns
from pytest_resilience.errors import ConfigurationError


__all__ = ["Numbers", "Target", "accepted_from", "as_shown", "is_accepted", "parse_targets"]

_HIGHEST_PORT = 65535
_LONGEST = 300  # characters: a name of the DNS has 253, and globs take time to match
_HOST = re.compile(r"\[[0-9a-fA-F:.*?%]+\]|(?!!)[\w.*?\-\[\]!]+")
_ONE_BRACKET = re.compile(r"\[[^\]]*\]")
_PORT = re.compile(r"(?:[0-9*?]|\[!?[0-9-]+\])+")
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")  # 2, or 2-5


def _host_in(url: str) -> str:
    """Host and port of a URL, quoted as one would write them; an example where it has none."""
    return repr(url.partition("://")[2].partition("/")[0] or "api.example.com:443")


class Numbers(Protocol):
    """The numbers of connections among those of a target."""

    def of(self, target: Target, operation: Operation) -> int:
        """That of the operation's connection, from 1; 0 where it has none."""


@dataclass(frozen=True)
class Target:
    """A `host`, `host:port` or `[v6]:port` pattern with shell globs, case-insensitive.

    A port can be a range, `host:8000-8100`. With `#2` behind it is the second connection of those
    that the rest matches, in each process, with `#2-4` one of three. With `!` in front what
    matches is excluded. `from host:port` is a connection that this process accepted from there,
    which no other target is about.

    Raises ConfigurationError for a text that no connection could ever match.

    Attributes:
        text: as it was written.
        excludes: whether what it matches is not to be hit.
        accepted: whether it is about connections that this process accepted.
        connections: the first and the last of the connections that are meant; None for all.
    """

    text: str

    def __post_init__(self) -> None:
        host, port = self._parts
        self._check_connections()
        if "://" in self.text or "/" in self.text:
            raise self._useless("a URL", f"give host and port only, as {_host_in(self.text)}")
        if len(self.text) > _LONGEST:
            raise self._useless("no name is as long", f"give {_LONGEST} characters at most")
        if not host:
            raise self._useless("no host", f"for every host write '*:{port or '*'}'")
        if not _HOST.fullmatch(host):
            raise self._useless(
                f"{shortened(host)} is no host name or address",
                "bare IPv6 needs brackets; give one such as 'api.example.com:443'",
            )
        if not (_PORT.fullmatch(port) or _RANGE.fullmatch(port)):
            raise self._useless(f"port {port!r} is not a number", "e.g. 'api.example.com:443'")
        ports = _range(port)
        if ports is None and port.isdigit():  # of very many digits
            ports = int(port), int(port)
        for each in ports or ():
            if not 0 < each <= _HIGHEST_PORT:
                raise self._useless(f"there is no port {each}", f"give one of 1 to {_HIGHEST_PORT}")
        if ports is not None and ports[0] > ports[1]:
            raise self._useless(
                f"no port is in {port}", f"the lower comes first, as in '{ports[1]}-{ports[0]}'"
            )
        if self.excludes and (host, port, self.connections) == ("*", "*", None):
            raise self._useless("it excludes every connection", "leave it out")

    def _check_connections(self) -> None:
        number, low_high = self._written[2], self.connections
        if number is not None and (low_high is None or not 0 < low_high[0] <= low_high[1]):
            raise self._useless(
                f"there is no connection {number!r}",
                "they are numbered from 1, as in 'api.example.com:443#2' or '#2-4'",
            )

    def _useless(self, why: str, cure: str) -> ConfigurationError:
        return ConfigurationError(
            f"target {shortened(self.text)} cannot match anything: {why}; {cure}"
        )

    @cached_property
    def _written(self) -> tuple[bool, str, str | None]:
        """Whether it excludes, the host with the port, and what is behind `#`."""
        text = self.text.strip().lower()
        excludes = text.startswith("!")
        where, hash_sign, number = text.removeprefix("!").strip().partition("#")
        return excludes, where.strip(), number.strip() if hash_sign else None

    @cached_property
    def excludes(self) -> bool:
        return self._written[0]

    @cached_property
    def accepted(self) -> bool:
        return is_accepted(self._written[1])

    @cached_property
    def connections(self) -> tuple[int, int] | None:
        return _range(self._written[2] or "")

    @cached_property
    def _parts(self) -> tuple[str, str]:
        text = self._written[1].removeprefix(ACCEPTED_FROM).lstrip()
        host, colon, port = text.rpartition(":")
        if not colon or _ONE_BRACKET.fullmatch(text):  # the latter: all of it is a v6 address
            host, port = text, "*"
        return host.removesuffix("."), port  # the dot of the root says nothing more

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], Callable[[str], object]]:
        host, port = self._parts
        if host.startswith("[") and ":" in host:  # a v6 address, not a character class
            host = as_shown(host[1:-1])
        ports = _range(port)
        if ports is None:
            return re.compile(fnmatch.translate(host)), re.compile(fnmatch.translate(port)).match
        meant = range(ports[0], ports[1] + 1)
        return (
            re.compile(fnmatch.translate(host)),
            lambda port: port.isdecimal() and int(port) in meant,
        )

    def matches(self, name: str) -> bool:
        """Whether it is about a `host:port`, meant or excluded; an empty port is any port."""
        name = name.lower()
        if is_accepted(name) is not self.accepted:
            return False
        host, _, port = name.removeprefix(ACCEPTED_FROM).rpartition(":")
        host_pattern, matches_port = self._patterns
        return bool(
            host_pattern.match(host.strip("[]").rstrip(".")) and (not port or matches_port(port))
        )

    def is_about(self, operation: Operation, numbers: Numbers | None, *, otherwise: bool) -> bool:
        """Whether it is about an operation; `otherwise` where it goes by an unknown number."""
        for name in operation.names:
            if self.matches(name):
                break
        else:
            return False
        if self.connections is None:
            return True
        first, last = self.connections
        if numbers is None:
            return otherwise
        if number := numbers.of(self, operation):
            return first <= number <= last
        return otherwise and bool(operation.tcp.connection)

    def __str__(self) -> str:
        return self.text

    def __getstate__(self) -> dict[str, str]:
        """For a child process: what was found out so far is not to be pickled."""
        return {"text": self.text}


def accepted_from(peer: str) -> str:
    """The name of a connection that was accepted from `peer`, a `host:port`."""
    return ACCEPTED_FROM + peer


def is_accepted(name: str) -> bool:
    """Whether it is the name of a connection that was accepted."""
    return name.startswith(ACCEPTED_FROM)


def _range(text: str) -> tuple[int, int] | None:
    """The first and the last of `2-5`, or of `2`; None for other texts."""
    found = _RANGE.fullmatch(text)
    return found and (int(found[1]), int(found[2] or found[1]))


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
    excluded = {each.text.removeprefix("!").strip() for each in targets if each.excludes}
    included = [each.text for each in targets if not each.excludes]
    if included and excluded.issuperset(included):
        raise ConfigurationError(
            f"target {shortened(' | '.join(map(str, targets)))} cannot match anything: it excludes "
            "all that it includes; leave one out"
        )
    return tuple(targets)
