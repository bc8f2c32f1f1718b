"""What a mocked httpx.Client takes for the network: `Wire` as httpcore speaks to it."""

from __future__ import annotations

import contextlib

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

from pytest_resilience.interceptors.http_mocks.fake_socket import Wire
from pytest_resilience.interceptors.http_mocks.peer import Peer
from pytest_resilience.interceptors.http_mocks.peer import Reply


__all__ = ["Network", "translated"]


class Network:
    """A network of one peer: what `httpcore.NetworkBackend` describes."""

    def __init__(self, peer: Peer, reply: Callable[[], Reply]) -> None:
        """`reply` asks the mock; what it raises is the mock's own business."""
        self._peer = peer
        self._reply = reply

    def connect_tcp(self, *, timeout: float | None = None, **_where: Any) -> Stream:
        """Resolve and connect. Raises what httpcore does of what a socket raises."""
        __tracebackhide__ = True
        import httpcore

        wire = Wire(self._peer, self._reply)
        with translated(httpcore.ConnectTimeout, httpcore.ConnectError):
            wire.connect(timeout)
        return Stream(wire)

    def sleep(self, seconds: float) -> None:
        """Between two tries of the client's own."""
        self._peer.clock.sleep(seconds)


class Stream:
    """A connection of it: what `httpcore.NetworkStream` describes."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """The next bytes of the answer. Raises GetThrough if it is for the mock to give."""
        __tracebackhide__ = True
        import httpcore

        self._wire.settimeout(timeout)
        with translated(httpcore.ReadTimeout, httpcore.ReadError):
            return self._wire.recv(max_bytes)

    def write(self, *_what: Any, **_options: Any) -> None:
        """Take what nobody reads: the mock is asked with the request itself."""

    def close(self) -> None:
        """Nothing is open."""

    def start_tls(self, *_args: Any, **_options: Any) -> Stream:
        """There is nobody to shake hands with."""
        return self

    def get_extra_info(self, info: str) -> None:
        """There is nothing more to tell."""


@contextlib.contextmanager
def translated(
    timeout: type[Exception],
    failure: type[Exception],
    kinds: tuple[type[Exception], ...] = (OSError,),
) -> Iterator[None]:
    """What is met within, as httpcore translates it: a TimeoutError, and other `kinds`."""
    __tracebackhide__ = True
    try:
        yield
    except TimeoutError as error:
        raise timeout(error) from error
    except kinds as error:
        raise failure(error) from error
