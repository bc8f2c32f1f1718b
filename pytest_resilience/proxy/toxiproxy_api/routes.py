"""The routes of Toxiproxy's HTTP API: what each request does to a set of proxies.

Paths, fields, status codes and error texts are the protocol's.
"""

from __future__ import annotations

import json
import threading

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from typing import NoReturn

from pytest_resilience.chaos.parsing.messages import nearest
from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.chaos.types.schema import DOWNSTREAM
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import DuplicateNameError
from pytest_resilience.errors import ShutdownError
from pytest_resilience.errors import UnknownNameError
from pytest_resilience.locks import fork_safe
from pytest_resilience.proxy.addresses import loopback
from pytest_resilience.proxy.addresses import parse_address
from pytest_resilience.proxy.addresses import resolve
from pytest_resilience.proxy.proxy import ChaosProxy
from pytest_resilience.proxy.toxic_types import KINDS
from pytest_resilience.proxy.toxic_types import STREAMS
from pytest_resilience.proxy.toxic_types import Toxic
from pytest_resilience.seeds import derive
from pytest_resilience.seeds import new_seed


__all__ = ["API_VERSION", "RefusedError", "Response", "Router", "error_response"]

API_VERSION = "2.12.0"  # of Toxiproxy, whose API this is: clients decide by it what they may ask
_ANYWHERE = "127.0.0.1:0"
_MOST_PROXIES = 200  # at once; each takes a thread and four descriptors
_MOST_TOXICS = 100  # of a proxy
_PROXY_FIELDS = ("name", "listen", "upstream", "enabled", "toxics")
_MOST_FIELDS = 100  # of one object: what each nearly is takes a search
_TOXIC_FIELDS = ("name", "type", "stream", "toxicity", "attributes")


class RefusedError(Exception):
    """A request that cannot be met.

    Attributes:
        status: the HTTP status that says so.
    """

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Response:
    """A status, and what is sent as JSON; None: nothing."""

    status: int
    content: Any = None


