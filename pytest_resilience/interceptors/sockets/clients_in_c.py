"""Clients in C, where they are called in Python: to tell where they went, if that is not reached.

What they do over TCP is reached where they connect in C (native/), but on some machines only, and
their datagrams nowhere. Then they are noted, so that an experiment of the network which never fires
can say where they went, and how to lead them through a proxy.
"""

from __future__ import annotations

import os
import re
import sys

from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace
from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import SEND_DATAGRAM
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.interceptors.sockets.peer_names import HostNames
from pytest_resilience.patching import ImportHook
from pytest_resilience.patching import Observer
from pytest_resilience.patching import Patches


__all__ = ["ClientsInC"]

_GRPC_TARGET = re.compile(
    r"(?:dns:(?:///)?|ipv[46]:)?(?P<host>\[[^\]]+\]|[^/:\[\]]+):(?P<port>\d+)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Driver:
    """A client that connects in C.

    Attributes:
        name: of the module.
        way: how it connects.
        use: how it is led through a proxy.
        host: what has to be set so that it uses TCP.
        port: where it connects to if nobody says.
    """

    name: str
    way: str
    use: str
    host: str = ""
    port: int = 0


_PSYCOPG = _Driver(
    name="psycopg",
    way="through libpq, which is C",
    use="psycopg.connect(proxy.dsn(...))",
    host="host (or PGHOST)",
    port=5432,
)
_PSYCOPG2 = replace(_PSYCOPG, name="psycopg2", use="psycopg2.connect(proxy.dsn(...))")
_MYSQLDB = _Driver(
    name="MySQLdb",
    way="through its library, which is C",
    use="MySQLdb.connect(host=proxy.host, port=proxy.port, ...)",
    host="host",
    port=3306,
)
_GRPC = _Driver(name="grpc", way="in C", use="grpc.insecure_channel(proxy.listen)")
_GRPC_AIO = _Driver(name="grpc.aio", way="in C", use="grpc.aio.insecure_channel(proxy.listen)")
_UVLOOP = _Driver(
    name="uvloop",
    way="in C, where asyncio's own loop would be reached",
    use="connect to proxy.listen",
)


class ClientsInC:
    """See the module.

    Attributes:
        import_hook: reaches the clients, as soon as they are loaded.
    """

    def __init__(
        self, engine: Engine, names: HostNames, patches: Patches, out_of_reach: str | None
    ) -> None:
        """`out_of_reach`: why TCP connections that are made in C are; None if they are not."""
        self._engine = engine
        self._names = names
        self._out_of_reach = out_of_reach
        self._observer = Observer(patches)
        self.import_hook = ImportHook(
            {
                "psycopg": self._psycopg,
                "psycopg2": self._psycopg2,
                "MySQLdb.connections": self._mysqldb,
                "grpc._channel": lambda: self._grpc("grpc._channel", _GRPC),
                "grpc.aio._channel": lambda: self._grpc("grpc.aio._channel", _GRPC_AIO),
                "pycares": self._pycares,
                "uvloop": self._uvloop,
            },
            patches,
        )

    def _psycopg(self) -> None:
        module = sys.modules["psycopg"]

        def connecting(_class: Any, conninfo: str = "", *_: Any, **__: Any) -> None:
            self._libpq(_PSYCOPG, module.conninfo.conninfo_to_dict(conninfo))

        # Below every way to connect, sync or not: once for each address that is tried.
        self._observer.observe(module.BaseConnection, "_connect_gen", connecting)

    def _psycopg2(self) -> None:
        module = sys.modules["psycopg2"]

        def connecting(dsn: str, *_: Any, **__: Any) -> None:
            self._libpq(_PSYCOPG2, module.extensions.parse_dsn(dsn))

        self._observer.observe(module, "_connect", connecting)

    def _libpq(self, driver: _Driver, given: Mapping[str, Any]) -> None:
        """A connection string; libpq asks the environment for what it does not say."""
        host, address, port = (
            str(given.get(name) or os.environ.get(variable) or "")
            for name, variable in (
                ("host", "PGHOST"),
                ("hostaddr", "PGHOSTADDR"),
                ("port", "PGPORT"),
            )
        )
        for name, at, number in _places(host, address, port or str(driver.port)):
            if at or (name and not name.startswith(("/", "@"))):
                known = name if name and not name.startswith("/") else at
                self._connecting(driver, known, number, at or known)
            else:
                self._at_home(driver, number)

    def _mysqldb(self) -> None:
        def connecting(_connection: Any, *args: Any, **kwargs: Any) -> None:
            host = str(kwargs.get("host") or (args[0] if args else "") or "localhost")
            port = str(kwargs.get("port") or _MYSQLDB.port)
            if kwargs.get("unix_socket") or host == "localhost":  # to its library a socket, too
                self._at_home(_MYSQLDB, port)
            else:
                self._connecting(_MYSQLDB, host, port)

        self._observer.observe(
            sys.modules["MySQLdb.connections"].Connection, "__init__", connecting
        )

    def _grpc(self, module: str, driver: _Driver) -> None:
        def opening(_channel: Any, target: Any, *_: Any, **__: Any) -> None:
            found = _GRPC_TARGET.fullmatch(os.fsdecode(target))
            if found is not None:  # else it is a list, a socket, or resolved in some other way
                self._connecting(driver, found["host"].strip("[]"), found["port"])

        self._observer.observe(sys.modules[module].Channel, "__init__", opening)

    def _pycares(self) -> None:
        """By which aiodns asks name servers."""

        def asking(channel: Any, *_: Any, **__: Any) -> None:
            for server in channel.servers:  # 127.0.0.1:53, or as dns://127.0.0.1:53?tcpport=5353
                host, _, port = server.removeprefix("dns://").partition("?")[0].rpartition(":")
                use = "aiodns.DNSResolver([proxy.host], udp_port=proxy.port)"
                self._asking("pycares (aiodns)", host.strip("[]"), port, use)

        for name in ("query", "search", "getaddrinfo", "gethostbyaddr", "getnameinfo"):
            self._observer.observe(sys.modules["pycares"].Channel, name, asking)

    def _uvloop(self) -> None:
        def connecting(
            _loop: Any, _protocol: Any, host: Any = None, port: Any = None, **given: Any
        ) -> None:
            if given.get("sock") is None:  # else it is a socket that is seen here
                self._connecting(_UVLOOP, str(host), str(port))

        def sending(
            _loop: Any, _protocol: Any, _local: Any = None, remote_addr: Any = None, **_: Any
        ) -> None:
            host, port = remote_addr[:2]
            self._asking("uvloop", str(host), str(port), "send to proxy.address")

        loop = sys.modules["uvloop"].Loop
        self._observer.observe(loop, "create_connection", connecting)
        self._observer.observe(loop, "create_datagram_endpoint", sending)

    def _connecting(self, driver: _Driver, host: str, port: str, address: str = "") -> None:
        names = self._called(host, port, address or host)
        if self._out_of_reach is None:
            return  # it is seen where it really connects
        there = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        why = self._out_of_reach and f" ({self._out_of_reach})"
        self._engine.note_unmatched(
            Operation(
                kind=CONNECT,
                target=there,
                names=names,
                remark=f"by {driver.name} {driver.way}",
                advice=(
                    f"{driver.name} connected to {there} {driver.way}{why}: "
                    + _led(f"chaos_proxy('{there}'); {driver.use}")
                ),
            )
        )

    def _asking(self, name: str, host: str, port: str, use: str) -> None:
        """Datagrams are sent in C."""
        there = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._engine.note_unmatched(
            Operation(
                kind=SEND_DATAGRAM,
                target=there,
                names=self._called(host, port),
                remark=f"UDP, by {name} in C",
                advice=(
                    f"{name} sent datagrams to {there} in C: "
                    + _led(f"chaos_proxy('{there}', protocol='udp'); {use}")
                ),
            )
        )

    def _at_home(self, driver: _Driver, port: str) -> None:
        self._engine.note_unmatched(
            Operation(
                kind=CONNECT,
                target=f"unix socket of port {port}",
                names=self._called("localhost", port),
                remark=f"by {driver.name} {driver.way}",
                advice=(
                    f"{driver.name} connected through a unix socket, where there is no network: "
                    f"set {driver.host} to an address such as 127.0.0.1, and "
                    + _led(f"chaos_proxy('127.0.0.1:{port}'); {driver.use}")
                ),
            )
        )

    def _called(self, host: str, port: str, *addresses: str) -> tuple[str, ...]:
        here = ("127.0.0.1", "::1") if host == "localhost" else ()
        known = (self._names.of(each, port) for each in (host, *addresses, *here))
        return tuple(dict.fromkeys(name for names in known for name in names))


def _led(through: str) -> str:
    return (
        f"lead it through a proxy with the fixture chaos_proxy: proxy = {through}; then "
        "proxy.inject(...) what is injected here."
    )


def _places(host: str, address: str, port: str) -> Iterator[tuple[str, str, str]]:
    """The name, the address and the port of each of several, which stand between commas."""
    names, addresses, ports = host.split(","), address.split(","), port.split(",")
    for number in range(max(len(names), len(addresses))):
        yield (
            names[number] if number < len(names) else "",
            addresses[number] if number < len(addresses) else "",
            ports[number] if number < len(ports) else ports[-1],
        )
