"""What Toxiproxy's HTTP API means: requests on a set of proxies, and what each is answered.

Paths, fields, status codes and error texts are the protocol's.
"""

from __future__ import annotations

import threading

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import DuplicateNameError
from pytest_resilience.errors import ShutdownError
from pytest_resilience.errors import UnknownNameError
from pytest_resilience.locks import fork_safe
from pytest_resilience.proxy.addresses import loopback
from pytest_resilience.proxy.addresses import resolve
from pytest_resilience.proxy.proxy import ChaosProxy
from pytest_resilience.proxy.toxics.toxic import DOWNSTREAM
from pytest_resilience.proxy.toxics.toxic import KINDS
from pytest_resilience.proxy.toxics.toxic import STREAMS
from pytest_resilience.proxy.toxics.toxic import Toxic
from pytest_resilience.proxy.toxiproxy_api.payloads import PROXY_FIELDS
from pytest_resilience.proxy.toxiproxy_api.payloads import TOXIC_FIELDS
from pytest_resilience.proxy.toxiproxy_api.payloads import RefusedError
from pytest_resilience.proxy.toxiproxy_api.payloads import as_go_reads
from pytest_resilience.proxy.toxiproxy_api.payloads import check_names
from pytest_resilience.proxy.toxiproxy_api.payloads import enabled_in
from pytest_resilience.proxy.toxiproxy_api.payloads import fields
from pytest_resilience.proxy.toxiproxy_api.payloads import read
from pytest_resilience.proxy.toxiproxy_api.payloads import same_address
from pytest_resilience.proxy.toxiproxy_api.payloads import shown
from pytest_resilience.proxy.toxiproxy_api.payloads import shown_toxic
from pytest_resilience.seeds import derive
from pytest_resilience.seeds import new_seed


__all__ = ["API_VERSION", "Requests", "Response"]

API_VERSION = "2.12.0"  # of Toxiproxy, whose API this is: clients decide by it what they may ask
_ANYWHERE = "127.0.0.1:0"
_MOST_PROXIES = 200  # at once; each takes a thread and four descriptors
_MOST_TOXICS = 100  # of a proxy


@dataclass(frozen=True, slots=True)
class Response:
    """A status, and what is sent as JSON; None: nothing."""

    status: int
    content: Any = None


