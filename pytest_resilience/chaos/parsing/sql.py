"""Patterns of SQL statements, the targets of database experiments."""

from __future__ import annotations

import re

from dataclasses import dataclass
from functools import cached_property
from functools import lru_cache
from typing import Any

from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.errors import ConfigurationError


__all__ = ["StatementPattern", "control_word", "parse_statements", "plain_text"]

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
