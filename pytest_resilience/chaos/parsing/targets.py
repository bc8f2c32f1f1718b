"""Patterns of what experiments are aimed at: hosts and ports, paths of files, statements of SQL."""

from __future__ import annotations

import fnmatch
import os
import re
import socket

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from functools import lru_cache
from typing import Any
from typing import Protocol

from pytest_resilience.chaos.operation import ACCEPTED_FROM
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.parsing.experiment_specs import split_patterns
from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.errors import ConfigurationError


__all__ = [
    "Numbers", "PathPattern", "Paths", "StatementPattern", "Target", "accepted_from",
    "as_shown", "control_word", "is_accepted", "parse_paths", "parse_statements",
    "parse_targets", "plain_text",
]  # fmt: skip

_HIGHEST_PORT = 65535
_LONGEST = 300  # characters: a name of the DNS has 253, and globs take time to match
_HOST = re.compile(r"\[[0-9a-fA-F:.*?%]+\]|(?!!)[\w.*?\-\[\]!]+")
_ONE_BRACKET = re.compile(r"\[[^\]]*\]")
_PORT = re.compile(r"(?:[0-9*?]|\[!?[0-9-]+\])+")
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")  # 2, or 2-5
_DRIVE = re.compile(r"[A-Za-z]:\\")
_WILDCARDS = re.compile(r"[*?\[]")
_COMMENTS = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_QUOTED = re.compile(r"[\"`\[]([^\W\d]\w*)[\"`\]]")
_WILD = {"*": ".*", "?": "."}
_LONG = 2048  # characters; what is longer, such as an INSERT of many rows, hardly comes twice
_CONTROL = {
    "begin": "begin",
    "commit": "commit",
    "end": "commit",
    "rollback": "rollback",
    "abort": "rollback",
    "savepoint": "savepoint",
    "release": "savepoint",
}


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
            f"target {shortened(value)} is not a text; give one such as 'api.example.com:443'"
        )
    targets = []
    for text in texts:
        if not isinstance(text, (str, Target)):
            raise ConfigurationError(
                f"target {shortened(text)} is not a text; give one such as 'api.example.com:443'"
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


@dataclass(frozen=True, slots=True)
class PathPattern:
    """The files that a glob such as `data/**/*.json` stands for.

    `*` and `?` stand for characters of one name, `[a-z]` for one of them, and `**` for any number
    of folders. A glob whose last part is a plain name stands for the file or folder of that
    name and for everything below it. A relative glob begins at the folder that is the current
    one when a file is used; one that begins with `**` begins anywhere. `~` is the user's home.
    """

    text: str

    def __post_init__(self) -> None:
        if not self.text.strip() or "\0" in self.text:
            raise ConfigurationError(
                f"path={self.text!r}: there is no such file; give one such as 'data/**'"
            )
        if os.sep == "/" and _DRIVE.match(self.text):
            raise ConfigurationError(
                f"path={self.text!r} cannot match anything: a path of Windows; give one such as "
                "'data/**'"
            )

    def matches(self, path: str) -> bool:
        """Whether an absolute path matches."""
        whole = os.path.normpath(os.path.expanduser(self.text))
        parts = path.split(os.sep)
        if self.text.partition(os.sep)[0] == "**":
            return _matches(parts, ["", *whole.split(os.sep)])
        try:
            glob = os.path.abspath(whole).split(os.sep)
        except OSError:
            return False  # the current folder has been removed: nothing is in it
        return _matches(parts, glob) or _matches(parts, _resolved(glob))

    @property
    def is_relative(self) -> bool:
        """Whether it begins at the current folder."""
        return not self.text.startswith((os.sep, "~", "**"))

    def __str__(self) -> str:
        return self.text


def _resolved(glob: list[str]) -> list[str]:
    """With the links resolved in front of the first sign: from there on they are matched."""
    plain = next((at for at, part in enumerate(glob) if _WILDCARDS.search(part)), len(glob))
    base = os.path.realpath(os.sep.join(glob[:plain]) or os.sep)
    return [*base.rstrip(os.sep).split(os.sep), *glob[plain:]]


def _matches(parts: list[str], glob: list[str]) -> bool:
    if _WILDCARDS.search(glob[-1]):
        return _follows(parts, glob)
    least = len(glob) - glob.count("**")
    return any(_follows(parts[:end], glob) for end in range(least, len(parts) + 1))


def _follows(parts: list[str], glob: list[str]) -> bool:
    """Whether each part of a path is what the glob has at its place."""
    if not glob:
        return not parts
    if glob[0] == "**":
        least = 1 if len(glob) == 1 else 0  # at the end: what is below, not the folder itself
        return any(_follows(parts[at:], glob[1:]) for at in range(least, len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], glob[0]) and _follows(parts[1:], glob[1:])


@dataclass(frozen=True, slots=True)
class Paths:
    """Several globs, one of which has to match."""

    patterns: tuple[PathPattern, ...]

    def accepts(self, operation: Operation) -> bool:
        """Whether the operation is on a file that matches."""
        return any(pattern.matches(name) for name in operation.names for pattern in self.patterns)

    def __str__(self) -> str:
        return f"path {' | '.join(map(str, self.patterns))}"


def parse_paths(name: str, value: Any) -> Paths:
    """One glob, several in one text between `|`, a path object, or an iterable of them.

    Raises ConfigurationError.
    """
    if isinstance(value, Paths):
        return value
    texts = [
        os.fspath(each) if isinstance(each, os.PathLike) else each
        for each in split_patterns(value) or []
    ]
    if not texts or not all(isinstance(each, str) for each in texts):
        raise ConfigurationError(
            f"{name}={shortened(value)}: give a glob of files such as 'data/**'"
        )
    return Paths(tuple(PathPattern(each.strip()) for each in texts))


def plain_text(statement: str) -> str:
    """A statement in lower case, without comments, quoted names and needless space."""
    return _remembered(statement) if len(statement) <= _LONG else _plain_text(statement)


def _plain_text(statement: str) -> str:
    text = _QUOTED.sub(r"\1", _COMMENTS.sub(" ", statement))
    return " ".join(text.lower().split()).rstrip("; ")


_remembered = lru_cache(maxsize=4096)(_plain_text)


@dataclass(frozen=True)
class StatementPattern:
    """The statements that a text such as `SELECT … FROM orders*` stands for.

    `*` and `…` stand for anything, `?` for one character. Case, quotes around names, comments
    and white space do not matter. The whole statement must match, but for a text without any
    wildcard, which stands for how a statement begins: `UPDATE accounts`.
    """

    text: str

    def __post_init__(self) -> None:
        if not plain_text(self.text):
            raise ConfigurationError(
                f"match={self.text!r}: there is no such statement; give 'UPDATE orders*', say"
            )

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        text = plain_text(self.text.replace("…", "*"))
        pattern = "".join(_WILD.get(sign) or re.escape(sign) for sign in text)
        if not _WILD.keys() & set(text):
            pattern += r"\b.*" if text[-1].isalnum() else ".*"
        return re.compile(pattern, re.DOTALL)

    def matches(self, statement: str) -> bool:
        """Whether a statement matches."""
        return self._pattern.fullmatch(plain_text(statement)) is not None

    def __str__(self) -> str:
        return self.text


def parse_statements(name: str, value: Any) -> tuple[StatementPattern, ...]:
    """One pattern, or several in one text between `|`. Raises ConfigurationError."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(f"{name}={shortened(value)}: give a text such as 'UPDATE orders*'")
    return tuple(StatementPattern(each.strip()) for each in value.split("|"))


def control_word(statement: str) -> str:
    """How it controls transactions: "begin", "commit", "rollback", "savepoint", or ""."""
    text = plain_text(statement)
    first, _, rest = text.partition(" ")
    if first == "start" and rest.startswith("transaction"):
        return "begin"
    if first == "rollback" and re.search(r"\bto\b", rest):
        return "savepoint"
    return _CONTROL.get(first, "")
