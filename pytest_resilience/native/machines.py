"""The machines on which clients in C are reached."""

from __future__ import annotations

import functools
import os
import sys


__all__ = ["SLOT_TYPES", "unsupported"]

# By machine: the types of relocations that fill a slot of a function (JUMP_SLOT, GLOB_DAT).
SLOT_TYPES = {"x86_64": frozenset({7, 6}), "aarch64": frozenset({1026, 1025})}


@functools.cache
def unsupported() -> str:
    """Why clients in C cannot be reached on this machine; empty if they can."""
    machine = os.uname().machine if hasattr(os, "uname") else ""
    if sys.platform != "linux" or machine not in SLOT_TYPES or sys.maxsize < 2**32:
        return f"on {sys.platform} ({machine}) they cannot be reached in this process"
    names = getattr(os, "confstr_names", {})
    if "CS_GNU_LIBC_VERSION" not in names or not os.confstr("CS_GNU_LIBC_VERSION"):
        return "with another C library than glibc they cannot be reached in this process"
    return ""
