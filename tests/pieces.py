"""Bytes as they come over a network: in whatever pieces."""

from __future__ import annotations

from collections.abc import Sequence


__all__ = ["split"]


def split(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """Pieces of these sizes, as far as it goes, and the rest; none is empty."""
    found = []
    for size in sizes:
        found.append(data[:size])
        data = data[size:]
    return [each for each in [*found, data] if each]
