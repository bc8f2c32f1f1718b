"""Names that nobody knows, with no name server asked: one that loses a question takes seconds."""

from __future__ import annotations

import functools
import socket

from collections.abc import Callable
from typing import Any


__all__ = ["without_a_name_server"]


def without_a_name_server(lookup: Callable[..., Any]) -> Callable[..., Any]:
    """`lookup` itself, which does not ask for the names of the tests' services."""

    @functools.wraps(lookup)
    def known(host: Any, *args: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)  # as anyio encodes it
        if name.endswith((".internal", ".invalid")):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return lookup(host, *args, **options)

    return known
