"""Services of the user's, by name, and the chaos type that makes them fail.

A service is where it is reached: hosts, which fail on the wire, and callables of the code
under test, which fail with an exception.
"""

from __future__ import annotations

import pkgutil
import re
import threading

from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_resilience.chaos.faults.network import SERVICE_DOWN
from pytest_resilience.chaos.faults.network import Closure
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.faults.network import Refusal
from pytest_resilience.chaos.faults.network import Reset
from pytest_resilience.chaos.faults.network import ServiceError
from pytest_resilience.chaos.faults.network import Silence
from pytest_resilience.chaos.parsing.messages import nearest
from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.chaos.parsing.targets import Target
from pytest_resilience.chaos.types.network import STATUS_PARAMETERS
from pytest_resilience.chaos.types.network import status_response
from pytest_resilience.chaos.types.schema import CHILDREN_PARAMETER
from pytest_resilience.chaos.types.schema import STREAM_PARAMETER
from pytest_resilience.chaos.types.schema import Parameter
from pytest_resilience.chaos.types.schema import TypeSchema
from pytest_resilience.chaos.types.schema import mode_of
from pytest_resilience.chaos.types.schema import one_of
from pytest_resilience.chaos.types.schema import trigger_parameters
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import DuplicateNameError
from pytest_resilience.errors import ServiceFailureError
from pytest_resilience.locks import fork_safe


__all__ = ["SERVICE_FAILURE", "Service", "Services"]

_CALLABLE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")
_MODES = ("error", "refuse", "reset", "close", "timeout", "status", "down")
_MODES_OF: dict[str, tuple[str, ...]] = {
    "exception": ("error",),
    **{each.name: ("status",) for each in STATUS_PARAMETERS},
    "retry_after": ("status", "error"),
}


@dataclass(frozen=True, slots=True)
class Service:
    """Something the code under test depends on.

    Attributes:
        name: what it is called in experiments.
        hosts: where it is reached over the network.
        callables: `module:Class.method` or `module:function`, through which it is used.
    """

    name: str
    hosts: tuple[Target, ...]
    callables: tuple[str, ...]

    @classmethod
    def at(cls, name: str, places: Iterable[str]) -> Service:
        """The service that is reached at `host`, `host:port` or `module:Class.method`.

        Raises ConfigurationError for a name or a place that makes no sense.
        """
        if not re.fullmatch(r"[\w.-]{1,200}", name):
            raise ConfigurationError(
                f"service {shortened(name)}: a name has letters, digits, _, - and ."
            )
        texts = [place.strip() for place in places]
        callables = tuple(text for text in texts if _CALLABLE.fullmatch(text))
        hosts = tuple(Target(text) for text in texts if not _CALLABLE.fullmatch(text))
        if hosts and all(host.excludes for host in hosts):
            raise ConfigurationError(
                f"service {name!r} is said not to be at {' | '.join(map(str, hosts))}; say where "
                "it is, as in '*.internal:443 | !db.internal:443'"
            )
        if not texts:
            raise ConfigurationError(
                f"service {name!r} is nowhere; e.g. 'payments.internal:443' or "
                "'shop.clients:Inventory.check'"
            )
        return cls(name, hosts, callables)

    @classmethod
    def parse(cls, line: str) -> Service:
        """From `name = place | place`. Raises ConfigurationError."""
        name, equals, places = line.partition("=")
        if not equals:
            raise ConfigurationError(
                f"service {shortened(line)}: write it as 'payment = payments.internal:443'"
            )
        return cls.at(name.strip(), [each for each in places.split("|") if each.strip()])

    def __str__(self) -> str:
        return f"{self.name} ({' | '.join([*map(str, self.hosts), *self.callables])})"


