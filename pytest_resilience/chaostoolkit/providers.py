"""How an activity of a Chaos Toolkit experiment is performed: a function, a program, a request."""

from __future__ import annotations

import inspect
import json
import os
import pkgutil
import shlex
import shutil

from collections.abc import Mapping
from typing import Any
from typing import Protocol

from pytest_resilience.chaos.parsing.texts import inline
from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.chaostoolkit.values import Values
from pytest_resilience.errors import ConfigurationError


__all__ = ["Perform", "provider_of"]


class Perform(Protocol):
    """Performs an activity."""

    def __call__(self, values: Values, **extra: Any) -> Any:
        """Its output; `extra` are further arguments of a function."""


def provider_of(where: str, provider: Any, *, extra: tuple[str, ...] = ()) -> Perform:
    """What performs it; a function is looked up here, and its arguments are checked.

    Args:
        where: the activity, for people.
        provider: as written in the experiment.
        extra: arguments that come at each performance, as `value` does to a tolerance.

    Raises ConfigurationError for what could not be performed.
    """
    if not isinstance(provider, Mapping):
        raise ConfigurationError(f"{where}: it needs a provider, not {shortened(provider)}")
    kind = provider.get("type")
    if kind == "python":
        return _function(where, provider, extra)
    if kind == "process":
        return _program(where, provider)
    if kind == "http":
        return _request(where, provider)
    raise ConfigurationError(
        f"{where}: provider type {shortened(kind)}; give one of 'python', 'process', 'http'"
    )


def _function(where: str, provider: Mapping[str, Any], extra: tuple[str, ...]) -> Perform:
    module, func = provider.get("module"), provider.get("func")
    if not isinstance(module, str) or not isinstance(func, str):
        raise ConfigurationError(f"{where}: give module and func as texts")
    name = f"{module}:{func}"
    try:
        function = pkgutil.resolve_name(name)
        signature = inspect.signature(function)
    except Exception as error:  # what is imported runs
        raise ConfigurationError(
            f"{where}: there is no function {inline(name)}: {inline(str(error))}"
        ) from error
    arguments = provider.get("arguments") or {}
    if not isinstance(arguments, Mapping):
        raise ConfigurationError(f"{where}: arguments={shortened(arguments)}: give them by name")
    offered = [each for each in ("configuration", "secrets") if each in signature.parameters]
    try:
        signature.bind(**dict.fromkeys([*arguments, *offered, *extra]))
    except TypeError as error:
        raise ConfigurationError(f"{where}: {name} cannot be called so: {error}") from error

    def perform(values: Values, **extra: Any) -> Any:
        given = {**values.put_into(arguments), **extra}
        if "configuration" in offered:
            given["configuration"] = dict(values.configuration)
        if "secrets" in offered:
            groups = [values.secrets.get(group, {}) for group in provider.get("secrets") or ()]
            given["secrets"] = {name: value for group in groups for name, value in group.items()}
        return function(**given)

    return perform


def _program(where: str, provider: Mapping[str, Any]) -> Perform:
    path = str(provider.get("path", ""))
    program = shutil.which(os.path.expanduser(path))
    if program is None:
        raise ConfigurationError(f"{where}: there is no program {shortened(path)}")
    arguments = provider.get("arguments") or []

    def perform(values: Values, **_extra: Any) -> Any:
        import subprocess

        given = values.put_into(arguments)
        if isinstance(given, str):  # no shell reads it: quotes work, expansions do not
            given = shlex.split(given)
        elif isinstance(given, Mapping):
            given = [part for pair in given.items() for part in pair]
        command = [program, *(str(part) for part in given if part not in (None, ""))]
        done = subprocess.run(  # noqa: S603  # the experiment's author names the program
            command, capture_output=True, timeout=provider.get("timeout"), check=False, text=True
        )
        return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}

    return perform


def _request(where: str, provider: Mapping[str, Any]) -> Perform:
    url = provider.get("url")
    if not isinstance(url, str) or not url.startswith(("http://", "https://", "${")):
        raise ConfigurationError(f"{where}: url={shortened(url)}: give an http or https URL")
    if provider.get("max_retries"):
        raise ConfigurationError(f"{where}: max_retries would hide what a probe is to see")

    def perform(values: Values, **_extra: Any) -> Any:
        import urllib.error
        import urllib.request

        request = _urllib_request(values.put_into(dict(provider)))
        try:
            answer = urllib.request.urlopen(  # noqa: S310  # the scheme has been looked at
                request, timeout=_timeout(provider), context=_tls(provider)
            )
        except urllib.error.HTTPError as error:
            answer = error  # an answer as well: the tolerance decides
        with answer:
            body = answer.read().decode(answer.headers.get_content_charset() or "utf-8", "replace")
            if answer.headers.get_content_type() == "application/json":
                body = json.loads(body)
            return {"status": answer.status, "headers": dict(answer.headers), "body": body}

    return perform


def _urllib_request(provider: Mapping[str, Any]) -> Any:
    import urllib.parse
    import urllib.request

    url, data = str(provider["url"]), None
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"url={url!r}: give an http or https URL")
    method = str(provider.get("method") or "GET").upper()
    headers = {str(name): str(value) for name, value in (provider.get("headers") or {}).items()}
    arguments = provider.get("arguments")
    if arguments and method == "GET":
        url += ("&" if "?" in url else "?") + urllib.parse.urlencode(arguments, doseq=True)
    elif arguments and headers.get("Content-Type") == "application/json":
        data = json.dumps(arguments).encode()
    elif arguments:
        text = isinstance(arguments, str)
        data = (arguments if text else urllib.parse.urlencode(arguments, doseq=True)).encode()
    return urllib.request.Request(url, data=data, headers=headers, method=method)  # noqa: S310


def _timeout(provider: Mapping[str, Any]) -> float | None:
    given = provider.get("timeout")
    if isinstance(given, (list, tuple)):  # to connect, to read: here one for each wait
        given = max(given)
    return None if given is None else float(given)


def _tls(provider: Mapping[str, Any]) -> Any:
    if provider.get("verify_tls", True):
        return None
    import ssl

    return ssl._create_unverified_context()  # noqa: S323, SLF001  # as the experiment says
