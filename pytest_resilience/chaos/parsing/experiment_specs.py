"""Experiments as users write them: names, flags, patterns, files, and all of one in a line.

Such a line is `network_latency:delay=200ms,rate=0.5,target=api.*`. A value with a comma, quote or
surrounding space stands in double quotes there, in which a quote or backslash is escaped by a
backslash.
"""

from __future__ import annotations

import os
import re

from collections.abc import Iterable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_resilience.chaos.parsing.messages import inline
from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.errors import ConfigurationError


__all__ = [
    "check_flag", "check_name", "format_spec", "parse_spec", "read_text", "split_patterns",
]  # fmt: skip

_LONGEST = 200  # characters of a name
_PAIR = re.compile(
    r"""\s*(?P<name>[^=,"\s]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^,"]*))\s*(?:,|$)""",
    re.DOTALL,
)
_NOT_IN_A_NAME = frozenset(" ,=")  # the colon was forgotten


def read_text(path: Path) -> str:
    """The text of a file in UTF-8. Raises ConfigurationError naming it."""
    try:
        if path.is_char_device() or path.is_block_device():  # some have no end
            raise ConfigurationError(
                f"{inline(str(path))} cannot be read: it is a device; give a file"
            )
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error  # without the path, which stands in front
        raise ConfigurationError(f"{inline(str(path))} cannot be read: {why}") from None


def split_patterns(value: Any) -> list[Any] | None:
    """One pattern, several in one text between `|`, or an iterable of patterns; None for others."""
    if isinstance(value, str):
        return [each.strip() for each in value.split("|")]
    if isinstance(value, os.PathLike):
        return [value]
    is_list = isinstance(value, Iterable) and not isinstance(value, (Mapping, bytes))
    return list(value) if is_list else None


def check_name(what: str, value: Any) -> str:
    """`value`, if it is fit for a name that terminals, reports and CI logs show.

    `what` it names is for the message. Raises ConfigurationError.
    """
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(f"name={shortened(value)}: {what} needs a name; give a text")
    if len(value) > _LONGEST:
        raise ConfigurationError(
            f"name={shortened(value)}: {what} has a name of at most {_LONGEST} characters"
        )
    if not value.isprintable() or "::" in value or "##[" in value:
        raise ConfigurationError(
            f"name={shortened(value)}: {what} has a name of one line, without control characters, "
            "'::' and '##[', which CI systems take for commands"
        )
    return value


def check_flag(name: str, value: Any) -> bool:
    """`value`, if it is True or False. Raises ConfigurationError."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name}={shortened(value)}: give True or False")
    return value


def parse_spec(text: str) -> tuple[str, dict[str, str]]:
    """The type and the parameters, both still text. Raises ConfigurationError."""
    kind, _, rest = text.partition(":")
    kind = kind.strip()
    if not kind or set(kind) & _NOT_IN_A_NAME:
        raise ConfigurationError(
            f"{shortened(text)} names no chaos type; write it as "
            "'network_latency:delay=200ms,rate=0.5'"
        )
    given: dict[str, str] = {}
    position = 0
    while position < len(rest):
        found = _PAIR.match(rest, position)
        if found is None:
            raise ConfigurationError(
                f"{shortened(text)}: {shortened(rest[position:])} is not name=value; values with "
                "commas need double quotes"
            )
        name = found["name"]
        if name in given:
            raise ConfigurationError(f"{shortened(text)}: {name!r} is given twice; keep one")
        quoted = found["quoted"]
        given[name] = (
            found["plain"].strip()
            if quoted is None
            else re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
        )
        position = found.end()
    return kind, given


def format_spec(kind: str, given: Mapping[str, Any]) -> str:
    """The one line that `parse_spec` reads back."""
    pairs = ",".join(f"{name}={_quoted(str(value))}" for name, value in given.items())
    return f"{kind}:{pairs}" if pairs else kind


def _quoted(value: str) -> str:
    if value and value == value.strip() and not set(value) & set(',"\\'):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
