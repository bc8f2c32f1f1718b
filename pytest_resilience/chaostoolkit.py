"""Experiments of Chaos Toolkit: read, run by its own library `chaoslib`, and their journal written.

Chaos Toolkit tests the steady-state hypothesis before and after the method, and rolls back. Here
the rollbacks run whatever happens, unless the experiment's `runtime` says otherwise: also when an
action fails, the hypothesis cannot be tested, or somebody interrupts.

An experiment file is a program: it names functions of any module that can be imported, and
programs of this machine. Loading it imports those modules; running it calls the functions and
starts the programs, with the rights of whoever runs it. So load only files that you would run as
scripts.

See https://chaostoolkit.org/reference/api/experiment/ for the format.
"""

from __future__ import annotations

import contextlib
import copy
import json
import signal
import sys
import threading
import warnings

from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pytest_resilience.chaos.parsing.experiment_specs import read_text
from pytest_resilience.chaos.parsing.messages import inline
from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.events import describe
from pytest_resilience.monkey.steady_state import Verdict


__all__ = ["Journal", "ToolkitExperiment"]

_MAPPINGS = ("configuration", "runtime", "secrets", "steady-state-hypothesis")
_LISTS = ("method", "rollbacks")
_HYPOTHESIS_STRATEGIES = (
    "default",
    "before-method-only",
    "during-method-only",
    "after-method-only",
    "continuously",
    "skip",
)
_ROLLBACK_STRATEGIES = ("always", "default", "deviated", "never")


@dataclass(frozen=True, slots=True)
class Journal:
    """The record of a run.

    Attributes:
        document: in the format of Chaos Toolkit's `journal.json`.
    """

    document: dict[str, Any]

    @property
    def verdict(self) -> Verdict:
        """The outcome; a system that deviated is told apart from a run that failed.

        Chaos Toolkit completes a run in which an action failed; here such a run has FAILED.
        """
        journal = self.document
        if journal["deviated"]:
            return Verdict.DEVIATED
        if journal["status"] == "interrupted":
            return Verdict.ABORTED
        before = journal["steady_states"]["before"]
        was_steady = before is None or before["steady_state_met"]
        actions_failed = any(
            run["activity"]["type"] == "action" and run.get("status") != "succeeded"
            for run in (*journal["run"], *journal["rollbacks"])
        )
        if journal["status"] != "completed" or actions_failed or not was_steady:
            return Verdict.FAILED
        return Verdict.PASSED

    def write(self, path: str | Path) -> None:
        """Write it as JSON; what JSON cannot hold is written as its repr."""
        text = json.dumps(self.document, indent=2, skipkeys=True, default=_as_json)
        Path(path).write_text(text + "\n", encoding="utf-8")


