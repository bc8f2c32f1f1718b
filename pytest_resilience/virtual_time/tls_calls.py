"""Blocking calls of TLS sockets as parks."""

from __future__ import annotations

import _thread
import contextlib
import functools
import select
import ssl

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pytest_resilience.virtual_time.patches import Patches
from pytest_resilience.virtual_time.scheduler import current
from pytest_resilience.virtual_time.sockets import wait_readable
from pytest_resilience.virtual_time.waiting import nanoseconds


__all__ = ["install_tls"]

# Each with what Python calls it when its time is up. `recv` and `recv_into` read, `sendall` sends.
_CALLS = {
    "do_handshake": "handshake", "read": "read", "send": "write", "unwrap": "read",
    "write": "write",
}  # fmt: skip

# Nobody may take the timeout of a socket for its own while another thread tries something.
_trying = _thread.RLock()


def install_tls(patches: Patches) -> None:
    """Let members that wait for a TLS socket park.

    That bytes have come says little, for they may be a part of a record, or what TLS says by
    itself. So each call is tried without waiting until it has what it needs.
    """
    for name, called in _CALLS.items():
        patches.set(ssl.SSLSocket, name, _patient(getattr(ssl.SSLSocket, name), called))


def _patient(real: Callable[..., Any], called: str) -> Callable[..., Any]:
    @functools.wraps(real)
    def call(self: ssl.SSLSocket, *args: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        scheduler = current()
        if scheduler is None or self._sslobj is None:  # type: ignore[attr-defined]
            return real(self, *args, **options)
        with _trying:
            seconds = self.gettimeout()
        if seconds == 0:
            return real(self, *args, **options)
        ends = None if seconds is None else scheduler.elapsed.read() + nanoseconds(seconds)
        while True:
            try:
                with _at_once(self, seconds):
                    return real(self, *args, **options)
            except ssl.SSLWantReadError:
                mask = select.POLLIN
            except ssl.SSLWantWriteError:
                mask = select.POLLOUT
            left = None if ends is None else max(0, ends - scheduler.elapsed.read())
            if not wait_readable(called, self.fileno(), left, mask):
                raise TimeoutError(f"The {called} operation timed out")

    return call


@contextmanager
def _at_once(sock: ssl.SSLSocket, seconds: float | None) -> Iterator[None]:
    """In the block `sock` does not wait."""
    with _trying:
        sock.settimeout(0)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # closed meanwhile
                sock.settimeout(seconds)