class Services:
    """The services that are known, by name."""

    def __init__(self, services: Iterable[Service] = ()) -> None:
        """Raises DuplicateNameError for two of one name."""
        self._known: dict[str, Service] = {}
        self._lock = fork_safe(self, "_lock", threading.Lock)
        for service in services:
            self.add(service)

    def add(self, service: Service) -> None:
        """Make a service known. Raises DuplicateNameError for a name that is taken."""
        with self._lock:
            if service.name in self._known:
                raise DuplicateNameError("service", service.name)
            self._known[service.name] = service

    def remove(self, service: Service) -> None:
        """Forget a service."""
        with self._lock:
            self._known.pop(service.name, None)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all that are known."""
        return tuple(self._known)

    def find(self, name: str) -> Service:
        """The service of a name. Raises ConfigurationError naming the known ones."""
        try:
            return self._known[name]
        except KeyError:
            known = ", ".join(sorted(self._known)) or "none"
            raise ConfigurationError(
                f"unknown service {shortened(name)}{nearest(name, self._known)}; known: {known}. "
                "Declare it in the ini option chaos_services or in a profile. What a test starts "
                "itself, and its markers unless they include the set-up, can also name what "
                "chaos.service() declares before, in a fixture that the test asks for"
            ) from None

    def __contains__(self, name: str) -> bool:
        return name in self._known


def _exception(name: str, value: Any) -> type[Exception]:
    """An exception type, or where it is: `module:Name`, or the name of a built-in one."""
    found = value
    if isinstance(value, str):
        try:
            found = pkgutil.resolve_name(value if ":" in value else f"builtins:{value}")
        except Exception:  # what is imported runs
            raise ConfigurationError(
                f"{name}={shortened(value)}: there is none; write 'TimeoutError' or "
                "'shop.errors:Declined'"
            ) from None
    if not (isinstance(found, type) and issubclass(found, Exception)):
        raise ConfigurationError(
            f"{name}={shortened(value)}: give an exception type or 'module:Name'"
        )
    try:
        ServiceError(exception=found).error("example")
    except Exception as error:
        raise ConfigurationError(
            f"{name}={shortened(value)} cannot be made from a text alone: {error!r}; give a "
            "subclass of it that can"
        ) from None
    return found


def _faults(given: Mapping[str, Any], _intensity: float) -> tuple[Fault, ...]:
    """Without a mode, each kind of place fails in its own way."""
    mode = mode_of(given, _MODES_OF, otherwise="")
    error = ServiceError(
        exception=given.get("exception", ServiceFailureError), retry_after=given.get("retry_after")
    )
    wire: dict[str, tuple[Fault, ...]] = {
        "refuse": (Refusal(),),
        "reset": (Reset(),),
        "close": (Closure(),),
        "timeout": (Silence(),),
        "down": SERVICE_DOWN,
    }
    if "mode" not in given and given.keys() & _MODES_OF.keys() == {"retry_after"}:
        return (error, status_response(given))  # which both have it
    if mode == "status":
        return (status_response(given),)
    if not mode:
        return (error, *wire["refuse"])
    return wire.get(mode) or (_checked(error),)


def _checked(error: ServiceError) -> ServiceError:
    try:
        error.error("example")
    except AttributeError:  # of an exception that lets nobody set it
        raise ConfigurationError(
            f"retry_after={error.retry_after:g}: {error.exception.__name__} cannot have an "
            "attribute retry_after; leave it out"
        ) from None
    return error


SERVICE_FAILURE = TypeSchema(
    summary="services of yours fail: on the wire where they are hosts, else with an exception",
    parameters=(
        Parameter(
            name="mode", unit=", ".join(_MODES), default="error of callables, refuse of hosts",
            parse=one_of(_MODES), help="an exception where it is called, or what a failing "
            "service does on the wire",
        ),
        Parameter(
            name="exception", unit="type, or module:Name", default="ServiceFailureError",
            parse=_exception, help="what callables raise",
        ),
        *STATUS_PARAMETERS,
        STREAM_PARAMETER,
        *trigger_parameters(rate="1 in a test; by flag or profile intensity"),
        CHILDREN_PARAMETER,
    ),
    faults=_faults,
    rate=lambda given, intensity: 1.0 if given.get("mode") == "down" else intensity,
    read_elsewhere=(
        Parameter(
            name="target_services", unit="names, several between |", default="none: it is needed",
            parse=lambda _, value: value, help="which services: names of the ini option "
            "chaos_services, of a profile or of chaos.service()",
        ),
    ),
)  # fmt: skip
