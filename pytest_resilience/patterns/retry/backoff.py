"""How long to wait before the next attempt.

Exponential backoff with the jitters of Marc Brooker, "Exponential Backoff And Jitter", AWS
Architecture Blog, 2015. The cap comes first and the jitter after it, so callers that have
reached the cap still spread out, and none ever waits longer than the cap.
"""

from __future__ import annotations

from typing import Final
from typing import Literal
from typing import Protocol


__all__ = ["JITTERS", "Jitter", "Uniform", "backoff", "next_delay"]

Jitter = Literal["full", "equal", "decorrelated"] | bool
JITTERS: Final = (True, False, "full", "equal", "decorrelated")

_PLAIN_SPREAD = 0.1  # jitter=True: 10 % either way


class Uniform(Protocol):
    """What is needed of a `random.Random`."""

    def uniform(self, a: float, b: float) -> float:
        """A number between `a` and `b`."""


def backoff(attempt: int, base: float, multiplier: float, cap: float) -> float:
    """Seconds after the failed `attempt` (1, 2, …), without jitter: `base * multiplier**n`."""
    try:
        return min(cap, base * multiplier ** (attempt - 1))
    except OverflowError:
        return cap


def next_delay(
    jitter: Jitter, delay: float, *, base: float, cap: float, previous: float, chance: Uniform
) -> float:
    """`delay` (at most `cap`) with jitter, in seconds.

    Args:
        jitter: True spreads by 10 % either way, "full" over 0..delay, "equal" over
            delay/2..delay, "decorrelated" over base..3*previous; False does not.
        delay: the seconds of plain backoff.
        base: the shortest delay of "decorrelated".
        cap: the longest of all.
        previous: the last delay that was waited; `base` at first.
        chance: where the randomness comes from.
    """
    if jitter is False:
        return delay
    if jitter == "full":
        return chance.uniform(0.0, delay)
    if jitter == "equal":
        return chance.uniform(delay / 2, delay)
    if jitter == "decorrelated":
        return chance.uniform(min(base, cap), min(cap, max(base, 3 * previous)))
    return chance.uniform(delay * (1 - _PLAIN_SPREAD), min(cap, delay * (1 + _PLAIN_SPREAD)))
