"""A clock for tests of what happens in the middle of something."""

from __future__ import annotations

from collections.abc import Callable


class Meddling:
    """A clock in whose every reading somebody else does something."""

    def __init__(self) -> None:
        self.meddle: Callable[[], object] = lambda: None

    def monotonic(self) -> float:
        self.meddle()
        return 0.0
