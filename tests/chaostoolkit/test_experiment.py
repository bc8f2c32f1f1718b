from __future__ import annotations

import json
import sys
import threading

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ConfigurationError
from pytest_resilience import ManualClock
from pytest_resilience.chaostoolkit.experiment import ToolkitExperiment
from pytest_resilience.chaostoolkit.providers import provider_of
from pytest_resilience.chaostoolkit.tolerance import tolerance_of
from pytest_resilience.chaostoolkit.values import Values
from pytest_resilience.monkey.steady_state import Verdict


PATIENCE = 30  # seconds of real time
MODULE = "a_system_under_test"


class System(ModuleType):
    """A module of functions that experiments name."""

    def __init__(self) -> None:
        super().__init__(MODULE)
        self.done: list[str] = []
        self.health: list[Any] = []
        self.go_on = threading.Event()

        def well() -> bool:
            self.done.append("well?")
            return bool(self.health.pop(0)) if self.health else True

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

        def small(value: float, most: float = 1.0) -> bool:
            return value <= most

        def odd() -> object:
            return threading.Lock

        for each in (well, act, wait, given, small, odd):
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
    return ToolkitExperiment(document(*method, **settings)).run(clock=ManualClock()).document


def verdict(*method: dict[str, Any], **settings: Any) -> Verdict:
    return ToolkitExperiment(document(*method, **settings)).run(clock=ManualClock()).verdict


def test_a_run_asks_acts_asks_and_rolls_back(system: System) -> None:
    clock = ManualClock(epoch=86_400)
    experiment = ToolkitExperiment(
        document(act("one", pauses={"before": 5, "after": 2.5}), act("two"))
    )
    assert experiment.title == "t"
    assert system.done == []  # loading does nothing
    journal = experiment.run(clock=clock)
    assert system.done == ["well?", "one", "two", "well?", "undo"]
    assert journal.verdict is Verdict.PASSED
    record = journal.document
    assert (record["status"], record["deviated"]) == ("completed", False)
    assert (record["start"], record["end"]) == (
        "1970-01-02T00:00:00+00:00", "1970-01-02T00:00:07.500000+00:00",
    )  # fmt: skip
    assert record["duration"] == 7.5
    one = record["run"][0]
    assert (one["output"], one["status"], one["duration"]) == ("ONE", "succeeded", 0)
    assert one["start"] == one["end"] == "1970-01-02T00:00:05+00:00"
    assert record["steady_states"]["before"]["probes"][0]["tolerance_met"] is True


def test_a_system_that_is_not_well_is_left_alone(system: System) -> None:
    system.health = [False]
    record = run(act("one"))
    assert system.done == ["well?", "undo"]
    assert (record["status"], record["deviated"]) == ("failed", False)


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
    assert record["run"][0]["exception"][-1] == "OSError: failed\n"
    assert record["run"][0]["output"] is None


def test_an_interrupt_keeps_nothing_from_being_rolled_back(system: System, tmp_path: Path) -> None:
    experiment = ToolkitExperiment(document(act("interrupt"), act("two")))
    with pytest.raises(KeyboardInterrupt):
        experiment.run(journal=tmp_path / "journal.json", clock=ManualClock())
    assert system.done == ["well?", "interrupt", "undo"]
    written = json.loads((tmp_path / "journal.json").read_text())
    assert written["status"] == "interrupted"
    assert [each["status"] for each in written["rollbacks"]] == ["succeeded"]


@pytest.mark.parametrize(
    ("strategy", "asked"),
    [
        ("default", ["well?", "one", "two", "well?", "undo"]),
        ("before-method-only", ["well?", "one", "two", "undo"]),
        ("after-method-only", ["one", "two", "well?", "undo"]),
        ("during-method-only", ["one", "well?", "two", "well?", "undo"]),
        ("continuously", ["well?", "one", "well?", "two", "well?", "well?", "undo"]),
        ("skip", ["one", "two", "undo"]),
    ],
)
def test_when_the_hypothesis_is_tested(system: System, strategy: str, asked: list[str]) -> None:
    record = run(act("one"), act("two"), runtime={"hypothesis": {"strategy": strategy}})
    assert system.done == asked
    assert record["status"] == "completed"


def test_a_deviation_during_the_method_ends_it(system: System) -> None:
    system.health = [True, False]
    record = run(act("one"), act("two"), runtime={"hypothesis": {"strategy": "continuously"}})
    assert system.done == ["well?", "one", "well?", "undo"]
    assert record["deviated"]
    assert [each["steady_state_met"] for each in record["steady_states"]["during"]] == [False]


