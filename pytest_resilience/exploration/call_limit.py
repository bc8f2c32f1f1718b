"""How many operations of a run are a storm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field

from pytest_resilience.exploration.numbering import Seen
from pytest_resilience.exploration.schedule import Site


__all__ = ["CallLimit", "StormError", "calls_by_line"]


class StormError(BaseException):
    """Too many operations. Not an Exception: code that survives anything would catch it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimit:
    """How many operations of one kind on one target may be done.

    Attributes:
        most: in all.
        tries: of one line more are allowed than `most`: as many for each operation that it does
            without faults. Who asks twice, and tries each ten times, makes no storm. 0 for none.
        usual: operations without faults, by target and line, of the kind of which it does most.
    """

    most: int
    tries: int = 0
    usual: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def check(self, done: Sequence[Seen]) -> None:
        """There are more than `most` of the kind and target of the last. Raises StormError."""
        (kind, target, _), line = done[-1].point.site, done[-1].place
        most = self.most
        if self.tries:
            most = max(most, self.tries * self._usually(target, line))
            alike = (each for each in done if each.place == line)
            if sum(each.point.site[:2] == (kind, target) for each in alike) <= most:
                return
        raise StormError(f"more than {most} operations: {Site(kind, target)}")

    def _usually(self, target: str, line: str) -> int:
        """Operations of a line without faults. One that faults alone lead to may do as many as any.

        It may be a fallback, in the same loop.
        """
        here = self.usual.get((target, line))
        if here is not None:
            return here
        return max((each for (name, _), each in self.usual.items() if name == target), default=1)


def calls_by_line(done: Iterable[Seen]) -> dict[tuple[str, str], int]:
    """For each target and line the most operations of one kind."""
    found: dict[tuple[str, str], int] = {}
    numbers = Counter((each.point.site.kind, each.point.site.target, each.place) for each in done)
    for (_, target, line), number in numbers.items():
        found[target, line] = max(number, found.get((target, line), 0))
    return found
