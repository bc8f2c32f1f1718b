"""Where operations are intercepted: one module a family."""

from __future__ import annotations
