"""By which names the peer of a connection is known."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import itertools
import sys

from collections import OrderedDict
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.clock import running_loop
from pytest_resilience.import_hook import ImportHook
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.foreign_objects import text_of
from pytest_resilience.patching import Patches


__all__ = ["HostNameHooks", "HostNames", "addresses_in", "is_literal", "known_by_tls"]

_TRIO = "trio._highlevel_open_tcp_stream"  # which has it under a name of its own

Resolve = Callable[..., Awaitable[Any]]


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
            place = self._engine.call_site() if RESOLVE in self._engine.active_kinds else ""
            port = args[0] if args else kwargs.get("port")
            with self._names.resolved_elsewhere(host, port, place):
                found = await original(host, *args, **kwargs)
            self._names.learn_all(host, found)
            return found

        return getaddrinfo


_MOST = 4096  # remembered addresses; the oldest go first
_MOST_ASKED = 64  # of one thread or task

# By whom (a `HostNames`) and address: what this thread or task has asked for last.
_asked: ContextVar[Mapping[tuple[int, str], str]] = ContextVar("hosts asked for", default={})  # noqa: B039  # never changed in place
_numbers = itertools.count()


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
    loop: Any = running_loop()
    transport = loop._transports.get(sock.fileno())  # noqa: SLF001  # which notes them
    protocol, hosts = None if transport is None else transport.get_protocol(), []
    while protocol is not None:
        tls = getattr(protocol, "_sslobj", None)
        hosts.append(text_of(getattr(tls, "server_hostname", None)))
        protocol = getattr(protocol, "_app_protocol", None)
    return hosts


def _join(host: str, port: str) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
