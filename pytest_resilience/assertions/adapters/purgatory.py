"""Reads the breakers that the factories of purgatory make, sync and async."""

from __future__ import annotations

import time

from pytest_resilience.assertions.readings import CircuitReading


__all__ = ["read"]

_STATES = {"closed": "CLOSED", "opened": "OPEN", "half-opened": "HALF_OPEN"}


def read(thing: object) -> CircuitReading | None:
    """Read what `get_breaker` gave, or its context; it keeps no record of its transitions."""
    from purgatory.domain.model import Context

    context = getattr(thing, "context", thing)
    if not isinstance(context, Context):
        return None
    opened_at = context.opened_at
    state = _STATES.get(context.state, context.state)
    left = 0.0 if opened_at is None else opened_at + context.ttl - time.time()
    return CircuitReading(
        name=context.name,
        state=state,
        path=None,
        timeline=(f"open for {left:.3f} s more",)
        if left > 0
        # Only a closed one counts.
        else (f"failures in a row: {context.failure_count or 0} (opens at {context.threshold})",),
        refuses=state == "OPEN" and left > 0,
        ask=context.handle_new_request,
    )
