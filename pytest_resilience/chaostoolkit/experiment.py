"""Experiments in the format of Chaos Toolkit: loaded, run, and their journal written.

What is run is the steady-state hypothesis before and after the method, the method, and
always the rollbacks: also when the system deviates, an action fails, or somebody interrupts.

An experiment file is a program: it names functions of any module that can be imported, and
programs of this machine. Loading it imports those modules; running it calls the functions and
starts the programs, with the rights of whoever runs it. So load files alone that you would run
as scripts.

See https://chaostoolkit.org/reference/api/experiment/ for the format.
"""

from __future__ import annotations

import json
import platform
import threading

from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.chaostoolkit.activity import Activity
from pytest_resilience.chaostoolkit.activity import stamp
from pytest_resilience.chaostoolkit.values import Values
from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.monkey.steady_state import Verdict


__all__ = ["Journal", "ToolkitExperiment"]

# When the hypothesis is tested: before, during, after the method.
_STRATEGIES = {
    "default": (True, False, True),
    "before-method-only": (True, False, False),
    "during-method-only": (False, True, False),
    "after-method-only": (False, False, True),
    "continuously": (True, True, True),
    "skip": (False, False, False),
}


@dataclass(frozen=True, slots=True)
class Journal:
    """What a run has recorded.

    Attributes:
        document: in the format of Chaos Toolkit's `journal.json`.
    """

    document: dict[str, Any]

    @property
    def verdict(self) -> Verdict:
        """What the run has shown; a system that deviated is told apart from a run that failed."""
        if self.document["deviated"]:
            return Verdict.DEVIATED
        return {"completed": Verdict.PASSED, "interrupted": Verdict.ABORTED}.get(
            self.document["status"], Verdict.FAILED
        )

    def write(self, path: str | Path) -> None:
        """Write it as JSON."""
        Path(path).write_text(json.dumps(self.document, indent=2) + "\n", encoding="utf-8")


