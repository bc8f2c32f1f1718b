"""By which names the peer of a connection is known, also by way of a forward proxy.

`HostNames` knows what was resolved to its address, and `ForwardProxies` whom a client has asked the
proxy for.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import itertools
import re
import sys
import weakref

from collections import OrderedDict
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from typing import Final
from typing import Generic
from typing import TypeVar

from pytest_resilience.chaos.descriptors import transports_of
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.parsing.http_requests import REQUEST_LINE
from pytest_resilience.clock import running_loop
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.foreign_objects import text_of
from pytest_resilience.patching import ImportHook
from pytest_resilience.patching import Patches


__all__ = [
    "ForwardProxies",
    "HostNameHooks",
    "HostNames",
    "addresses_in",
    "is_literal",
    "known_by_tls",
]

_TRIO = "trio._highlevel_open_tcp_stream"  # which has it under a name of its own

Resolve = Callable[..., Awaitable[Any]]
_MOST = 4096  # remembered addresses; the oldest go first
_MOST_ASKED = 64  # of one thread or task
# By whom (a `HostNames`) and address: what this thread or task has asked for last.
_asked: ContextVar[Mapping[tuple[int, str], str]] = ContextVar("hosts asked for", default={})  # noqa: B039  # never changed in place
_numbers = itertools.count()
_K = TypeVar("_K")
# What is said to forward proxies, of HTTP and of SOCKS.
_URL = re.compile(r"(?i:(http|https|ws|wss)://)(?:[^/?#@]*@)?([^/?#]+)")
_AUTHORITY = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^\s:\[\]]+)(?::([0-9]{1,5}))?")
_PORTS: Final = {"http": "80", "ws": "80", "https": "443", "wss": "443"}
_SOCKS5, _SIGNING_IN = 5, 1  # the first byte of what a client sends; the latter with its password
_CONNECT_4, _CONNECT_5 = b"\x04\x01", b"\x05\x01\x00"
_BY_NAME: Final = 3  # the kind of an address
_LENGTHS: Final = {1: 4, 4: 16}  # bytes of the others
_NO_ADDRESS = b"\x00\x00\x00"  # one of SOCKS4a begins so, and a name follows the user
_Address = tuple[str, str]  # host and port


class HostNameHooks:
    """Learns host names from clients that have them resolved elsewhere than in `socket`.

    Attributes:
        import_hook: reaches the clients, as soon as they are loaded.
    """

    def __init__(self, engine: Engine, names: HostNames, patches: Patches) -> None:
        self._engine = engine
        self._names = names
        self._patches = patches
        self.import_hook = ImportHook(
            {
                "aiohttp.connector": self._aiohttp,
                "trio.socket": functools.partial(self._trio, "trio.socket"),
                _TRIO: functools.partial(self._trio, _TRIO),
            },
            patches,
        )

    def _aiohttp(self) -> None:
        connector = sys.modules["aiohttp.connector"].TCPConnector
        if hasattr(connector, "_resolve_host"):
            self._patches.replace(connector, "_resolve_host", self._asking_aiohttp)

    def _trio(self, name: str) -> None:
        module = sys.modules[name]
        if hasattr(module, "getaddrinfo"):
            self._patches.replace(module, "getaddrinfo", self._asking_trio)

    def _asking_aiohttp(self, original: Resolve) -> Resolve:
        @functools.wraps(original)
        async def _resolve_host(connector: Any, host: str, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            found = await original(connector, host, *args, **kwargs)
            for each in list.__iter__(found) if is_a(found, list) else ():
                address = dict.get(each, "host") if is_a(each, dict) else None
                if is_a(address, str):
                    self._names.learn(host, text_of(address))
            return found

        return _resolve_host

    def _asking_trio(self, original: Resolve) -> Resolve:
        @functools.wraps(original)
        async def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            place = self._engine.call_site() if RESOLVE in self._engine.active.kinds else ""
            port = args[0] if args else kwargs.get("port")
            with self._names.resolved_elsewhere(host, port, place):
                found = await original(host, *args, **kwargs)
            self._names.learn_all(host, found)
            return found

        return getaddrinfo


def is_literal(host: object) -> bool:
    """Whether `host` is an address already, so that nothing has to be resolved."""
    return _is_address(text_of(host))


@functools.lru_cache  # it takes longer than all else that is asked at a connect
def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


@functools.lru_cache  # as above
def _is_loopback(host: str) -> bool:
    return _is_address(host) and ipaddress.ip_address(host.partition("%")[0]).is_loopback


def addresses_in(found: Any) -> list[str]:
    """The addresses in what one of the resolving functions returned.

    Where a test has put something else in the place of it, there are none.
    """
    if is_a(found, str):
        return [text_of(found)]
    if is_a(found, tuple):
        within: Any = or_none(lambda: found[2])
        return [text_of(each) for each in within if is_a(each, str)] if is_a(within, list) else []
    entries = list.__iter__(found) if is_a(found, list) else ()
    hosts = (or_none(lambda entry: entry[4][0], entry) for entry in entries if is_a(entry, tuple))
    return [text_of(host) for host in hosts if is_a(host, str)]


class HostNames:
    """Remembers which host names were resolved to which addresses.

    Several names can share an address. The one that the current thread, or task of asyncio,
    resolved last is the one it is about to connect to; only another one gets all of them.
    """

    def __init__(self) -> None:
        self._hosts: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        self._number = next(_numbers)
        self._places: dict[tuple[str, str], str] = {}

    def learn(self, host: object, address: str) -> None:
        """`host` was resolved to `address`."""
        name = text_of(host) if is_a(host, str, bytes) else ""
        if not name or is_literal(name):
            self.ask(address, address)  # this time nobody asked by name
            return
        others = tuple(each for each in self._hosts.pop(address, ()) if each != name)
        self._hosts[address] = (*others[-7:], name)
        while len(self._hosts) > _MOST:
            self._hosts.popitem(last=False)
        self.ask(name, address)

    def learn_all(self, host: object, found: Any) -> None:
        """`host` was resolved to what one of the resolving functions has `found`."""
        for address in addresses_in(found):
            self.learn(host, address)

    @contextlib.contextmanager
    def resolved_elsewhere(self, host: object, port: object, place: str) -> Iterator[None]:
        """Within, a thread is asked for `host`, for somebody who waits at `place`."""
        key = (text_of(host), text_of(port))
        self._places[key] = place
        try:
            yield
        finally:
            self._places.pop(key, None)

    def place_of(self, host: object, port: object) -> str:
        """Where somebody waits for this to be resolved, if they have said so."""
        return self._places.get((text_of(host), text_of(port)), "")

    def ask(self, name: str, address: str) -> None:
        """This thread or task has asked for `name`, which has this address."""
        before = {key: each for key, each in _asked.get().items() if key[1] != address}
        while len(before) >= _MOST_ASKED:
            del before[next(iter(before))]
        _asked.set({**before, (self._number, address): name})

    def of(self, host: object, port: object) -> tuple[str, ...]:
        """Every `host:port` by which a host name or address is known, the best first."""
        name, suffix = text_of(host), text_of(port)
        return tuple(dict.fromkeys(_join(each, suffix) for each in (*self._known(name), name)))

    def _known(self, host: str) -> tuple[str, ...]:
        mine = _asked.get().get((self._number, host))
        if mine is not None and mine != host:
            return (mine,)
        hosts = self._hosts.get(host, ())
        if hosts and mine is None:
            return hosts  # asked by another thread, as event loops have it done
        if _is_loopback(host):
            return (host, *hosts, "localhost")
        return (host, *hosts)


def known_by_tls(sock: object, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those `names`, and the host whose certificate `sock` has asked for, on any port.

    That of the names is a proxy's where one leads to it.
    """
    host = text_of(or_none(lambda: sock.server_hostname))  # type: ignore[attr-defined]
    for each in filter(None, [host] if host else or_none(_hosts_above, sock) or ()):
        if not any(known.startswith(_join(each, "")) for known in names):
            names = (*names, _join(each, ""))
    return names


