"""Protocols in which both sides speak at any time, told apart by what the client sends. Sans-IO.

There is no response to a request in them: to who counts in it, all that comes is one. After an
upgrade of HTTP (101) another one is spoken, as that of a WebSocket; a client of NATS speaks its own
from the first line on, and one of Redis once it has subscribed to something.
"""

from __future__ import annotations

import re


__all__ = ["ConversationReader"]

_UPGRADE = re.compile(rb"\nupgrade:[ \t]*(?!h2c)\w", re.IGNORECASE)
_FRAME_BEGINS = re.compile(rb"[\x01\x02\x41\x42\x80-\x82\x88-\x8a\xc1\xc2][\x80-\xff]")
_OF_NATS = re.compile(rb"CONNECT \{|SUB \S+ (?:\S+ )?\w+\r\n|H?PUB \S+ (?:\S+ )?\d+(?: \d+)?\r\n")
_OF_REDIS = re.compile(rb"\*\d+\r\n\$\d+\r\n([A-Za-z]+)\r\n")
_SUBSCRIBES = frozenset({b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE", b"MONITOR"})
_WHILE_SUBSCRIBED = frozenset({b"UNSUBSCRIBE", b"PUNSUBSCRIBE", b"SUNSUBSCRIBE", b"PING", b"QUIT"})


class ConversationReader:
    """Knows whether one is going on.

    Attributes:
        is_on: what the client sends last is said in one, and did not begin it.
    """

    __slots__ = ("_is_subscribed", "is_on")

    def __init__(self) -> None:
        self.is_on = False
        self._is_subscribed = False

    def end(self) -> None:
        """The client asks for something."""
        self.is_on = self._is_subscribed = False

    def upgrade(self, head: bytes) -> None:
        """The client sends what is no request, and had asked for something by this head."""
        self.is_on = self.is_on or _UPGRADE.search(head) is not None

    def feed(self, message: bytes) -> None:
        """The client sends this, or what begins so, and it is no HTTP."""
        command = _OF_REDIS.match(message)
        if command is None:
            is_one = self._is_subscribed or _is_of_websocket(message) or _OF_NATS.match(message)
            self.is_on = self.is_on or bool(is_one)
            return
        name = command[1].upper()
        goes_on = name in _SUBSCRIBES or name in _WHILE_SUBSCRIBED
        self.is_on = self._is_subscribed and goes_on
        self._is_subscribed = name in _SUBSCRIBES or self.is_on


def _is_of_websocket(message: bytes) -> bool:
    """Whether a client sends such frames, whose request was not seen: masked, and nothing else."""
    at = 0
    while _FRAME_BEGINS.match(message, at):
        short = message[at + 1] & 0x7F
        extended = {126: 2, 127: 8}.get(short, 0)
        size = int.from_bytes(message[at + 2 : at + 2 + extended], "big") if extended else short
        at += 2 + extended + 4 + size
    return at == len(message) > 0
