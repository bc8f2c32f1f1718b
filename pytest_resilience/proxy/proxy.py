"""A proxy on loopback that delays, damages, loses and cuts off what passes through it."""

from __future__ import annotations

import contextlib
import sys
import threading
import warnings

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any
from typing import Self
from typing import cast

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.context_managers import DualContext
from pytest_resilience.chaos.context_managers import dual_context
from pytest_resilience.chaos.context_managers import in_thread
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.experiment import ChaosType
from pytest_resilience.chaos.parsing.experiment_specs import check_name
from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.chaos.types.schema import DOWNSTREAM
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import DuplicateNameError
from pytest_resilience.errors import NeverFiredError
from pytest_resilience.errors import ShutdownError
from pytest_resilience.errors import UnknownNameError
from pytest_resilience.locks import fork_safe
from pytest_resilience.proxy.addresses import Server
from pytest_resilience.proxy.addresses import SocketAddress
from pytest_resilience.proxy.addresses import libpq_variables
from pytest_resilience.proxy.addresses import loopback
from pytest_resilience.proxy.addresses import redirect
from pytest_resilience.proxy.addresses import redirected_variables
from pytest_resilience.proxy.addresses import resolve
from pytest_resilience.proxy.addresses import variable
from pytest_resilience.proxy.event_loop import EventLoop
from pytest_resilience.proxy.experiments import Experiments
from pytest_resilience.proxy.tcp_forwarder import TcpForwarder
from pytest_resilience.proxy.toxic_types import Toxic
from pytest_resilience.seeds import new_seed


if TYPE_CHECKING:
    from pytest_resilience.chaos.types.calls import InjectIntoProxy


__all__ = ["ChaosProxy"]


def _by_type(
    inject: Callable[..., DualContext[ActiveExperiment]],
) -> InjectIntoProxy[DualContext[ActiveExperiment]]:
    """For type checkers: its parameters are those of the type that is named."""
    return cast("InjectIntoProxy[DualContext[ActiveExperiment]]", inject)


