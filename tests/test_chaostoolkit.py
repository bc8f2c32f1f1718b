from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import warnings

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pytest_resilience import ConfigurationError
from pytest_resilience import Verdict
from pytest_resilience.chaostoolkit import ToolkitExperiment


PATIENCE = 30  # seconds of real time
MODULE = "a_system_under_test"


class System(ModuleType):
    """A module of functions that experiments name."""

    def __init__(self) -> None:
        super().__init__(MODULE)
        self.done: list[str] = []
        self.health: list[Any] = []
        self.go_on = threading.Event()

        def well() -> Any:
            self.done.append("well?")
            return self.health.pop(0) if self.health else True

        def act(what: str) -> str:
            self.done.append(what)
            if what == "fail":
                raise OSError("failed")
            if what == "interrupt":
                raise KeyboardInterrupt
            return what.upper()

        def wait() -> None:
            assert self.go_on.wait(PATIENCE)
            self.done.append("waited")

        def go_on() -> None:
            self.go_on.set()

        def given(configuration: dict[str, Any], secrets: dict[str, Any], x: int) -> list[Any]:
            return [configuration, secrets, x]

        def odd() -> object:
            return threading.Lock

        def handlers() -> list[str]:
            return [str(signal.getsignal(each)) for each in (signal.SIGTERM, signal.SIGINT)]

        for each in (well, act, wait, given, odd, handlers):
            setattr(self, each.__name__, each)
        self.let_go = go_on


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    found = System()
    monkeypatch.setitem(sys.modules, MODULE, found)
    return found


def activity(func: str, kind: str = "action", /, **settings: Any) -> dict[str, Any]:
    provider: dict[str, Any] = {"type": "python", "module": MODULE, "func": func}
    for name in ("arguments", "secrets"):
        if name in settings:
            provider[name] = settings.pop(name)
    name = settings.pop("name", func)
    return {"type": kind, "name": name, "provider": provider, **settings}


def act(what: str, **settings: Any) -> dict[str, Any]:
    return activity("act", name=what, arguments={"what": what}, **settings)


