"""Contexts for `with` and `async with`."""

from __future__ import annotations

import asyncio
import threading

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from pytest_resilience.chaos.context_managers import DualContext
from pytest_resilience.chaos.context_managers import dual_context


class Recorded:
    """A context that notes what happens to it, and where."""

    def __init__(self, *, blocks: bool) -> None:
        self.steps: list[str] = []
        self.threads: set[int] = set()
        self.make: Callable[[], DualContext[str]] = dual_context(self._block, blocks=blocks)

    def _block(self) -> Iterator[str]:
        self._note("entered")
        try:
            yield "value"
        except KeyError:
            self._note("swallowed")
        finally:
            self._note("left")

    def _note(self, step: str) -> None:
        self.steps.append(step)
        self.threads.add(threading.get_ident())


async def used(recorded: Recorded, error: Exception | None = None) -> None:
    async with recorded.make() as value:
        assert value == "value"
        if error is not None:
            raise error


RUN: dict[str, Callable[..., Any]] = {
    "asyncio": lambda recorded, error: asyncio.run(used(recorded, error)),
    "trio": lambda recorded, error: trio.run(used, recorded, error),
}


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("library", RUN)
def test_async_with_does_what_with_does(library: str, blocks: bool) -> None:
    recorded = Recorded(blocks=blocks)
    with recorded.make() as value:
        assert value == "value"
    RUN[library](recorded, None)
    assert recorded.steps == ["entered", "left"] * 2
    elsewhere = recorded.threads - {threading.get_ident()}
    assert bool(elsewhere) == blocks


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("library", RUN)
def test_errors_pass_or_are_swallowed_as_by_with(library: str, blocks: bool) -> None:
    recorded = Recorded(blocks=blocks)
    RUN[library](recorded, KeyError())
    with pytest.raises(ValueError, match="passes"):
        RUN[library](recorded, ValueError("passes"))
    assert recorded.steps == ["entered", "swallowed", "left", "entered", "left"]
