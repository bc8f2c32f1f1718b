"""What came of one run under a schedule: the verdict, and how to tell failures apart."""

from __future__ import annotations

import opcode
import traceback

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple

from pytest_resilience.errors import ResilienceError
from pytest_resilience.exploration.operation_names import Seen
from pytest_resilience.exploration.schedule import Step
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.stacks import is_library


__all__ = [
    "MISTAKES",
    "Facts",
    "Outcome",
    "Signature",
    "chain_of",
    "judge",
    "signature_of",
    "text_in_chain",
    "told",
]

# They say that the program is wrong, and not that something it depends on has failed.
MISTAKES = (
    AssertionError, AttributeError, LookupError, NameError, NotImplementedError, RecursionError,
    StopAsyncIteration, StopIteration, TypeError, ZeroDivisionError,
)  # fmt: skip
_TOLD = CellVerdict.INVALID, CellVerdict.STALE, CellVerdict.HANG, CellVerdict.STORM
_CANCELLATIONS = frozenset({"CancelledError", "Cancelled"})  # of asyncio, trio: not imported here


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What makes two failures the same one.

    Attributes:
        verdict: the outcome.
        error: the exception's type; "" if there is none.
        place: the innermost function of the project that it went through, as `file in function`.
    """

    verdict: CellVerdict
    error: str = ""
    place: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of one run.

    Attributes:
        verdict: the outcome.
        reason: why it is not good; "" if there is nothing to say.
        signature: what makes another failure the same one.
        seen: the operations, in order.
        positions: for each step of the schedule that was met, how many operations came before.
        hit: the steps whose fault has happened.
        in_vain: those of them that let others go first, who had nothing to do.
        impossible: whether it came to the operation of a fault that this one cannot have, such as
            a response without a body, of which nothing can be cut off.
        duration: seconds.
    """

    verdict: CellVerdict
    reason: str = ""
    signature: Signature
    seen: Sequence[Seen] = ()
    positions: tuple[tuple[Step, int], ...] = ()
    hit: frozenset[Step] = frozenset()
    in_vain: frozenset[Step] = frozenset()
    impossible: bool = False
    duration: float = 0.0

    def after(self, step: Step) -> Sequence[Seen]:
        """The operations that came after that of a step."""
        position = dict(self.positions).get(step)
        return () if position is None else self.seen[position + 1 :]

    @property
    def struck(self) -> dict[int, Step]:
        """The faults that happened, by the numbers of the operations among those that are seen."""
        happened = {place: step for step, place in self.positions if step in self.hit}
        found = dict(happened)
        for place, step in happened.items():
            site = step.point.site
            for number, each in enumerate(self.seen[place:] if step.lasts else (), place):
                if (each.point.site.kind, each.point.site.target) == (site.kind, site.target):
                    found.setdefault(number, step)
        return found

    def comes_again(self, step: Step) -> bool:
        """Whether there was one more of the kind on the target, after that of `step`."""
        once = Step(step.point, step.fault)
        if once not in dict(self.positions):
            return False
        site = step.point.site
        return any(
            (each.point.site.kind, each.point.site.target) == (site.kind, site.target)
            for each in self.after(once)
        )


class Facts(NamedTuple):
    """What is known of a run, from which the verdict follows.

    Attributes:
        void: why how it ended has nothing to do with the faults; "" if it has.
        missed: the steps whose fault did not happen, in words; "" if all did.
        hang: why it was ended; "" if it came to its end.
        error: what the test raised; None if it passed.
        storm: how many operations were too many, in words; "" if they were not.
        invariant: what an invariant raised afterwards; None if they hold.
        probe: what the probe raised afterwards; None if it passed.
        leaked: the resources that it has left; "" for none.
    """

    void: str = ""
    missed: str = ""
    hang: str = ""
    error: BaseException | None = None
    storm: str = ""
    invariant: BaseException | None = None
    probe: BaseException | None = None
    leaked: str = ""


