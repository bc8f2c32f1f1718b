"""What a forked process does with the proxies of its parent: it lets go of them.

Its copies of their sockets would keep ports open and connections alive that the parent
closes, and its copy of what waits for them is the parent's own.
"""

from __future__ import annotations

import os
import weakref

from typing import Protocol


__all__ = ["remember"]


class Holder(Protocol):
    """Something with descriptors."""

    def abandon(self) -> None:
        """Close this process's copies of them, and nothing else."""


_holders: weakref.WeakSet[Holder] = weakref.WeakSet()


def remember(holder: Holder) -> None:
    """Have it abandoned in every process that is forked from now on."""
    _holders.add(holder)


def _abandon() -> None:
    for holder in list(_holders):
        holder.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon)