class ToolkitExperiment:
    """An experiment that has been read and checked; nothing has been performed.

    Attributes:
        document: as it was written.
        title: of the experiment.

    Raises ConfigurationError for an experiment that is not valid, and without `chaoslib`.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        _import_chaoslib()
        if not isinstance(document, Mapping):
            raise ConfigurationError(f"{shortened(document)} is no experiment; give a mapping")
        self.document = document
        for name in _MAPPINGS:
            if not isinstance(document.get(name, {}), Mapping):
                raise ConfigurationError(f"{name}={shortened(document[name])}: give a mapping")
        for name in _LISTS:
            if not isinstance(document.get(name, []), list):
                raise ConfigurationError(f"{name}={shortened(document[name])}: give a list")
        with _one_sentence():
            from chaoslib.experiment import ensure_experiment_is_valid

            ensure_experiment_is_valid(copy.deepcopy(dict(document)))
            self._hypothesis = _strategy(document, "hypothesis", _HYPOTHESIS_STRATEGIES)
            self._rollbacks = _strategy(document, "rollbacks", _ROLLBACK_STRATEGIES)
            self._prepared()
        self.title = str(document["title"])

    @classmethod
    def load(cls, path: str | Path) -> ToolkitExperiment:
        """Read a file: YAML if it is named `.yaml` or `.yml`, else JSON. Raises ConfigurationError.

        This imports the modules that it names, and `run` calls any function and starts any
        program that it names. So a file from elsewhere is to be read before, like a script.
        """
        _import_chaoslib()
        text = read_text(Path(path))
        is_yaml = Path(path).suffix in {".yaml", ".yml"}
        try:
            if is_yaml:
                import yaml  # chaoslib requires it

                document = yaml.safe_load(text)
            else:
                document = json.loads(text)
        except Exception as error:
            raise ConfigurationError(
                f"{path} is no {'YAML' if is_yaml else 'JSON'}: {inline(str(error))}"
            ) from error
        if not isinstance(document, Mapping):
            raise ConfigurationError(f"{path} holds no experiment but {type(document).__name__}")
        return cls(document)

    def run(self, *, journal: str | Path | None = None) -> Journal:
        """Run it in the main thread, and write the journal to `journal`, whatever happens.

        This calls the functions and starts the programs that the file names, whatever they are.

        A deviation that is seen during the method ends the method after the current activity.
        """
        if threading.current_thread() is not threading.main_thread():
            raise ConfigurationError(
                "Chaos Toolkit handles signals while an experiment runs, and Python allows that in "
                "the main thread alone; call run() there"
            )
        observer = _observer()
        try:
            self._run_by_chaoslib(observer)
        finally:
            if journal is not None and observer.journal:
                Journal(observer.journal).write(journal)
        if observer.interrupt is not None:
            raise observer.interrupt
        return Journal(observer.journal)

    def _run_by_chaoslib(self, observer: Any) -> None:
        from chaoslib.experiment import run_experiment
        from chaoslib.types import Schedule
        from chaoslib.types import Strategy
        from urllib3.exceptions import InsecureRequestWarning

        settings = {"runtime": {"rollbacks": {"strategy": self._rollbacks}}}
        with warnings.catch_warnings():
            # Raised by requests for which the experiment says not to verify certificates.
            warnings.simplefilter("ignore", InsecureRequestWarning)
            try:
                run_experiment(
                    self._prepared(),
                    settings,
                    strategy=Strategy.from_string(self._hypothesis),
                    schedule=Schedule(fail_fast=True),
                    event_handlers=[observer],
                )
            except BaseException:
                if observer.journal:
                    observer.journal["status"] = "aborted"
                # chaoslib leaves without a rollback if, say, a tolerance cannot be compared.
                if observer.journal and not observer.journal["rollbacks"]:
                    undo = self._prepared() | {"method": []}
                    done = run_experiment(undo, settings, strategy=Strategy.SKIP)
                    observer.journal["rollbacks"] = done["rollbacks"]
                raise

    def _prepared(self) -> dict[str, Any]:
        """A copy that chaoslib may change."""
        from chaoslib.activity import get_all_activities_in_experiment
        from chaoslib.types import Dry

        experiment = copy.deepcopy(dict(self.document))
        for part in (experiment, *get_all_activities_in_experiment(experiment)):
            if "dry" in part:  # the text, as it stands in a file, would be ignored
                part["dry"] = Dry.from_string(part["dry"])
        return experiment


def _import_chaoslib() -> None:
    try:
        with warnings.catch_warnings():  # its import silences a warning of urllib3 for good
            import chaoslib.experiment  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            "an experiment of Chaos Toolkit is run by its library chaostoolkit-lib, which is not "
            "installed; pip install 'pytest-resilience[chaostoolkit]'"
        ) from error


@contextlib.contextmanager
def _one_sentence() -> Iterator[None]:
    """Turn whatever an experiment makes chaoslib raise into a ConfigurationError."""
    from chaoslib.exceptions import ChaosException

    try:
        yield
    except ConfigurationError:
        raise
    except Exception as error:  # chaoslib checks few types, and imports what is named
        reason = str(error) if isinstance(error, ChaosException) else describe(error)
        raise ConfigurationError(
            f"this is no valid experiment of Chaos Toolkit: {inline(reason)}"
        ) from error


def _strategy(document: Mapping[str, Any], of: str, known: tuple[str, ...]) -> str:
    runtime = document.get("runtime") or {}
    given = (runtime.get(of) or {}).get("strategy", known[0])
    if given not in known:
        raise ConfigurationError(
            f"runtime: {of}: strategy={shortened(given)}: give one of "
            + ", ".join(map(repr, known))
        )
    return str(given)


def _observer() -> Any:
    """A handler of events that sees what `run_experiment` keeps to itself."""
    from chaoslib.run import RunEventHandler

    class Observer(RunEventHandler):
        def __init__(self) -> None:
            self.journal: dict[str, Any] = {}
            self.interrupt: KeyboardInterrupt | None = None
            self._sigterm = signal.getsignal(signal.SIGTERM)

        def started(self, _experiment: Any, journal: dict[str, Any]) -> None:
            self.journal = journal
            # chaoslib makes SIGTERM an exception, which any Python activity swallows: nobody
            # could end the test run.
            signal.signal(signal.SIGTERM, self._sigterm)

        def continuous_hypothesis_iteration(self, _index: int, state: Any) -> None:
            if state is not None and not state["steady_state_met"]:
                self.journal["deviated"] = True  # which chaoslib notes after the method alone

        def signal_exit(self) -> None:
            error = sys.exception()  # chaoslib ends the run for it, and goes no further
            if isinstance(error, KeyboardInterrupt):
                self.interrupt = error

    return Observer()


def _as_json(value: object) -> Any:
    return value.value if isinstance(value, Enum) else repr(value)
