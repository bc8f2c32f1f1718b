"""All that is used of pytest without being public, in one place."""

from __future__ import annotations

import pytest


__all__ = ["taken_options"]


def taken_options(parser: pytest.Parser) -> set[str]:
    """Every option string registered so far.

    The public way is to add an option and see whether that raises, but depending on the
    version it raises only later, when the run is lost already.
    """
    groups = [*parser._groups, parser._anonymous]  # noqa: SLF001
    return {name for group in groups for option in group.options for name in option.names()}