def judge(
    facts: Facts,
    allowed: tuple[type[BaseException], ...] | None,
    is_own: Callable[[str], bool],
) -> tuple[CellVerdict, str, Signature]:
    """The verdict with its reason: the first that holds.

    `allowed`: the exceptions that mean degraded. None where nobody has said it: then all do but
    those that say that the program is wrong. `is_own`: whether a file is the project's.
    """
    texts = facts.void, facts.missed, facts.hang, facts.storm
    for verdict, text in zip(_TOLD, texts, strict=True):
        if text:
            return verdict, text, Signature(verdict=verdict)
    for verdict, error in (
        (CellVerdict.INVARIANT, facts.invariant),
        (CellVerdict.PROBE, facts.probe),
    ):
        if error is not None:
            return verdict, told(error), signature_of(verdict, error, is_own)
    degraded = facts.error is not None and _is_allowed(facts.error, allowed)
    if facts.error is not None and not degraded:
        found = CellVerdict.FAILED
        return found, told(facts.error), signature_of(found, facts.error, is_own)
    if facts.leaked:
        reason = f"it left {facts.leaked} behind"
        return CellVerdict.LEAK, reason, Signature(verdict=CellVerdict.LEAK, error=facts.leaked)
    if facts.error is not None:
        degraded_as = signature_of(CellVerdict.DEGRADED, facts.error, is_own)
        return CellVerdict.DEGRADED, told(facts.error), degraded_as
    return CellVerdict.SURVIVED, "", Signature(verdict=CellVerdict.SURVIVED)


def _is_allowed(error: BaseException, allowed: tuple[type[BaseException], ...] | None) -> bool:
    if allowed is not None:
        return isinstance(error, allowed)
    if isinstance(error, ResilienceError) or type(error).__name__ in _CANCELLATIONS:
        return True
    if isinstance(error, AssertionError) and error.__cause__ is not None:
        return _is_allowed(error.__cause__, None)  # it tells of an error, and of no wrong result
    if isinstance(error, LookupError) and error.__context__ is not None and _is_told(error):
        return _is_allowed(error.__context__, None)  # a mapping that cannot read what it has
    if isinstance(error, BaseExceptionGroup):
        return all(_is_allowed(each, None) for each in error.exceptions)
    return isinstance(error, Exception) and not isinstance(error, MISTAKES)


def _is_told(error: BaseException) -> bool:
    """Whether a library has raised it by a `raise`, and it is not what was looked up in vain."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or not is_library(last.tb_frame.f_code.co_filename):
        return False
    return last.tb_frame.f_code.co_code[last.tb_lasti] == opcode.opmap["RAISE_VARARGS"]


def signature_of(
    verdict: CellVerdict, error: BaseException, is_own: Callable[[str], bool]
) -> Signature:
    """What makes another failure the same as this one."""
    return Signature(
        verdict=verdict, error=type(error).__name__, place=_place(error.__traceback__, is_own)
    )


def _place(trace: TracebackType | None, is_own: Callable[[str], bool]) -> str:
    frames = [
        frame.f_code for frame, _ in traceback.walk_tb(trace) if is_own(frame.f_code.co_filename)
    ]
    return f"{frames[-1].co_filename} in {frames[-1].co_name}" if frames else ""


def told(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {error}".strip().removesuffix(":")


def chain_of(*errors: BaseException | None) -> Iterator[BaseException]:
    """Exceptions with those that they come from, and those of groups, each once."""
    seen: set[int] = set()
    todo = list(errors)
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        todo += [each.__cause__, each.__context__]
        todo += each.exceptions if isinstance(each, BaseExceptionGroup) else ()
        yield each


def text_in_chain(error: BaseException | None, *kinds: type[BaseException]) -> str:
    """The text of an exception of these kinds that another comes from; "" if there is none."""
    if error is None:  # as mostly
        return ""
    return next((str(each) for each in chain_of(error) if isinstance(each, kinds)), "")
