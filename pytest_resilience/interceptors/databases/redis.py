"""redis, sync and asyncio: commands and pipelines, as a server in trouble answers them.

Connections are lost, refused and slow on the network, where they are with redis: see
`network_failure` and `network_latency`.
"""

from __future__ import annotations

import functools

from typing import Any

from pytest_resilience.chaos.types.database import DatabaseFailure
from pytest_resilience.interceptors.databases.driver import DriverHooks
from pytest_resilience.interceptors.databases.driver import Injection
from pytest_resilience.interceptors.databases.driver import Session
from pytest_resilience.interceptors.databases.driver import hooked
from pytest_resilience.interceptors.databases.driver import hooked_async
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.patching import Patches


__all__ = ["RedisDriver"]

# As the server words them; the driver makes its own errors of them.
_ERRORS = {
    "locked": "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN "
    "NOSAVE.",
    "read_only": "READONLY You can't write against a read only replica.",
    "disk_full": "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to "
    "persist to disk.",
    "too_many_connections": "max number of clients reached",
}


class RedisDriver:
    """See the module. A pipeline's statement is the word PIPELINE; with MULTI, a commit."""

    def __init__(self, hooks: DriverHooks) -> None:
        self._hooks = hooks

    def install(self, patches: Patches) -> None:
        import redis
        import redis.asyncio

        for module, wrap in ((redis, hooked), (redis.asyncio, hooked_async)):
            command = functools.partial(wrap, self._before_command)
            patches.replace(module.Redis, "execute_command", command)
            pipeline = functools.partial(wrap, self._before_pipeline)
            patches.replace(module.client.Pipeline, "execute", pipeline)

    def _before_command(self, client: Any, *args: Any, **_: Any) -> Injection | None:
        # A command and its key: what experiments are aimed by.
        words = (each if is_a(each, str) else or_none(repr, each) or "" for each in args[:2])
        return self._before_text(client, " ".join(words))

    def _before_pipeline(self, pipeline: Any, *_: Any, **__: Any) -> Injection | None:
        # The awaited one has another word for it.
        transaction = getattr(pipeline, "is_transaction", getattr(pipeline, "transaction", False))
        if not (transaction or pipeline.explicit_transaction):
            return self._before_text(pipeline, "PIPELINE")
        return self._hooks.before_commit(_session(pipeline), _fail) if self._hooks.commits else None

    def _before_text(self, client: Any, text: str) -> Injection | None:
        if text in self._hooks.unmatched:
            return None
        return self._hooks.before_execute(_session(client), text, in_transaction=False, fail=_fail)


def _session(client: Any) -> Session:
    settings = client.connection_pool.connection_kwargs
    host = str(settings.get("path") or settings.get("host") or "localhost")
    names = (str(settings.get("db", 0)), f"{host}:{settings.get('port', 6379)}", host)
    return Session(names, frozenset(_ERRORS))


def _fail(failure: DatabaseFailure) -> Exception:
    from redis._parsers import BaseParser

    error: Exception = BaseParser.parse_error(_ERRORS[failure.condition])  # type: ignore[no-untyped-call]
    return error
