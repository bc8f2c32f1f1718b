"""Values that nobody means, by name: what each place that takes input is tried with."""

from __future__ import annotations

import math

from pathlib import Path
from typing import Any


__all__ = ["ANY", "one_sentence"]


class Unspeakable:
    """What cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError

    __str__ = __repr__


def _nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


ANY: dict[str, Any] = {
    "none": None, "true": True, "false": False, "zero": 0, "three": 3, "half": 0.5,
    "negative": -1, "negative float": -0.5, "huge": 10**400, "many digits": 10**5000,
    "huge float": 1e308, "tiny": 5e-324, "nan": math.nan, "inf": math.inf, "-inf": -math.inf,
    "complex": 1j, "empty": "", "space": "  ", "text": "x", "superscript": "²", "arabic": "٣",
    "digits": "9" * 5000, "long": "x" * 100_000, "NUL": "a\0b", "line end": "a\nb",
    "escape": "\x1b[31m", "surrogate": "\ud800", "command": "::error::x", "BOM": "\ufeffx",
    "'nan%'": "nan%", "'inf'": "inf", "huge text": "1e309s", "pipes": "|||||", "dots": "..",
    "half an interval": "1..", "an interval backwards": "2s..1s", "brackets": "[" * 50,
    "stars": "*" * 5000, "parenthesis": "(", "URL": "http://x/", "long port": "h:" + "9" * 5000,
    "port 0": "h:0", "half of IPv6": "[::1", "no module": "nowhere:x", "colon": ":",
    "space in a module": "a b:c", "bytes": b"x", "list": [1], "empty list": [], "lists": [[]],
    "tuple": (), "set": {1}, "mapping": {"a": 1}, "empty mapping": {}, "deep": _nested(3000),
    "unspeakable": Unspeakable(), "class": int, "error": ValueError(), "path": Path("a\0b"),
    "function": len, "object": object(),
}  # fmt: skip


def one_sentence(text: str, *, most: int = 1500) -> bool:
    """Whether a message is one line that a terminal can show, and that anybody reads.

    A second line may lead to a page.
    """
    sentence, _, link = text.partition("\nSee https://")
    printable = sentence.isprintable() and link.rstrip("\n").isprintable()
    return bool(sentence.strip()) and printable and len(sentence) <= most