class Router:
    """The proxies that are controlled, and what requests do to them, one at a time.

    Attributes:
        proxies: by name.
    """

    def __init__(self, proxies: Iterable[ChaosProxy], *, seed: int | None) -> None:
        self.proxies: dict[str, ChaosProxy] = {}
        self._seed = new_seed() if seed is None else seed
        self._made: set[ChaosProxy] = set()
        self._lock = fork_safe(self, "_lock", threading.Lock)
        for proxy in proxies:
            if proxy.name in self.proxies:
                raise DuplicateNameError("proxy", proxy.name)
            self.proxies[proxy.name] = proxy

    def close(self) -> None:
        """End the proxies that were made by requests."""
        with self._lock:
            for proxy in self._made:
                proxy.close()
            self._made.clear()

    def respond(self, method: str, path: Sequence[str], body: bytes) -> Response:
        """Do what a request asks for; `path` is split at "/"."""
        try:
            with self._lock:
                return self._handler(method, path)(self, body, *path[1::2])
        except RefusedError as error:
            return error_response(error.status, str(error))
        except UnknownNameError:
            return error_response(404, "toxic not found")
        except ConfigurationError as error:
            return error_response(400, f"bad request body: {error}")
        except ShutdownError as error:
            return error_response(500, str(error))
        except (OSError, RuntimeError) as error:  # no descriptor or no thread is left
            return error_response(500, f"this machine cannot do it now: {error}")

    def _handler(self, method: str, path: Sequence[str]) -> Callable[..., Response]:
        shape = "/".join("*" if number % 2 else step for number, step in enumerate(path))
        if shape not in _ROUTES:
            raise RefusedError(404, "404 page not found")
        handlers = _ROUTES[shape]
        if method not in handlers:
            raise RefusedError(405, f"{method} is not allowed here; {', '.join(handlers)} is")
        return handlers[method]

    def _find(self, name: str) -> ChaosProxy:
        if name not in self.proxies:
            raise RefusedError(404, "proxy not found")
        return self.proxies[name]

    def version(self, _body: bytes) -> Response:
        return Response(200, {"version": API_VERSION, "server": "pytest-resilience"})

    def reset(self, _body: bytes) -> Response:
        for proxy in self.proxies.values():
            proxy.reset()
        return Response(204)

    def list_proxies(self, _body: bytes) -> Response:
        return Response(200, {name: _proxy_json(proxy) for name, proxy in self.proxies.items()})

    def create_proxy(self, body: bytes) -> Response:
        return Response(201, _proxy_json(self._make(_fields(_read(body), _PROXY_FIELDS))))

    def show_proxy(self, _body: bytes, name: str) -> Response:
        return Response(200, _proxy_json(self._find(name)))

    def update_proxy(self, body: bytes, name: str) -> Response:
        proxy = self._find(name)
        given = _fields(_read(body), _PROXY_FIELDS)
        enabled = _enabled_in(given, default=proxy.enabled)  # raises before anything is done
        _move(proxy, given)
        _enable(proxy, enabled=enabled)
        return Response(200, _proxy_json(proxy))

    def delete_proxy(self, _body: bytes, name: str) -> Response:
        self._find(name)
        self._end(name)
        return Response(204)

    def populate(self, body: bytes) -> Response:
        wanted = _read(body)
        if not isinstance(wanted, list):
            raise ConfigurationError("give a list of proxies")
        if len(wanted) > _MOST_PROXIES:
            raise ConfigurationError(f"{len(wanted)} proxies; give {_MOST_PROXIES} at most")
        given = [_fields(each, _PROXY_FIELDS) for each in wanted]
        names = [_name_in(each, f" at proxy {number}") for number, each in enumerate(given, 1)]
        for each in given:  # all of them first: half a population would be none
            resolve("upstream", each["upstream"])
            loopback(each.get("listen") or _ANYWHERE)
        for name in names:
            if names.count(name) > 1:
                raise ConfigurationError(f"duplicate proxy name {name!r}")
        before = set(self.proxies)
        try:
            there = [self._make_or_update(each) for each in given]
        except BaseException:
            for name in self.proxies.keys() - before:
                self._end(name)
            raise
        return Response(201, {"proxies": [_proxy_json(proxy) for proxy in there]})

    def _make(self, given: Mapping[str, Any]) -> ChaosProxy:
        name = _name_in(given)
        if name in self.proxies:
            raise RefusedError(409, "proxy already exists")
        if len(self.proxies) >= _MOST_PROXIES:
            raise RefusedError(400, f"there are {len(self.proxies)} proxies already; delete some")
        proxy = ChaosProxy(
            given["upstream"],
            given.get("listen") or _ANYWHERE,
            name=name,
            enabled=_enabled_in(given, default=True),
            seed=derive(self._seed, "proxy", name),
        )
        self.proxies[name] = proxy
        self._made.add(proxy)
        return proxy

    def _make_or_update(self, given: Mapping[str, Any]) -> ChaosProxy:
        """The proxy of that name; one that leads or listens elsewhere loses its toxics."""
        proxy = self.proxies.get(given["name"])
        if proxy is None:
            return self._make(given)
        if _move(proxy, given):
            for toxic in proxy.toxics:
                proxy.remove(toxic.name)
        _enable(proxy, enabled=_enabled_in(given, default=True))
        return proxy

    def _end(self, name: str) -> None:
        proxy = self.proxies.pop(name)
        proxy.close()
        self._made.discard(proxy)

    def list_toxics(self, _body: bytes, name: str) -> Response:
        return Response(200, _proxy_json(self._find(name))["toxics"])

    def add_toxic(self, body: bytes, name: str) -> Response:
        proxy = self._find(name)
        given = _fields(_read(body), _TOXIC_FIELDS)
        kind, stream = given.get("type"), str(given.get("stream") or DOWNSTREAM).lower()
        if not isinstance(kind, str) or kind not in KINDS:
            raise RefusedError(400, "invalid toxic type")
        if stream not in STREAMS:
            raise RefusedError(400, "stream was invalid, can be either upstream or downstream")
        toxic = Toxic.make(
            kind,
            _attributes_in(given),
            name=given.get("name") or None,
            stream=stream,
            toxicity=given.get("toxicity", 1.0),
        )
        if len(proxy.toxics) >= _MOST_TOXICS:
            raise RefusedError(400, f"there are {len(proxy.toxics)} toxics already; delete some")
        try:
            proxy.apply(toxic)
        except DuplicateNameError as error:
            raise RefusedError(409, "toxic already exists") from error
        return Response(200, _toxic_json(toxic))

    def show_toxic(self, _body: bytes, name: str, toxic: str) -> Response:
        return Response(200, _toxic_json(self._find(name).toxic(toxic)))

    def update_toxic(self, body: bytes, name: str, toxic: str) -> Response:
        proxy = self._find(name)
        old, given = proxy.toxic(toxic), _fields(_read(body), _TOXIC_FIELDS)
        # Raises before anything is done.
        changed = old.changed(_attributes_in(given), given.get("toxicity"))
        proxy.update(toxic, toxicity=changed.toxicity, **changed.attributes)
        return Response(200, _toxic_json(changed))

    def delete_toxic(self, _body: bytes, name: str, toxic: str) -> Response:
        self._find(name).remove(toxic)
        return Response(204)


