"""Globs of paths, the targets of file experiments."""

from __future__ import annotations

import fnmatch
import os
import re

from dataclasses import dataclass
from typing import Any

from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.chaos.parsing.texts import split_patterns
from pytest_resilience.errors import ConfigurationError


__all__ = ["PathPattern", "Paths", "parse_paths"]

_WILDCARDS = re.compile(r"[*?\[]")


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
