"""Experiments in one line: `network_latency:delay=200ms,rate=0.5,target=api.*`.

A value with a comma, quote or surrounding space stands in double quotes, in which a
quote or backslash is escaped by a backslash.
"""

from __future__ import annotations

import re

from collections.abc import Mapping
from typing import Any

from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.errors import ConfigurationError


__all__ = ["format_spec", "parse_spec"]

_PAIR = re.compile(
    r"""\s*(?P<name>[^=,"\s]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^,"]*))\s*(?:,|$)""",
    re.DOTALL,
)


_NOT_IN_A_NAME = frozenset(" ,=")  # the colon was forgotten


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
