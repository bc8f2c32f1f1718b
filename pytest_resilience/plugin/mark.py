"""The markers of `pytest.mark`, with the types of what they take.

`pytest.mark` takes anything, so a type checker finds no mistake in `@pytest.mark.chaos(...)`, and
an editor completes nothing. `mark` is the same object.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from typing import Any
from typing import Literal
from typing import Protocol
from typing import TypeAlias
from typing import cast

import pytest


if TYPE_CHECKING:
    from pytest_resilience.chaos.types.calls import MarkChaos


__all__ = ["Marks", "mark"]

_Errors: TypeAlias = type[BaseException] | Sequence[type[BaseException]]
_Functions: TypeAlias = Callable[..., object] | Sequence[Callable[..., object]]


class Marks(Protocol):
    """The markers of this package; `pytest --markers` says what they do."""

    no_chaos: pytest.MarkDecorator
    no_virtual_time: pytest.MarkDecorator

    @property
    def chaos(self) -> MarkChaos[pytest.MarkDecorator]:
        """Of one experiment: `@mark.chaos("network_failure", mode="refuse", first=1)`."""

    def resilience(
        self, *, allowed: _Errors = ..., deadline: float | str = ..., own_chaos: bool = ...
    ) -> pytest.MarkDecorator:
        """How the test may end in the matrix."""

    def virtual_time(
        self,
        *,
        start: str | float | datetime | None = ...,
        schedule: Literal["seeded"] | None = ...,
    ) -> pytest.MarkDecorator:
        """Give the test virtual time."""

    def chaos_explore(
        self,
        *,
        faults: str | Sequence[str] | set[str] | frozenset[str] = ...,
        depth: int = ...,
        allowed: _Errors = ...,
        invariant: _Functions = ...,
        probe: Callable[..., object] | bool | None = ...,
        deadline: float | str = ...,
        max_calls: int | str = ...,
        budget: int | str | Sequence[int | str] = ...,
    ) -> pytest.MarkDecorator:
        """Run the test under every fault that each of its operations can have."""

    def chaos_replay(self, *schedules: str) -> pytest.MarkDecorator:
        """Run the test under schedules that an exploration has printed."""


mark = cast("Marks", cast("Any", pytest.mark))
