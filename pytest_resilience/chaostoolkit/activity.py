"""One activity of a Chaos Toolkit experiment, a probe or an action, and the record of a run."""

from __future__ import annotations

import json
import traceback

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from datetime import datetime
from typing import Any

from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.chaostoolkit.providers import Perform
from pytest_resilience.chaostoolkit.providers import provider_of
from pytest_resilience.chaostoolkit.tolerance import Judge
from pytest_resilience.chaostoolkit.tolerance import tolerance_of
from pytest_resilience.chaostoolkit.values import Values
from pytest_resilience.clock import Clock
from pytest_resilience.errors import ConfigurationError


__all__ = ["Activity", "plain", "stamp"]

_LONGEST_PAUSE = 3.6e9  # seconds: as for every duration


def stamp(seconds: float) -> str:
    """Seconds since 1970-01-01 UTC as ISO 8601."""
    return datetime.fromtimestamp(seconds, tz=UTC).isoformat()


def plain(value: Any) -> Any:
    """`value` if it can be written as JSON, else its repr."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return repr(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """Something to perform.

    Attributes:
        document: as written in the experiment.
        perform: does it.
        tolerance: judges its output; None outside the hypothesis.
        before, after: seconds to pause.
    """

    document: Mapping[str, Any]
    perform: Perform
    tolerance: Judge | None
    before: float
    after: float

    @classmethod
    def parse(cls, document: Any, values: Values, *, in_hypothesis: bool = False) -> Activity:
        """From an experiment. Raises ConfigurationError for what could not be performed."""
        if not isinstance(document, Mapping) or not document.get("name"):
            raise ConfigurationError(f"activity {shortened(document)}: it needs a name")
        where = f"activity {shortened(document['name'])}"
        if document.get("type") not in ("probe", "action"):
            raise ConfigurationError(
                f"{where}: type={shortened(document.get('type'))}: give 'probe' or 'action'"
            )
        for unknown in ("controls", "dry"):
            if document.get(unknown):
                raise ConfigurationError(f"{where}: {unknown} are not supported; leave them out")
        if in_hypothesis and "tolerance" not in document:
            raise ConfigurationError(f"{where}: a probe of the hypothesis needs a tolerance")
        judge = tolerance_of(where, document["tolerance"], values) if in_hypothesis else None
        pauses = values.put_into(document.get("pauses") or {})
        if not isinstance(pauses, Mapping):
            raise ConfigurationError(f"{where}: pauses={shortened(pauses)}: give before and after")
        return cls(
            document=document,
            perform=provider_of(where, document.get("provider")),
            tolerance=judge,
            before=_pause(where, pauses.get("before")),
            after=_pause(where, pauses.get("after")),
        )

    @property
    def in_background(self) -> bool:
        """Whether the next activity does not wait for it."""
        return bool(self.document.get("background"))

    def run(self, values: Values, clock: Clock) -> dict[str, Any]:
        """Perform it and record that, as in a journal. Never raises an `Exception`."""
        if self.before:
            clock.sleep(self.before)
        record: dict[str, Any] = {"activity": dict(self.document), "output": None}
        record["start"], began = stamp(clock.time()), clock.monotonic()
        try:
            output = self.perform(values)
            record |= {"output": plain(output), "status": "succeeded"}
            if self.tolerance is not None:
                record["tolerance_met"] = self.tolerance(output)
        except Exception as error:
            record |= {"status": "failed", "exception": traceback.format_exception(error)}
            if self.tolerance is not None:
                record["tolerance_met"] = False
        record |= {"end": stamp(clock.time()), "duration": clock.monotonic() - began}
        if self.after:
            clock.sleep(self.after)
        return record


def _pause(where: str, value: Any) -> float:
    if value is None:
        return 0.0
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= _LONGEST_PAUSE:
        raise ConfigurationError(f"{where}: a pause of {shortened(value)}: give seconds, 0 or more")
    return float(value)
