"""What kind of a request a client has sent, as far as that decides what an answer is."""

from __future__ import annotations

from typing import Final


__all__ = ["BODILESS", "EXPECTANT", "FRAMED", "kind_of"]

BODILESS: Final = "bodiless"  # whose answer has no body
EXPECTANT: Final = "expectant"  # the head of one, whose body is to follow when it is wanted
FRAMED: Final = "framed"  # the first of many that share a connection

_PREFACE = b"PRI * HTTP/2.0\r\n"
_END_OF_HEAD = b"\r\n\r\n"
_EXPECTATION = b"\r\nexpect: 100-continue\r\n"


def kind_of(message: bytes) -> str:
    """Of the beginning of what was sent at once: one of the above, or ""."""
    if message.startswith(b"HEAD "):
        return BODILESS
    if message.startswith(_PREFACE):
        return FRAMED
    if message.endswith(_END_OF_HEAD) and _EXPECTATION in message.lower():
        return EXPECTANT
    return ""