def document(*method: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {
        "title": "t",
        "description": "d",
        "steady-state-hypothesis": {
            "title": "h",
            "probes": [activity("well", "probe", tolerance=True)],
        },
        "method": list(method),
        "rollbacks": [act("undo")],
        **settings,
    }


def run(*method: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return ToolkitExperiment(document(*method, **settings)).run().document


def verdict(*method: dict[str, Any], **settings: Any) -> Verdict:
    return ToolkitExperiment(document(*method, **settings)).run().verdict


def test_a_run_tests_acts_tests_and_rolls_back(system: System) -> None:
    written = document(act("one"), act("two"), title="of ${what}", configuration={"what": "t"})
    experiment = ToolkitExperiment(written)
    assert experiment.title == "of ${what}"
    assert system.done == []  # loading does nothing
    for _ in range(2):  # as often as one likes
        system.done.clear()
        journal = experiment.run()
        assert system.done == ["well?", "one", "two", "well?", "undo"]
        assert journal.verdict is Verdict.PASSED
        record = journal.document
        assert (record["status"], record["deviated"]) == ("completed", False)
        assert [each["output"] for each in record["run"]] == ["ONE", "TWO"]
        assert record["steady_states"]["before"]["probes"][0]["tolerance_met"] is True
    assert experiment.document["title"] == "of ${what}"


def test_a_system_that_is_not_well_is_left_alone(system: System) -> None:
    system.health = [False]
    assert verdict(act("one")) is Verdict.FAILED
    assert system.done == ["well?", "undo"]


def test_a_system_that_deviates_is_told_apart_from_a_run_that_fails(system: System) -> None:
    system.health = [True, False]
    record = run(act("one"))
    assert (record["status"], record["deviated"]) == ("completed", True)
    system.health = [True, False]
    assert verdict(act("fail")) is Verdict.DEVIATED
    assert verdict(act("fail")) is Verdict.FAILED
    assert verdict(rollbacks=[act("fail")]) is Verdict.FAILED
    assert verdict(activity("odd", "probe")) is Verdict.PASSED


def test_a_failing_action_keeps_nothing_from_being_rolled_back(system: System) -> None:
    record = run(act("fail"), act("two"), rollbacks=[act("fail"), act("undo")])
    assert system.done == ["well?", "fail", "two", "well?", "fail", "undo"]
    assert [each["status"] for each in record["run"]] == ["failed", "succeeded"]
    assert "OSError: failed" in record["run"][0]["exception"][-1]


def test_an_interrupt_keeps_nothing_from_being_rolled_back(system: System, tmp_path: Path) -> None:
    experiment = ToolkitExperiment(document(act("interrupt"), act("two")))
    with pytest.raises(KeyboardInterrupt):
        experiment.run(journal=tmp_path / "journal.json")
    assert system.done == ["well?", "interrupt", "undo"]
    written = json.loads((tmp_path / "journal.json").read_text())
    assert written["status"] == "interrupted"
    assert [each["status"] for each in written["rollbacks"]] == ["succeeded"]


def test_a_hypothesis_that_cannot_be_tested_keeps_nothing_from_being_rolled_back(
    system: System, tmp_path: Path
) -> None:
    system.health = [2, "many"]
    probes = [activity("well", "probe", tolerance=[1, 3])]
    hypothesis = {"title": "h", "probes": probes}
    experiment = ToolkitExperiment(document(act("one"), **{"steady-state-hypothesis": hypothesis}))
    with pytest.raises(TypeError, match="not supported between instances of 'int' and 'str'"):
        experiment.run(journal=tmp_path / "journal.json")
    assert system.done == ["well?", "one", "well?", "undo"]
    written = json.loads((tmp_path / "journal.json").read_text())
    assert written["status"] == "aborted"
    assert [each["status"] for each in written["rollbacks"]] == ["succeeded"]


@pytest.mark.parametrize(
    ("runtime", "done"),
    [
        ({}, ["well?", "one", "well?", "undo"]),
        ({"hypothesis": {"strategy": "before-method-only"}}, ["well?", "one", "undo"]),
        ({"hypothesis": {"strategy": "after-method-only"}}, ["one", "well?", "undo"]),
        ({"hypothesis": {"strategy": "skip"}}, ["one", "undo"]),
        ({"rollbacks": {"strategy": "never"}}, ["well?", "one", "well?"]),
        ({"rollbacks": {"strategy": "deviated"}}, ["well?", "one", "well?"]),
    ],
)
def test_the_file_says_when_the_hypothesis_is_tested_and_what_is_rolled_back(
    system: System, runtime: dict[str, Any], done: list[str]
) -> None:
    assert run(act("one"), runtime=runtime)["status"] == "completed"
    assert system.done == done


@pytest.fixture
def tested_beside(caplog: pytest.LogCaptureFixture) -> Iterator[threading.Event]:
    """Set when chaoslib has ended testing the hypothesis beside the method."""
    ended = threading.Event()

    def look(record: logging.LogRecord) -> bool:
        if record.getMessage() == "Continuous steady state hypothesis terminated":
            ended.set()
        return True

    logger = logging.getLogger("chaostoolkit")
    caplog.set_level(logging.INFO, "chaostoolkit")
    logger.addFilter(look)
    yield ended
    logger.removeFilter(look)


@pytest.mark.parametrize("strategy", ["during-method-only", "continuously"])
def test_a_deviation_during_the_method_ends_it(
    system: System, tested_beside: threading.Event, strategy: str
) -> None:
    system.health = [True] * (strategy == "continuously") + [False]
    system.go_on = tested_beside
    method = [activity("wait"), act("two")]
    settings = document(*method, runtime={"hypothesis": {"strategy": strategy}})
    journal = ToolkitExperiment(settings).run()
    assert "waited" in system.done
    assert "two" not in system.done
    assert system.done[-1] == "undo"
    assert journal.document["deviated"]
    assert journal.verdict is Verdict.DEVIATED


def test_without_a_hypothesis_nothing_is_tested(system: System) -> None:
    plain = document(act("one"))
    del plain["steady-state-hypothesis"]
    assert ToolkitExperiment(plain).run().verdict is Verdict.PASSED
    assert system.done == ["one", "undo"]


def test_activities_in_the_background_and_references(system: System) -> None:
    record = run(activity("wait", background=True), act("one"), {"ref": "one"}, activity("let_go"))
    assert system.done == ["well?", "one", "one", "waited", "well?", "undo"]
    assert len(record["run"]) == 4


@pytest.mark.parametrize(
    ("dry", "done"),
    [("actions", ["well?", "well?"]), ("activities", []), ("probes", ["one", "undo"])],
)
def test_what_is_said_to_be_dry_is_not_performed(
    system: System, tmp_path: Path, dry: str, done: list[str]
) -> None:
    path = tmp_path / "journal.json"
    ToolkitExperiment(document(act("one"), dry=dry)).run(journal=path)
    assert system.done == done
    assert json.loads(path.read_text())["experiment"]["dry"] == dry
    system.done.clear()
    run(act("one", dry="activities"), act("two"))
    assert system.done == ["well?", "two", "well?", "undo"]


def test_what_no_json_can_say_is_written_as_text(system: System, tmp_path: Path) -> None:
    path = tmp_path / "journal.json"
    ToolkitExperiment(document(activity("odd", "probe"))).run(journal=path)
    assert "lock" in json.loads(path.read_text())["run"][0]["output"]


def test_a_file_is_read(system: System, tmp_path: Path) -> None:
    path = tmp_path / "experiment.json"
    path.write_text(json.dumps(document(act("one"))))
    assert ToolkitExperiment.load(path).run().verdict is Verdict.PASSED
    path.write_text("[]")
    with pytest.raises(ConfigurationError, match="holds no experiment but list"):
        ToolkitExperiment.load(path)
    path.write_text("{")
    with pytest.raises(ConfigurationError, match="is no JSON: "):
        ToolkitExperiment.load(path)
    with pytest.raises(ConfigurationError, match=r"missing\.json cannot be read"):
        ToolkitExperiment.load(tmp_path / "missing.json")


def test_a_file_of_yaml_is_read(system: System, tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(
        "title: t\n"
        "description: d\n"
        "method:\n"
        "- type: action\n"
        "  name: one\n"
        f"  provider: {{type: python, module: {MODULE}, func: act, arguments: {{what: one}}}}\n"
    )
    assert ToolkitExperiment.load(str(path)).run().verdict is Verdict.PASSED
    assert system.done == ["one"]
    path.write_text("title: [")
    with pytest.raises(ConfigurationError, match="is no YAML: "):
        ToolkitExperiment.load(path)


def test_values_come_from_the_file_and_the_environment(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("TOKEN", "t0p"), ("PORT", "443")):
        monkeypatch.setenv(name, value)
    configuration = {
        "plain": "p",
        "port": {"type": "env", "key": "PORT", "env_var_type": "int"},
    }
    secrets = {"api": {"token": {"type": "env", "key": "TOKEN"}}}
    record = run(
        activity("given", arguments={"x": "${port}"}, secrets=["api"]),
        act("${plain}-${token}-$unknown"),
        configuration=configuration,
        secrets=secrets,
    )
    assert record["run"][0]["output"] == [{"plain": "p", "port": 443}, {"token": "t0p"}, 443]
    assert system.done[1] == "p-t0p-$unknown"


# Nothing of the process that runs it is changed for longer than the run.


def test_the_process_is_left_as_it_was(system: System) -> None:
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    loggers = [logging.getLogger(name) for name in (None, "chaostoolkit", "chaostoolkit-lib")]

    def state() -> list[Any]:
        return [
            [signal.getsignal(each) for each in signals],
            [(each.level, list(each.handlers), each.propagate) for each in loggers],
            list(warnings.filters),
        ]

    before = state()
    handlers = run(activity("handlers", "probe"))["run"][0]["output"]
    assert state() == before
    # Meanwhile SIGTERM ends the test run as ever.
    assert handlers == [str(signal.getsignal(each)) for each in (signal.SIGTERM, signal.SIGINT)]


def test_importing_it_leaves_warnings_as_they_are() -> None:
    code = (
        "import warnings; before = list(warnings.filters)\n"
        "from pytest_resilience import ToolkitExperiment\n"
        "ToolkitExperiment({'title': 't', 'description': 'd', 'method': []})\n"
        "import sys; assert 'chaoslib' in sys.modules; assert list(warnings.filters) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE, env=os.environ)


def test_only_the_main_thread_runs_it(system: System) -> None:
    errors: list[str] = []

    def work() -> None:
        try:
            run()
        except ConfigurationError as error:
            errors.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(PATIENCE)
    [message] = errors
    assert "main thread alone; call run() there" in message
    assert system.done == []


# What could not be run is refused before anything is.


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"title": ""}, "experiment requires a title"),
        ({"method": [3]}, "AttributeError: 'int' object has no attribute 'get'"),
        ({"steady-state-hypothesis": {"probes": []}}, "hypothesis requires a title"),
        (
            {"steady-state-hypothesis": {"title": "h", "probes": [activity("well", "probe")]}},
            "hypothesis probe must have a tolerance entry",
        ),
        ({"method": [{"ref": "nobody"}]}, "referenced activity 'nobody' could not be found"),
        ({"method": [act("x") | {"type": "deed"}]}, "'deed' is not a supported activity type"),
        ({"method": [act("x", dry="all")]}, "ValueError: Unknown dry"),
        ({"method": [activity("gone")]}, "does not expose a function called 'gone'"),
        ({"method": [activity("act", arguments={"who": 1})]}, "'what' is missing from"),
        (
            {"rollbacks": [act("x") | {"provider": {"type": "process", "path": "/no/such"}}]},
            "path '/no/such' cannot be found",
        ),
        (
            {"configuration": {"a": {"type": "env", "key": "NO_SUCH_THING_HERE"}}},
            "environment key that does not exist: NO_SUCH_THING_HERE",
        ),
    ],
)
def test_what_could_not_be_run_is_refused(system: System, change: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        ToolkitExperiment(document() | change)
    assert str(raised.value).startswith("this is no valid experiment of Chaos Toolkit: ")
    assert why in str(raised.value)
    assert system.done == []


@pytest.mark.parametrize(
    ("name", "shape"),
    [("method", "list"), ("rollbacks", "list"), ("configuration", "mapping"),
     ("secrets", "mapping"), ("steady-state-hypothesis", "mapping"), ("runtime", "mapping")],
)  # fmt: skip
def test_parts_of_another_shape(system: System, name: str, shape: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        ToolkitExperiment(document() | {name: 3})
    assert str(raised.value) == f"{name}=3: give a {shape}"


@pytest.mark.parametrize(
    ("of", "known"), [("hypothesis", "'default', "), ("rollbacks", "'always', ")]
)
def test_strategies_that_there_are_not(system: System, of: str, known: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        ToolkitExperiment(document(runtime={of: {"strategy": "now"}}))
    assert str(raised.value).startswith(f"runtime: {of}: strategy='now': give one of {known}")