def _hosts_above(sock: Any) -> list[str]:
    """Those for which TLS asks that a transport of the loop here makes above the socket.

    TLS to a proxy, and then through it to somebody else, are one above the other.
    """
    transport = transports_of(running_loop()).get(sock.fileno())
    protocol, hosts = None if transport is None else transport.get_protocol(), []
    while protocol is not None:
        tls = getattr(protocol, "_sslobj", None)
        hosts.append(text_of(getattr(tls, "server_hostname", None)))
        protocol = getattr(protocol, "_app_protocol", None)
    return hosts


def _join(host: str, port: str) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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

    A client that goes through an HTTP or SOCKS proxy connects to that, and names its real peer in
    what it sends first:

        CONNECT api.internal:443 HTTP/1.1      a tunnel: all that follows the answer is the peer's
        GET http://api.internal/orders HTTP/1.1     one request: the next may be for somebody else
        05 01 00 | 05 01 00 03 0c api.internal 01bb     a tunnel of SOCKS5, after its greeting
        04 01 01bb 0a000001 ... 00     and of SOCKS4, which SOCKS4a gives a name to

    So the first message of each connection is looked at, and of most only that one. Sources:
    RFC 9110 (9.3.6) and RFC 9112 (3.2.2); RFC 1928 and RFC 1929; the specifications of SOCKS4 and
    SOCKS4a.

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
    if kind == bytes([_BY_NAME]):
        size, rest = int.from_bytes(rest[:1]), rest[1:]
    else:
        size = _LENGTHS.get(int.from_bytes(kind), 0)
    if not size or len(rest) != size + 2:
        return None
    host, port = rest[:size], str(int.from_bytes(rest[size:]))
    if kind == bytes([_BY_NAME]):
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