class Requests:
    """The proxies that are controlled, and what is asked of them; one request at a time.

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

    def meet(self, method: str, path: Sequence[str], body: bytes) -> Response:
        """Do what is asked."""
        try:
            with self._lock:
                return self._route(method, path)(body)
        except RefusedError as error:
            return _error(error.status, str(error))
        except ConfigurationError as error:
            return _error(400, f"bad request body: {error}")
        except ShutdownError as error:
            return _error(500, str(error))
        except (OSError, RuntimeError) as error:  # no descriptor or no thread is left
            return _error(500, f"this machine cannot do it now: {error}")

    def _route(self, method: str, path: Sequence[str]) -> Callable[[bytes], Response]:
        methods: dict[str, Callable[[bytes], Response]]
        match path:
            case ["version"]:
                methods = {"GET": self._version}
            case ["reset"]:
                methods = {"POST": self._reset}
            case ["populate"]:
                methods = {"POST": self._populate}
            case ["proxies"]:
                methods = {"GET": self._index, "POST": self._create}
            case ["proxies", name]:
                methods = self._of_a_proxy(name)
            case ["proxies", name, "toxics"]:
                methods = self._of_toxics(name)
            case ["proxies", name, "toxics", toxic]:
                methods = self._of_a_toxic(name, toxic)
            case _:
                raise RefusedError(404, "404 page not found")
        if method not in methods:
            raise RefusedError(405, f"{method} is not allowed here; {', '.join(methods)} is")
        return methods[method]

    def _of_a_proxy(self, name: str) -> dict[str, Callable[[bytes], Response]]:
        def update(body: bytes) -> Response:
            return self._update(self._find(name), body)

        return {
            "GET": lambda _: Response(200, shown(self._find(name))),
            "POST": update,
            "PATCH": update,
            "DELETE": lambda _: self._delete(name),
        }

    def _of_toxics(self, name: str) -> dict[str, Callable[[bytes], Response]]:
        return {
            "GET": lambda _: Response(200, shown(self._find(name))["toxics"]),
            "POST": lambda body: _add(self._find(name), body),
        }

    def _of_a_toxic(self, name: str, toxic: str) -> dict[str, Callable[[bytes], Response]]:
        def change(body: bytes) -> Response:
            return _change(self._find(name), toxic, body)

        def remove(_body: bytes) -> Response:
            proxy = self._find(name)
            proxy.remove(_toxic(proxy, toxic).name)
            return Response(204)

        return {
            "GET": lambda _: Response(200, shown_toxic(_toxic(self._find(name), toxic))),
            "POST": change,
            "PATCH": change,
            "DELETE": remove,
        }

    def _find(self, name: str) -> ChaosProxy:
        if name not in self.proxies:
            raise RefusedError(404, "proxy not found")
        return self.proxies[name]

    def _version(self, _body: bytes) -> Response:
        return Response(200, {"version": API_VERSION, "server": "pytest-resilience"})

    def _reset(self, _body: bytes) -> Response:
        for proxy in self.proxies.values():
            proxy.reset()
        return Response(204)

    def _index(self, _body: bytes) -> Response:
        return Response(200, {name: shown(proxy) for name, proxy in self.proxies.items()})

    def _create(self, body: bytes) -> Response:
        given = fields(read(body), PROXY_FIELDS)
        proxy = self._make(given, "")
        return Response(201, shown(proxy))

    def _make(self, given: Mapping[str, Any], where: str) -> ChaosProxy:
        name = check_names(given, where)
        if name in self.proxies:
            raise RefusedError(409, "proxy already exists")
        if len(self.proxies) >= _MOST_PROXIES:
            raise RefusedError(400, f"there are {len(self.proxies)} proxies already; delete some")
        proxy = ChaosProxy(
            given["upstream"],
            given.get("listen") or _ANYWHERE,
            name=name,
            enabled=enabled_in(given, default=True),
            seed=derive(self._seed, "proxy", name),
        )
        self.proxies[name] = proxy
        self._made.add(proxy)
        return proxy

    def _delete(self, name: str) -> Response:
        self._find(name)
        self._end(name)
        return Response(204)

    def _end(self, name: str) -> None:
        proxy = self.proxies.pop(name)
        proxy.close()
        self._made.discard(proxy)

    def _update(self, proxy: ChaosProxy, body: bytes) -> Response:
        given = fields(read(body), PROXY_FIELDS)
        enabled_in(given, default=proxy.enabled)  # raises before anything is done
        _lead(proxy, given)
        _enable(proxy, given, default=proxy.enabled)
        return Response(200, shown(proxy))

    def _populate(self, body: bytes) -> Response:
        wanted = read(body)
        if not isinstance(wanted, list):
            raise ConfigurationError("give a list of proxies")
        if len(wanted) > _MOST_PROXIES:
            raise ConfigurationError(f"{len(wanted)} proxies; give {_MOST_PROXIES} at most")
        given = [fields(each, PROXY_FIELDS) for each in wanted]
        names = [check_names(each, f" at proxy {number}") for number, each in enumerate(given, 1)]
        for each in given:  # all of them first: half a population would be none
            resolve("upstream", each["upstream"])
            loopback(each.get("listen") or _ANYWHERE)
        for name in names:
            if names.count(name) > 1:
                raise ConfigurationError(f"duplicate proxy name {name!r}")
        before = set(self.proxies)
        try:
            there = [self._settle(each) for each in given]
        except BaseException:
            for name in self.proxies.keys() - before:
                self._end(name)
            raise
        return Response(201, {"proxies": [shown(proxy) for proxy in there]})

    def _settle(self, given: Mapping[str, Any]) -> ChaosProxy:
        """The proxy of that name; one that leads or listens elsewhere is as new afterwards."""
        proxy = self.proxies.get(given["name"])
        if proxy is None:
            return self._make(given, "")
        if _lead(proxy, given):
            for toxic in proxy.toxics:
                proxy.remove(toxic.name)
        _enable(proxy, given, default=True)
        return proxy


def _lead(proxy: ChaosProxy, given: Mapping[str, Any]) -> bool:
    """Lead and listen where it is told to; whether that is elsewhere."""
    upstream, listen = given.get("upstream"), given.get("listen")
    if same_address(upstream, proxy.upstream) and same_address(listen, proxy.listen):
        return False
    proxy.move(upstream=upstream or None, listen=listen or None)
    return True


def _enable(proxy: ChaosProxy, given: Mapping[str, Any], *, default: bool) -> None:
    enabled = enabled_in(given, default=default)
    if enabled != proxy.enabled:
        (proxy.enable if enabled else proxy.disable)()


def _error(status: int, text: str) -> Response:
    return Response(status, {"error": text, "status": status})


def _add(proxy: ChaosProxy, body: bytes) -> Response:
    given = fields(read(body), TOXIC_FIELDS)
    kind, stream = given.get("type"), str(given.get("stream") or DOWNSTREAM).lower()
    if not isinstance(kind, str) or kind not in KINDS:
        raise RefusedError(400, "invalid toxic type")
    if stream not in STREAMS:
        raise RefusedError(400, "stream was invalid, can be either upstream or downstream")
    toxic = Toxic.make(
        kind,
        _attributes(given),
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
    return Response(200, shown_toxic(toxic))


def _attributes(given: Mapping[str, Any]) -> Any:
    attributes = given.get("attributes", {})
    return as_go_reads(attributes) if isinstance(attributes, dict) else attributes


def _change(proxy: ChaosProxy, name: str, body: bytes) -> Response:
    old = _toxic(proxy, name)
    given = fields(read(body), TOXIC_FIELDS)
    changed = old.changed(
        _attributes(given), given.get("toxicity")
    )  # raises before anything is done
    proxy.update(name, toxicity=changed.toxicity, **changed.attributes)
    return Response(200, shown_toxic(changed))


def _toxic(proxy: ChaosProxy, name: str) -> Toxic:
    try:
        return proxy.toxic(name)
    except UnknownNameError as error:
        raise RefusedError(404, "toxic not found") from error