_ROUTES: dict[str, dict[str, Callable[..., Response]]] = {
    "version": {"GET": Router.version},
    "reset": {"POST": Router.reset},
    "populate": {"POST": Router.populate},
    "proxies": {"GET": Router.list_proxies, "POST": Router.create_proxy},
    "proxies/*": {
        "GET": Router.show_proxy,
        "POST": Router.update_proxy,
        "PATCH": Router.update_proxy,
        "DELETE": Router.delete_proxy,
    },
    "proxies/*/toxics": {"GET": Router.list_toxics, "POST": Router.add_toxic},
    "proxies/*/toxics/*": {
        "GET": Router.show_toxic,
        "POST": Router.update_toxic,
        "PATCH": Router.update_toxic,
        "DELETE": Router.delete_toxic,
    },
}


def error_response(status: int, text: str) -> Response:
    """A refusal, as the protocol writes it."""
    return Response(status, {"error": text, "status": status})


def _move(proxy: ChaosProxy, given: Mapping[str, Any]) -> bool:
    """Lead and listen where it is asked to; whether that is elsewhere."""
    upstream, listen = given.get("upstream"), given.get("listen")
    if _same_address(upstream, proxy.upstream) and _same_address(listen, proxy.listen):
        return False
    proxy.move(upstream=upstream or None, listen=listen or None)
    return True


def _enable(proxy: ChaosProxy, *, enabled: bool) -> None:
    if enabled != proxy.enabled:
        (proxy.enable if enabled else proxy.disable)()


def _attributes_in(given: Mapping[str, Any]) -> Any:
    attributes = given.get("attributes", {})
    return _as_go_reads(attributes) if isinstance(attributes, dict) else attributes


def _read(body: bytes) -> Any:
    """The JSON of a request. Raises ConfigurationError if it is none."""
    try:
        return json.loads(body, parse_constant=_refuse)
    except ValueError as error:
        raise ConfigurationError(str(error) if body else "EOF") from error
    except RecursionError as error:
        raise ConfigurationError("it is nested too deeply") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _fields(given: Any, known: tuple[str, ...]) -> dict[str, Any]:
    """The fields of an object. A misspelt one is an error, another that is not known is ignored.

    Toxiproxy ignores all that it does not know, and clients rely on it.
    """
    if not isinstance(given, dict):
        raise ConfigurationError(f"{shortened(given)} is no object")
    if len(given) > _MOST_FIELDS:
        raise ConfigurationError(f"an object of {len(given)} fields; give {_MOST_FIELDS} at most")
    fields = _as_go_reads(given)
    for name in fields:
        if name not in known and nearest(name, known):
            raise ConfigurationError(f"unknown field {name!r}{nearest(name, known)}")
    return fields


def _as_go_reads(given: Mapping[str, Any]) -> dict[str, Any]:
    """An object without what is null, its names in small letters: Go minds neither, and
    there are clients that send `"Name"` and `"toxicity": null`.
    """
    return {name.lower(): value for name, value in given.items() if value is not None}


def _name_in(given: Mapping[str, Any], where: str = "") -> str:
    """The name of a proxy that has all it needs. Raises RefusedError."""
    for field in ("name", "upstream"):
        if not given.get(field):
            raise RefusedError(400, f"missing required field: {field}{where}")
        if not isinstance(given[field], str):
            raise ConfigurationError(f"{field}={given[field]!r}: give a text")
    return str(given["name"])


def _enabled_in(given: Mapping[str, Any], *, default: bool) -> bool:
    """The field `enabled` of a proxy. Raises ConfigurationError."""
    enabled = given.get("enabled", default)
    if not isinstance(enabled, bool):
        raise ConfigurationError(f"enabled={enabled!r}: give true or false")
    return enabled


def _same_address(wanted: Any, there: str) -> bool:
    """True if no address is wanted, or the one that is there; port 0 is any."""
    if not wanted:
        return True
    address, now = parse_address("address", wanted), parse_address("address", there)
    host = "127.0.0.1" if address.host == "localhost" != now.host else address.host
    return host == now.host and address.port in (now.port, 0)


def _proxy_json(proxy: ChaosProxy) -> dict[str, Any]:
    """A proxy, as clients see it."""
    return {
        "name": proxy.name,
        "listen": proxy.listen,
        "upstream": proxy.upstream,
        "enabled": proxy.enabled,
        "toxics": [_toxic_json(toxic) for toxic in proxy.toxics],
    }


def _toxic_json(toxic: Toxic) -> dict[str, Any]:
    """A toxic, as clients see it."""
    return {
        "name": toxic.name,
        "type": toxic.type,
        "stream": toxic.stream,
        "toxicity": toxic.toxicity,
        "attributes": dict(toxic.attributes),
    }