class ToolkitExperiment:
    """An experiment that has been read and checked; nothing has been performed.

    Attributes:
        document: as it was written.
        title: of the experiment.

    Raises ConfigurationError for whatever could not be run.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = _checked(document)
        self.title = str(document["title"])
        self._values = values = Values.read(document)
        hypothesis = document.get("steady-state-hypothesis") or {}
        self._named: dict[str, Any] = {}
        self._probes = [
            Activity.parse(self._resolved(each), values, in_hypothesis=True)
            for each in _listed(hypothesis, "probes")
        ]
        self._method = [Activity.parse(self._resolved(each), values) for each in document["method"]]
        self._rollbacks = [
            Activity.parse(self._resolved(each), values) for each in _listed(document, "rollbacks")
        ]
        runtime = _named(document, "runtime")
        self._before, self._during, self._after = _strategy(_named(runtime, "hypothesis"))

    @classmethod
    def load(cls, path: str | Path) -> ToolkitExperiment:
        """Read `experiment.json`. Raises ConfigurationError, and OSError if there is none.

        This imports the modules that it names, and `run` calls any function and starts any
        program that it names. So a file from elsewhere is to be read before, like a script.
        """
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"{path} is no JSON: {error}") from error
        if not isinstance(document, Mapping):
            raise ConfigurationError(f"{path} holds no experiment but {type(document).__name__}")
        return cls(document)

    def _resolved(self, activity: Any) -> Any:
        """The activity itself, or the earlier one that it refers to."""
        if not isinstance(activity, Mapping) or "ref" not in activity:
            if isinstance(activity, Mapping):
                self._named.setdefault(str(activity.get("name")), activity)
            return activity
        name = activity["ref"]
        if not isinstance(name, str) or name not in self._named:
            raise ConfigurationError(f"ref={shortened(name)}: no earlier activity has this name")
        return self._named[name]

    def run(self, *, journal: str | Path | None = None, clock: Clock = SYSTEM_CLOCK) -> Journal:
        """Run it, and write the journal to a file if one is named, whatever happens.

        This calls the functions and starts the programs that the file names, whatever they are.

        A system that deviates while it is looked at during the method ends the method there.
        """
        record = _Record(self.document, clock)
        try:
            self._run_method(record)
        except BaseException:
            record.document["status"] = "interrupted"
            raise
        finally:
            try:
                self._roll_back(record)
            finally:
                record.end()
                if journal is not None:
                    Journal(record.document).write(journal)
        return Journal(record.document)

    def _run_method(self, record: _Record) -> None:
        states = record.document["steady_states"]
        if self._before:
            states["before"] = self._test(record)
            if not _met(states["before"]):
                record.failed()
                return
        threads: list[threading.Thread] = []
        for activity in self._method:
            if activity.in_background:
                threads.append(record.run_beside(activity, self._values))
            elif record.run(activity, self._values, "run") == "failed" and _is_action(activity):
                record.failed()
            if self._during:
                states["during"].append(self._test(record))
                if not _met(states["during"][-1]):
                    record.document["deviated"] = True
                    break
        for thread in threads:
            thread.join()
        if self._after and not record.document["deviated"]:
            states["after"] = self._test(record)
            record.document["deviated"] = not _met(states["after"])

    def _test(self, record: _Record) -> dict[str, Any] | None:
        """Ask the probes, until one is not content."""
        if not self._probes:
            return None
        asked: list[dict[str, Any]] = []
        for probe in self._probes:
            asked.append(probe.run(self._values, record.clock))
            if not asked[-1]["tolerance_met"]:
                return {"steady_state_met": False, "probes": asked}
        return {"steady_state_met": True, "probes": asked}

    def _roll_back(self, record: _Record) -> None:
        for activity in self._rollbacks:
            if record.run(activity, self._values, "rollbacks") == "failed":
                record.failed()


class _Record:
    """A journal while it is written."""

    def __init__(self, experiment: Mapping[str, Any], clock: Clock) -> None:
        self.clock = clock
        self._began = clock.monotonic()
        self.document: dict[str, Any] = {
            "chaoslib-version": "pytest-resilience",
            "platform": platform.platform(),
            "node": platform.node(),
            "experiment": dict(experiment),
            "start": stamp(clock.time()),
            "status": "completed",
            "deviated": False,
            "steady_states": {"before": None, "after": None, "during": []},
            "run": [],
            "rollbacks": [],
        }

    def run(self, activity: Activity, values: Values, into: str) -> str:
        """Perform it; how that ended."""
        done = activity.run(values, self.clock)
        self.document[into].append(done)
        return str(done["status"])

    def run_beside(self, activity: Activity, values: Values) -> threading.Thread:
        """Perform it in a thread."""

        def work() -> None:
            if self.run(activity, values, "run") == "failed" and _is_action(activity):
                self.failed()

        thread = threading.Thread(target=work, name=str(activity.document["name"]), daemon=True)
        with limits_lifted():
            thread.start()
        return thread

    def failed(self) -> None:
        """Note that it did not go as it should."""
        if self.document["status"] == "completed":
            self.document["status"] = "failed"

    def end(self) -> None:
        """Note when it ended."""
        self.document["end"] = stamp(self.clock.time())
        self.document["duration"] = self.clock.monotonic() - self._began


def _is_action(activity: Activity) -> bool:
    return bool(activity.document["type"] == "action")


def _met(state: dict[str, Any] | None) -> bool:
    return state is None or bool(state["steady_state_met"])


def _strategy(hypothesis: Mapping[str, Any]) -> tuple[bool, bool, bool]:
    name = hypothesis.get("strategy", "default")
    if not isinstance(name, str) or name not in _STRATEGIES:
        raise ConfigurationError(
            f"hypothesis strategy {shortened(name)}: give one of "
            + ", ".join(map(repr, _STRATEGIES))
        )
    return _STRATEGIES[name]


def _listed(table: Mapping[str, Any], name: str) -> Sequence[Any]:
    found = table.get(name) or ()
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise ConfigurationError(f"{name}={shortened(found)}: give a list of activities")
    return found


def _named(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = table.get(name) or {}
    if not isinstance(found, Mapping):
        raise ConfigurationError(f"{name}={shortened(found)}: give settings by name")
    return found


def _checked(document: Any) -> Mapping[str, Any]:
    if not isinstance(document, Mapping):
        raise ConfigurationError(f"{shortened(document)} is no experiment; give a mapping")
    for name in ("title", "description"):
        if not document.get(name):
            raise ConfigurationError(f"the experiment has no {name}; give it one")
    if document.get("controls"):
        raise ConfigurationError("controls are not supported; leave them out")
    hypothesis = document.get("steady-state-hypothesis")
    if hypothesis is not None and not (isinstance(hypothesis, Mapping) and hypothesis.get("title")):
        raise ConfigurationError("the steady-state-hypothesis has no title; give it one")
    if not isinstance(document.get("method"), Sequence):
        raise ConfigurationError(
            "the experiment has no method; give a list of activities, or an empty one to test "
            "the hypothesis alone"
        )
    return document
