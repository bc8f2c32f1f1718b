"""What functions of the user's say about a request, when a mock has to choose its answer.

It is looked whether a mock has an answer before something happens on the way there, and
when nothing has it looks itself. What such a function counts or notes must not double by that.
"""

from __future__ import annotations

import contextlib

from collections.abc import Callable
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any


__all__ = ["Verdicts", "ask_once"]


class Verdicts:
    """What they say about one request: noted when it is only looked, and told the mock once."""

    def __init__(self) -> None:
        self._said: dict[int, tuple[object, Any]] = {}
        self._looking = False

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Within, the mock has not been asked yet."""
        self._looking = True
        try:
            yield
        finally:
            self._looking = False

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Within, what this thread asks is about this request."""
        token = _VERDICTS.set(self)
        try:
            yield
        finally:
            _VERDICTS.reset(token)

    def ask(self, who: object, question: Callable[[], Any]) -> Any:
        """What `who` says to a question, or has said."""
        if id(who) not in self._said:
            said = question()
            if self._looking:
                self._said[id(who)] = (who, said)  # as long as it is kept its id is its own
            return said
        kept = self._said[id(who)] if self._looking else self._said.pop(id(who))
        return kept[1]


_VERDICTS: ContextVar[Verdicts | None] = ContextVar("of the request that is sent", default=None)


def ask_once(who: object, question: Callable[[], Any]) -> Any:
    """Ask the user's own `who`, for the request that this thread sends."""
    verdicts = _VERDICTS.get()
    return question() if verdicts is None else verdicts.ask(who, question)
