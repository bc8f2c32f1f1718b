"""TLS that is made above sockets, as asyncio and anyio do: what is heard once it is decrypted.

A socket sees only records there, and an `ssl.SSLObject` sees no socket. They are brought
together by the hello that one makes and the other sends: no two of them are the same.
"""

from __future__ import annotations

import functools
import weakref

from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

from pytest_resilience.interceptors.foreign_objects import looked
from pytest_resilience.interceptors.patching import Patches
from pytest_resilience.interceptors.patching import tls_modules
from pytest_resilience.interceptors.sockets.connections import Link
from pytest_resilience.interceptors.sockets.response_stream import Call
from pytest_resilience.interceptors.sockets.response_stream import Receipt
from pytest_resilience.interceptors.sockets.wire_format import FRAMED
from pytest_resilience.interceptors.sockets.wire_format import client_random
from pytest_resilience.interceptors.sockets.wire_format import is_hello


if TYPE_CHECKING:
    import ssl


__all__ = ["TlsObjects"]


class TlsObjects:
    """Every `ssl.SSLObject` of a client that is made from now on."""

    def __init__(self, patches: Patches) -> None:
        self._patches = patches
        self._retired = False
        self._outgoing: weakref.WeakKeyDictionary[Any, ssl.MemoryBIO]
        self._outgoing = weakref.WeakKeyDictionary()
        self._made: dict[bytes, weakref.ref[Any]] = {}  # by what is random in its hello
        self._links: weakref.WeakKeyDictionary[Any, Link] = weakref.WeakKeyDictionary()

    def watch(self) -> None:
        self._retired = False
        for tls in tls_modules():
            self._patches.replace(tls.SSLContext, "wrap_bio", self._wrapping)
            self._patches.replace(tls.SSLObject, "do_handshake", self._shaking_hands)
            self._patches.replace(tls.SSLObject, "read", self._reading)

    def retire(self) -> None:
        self._retired = True
        self._outgoing.clear()
        self._made.clear()
        self._links.clear()

    def said_hello(self, link: Link, hello: bytes) -> None:
        """`hello` has been sent on `link`: whose was it?"""
        found = self._made.pop(client_random(hello), None)
        made = None if found is None else found()
        if made is not None:
            self._links[made] = link
            link.unsealed = True

    def _wrapping(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def wrap_bio(
            context: ssl.SSLContext, incoming: Any, outgoing: Any, *args: Any, **kwargs: Any
        ) -> Any:
            made = original(context, incoming, outgoing, *args, **kwargs)
            if not self._retired:
                looked(self._wrapped, made, outgoing)
            return made

        return wrap_bio

    def _shaking_hands(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def do_handshake(made: Any) -> None:
            try:
                original(made)
            finally:
                outgoing = looked(self._outgoing.pop, made, None)
                if outgoing is not None:
                    looked(self._note, made, outgoing)
            link = looked(self._links.get, made)
            if link is not None and made.selected_alpn_protocol() == "h2":
                link.request = FRAMED

        return do_handshake

    def _wrapped(self, made: Any, outgoing: ssl.MemoryBIO) -> None:
        if not made.server_side:
            self._outgoing[made] = outgoing

    def _note(self, made: Any, outgoing: ssl.MemoryBIO) -> None:
        hello = outgoing.read()
        outgoing.write(hello)
        if is_hello(hello):
            key = client_random(hello)
            self._made[key] = weakref.ref(made, lambda _: self._made.pop(key, None))

    def _reading(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def read(made: Any, *args: Any, **kwargs: Any) -> Any:
            link = None if self._retired else looked(self._links.get, made)
            if link is None or link.decrypted is None:
                return original(made, *args, **kwargs)
            call = Call.of("read", original, made, *args, **kwargs)
            return link.decrypted.read(Receipt(call))

        return read
