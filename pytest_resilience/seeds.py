"""Chance that repeats: one seed a run, everything else derived from it.

A draw is a function of seed, path and index alone. No generator is shared, so
neither the order of tests, nor the number of workers, nor a thread that gets
there first changes what any one of them is dealt.
"""

from __future__ import annotations

import hashlib
import random

from dataclasses import dataclass


__all__ = ["SEED_BITS", "Stream", "derive", "new_seed"]

SEED_BITS = 32  # ten digits at most: it is typed by hand from a log


def new_seed() -> int:
    """A seed nobody chose, in `range(2**SEED_BITS)`."""
    return random.SystemRandom().getrandbits(SEED_BITS)


def derive(seed: int, *path: str | int) -> int:
    """A 64-bit seed for the place `path` below `seed`; the same in every process."""
    steps = [repr(step).encode() for step in (seed, *path)]
    named = b"".join([len(step).to_bytes(4, "big") + step for step in steps])
    return int.from_bytes(hashlib.blake2b(named, digest_size=8).digest(), "big")


@dataclass(frozen=True, slots=True)
class Stream:
    """An endless sequence of numbers that can be read at any index."""

    seed: int

    @classmethod
    def at(cls, seed: int, *path: str | int) -> Stream:
        """The stream of the place `path` below `seed`."""
        return cls(derive(seed, *path))

    def draw(self, index: int) -> float:
        """The number at `index`, uniform in [0, 1)."""
        return (derive(self.seed, index) >> 11) * 2.0**-53

    def random(self) -> random.Random:
        """A generator of the standard library that starts from this stream."""
        return random.Random(self.seed)
