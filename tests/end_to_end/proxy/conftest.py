"""The servers, proxies and clients of `tests/proxy`."""

from __future__ import annotations

from tests.proxy.conftest import connect
from tests.proxy.conftest import proxy
from tests.proxy.conftest import serve


__all__ = ["connect", "proxy", "serve"]
