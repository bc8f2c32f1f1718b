"""redis, sync and asyncio: commands and pipelines, as a server in trouble answers them.

Connections are lost, refused and slow on the network, where they are with redis: see
`network_failure` and `network_latency`.
"""

from __future__ import annotations

import functools

from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.types.database import DatabaseFailure
from pytest_resilience.interceptors.databases.driver import Gate
from pytest_resilience.interceptors.databases.driver import Session
from pytest_resilience.interceptors.databases.driver import pass_through
from pytest_resilience.interceptors.databases.driver import pass_through_async
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import looked
from pytest_resilience.interceptors.patching import Patches


__all__ = ["RedisDriver"]

# As the server words them; the driver makes its own errors of them.
_ANSWERS = {
    "locked": "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN "
    "NOSAVE.",
    "read_only": "READONLY You can't write against a read only replica.",
    "disk_full": "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to "
    "persist to disk.",
    "too_many_connections": "max number of clients reached",
}


class RedisDriver:
    """See the module. A pipeline's statement is the word PIPELINE; with MULTI, a commit."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def apply(self, patches: Patches) -> None:
        import redis
        import redis.asyncio

        patches.replace(redis.Redis, "execute_command", self._executing)
        patches.replace(redis.client.Pipeline, "execute", self._sending)
        patches.replace(redis.asyncio.Redis, "execute_command", self._executing_async)
        patches.replace(redis.asyncio.client.Pipeline, "execute", self._sending_async)

    def _executing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def execute(client: Any, *args: Any, **options: Any) -> Any:
            __tracebackhide__ = True
            proceed = functools.partial(original, client, *args, **options)
            return pass_through(self._asked(client, _text(args)), proceed, _fail)

        return execute

    def _executing_async(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        async def execute(client: Any, *args: Any, **options: Any) -> Any:
            __tracebackhide__ = True
            proceed = functools.partial(original, client, *args, **options)
            return await pass_through_async(self._asked(client, _text(args)), proceed, _fail_async)

        return execute

    def _sending(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def execute(pipeline: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            proceed = functools.partial(original, pipeline, *args, **kwargs)
            return pass_through(self._asked_to_send(pipeline), proceed, _fail)

        return execute

    def _sending_async(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        async def execute(pipeline: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            proceed = functools.partial(original, pipeline, *args, **kwargs)
            return await pass_through_async(self._asked_to_send(pipeline), proceed, _fail_async)

        return execute

    def _asked(self, client: Any, text: str) -> Effect | None:
        if text in self._gate.passing:
            return None
        return self._gate.executing(_session(client), text, False)

    def _asked_to_send(self, pipeline: Any) -> Effect | None:
        # Which one it is depends on whether it is awaited.
        whole = (
            pipeline.is_transaction if hasattr(pipeline, "is_transaction") else pipeline.transaction
        )
        if not (whole or pipeline.explicit_transaction):
            return self._asked(pipeline, "PIPELINE")
        return self._gate.committing(_session(pipeline)) if self._gate.commits else None


def _text(args: tuple[Any, ...]) -> str:
    """A command and its key: what it is aimed by."""
    return " ".join(each if is_a(each, str) else looked(repr, each) or "" for each in args[:2])


def _session(client: Any) -> Session:
    settings = client.connection_pool.connection_kwargs
    host = str(settings.get("path") or settings.get("host") or "localhost")
    names = (str(settings.get("db", 0)), f"{host}:{settings.get('port', 6379)}", host)
    return Session(names, frozenset(_ANSWERS))


def _fail(failure: DatabaseFailure) -> Exception:
    from redis._parsers import BaseParser

    answer = _ANSWERS[failure.condition]
    error: Exception = BaseParser.parse_error(answer)  # type: ignore[no-untyped-call]
    return error


async def _fail_async(failure: DatabaseFailure) -> Exception:
    return _fail(failure)
