"""Assertions about resilience: what must hold, told with the timeline that led there.

Each is a plain function that raises `AssertionError`, with or without pytest.
"""

from __future__ import annotations
