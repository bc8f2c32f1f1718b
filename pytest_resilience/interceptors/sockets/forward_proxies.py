"""Connections by way of a forward proxy: whom they lead to, by what the client asks the proxy for.

A client that goes through an HTTP or SOCKS proxy connects to that, and names its real peer in what
it sends first:

    CONNECT api.internal:443 HTTP/1.1      a tunnel: all that follows the answer is the peer's
    GET http://api.internal/orders HTTP/1.1     one request: the next may be for somebody else
    05 01 00 | 05 01 00 03 0c api.internal 01bb     a tunnel of SOCKS5, after its greeting
    04 01 01bb 0a000001 ... 00     and of SOCKS4, which SOCKS4a gives a name to

So the first message of each connection is looked at, and of most only that one. Sources: RFC 9110
(9.3.6) and RFC 9112 (3.2.2); RFC 1928 and RFC 1929; the specifications of SOCKS4 and SOCKS4a.
"""

from __future__ import annotations

import ipaddress
import re
import weakref

from dataclasses import dataclass
from typing import Final
from typing import Generic
from typing import TypeVar

from pytest_resilience.chaos.parsing.http_requests import REQUEST_LINE
from pytest_resilience.interceptors.sockets.peer_names import HostNames


__all__ = ["ForwardProxies"]

_K = TypeVar("_K")
_URL = re.compile(r"(?i:(http|https|ws|wss)://)(?:[^/?#@]*@)?([^/?#]+)")
_AUTHORITY = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^\s:\[\]]+)(?::([0-9]{1,5}))?")
_PORTS: Final = {"http": "80", "ws": "80", "https": "443", "wss": "443"}
_SOCKS5, _SIGNING_IN = 5, 1  # the first byte of what a client sends; the latter with its password
_CONNECT_4, _CONNECT_5 = b"\x04\x01", b"\x05\x01\x00"
_NAME: Final = 3  # the kind of an address
_LENGTHS: Final = {1: 4, 4: 16}  # bytes of the others
_NO_ADDRESS = b"\x00\x00\x00"  # one of SOCKS4a begins so, and a name follows the user

_Address = tuple[str, str]  # host and port


@dataclass(slots=True)
class _Conversation:
    """What was said so far to a peer that may be a proxy.

    Attributes:
        names: by which the peer is known.
        greeted: it was greeted as SOCKS5 is.
        is_http: it was asked for a request to somebody else.
        tunnel: to whom it was asked for a tunnel that is not used yet.
    """

    names: tuple[str, ...]
    greeted: bool = False
    is_http: bool = False
    tunnel: _Address | None = None

    @property
    def has_begun(self) -> bool:
        """Whether what was said is what one says to a proxy."""
        return self.greeted or self.is_http or self.tunnel is not None

    def hear(self, message: bytes) -> _Address | None:
        """To whom this goes that is sent; None if to the peer itself, or to whom the last went."""
        request = REQUEST_LINE.match(message)
        if request is not None and request[1] == b"CONNECT":
            self.tunnel = _address(request[2].decode("latin-1"))
        elif self.tunnel is not None:
            return self.tunnel
        elif request is not None:
            url = _URL.match(request[2].decode("latin-1"))
            found = url and _address(url[2], _PORTS[url[1].lower()])
            self.is_http = self.is_http or found is not None
            return found
        elif not self.is_http:  # else it is more of a body
            self._hear_socks(message)
        return None

    def _hear_socks(self, message: bytes) -> None:
        if self.greeted and message.startswith(_CONNECT_5):
            self.tunnel = _asked_of_socks5(message)
        elif self.greeted:
            self.greeted = message[:1] == bytes([_SIGNING_IN])
        elif message.startswith(_CONNECT_4):
            self.tunnel = _asked_of_socks4(message)
        elif len(message) > 2:  # how many ways to sign in it knows, and which
            self.greeted = message[0] == _SOCKS5 and message[1] == len(message) - 2


class ForwardProxies(Generic[_K]):
    """The connections that may be to a proxy, as long as they may.

    Attributes:
        names: what is known of host names.
    """

    def __init__(self, names: HostNames) -> None:
        self.names = names
        self._conversations = weakref.WeakKeyDictionary[_K, _Conversation]()

    def __contains__(self, connection: _K) -> bool:
        return connection in self._conversations

    def begin(self, connection: _K, names: tuple[str, ...]) -> None:
        """It is open, or about to be, to a peer with these names, and nothing was sent on it."""
        self._conversations[connection] = _Conversation(names)

    def has_begun(self, connection: _K) -> bool:
        """Whether something was said on it that one says to a proxy."""
        return self._conversations[connection].has_begun

    def hear(self, connection: _K, message: bytes) -> tuple[str, ...] | None:
        """The client sends this, or what begins so: by which names the peer is known it is for.

        None if these are as they were.
        """
        conversation = self._conversations[connection]
        address = conversation.hear(message)
        if address is None and conversation.has_begun:
            return None
        if not conversation.is_http:
            del self._conversations[connection]
        return None if address is None else self._behind(conversation, address)

    def receive(self, connection: _K) -> None:
        """The client receives: who speaks first, or is no proxy, is none."""
        if not self._conversations[connection].has_begun:
            del self._conversations[connection]

    def encrypt(self, connection: _K) -> tuple[str, ...] | None:
        """TLS begins on it, through the tunnel if there is one: as `hear`."""
        conversation = self._conversations.get(connection)
        if conversation is None or conversation.tunnel is None:
            return None
        del self._conversations[connection]
        return self._behind(conversation, conversation.tunnel)

    def forget(self) -> None:
        """Every connection: nothing is intercepted any more."""
        self._conversations.clear()

    def _behind(self, conversation: _Conversation, address: _Address) -> tuple[str, ...]:
        known = (*self.names.of(*address), *conversation.names)
        return tuple(dict.fromkeys(known))


def _address(authority: str, port: str | None = None) -> _Address | None:
    """Host and port in a text; None if it has none. `port`: which is meant where none is said."""
    found = _AUTHORITY.fullmatch(authority)
    port = port if found is None else found[2] or port
    return None if found is None or port is None else (found[1].strip("[]"), port)


def _asked_of_socks5(message: bytes) -> _Address | None:
    """Version, command, a zero, the kind of the address, the address, and the port in two bytes."""
    kind, rest = message[3:4], message[4:]
    if kind == bytes([_NAME]):
        size, rest = int.from_bytes(rest[:1]), rest[1:]
    else:
        size = _LENGTHS.get(int.from_bytes(kind), 0)
    if not size or len(rest) != size + 2:
        return None
    host, port = rest[:size], str(int.from_bytes(rest[size:]))
    if kind == bytes([_NAME]):
        return host.decode("latin-1"), port
    return str(ipaddress.ip_address(host)), port


def _asked_of_socks4(message: bytes) -> _Address | None:
    """Version, command, the port in two bytes, an address in four, a user, and a name, if any."""
    port, address, (_, *names) = message[2:4], message[4:8], message[8:].split(b"\0")
    if len(address) != _LENGTHS[1] or not names:  # the user's name ends with a zero
        return None
    if address.startswith(_NO_ADDRESS) and names[0]:
        return names[0].decode("latin-1"), str(int.from_bytes(port))
    return str(ipaddress.ip_address(address)), str(int.from_bytes(port))