def test_without_a_hypothesis_nothing_is_asked(system: System) -> None:
    plain = document(act("one"))
    del plain["steady-state-hypothesis"]
    record = ToolkitExperiment(plain).run(clock=ManualClock()).document
    assert record["steady_states"] == {"before": None, "after": None, "during": []}
    assert system.done == ["one", "undo"]
    assert record["status"] == "completed"


def test_an_activity_in_the_background_is_waited_for_before_the_end(system: System) -> None:
    record = run(activity("wait", background=True), activity("let_go"))
    assert system.done == ["well?", "waited", "well?", "undo"]
    assert sorted(each["activity"]["name"] for each in record["run"]) == ["let_go", "wait"]


def test_an_activity_can_be_referred_to(system: System) -> None:
    run(act("one"), {"ref": "one"}, {"ref": "well"})
    assert system.done == ["well?", "one", "one", "well?", "well?", "undo"]


def test_what_no_json_can_say_is_written_as_text(system: System, tmp_path: Path) -> None:
    path = tmp_path / "journal.json"
    ToolkitExperiment(document(activity("odd", "probe"))).run(journal=path, clock=ManualClock())
    assert "lock" in json.loads(path.read_text())["run"][0]["output"]


def test_a_file_is_read(system: System, tmp_path: Path) -> None:
    path = tmp_path / "experiment.json"
    path.write_text(json.dumps(document(act("one"))))
    assert ToolkitExperiment.load(path).run(clock=ManualClock()).verdict is Verdict.PASSED
    path.write_text("[]")
    with pytest.raises(ConfigurationError, match="holds no experiment but list"):
        ToolkitExperiment.load(path)
    path.write_text("{")
    with pytest.raises(ConfigurationError, match="is no JSON: "):
        ToolkitExperiment.load(path)


# Values.


