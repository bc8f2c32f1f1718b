"""A kind of fault that the package does not know."""

from __future__ import annotations

import dataclasses

from pytest_resilience.chaos.faults.response import Alteration
from pytest_resilience.chaos.operation import Operation


__all__ = ["AN_OPERATION", "Shout"]

AN_OPERATION = Operation(kind="network.receive", target="peer:1", names=("peer:1",))


class _Shouting:
    """What becomes of a response under the fault below."""

    ended = spared = False
    passed = 0

    def alter(self, data: bytes) -> bytes:
        return data.upper()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shout(Alteration):
    """All letters of a response arrive as capitals."""

    def altered(self) -> _Shouting:
        return _Shouting()
