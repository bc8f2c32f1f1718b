"""Which files an experiment is aimed at: globs of paths."""

from __future__ import annotations

import os
import re

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pytest_resilience.chaos.operation import Operation
from pytest_resilience.errors import ConfigurationError


__all__ = ["PathPattern", "Paths", "parse_paths"]

_SIGNS = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class PathPattern:
    """The files that a glob such as `data/**/*.json` stands for.

    `*` and `?` stand for signs of one name, `[a-z]` for one of them, and `**` for any number
    of folders. A glob whose last part is a plain name stands for the file or folder of that
    name and for everything below it. A relative glob begins at the folder that is the current
    one when a file is used; `~` is the user's home.
    """

    text: str

    def __post_init__(self) -> None:
        if not self.text.strip() or "\0" in self.text:
            raise ConfigurationError(f"path={self.text!r}: there is no such file")

    def matches(self, path: str) -> bool:
        """Whether an absolute path is meant, by this name."""
        whole = os.path.expanduser(self.text)
        if not os.path.isabs(whole):
            whole = os.path.join(os.getcwd(), whole)
        base, rest = _split(os.path.normpath(whole))
        # Links in front of the first sign are those of the place; behind it they are matched.
        bases = dict.fromkeys((base, os.path.realpath(base)))
        return any(_compiled(each, rest).fullmatch(path) for each in bases)

    def __str__(self) -> str:
        return self.text


@lru_cache(maxsize=256)
def _split(glob: str) -> tuple[str, tuple[str, ...]]:
    """The folder, or file, in front of the first sign, and the parts from there on."""
    parts = glob.split("/")
    plain = next((at for at, part in enumerate(parts) if _SIGNS.search(part)), len(parts))
    return "/".join(parts[:plain]) or "/", tuple(parts[plain:])


@lru_cache(maxsize=256)
def _compiled(base: str, rest: tuple[str, ...]) -> re.Pattern[str]:
    text = re.escape(base.rstrip("/"))
    for part in rest[:-1]:
        text += "(?:/[^/]+)*" if part == "**" else f"/{_expression(part)}"
    if rest:
        text += "(?:/[^/]+)+" if rest[-1] == "**" else f"/{_expression(rest[-1])}"
    if not rest or not _SIGNS.search(rest[-1]):
        text += "(?:/.*)?"
    return re.compile(text, re.DOTALL)


def _expression(part: str) -> str:
    """One name's."""
    signs = {"*": "[^/]*", "?": "[^/]"}
    found = re.findall(r"\[!?\]?[^\]]*\]|.", part, re.DOTALL)
    text = "".join(
        signs.get(each) or (_one_of(each) if each[1:] else re.escape(each)) for each in found
    )
    return f"(?=[^/]){text}"


def _one_of(brackets: str) -> str:
    inner = brackets[1:-1].replace("\\", r"\\")
    if inner.startswith("!"):
        return f"(?!/)[^{inner[1:]}]"
    return f"(?!/)[{inner}]" if not inner.startswith("^") else f"(?!/)[\\{inner}]"


@dataclass(frozen=True, slots=True)
class Paths:
    """Several globs, one of which has to match."""

    patterns: tuple[PathPattern, ...]

    def admits(self, operation: Operation) -> bool:
        """Whether the operation is about a file that is meant."""
        return any(pattern.matches(name) for name in operation.names for pattern in self.patterns)

    def __str__(self) -> str:
        return f"path {' | '.join(map(str, self.patterns))}"


def parse_paths(name: str, value: Any) -> Paths:
    """One glob, several in one text between `|`, a path object, or an iterable of them.

    Raises ConfigurationError.
    """
    if isinstance(value, Paths):
        return value
    several: Iterable[Any]
    if isinstance(value, str):
        several = value.split("|")
    else:
        several = [value] if isinstance(value, os.PathLike) else value
    if not isinstance(several, Iterable) or isinstance(several, bytes):
        raise ConfigurationError(f"{name}={value!r}: give a glob of files such as 'data/**'")
    texts = [os.fspath(each) if isinstance(each, os.PathLike) else each for each in several]
    if not texts or not all(isinstance(each, str) for each in texts):
        raise ConfigurationError(f"{name}={value!r}: give a glob of files such as 'data/**'")
    return Paths(tuple(PathPattern(each.strip()) for each in texts))