def test_values_come_from_the_file_and_the_environment(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("TOKEN", "t0p"), ("PORT", "443"), ("ON", "yes")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ABSENT", raising=False)
    configuration = {
        "plain": "p",
        "port": {"type": "env", "key": "PORT", "env_var_type": "int"},
        "on": {"type": "env", "key": "ON", "env_var_type": "bool"},
        "absent": {"type": "env", "key": "ABSENT", "default": 7},
        "table": {"a": 1},
    }
    secrets = {"api": {"token": {"type": "env", "key": "TOKEN"}}}
    record = run(
        activity("given", arguments={"x": "${port}"}, secrets=["api"]),
        act("${plain}-${token}-$unknown"),
        configuration=configuration,
        secrets=secrets,
    )
    read = {"plain": "p", "port": 443, "on": True, "absent": 7, "table": {"a": 1}}
    assert record["run"][0]["output"] == [read, {"token": "t0p"}, 443]
    assert system.done[1] == "p-t0p-$unknown"


def test_of_a_value_and_a_secret_of_one_name_the_value_is_meant() -> None:
    values = Values({"a": "value"}, {"first": {"a": "secret", "b": 1}, "second": {"c": 2}})
    assert values.put_into(["${a}", "${b}", "${c}", "$a"]) == ["value", 1, 2, "value"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(alphabet=st.characters(codec="ascii")),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_names_nothing_is_left_as_it_is(data: Any) -> None:
    def unescaped(data: Any) -> Any:  # `$$` is one dollar, as in every template
        if isinstance(data, str):
            return data.replace("$$", "$")
        if isinstance(data, dict):
            return {key: unescaped(value) for key, value in data.items()}
        return [unescaped(each) for each in data] if isinstance(data, list) else data

    assert Values().put_into(data) == unescaped(data)


# Tolerances.


OK = {"status": 200, "body": '{"items": [{"id": 1}, {"id": 2}]}', "headers": {}}


@pytest.mark.parametrize(
    ("tolerance", "output", "met"),
    [
        (True, True, True),
        (True, 0, False),
        ("up", "up", True),
        ("${word}", "configured", True),
        (200, OK, True),
        (503, OK, False),
        (3, 3, True),
        ([200, 204], OK, True),
        ([199, 201], OK, False),  # of a status, a list is one of
        ([1, 3], 2, True),  # of a number, two are bounds
        ([1, 3], 4, False),
        (["a", "b", "c"], "c", True),
        (["a", "b", "c"], "d", False),
        ({"type": "range", "range": [0, 0.5]}, 0.5, True),
        ({"type": "range", "range": [0, 0.5]}, "0.6", False),
        ({"type": "regex", "pattern": "it.ms", "target": "body"}, OK, True),
        ({"type": "regex", "pattern": "^${word}$"}, "configured", True),
        ({"type": "regex", "pattern": "no"}, "yes", False),
        ({"type": "probe", "name": "p", "provider": activity("small")["provider"]}, 0.5, True),
        (
            {
                "type": "probe",
                "name": "p",
                "provider": activity("small", arguments={"most": 0.1})["provider"],
            },
            0.5,
            False,
        ),
    ],
)
def test_tolerances(system: System, tolerance: Any, output: Any, met: bool) -> None:
    values = Values({"word": "configured"})
    assert tolerance_of("x", tolerance, values)(output) is met


@pytest.mark.parametrize(
    ("rest", "met"),
    [
        ({"path": "$.items[*].id"}, True),
        ({"path": "$.nothing"}, False),
        ({"path": "$.items[*]", "count": 2}, True),
        ({"path": "$.items[*]", "count": 3}, False),
        ({"path": "$.items[*].id", "expect": [1, 2]}, True),
        ({"path": "$.items[0].id", "expect": 1}, True),
        ({"path": "$.items[0].id", "expect": 2}, False),
    ],
)
def test_paths(rest: dict[str, Any], met: bool) -> None:
    pytest.importorskip("jsonpath2")
    tolerance = {"type": "jsonpath", "target": "body", **rest}
    assert tolerance_of("x", tolerance, Values())(OK) is met


@pytest.mark.parametrize(
    ("tolerance", "output"),
    [
        (True, False), (200, OK), (200, {"status": 500}), ([200, 204], OK), ([1, 3], 2),
        ([1, 3], 5), (["a", "b", "c"], "b"), ("up", "down"),
        ({"type": "range", "range": [1, 2]}, 1.5), ({"type": "range", "range": [1, 2]}, 3),
        ({"type": "regex", "pattern": "a+"}, "caat"), ({"type": "regex", "pattern": "^a"}, "b"),
        ({"type": "regex", "target": "body", "pattern": "items"}, OK),
    ],
)  # fmt: skip
def test_chaos_toolkit_judges_as_we_do(tolerance: Any, output: Any) -> None:
    theirs = pytest.importorskip("chaoslib.hypothesis").within_tolerance
    assert tolerance_of("x", tolerance, Values())(output) is bool(theirs(tolerance, output))


# Providers.


@pytest.mark.parametrize(
    "arguments",
    [["-c", "import sys; print(sys.argv[1]); sys.exit(3)", "${word}"],
     "-c 'import sys; print(sys.argv[1]); sys.exit(3)' configured"],
)  # fmt: skip
def test_a_program(arguments: Any) -> None:
    perform = provider_of("x", {"type": "process", "path": sys.executable, "arguments": arguments})
    output = perform(Values({"word": "configured"}))
    assert output == {"status": 3, "stdout": "configured\n", "stderr": ""}


class Echo(BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        heard = {
            "method": self.command,
            "path": self.path,
            "body": self.rfile.read(length).decode(),
            "word": self.headers.get("X-Word"),
        }
        body = json.dumps(heard).encode()
        self.send_response(503 if "broken" in self.path else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(PATIENCE)


def test_a_request(url: str) -> None:
    def ask(**settings: Any) -> tuple[int, dict[str, Any]]:
        perform = provider_of("x", {"type": "http", "timeout": [5, 10], **settings})
        output = perform(Values({"url": url, "word": "w"}))
        assert output["headers"]["Content-Type"] == "application/json"
        return output["status"], output["body"]

    nothing = {"method": "GET", "path": "/", "body": "", "word": None}
    assert ask(url="${url}/") == (200, nothing)
    assert ask(url=f"{url}/broken")[0] == 503  # an answer as well
    assert ask(url=f"{url}/?a=1", arguments={"b": "${word}"}, headers={"X-Word": "${word}"}) == (
        200, nothing | {"path": "/?a=1&b=w", "word": "w"},
    )  # fmt: skip
    posted = nothing | {"method": "POST"}
    form = ask(url=f"{url}/", method="post", arguments={"b": 1})
    assert form == (200, posted | {"body": "b=1"})
    text = ask(url=f"{url}/", method="POST", arguments="raw", verify_tls=False)
    assert text == (200, posted | {"body": "raw"})
    kind = {"Content-Type": "application/json"}
    encoded = ask(url=f"{url}/", method="POST", arguments={"b": 1}, headers=kind)
    assert encoded == (200, posted | {"body": '{"b": 1}'})


# What could not be run is refused before anything is.


PROVIDER = activity("well")["provider"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"title": ""}, "the experiment has no title; give it one"),
        ({"description": None}, "the experiment has no description"),
        ({"method": None}, "the experiment has no method; give a list"),
        ({"controls": [{}]}, "controls are not supported"),
        ({"steady-state-hypothesis": {"probes": []}}, "the steady-state-hypothesis has no title"),
        (
            {"steady-state-hypothesis": {"title": "h", "probes": [activity("well", "probe")]}},
            "activity 'well': a probe of the hypothesis needs a tolerance",
        ),
        ({"runtime": {"hypothesis": {"strategy": "now"}}}, "hypothesis strategy 'now': give one"),
        ({"method": [{"type": "action"}]}, "activity {'type': 'action'}: it needs a name"),
        ({"method": [{"ref": "nobody"}]}, "ref='nobody': no earlier activity has this name"),
        ({"method": [act("x") | {"type": "deed"}]}, "activity 'x': type='deed': give 'probe'"),
        ({"method": [act("x", controls=[1])]}, "activity 'x': controls are not supported"),
        ({"method": [act("x", pauses={"after": -1})]}, "activity 'x': a pause of -1: give"),
        ({"method": [act("x") | {"provider": 3}]}, "activity 'x': it needs a provider, not 3"),
        (
            {"method": [act("x") | {"provider": {"type": "ssh"}}]},
            "activity 'x': provider type 'ssh'; give one of 'python', 'process', 'http'",
        ),
        ({"method": [activity("gone")]}, f"activity 'gone': there is no function {MODULE}:gone"),
        (
            {"method": [activity("act", arguments={"who": 1})]},
            f"activity 'act': {MODULE}:act cannot be called so: missing a required argument",
        ),
        ({"method": [activity("act", arguments=[1])]}, "activity 'act': arguments=[1]: give them"),
        (
            {"rollbacks": [act("x") | {"provider": {"type": "process", "path": "/no/such"}}]},
            "activity 'x': there is no program '/no/such'",
        ),
        (
            {"method": [act("x") | {"provider": {"type": "http", "url": "ftp://x"}}]},
            "activity 'x': url='ftp://x': give an http or https URL",
        ),
        (
            {
                "method": [
                    act("x") | {"provider": {"type": "http", "url": "${u}", "max_retries": 2}}
                ]
            },
            "activity 'x': max_retries would hide",
        ),
        ({"configuration": 3}, "configuration=3: give values by name"),
        ({"secrets": 3}, "secrets=3: give groups"),
        ({"configuration": {"a": {"type": "vault"}}}, "configuration: a is of type 'vault'"),
        (
            {"configuration": {"a": {"type": "env", "key": "NO_SUCH_THING_HERE"}}},
            "configuration: a: the environment has no 'NO_SUCH_THING_HERE'",
        ),
        (
            {"configuration": {"a": {"type": "env", "key": "PATH", "env_var_type": "int"}}},
            "configuration: a: PATH in the environment is no int",
        ),
        (
            {"configuration": {"a": {"type": "env", "key": "PATH", "env_var_type": "list"}}},
            "configuration: a: env_var_type='list'; give one of str, int, float, bool, bytes",
        ),
    ],
)
def test_what_could_not_be_run_is_refused(system: System, change: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        ToolkitExperiment(document() | change)
    assert str(raised.value).startswith(why)
    assert system.done == []


@pytest.mark.parametrize(
    ("tolerance", "why"),
    [
        (0.5, "x: tolerance=0.5: give a value"),
        ({"type": "moon"}, "x: tolerance of type 'moon'; give one of 'range', 'regex', "),
        ({"type": "range", "range": [1]}, r"x: range=[1]: give two numbers"),
        ({"type": "range", "range": [2, 1]}, "nothing is within 2 and 1"),
        ({"type": "regex"}, "x: pattern=None: give a regular expression"),
        ({"type": "regex", "pattern": "("}, "'(' is no regular expression"),
        ({"type": "probe", "provider": {"type": "http"}}, "x: a tolerance of type 'probe' is a"),
        (
            {"type": "probe", "provider": PROVIDER},
            f"x: {MODULE}:well cannot be called so: got an unexpected keyword argument 'value'",
        ),
    ],
)
def test_what_could_never_be_tolerated_is_refused(system: System, tolerance: Any, why: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        tolerance_of("x", tolerance, Values())
    assert str(raised.value).startswith(why)


def test_a_path_without_the_package_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonpath2", None)
    monkeypatch.setitem(sys.modules, "jsonpath2.path", None)
    with pytest.raises(ConfigurationError, match="'jsonpath' needs the package jsonpath2"):
        tolerance_of("x", {"type": "jsonpath", "path": "$"}, Values())


def test_a_url_that_turns_out_to_be_none(system: System) -> None:
    ask = {"type": "probe", "name": "x", "provider": {"type": "http", "url": "${u}"}}
    record = run(ask, configuration={"u": "ftp://x"})
    assert record["run"][0]["status"] == "failed"
    assert "give an http or https URL" in record["run"][0]["exception"][-1]
