"""Where the states of breakers are that processes and machines share: in Redis.

There is one document a breaker.

    load:     the document, and the time of the Redis server
    replace:  the document, if it is still the same; in one script, so that nobody comes between
"""

from __future__ import annotations

import math
import threading

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from typing import Any
from typing import Protocol
from typing import final

from pytest_resilience.errors import missing_extra
from pytest_resilience.locks import OfThisProcess
from pytest_resilience.locks import fork_safe
from pytest_resilience.patterns import validation
from pytest_resilience.patterns.circuit_breaker.states import NEVER


if TYPE_CHECKING:
    from redis import Redis

__all__ = ["Alone", "Reading", "RedisStore", "Store"]

_LOAD = "return {redis.call('GET', KEYS[1]) or '', redis.call('TIME')}"
_REPLACE = """
local now, found = redis.call('TIME'), redis.call('GET', KEYS[1]) or ''
if found ~= ARGV[1] then return {0, found, now} end
if ARGV[3] == '0' then
  redis.call('SET', KEYS[1], ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return {1, ARGV[2], now}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A document, "" where there is none, and the time when it was read, by its store."""

    text: str
    now: float


class Store(Protocol):
    """Where a breaker's document is."""

    def load(self, name: str) -> Reading:
        """The document now."""

    def replace(self, name: str, old: str, new: str, keep: float) -> tuple[bool, Reading]:
        """Whether `new` has replaced `old`, and what there is now; kept so many seconds."""


@final
class RedisStore(OfThisProcess):
    """A Redis, in which processes and machines share the state of breakers of the same name.

    Each of them decides by its own `CircuitBreakerConfig`, so let that be the same. Times are those
    of the Redis server, so clocks of machines may differ. A call that is let through reads from
    Redis, and one that changes what is known there (a failure, the first success after one, a trial
    call) writes: for a breaker with a window that is each call. Async callers do so in a thread.

    While Redis cannot be reached, each process goes on by itself, from what was known last, and
    tries Redis again every `retry_every` seconds; what it has counted alone is then forgotten.
    A Redis that has lost its data begins with closed breakers.

    A process that dies in a trial call takes its slot along until the breaker's `timeout` is over.

    Attributes:
        client: a `redis.Redis`, or a URL as ``"redis://host:6379/0"``. Give it short timeouts:
            calls wait for it. With a URL it waits for a second, and tries once.
        prefix: of the keys, which end in the names of the breakers.
        refresh: seconds for which what was read from Redis is taken to be so; 0 to read for
            each call.
        retry_every: seconds.
    """

    def __init__(
        self,
        client: Redis | str,
        *,
        prefix: str = "pytest_resilience:breaker:",
        refresh: float = 0.0,
        retry_every: float = 5.0,
    ) -> None:
        """Raises TypeError for another client, as one of `redis.asyncio`."""
        try:
            import redis
        except ImportError:
            raise missing_extra("RedisStore", "redis", "redis") from None

        if isinstance(client, str):
            client = _connect(client)
        if not isinstance(client, redis.Redis):
            raise TypeError(
                f"client must be a redis.Redis or a URL, not {client!r}: async callers use it too, "
                "from a thread"
            )
        self.client = client
        self.prefix = prefix
        self.refresh = validation.number("refresh", refresh)
        self.retry_every = validation.number("retry_every", retry_every)
        self.errors: tuple[type[Exception], ...] = (redis.RedisError, OSError)
        self._load = client.register_script(_LOAD)
        self._replace = client.register_script(_REPLACE)

    def load(self, name: str) -> Reading:
        return _reading(*self._load(keys=[self.prefix + name]))

    def replace(self, name: str, old: str, new: str, keep: float) -> tuple[bool, Reading]:
        milliseconds = 0 if keep == NEVER else math.ceil(keep * 1000)
        answer: Any = self._replace(keys=[self.prefix + name], args=[old, new, milliseconds])
        return bool(int(answer[0])), _reading(*answer[1:])


def _connect(url: str) -> Redis:
    import redis

    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis.from_url(
        url, socket_timeout=1.0, socket_connect_timeout=1.0, retry=Retry(NoBackoff(), 0)
    )


def _reading(text: bytes | str, now: tuple[Any, Any]) -> Reading:
    text = text.decode() if isinstance(text, bytes) else text
    return Reading(text=text, now=int(now[0]) + int(now[1]) / 1e6)


class Alone:
    """What a process goes on with while it cannot reach the store: its own document."""

    def __init__(self, text: str, now: Callable[[], float]) -> None:
        self._text = text
        self._now = now
        self._lock = fork_safe(self, "_lock", threading.Lock)

    def load(self, name: str) -> Reading:  # noqa: ARG002
        return Reading(text=self._text, now=self._now())

    def replace(self, name: str, old: str, new: str, keep: float) -> tuple[bool, Reading]:  # noqa: ARG002
        with self._lock:
            replaced = self._text == old
            if replaced:
                self._text = new
        return replaced, self.load(name)