class ChaosProxy:
    """Leads clients to `upstream`, from a port on loopback, in a thread of its own.

    A context manager. Safe to use from any threads.

        with ChaosProxy("127.0.0.1:5432") as proxy:
            connection = psycopg.connect(proxy.dsn("postgresql://app@localhost/app"))
            with proxy.inject("network_latency", delay="200ms"): ...

    Attributes:
        name: what it is called, for people and for clients of its HTTP API.
        seed: decides all chance in it.
        engine: decides what experiments do to each connect, request and response; its listeners
            are notified of faults.
    """

    def __init__(
        self,
        upstream: str | tuple[str, int],
        listen: str | tuple[str, int] = ("127.0.0.1", 0),
        *,
        protocol: str = "tcp",
        name: str = "",
        enabled: bool = True,
        clock: Clock = MACHINE_CLOCK,
        seed: int | None = None,
        engine: Engine | None = None,
        calm: bool = False,
        intensity: float | None = None,
    ) -> None:
        """`upstream` and `listen` are "host:port" or a pair; port 0 to listen is any free one.

        `protocol` is "tcp" or "udp". Over UDP each datagram is late, lost, doubled, out of order
        or refused by itself, and each address that something comes from is a connection.

        Of one that is `calm` no experiment starts; `intensity` is for those that name none.

        Raises ConfigurationError for an address that is none, cannot be resolved, is not
        loopback (to listen), or is taken. The server need not be there yet.
        """
        kind = _forwarder_of(protocol)
        server, address = resolve("upstream", upstream), loopback(listen)
        self.name = check_name("a proxy", name) if name else str(server)
        self.seed = new_seed() if seed is None else seed
        self.engine = engine or Engine(lambda _: (), clock=clock)
        self._toxics: tuple[Toxic, ...] = ()
        self._lock = fork_safe(self, "_lock", threading.RLock)
        self._environments: set[contextlib.ExitStack] = set()
        self._loop = EventLoop(f"proxy to {server}", clock)
        self._forwarder = self._start(kind, server, address, enabled=enabled)
        self._experiments = Experiments(
            self.engine, self._forwarder, self._loop, self.seed, calm=calm, intensity=intensity
        )

    def _start(
        self, kind: type[TcpForwarder], server: Server, listen: SocketAddress, *, enabled: bool
    ) -> TcpForwarder:
        loop, engine, seed = self._loop, self.engine, self.seed
        try:
            return loop.call(
                lambda: kind(server, listen, enabled=enabled, loop=loop, engine=engine, seed=seed)
            )
        except BaseException:
            loop.close(lambda: None)
            raise

    @property
    def address(self) -> tuple[str, int]:
        """Where clients connect to: host and port."""
        return self.host, self.port

    @property
    def host(self) -> str:
        return self._forwarder.address.host

    @property
    def port(self) -> int:
        return self._forwarder.address.port

    @property
    def listen(self) -> str:
        """Where clients connect to, as `host:port`."""
        return str(self._forwarder.address)

    @property
    def upstream(self) -> str:
        """Where it leads to, as `host:port`."""
        return str(self._forwarder.server)

    @property
    def enabled(self) -> bool:
        """True while it lets clients in."""
        return self._forwarder.enabled

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._forwarder.open)

    @property
    def accepted(self) -> int:
        """Connections there have been."""
        return self._forwarder.accepted

    @property
    def unreachable(self) -> OSError | None:
        """Why the last connect to the server failed; None if it did not."""
        return self._forwarder.unreachable

    @property
    def toxics(self) -> tuple[Toxic, ...]:
        """The toxics, in the order in which bytes pass them."""
        return self._toxics

    def toxic(self, name: str) -> Toxic:
        """One of the toxics. Raises UnknownNameError."""
        for each in self._toxics:
            if each.name == name:
                return each
        raise UnknownNameError("toxic", name, tuple(each.name for each in self._toxics))

    def add(
        self,
        kind: str,
        *,
        stream: str = DOWNSTREAM,
        toxicity: float = 1.0,
        name: str | None = None,
        **attributes: Any,
    ) -> Toxic:
        """Add a toxic, e.g. `add("latency", latency=100, jitter=20)`.

        Times are milliseconds (of `slicer` microseconds), or texts such as "1s". It happens
        to a share `toxicity` of the connections, open and new ones. Raises UnknownNameError,
        ConfigurationError, or DuplicateNameError for a name that is taken.
        """
        return self.apply(Toxic.make(kind, attributes, name=name, stream=stream, toxicity=toxicity))

    def apply(self, toxic: Toxic) -> Toxic:
        """Add a toxic that has been made. Raises DuplicateNameError."""
        with self._lock:
            if any(each.name == toxic.name for each in self._toxics):
                raise DuplicateNameError("toxic", toxic.name)
            self._set_toxics((*self._toxics, toxic))
        return toxic

    def update(self, name: str, *, toxicity: float | None = None, **attributes: Any) -> Toxic:
        """Change a toxic; what is not given stays. Raises as `add`, and UnknownNameError."""
        with self._lock:
            old = self.toxic(name)
            new = old.changed(attributes, toxicity)
            self._set_toxics(tuple(new if each is old else each for each in self._toxics))
        return new

    def remove(self, name: str) -> None:
        """Remove a toxic; what it holds back passes at once. Raises UnknownNameError."""
        with self._lock:
            gone = self.toxic(name)
            self._set_toxics(tuple(each for each in self._toxics if each is not gone))

    @dual_context
    def having(self, kind: str, **parameters: Any) -> Iterator[Toxic]:
        """A toxic for the length of a `with`; see `add`."""
        toxic = self.add(kind, **parameters)
        try:
            yield toxic
        finally:
            with contextlib.suppress(UnknownNameError, ShutdownError):  # others took it away
                self.remove(toxic.name)

    def enable(self) -> None:
        """Let clients in."""
        self._loop.call(self._forwarder.enable)

    def disable(self) -> None:
        """Close all connections, and refuse new ones."""
        self._loop.call(self._forwarder.disable)

    @dual_context
    def down(self) -> Iterator[None]:
        """Disabled for the length of a `with`."""
        self.disable()
        try:
            yield
        finally:
            with contextlib.suppress(ShutdownError):
                self.enable()

    def reset(self) -> None:
        """Enable it, and remove all toxics."""
        with self._lock:
            self._set_toxics(())
            self.enable()

    def move(
        self,
        *,
        upstream: str | tuple[str, int] | None = None,
        listen: str | tuple[str, int] | None = None,
    ) -> None:
        """Lead or listen elsewhere: closes all connections. Raises ConfigurationError."""
        there = self._forwarder
        server = there.server if upstream is None else resolve("upstream", upstream)
        address = loopback(there.address if listen is None else listen)
        self._loop.call(lambda: there.move(server, address))

    @_by_type
    def inject(
        self,
        experiment: ChaosExperiment | ChaosType | str,
        *,
        stream: str | None = None,
        must_fire: bool = True,
        **parameters: Any,
    ) -> DualContext[ActiveExperiment]:
        """Run an experiment, or a type with its parameters, for the length of a `with`.

            proxy.inject("network_latency", delay="100ms", jitter="20ms")
            proxy.inject("network_failure:mode=corrupt,rate=0.1,stream=upstream")

        Every fault of the network can be had but those of names. Its operations are this
        proxy's connects and, with `stream` "downstream", which is the default, the server's
        responses. With "upstream" they are the requests instead, which are late, throttled, cut
        off or damaged on their way to the server, or, by "reset" and "timeout", never get there;
        with "both" they are requests and responses, each on its own. A partition is both ways
        unless a stream is given: what is sent meanwhile arrives when it is over. What is about
        responses (lose_answer, status, malformed_json) or connecting (refuse) has no stream.

        Over UDP its operations are datagrams. drop, duplicate and reorder are both ways too, unless
        a stream is given, and a partition loses what is sent. Of a refusal of some nobody is told.

        The kernel accepts a client before anybody can decide about it: so a connect that is
        delayed, or lost in silence, delays the first response, and a refusal of some clients
        is a reset. A refusal of all is a real one; nobody hears of those it meets, so it counts
        as one hit. An injected response is plain HTTP/1; the server gets the request all the
        same. Over TLS and HTTP/2 nobody can inject one, and what is damaged in TLS is what is
        encrypted.

        Raises ConfigurationError at once for what cannot happen here, and NeverFiredError when
        the `with` ends and nothing matched or was chosen, unless `must_fire` is False.
        """
        return self._experiments.inject(experiment, parameters, stream=stream, must_fire=must_fire)

    def close(self, reason: str = "") -> None:
        """Close it with all its connections, at once; harmless when it is closed.

        Its methods raise ShutdownError from then on, with `reason` if there is one.
        """
        self._loop.close(self._forwarder.close, reason)
        for stack in list(self._environments):
            stack.close()

    def forgotten(self) -> list[NeverFiredError]:
        """An error for each `inject` that had to fire and that no `with` entered."""
        return self._experiments.forgotten()

    @property
    def injected(self) -> tuple[ActiveExperiment, ...]:
        """The experiments that were started by `inject`, the latest 1000, in order."""
        return tuple(self._experiments.ran)

    def spared(self) -> list[str]:
        """A line for each experiment, of the latest, that chance kept from hitting more."""
        return self._experiments.spared()

    def dsn(self, dsn: str) -> str:
        """A URL, libpq connection string or `host:port` that leads here instead."""
        return redirect(dsn, self._forwarder.address)

    def environment(self, *names: str) -> dict[str, str]:
        """Variables that lead subprocesses here: those of libpq, or those named, with DSNs.

            subprocess.run(command, env={**os.environ, **proxy.environment("DATABASE_URL")})

        Raises ConfigurationError for a name that is not set, or to something else.
        """
        here = self._forwarder.address
        return redirected_variables(names, here) if names else libpq_variables(here)

    def in_environment(self, *names: str) -> DualContext[None]:
        """Set `environment(...)` in this process for a `with`, or until the proxy is closed."""
        return self._setting_variables(self.environment(*names))

    @dual_context
    def _setting_variables(self, variables: Mapping[str, str]) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            self._environments.add(stack)
            stack.callback(self._environments.discard, stack)
            for name, value in variables.items():
                stack.callback(variable(name).hold(value))
            self._loop.check_open()  # now: it could be closed meanwhile
            yield

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await in_thread(self.close)

    def __del__(self) -> None:
        # Not made, when its constructor has raised; and when Python ends, its thread does.
        loop = vars(self).get("_loop")
        if loop is not None and not loop.closed and not sys.is_finalizing():
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def _set_toxics(self, toxics: tuple[Toxic, ...]) -> None:
        self._loop.call(lambda: self._forwarder.set_toxics(toxics))
        self._toxics = toxics

    def __repr__(self) -> str:
        state = "enabled" if self.enabled else "disabled"
        return f"<ChaosProxy {self.name!r} {self.listen} -> {self.upstream} {state}>"


def _forwarder_of(protocol: Any) -> type[TcpForwarder]:
    if protocol not in ("tcp", "udp"):
        raise ConfigurationError(f"protocol={shortened(protocol)}: give 'tcp' or 'udp'")
    if protocol == "tcp":
        return TcpForwarder
    from pytest_resilience.proxy.udp_forwarder import UdpForwarder

    return UdpForwarder
