"""Whatever an experiment file of Chaos Toolkit says: it is loaded, or refused in one sentence."""

from __future__ import annotations

import copy
import json
import sys

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_resilience import ConfigurationError
from pytest_resilience import ToolkitExperiment
from tests.values import ANY
from tests.values import one_sentence


# All that the module has is looked at, each time.
HERE = {"type": "python", "module": "getpass", "func": "getuser", "arguments": {}}
PROGRAM = {"type": "process", "path": "true", "arguments": ["a"], "timeout": 1}
REQUEST = {
    "type": "http", "url": "http://127.0.0.1:1/", "timeout": 1, "method": "GET",
    "headers": {"a": "b"},
}  # fmt: skip


def probe(name: str, tolerance: Any, provider: dict[str, Any]) -> dict[str, Any]:
    return {"type": "probe", "name": name, "tolerance": tolerance, "provider": provider}


DOCUMENT: dict[str, Any] = {
    "title": "t",
    "description": "d",
    "configuration": {"a": {"type": "env", "key": "HOME", "default": "x", "env_var_type": "str"}},
    "secrets": {"group": {"key": "value"}},
    "steady-state-hypothesis": {
        "title": "h",
        "probes": [
            probe("bounds", [0, 1], HERE),
            probe("range", {"type": "range", "range": [0, 1], "target": "x"}, REQUEST),
            probe("regex", {"type": "regex", "pattern": "x"}, PROGRAM),
        ],
    },
    "method": [
        {
            "type": "action", "name": "m", "provider": HERE, "background": False,
            "pauses": {"before": 0, "after": 0},
        },
        {"ref": "m"},
    ],
    "rollbacks": [{"type": "action", "name": "r", "provider": HERE}],
    "runtime": {"hypothesis": {"strategy": "default"}},
}  # fmt: skip
# What JSON can hold; files that are nested too deeply are further down.
JSON = {
    name: value
    for name, value in ANY.items()
    if isinstance(value, (str, int, float, list, dict, type(None)))
    and name not in {"deep", "many digits"}
}


def places(data: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        yield (*above, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*above, key))


def problem(document: Any) -> str:
    """What is wrong with it; "" if nothing is. Whatever else is raised fails the test."""
    try:
        ToolkitExperiment(document)
    except ConfigurationError as error:
        return str(error)
    return ""


def test_there_is_nothing_wrong_with_it() -> None:
    assert problem(DOCUMENT) == ""


@pytest.mark.filterwarnings("ignore:Possible nested set:FutureWarning")  # of a pattern here
@pytest.mark.parametrize("place", list(places(DOCUMENT)), ids=lambda p: ".".join(map(str, p)))
def test_every_value_of_a_file(place: tuple[Any, ...]) -> None:
    for name, value in JSON.items():
        document = copy.deepcopy(DOCUMENT)
        at: Any = document
        for step in place[:-1]:
            at = at[step]
        at[place[-1]] = value
        text = problem(document)
        assert not text or one_sentence(text), (name, text[:300])


def test_what_is_no_document() -> None:
    for name, value in JSON.items():
        assert one_sentence(problem(value)), name


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"{", bytes(range(256)), b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}",
        json.dumps(DOCUMENT).encode("utf-16"),
    ],
    ids=["empty", "a list", "half", "binary", "deep", "digits", "UTF-16"],
)  # fmt: skip
def test_files_that_are_no_experiment(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "experiment.json"
    path.write_bytes(data)
    with pytest.raises(ConfigurationError) as caught:
        ToolkitExperiment.load(path)
    assert one_sentence(str(caught.value))


def test_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "experiment.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(DOCUMENT).encode())
    assert ToolkitExperiment.load(path).title == "t"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that tells, in a file beside it, what of it was run."""
    (tmp_path / "experiment_of_mine.py").write_text(
        "from pathlib import Path\n"
        "ran = Path(__file__).with_name('ran')\n"
        "ran.write_text('imported')\n"
        "def act():\n"
        "    ran.write_text('called')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "experiment_of_mine"
    sys.modules.pop("experiment_of_mine", None)


def test_loading_imports_and_running_calls(tmp_path: Path, module: str) -> None:
    """As the documentation says of what a file can do, and when."""
    action = {"type": "action", "name": "a", "provider": HERE | {"module": module, "func": "act"}}
    path = tmp_path / "experiment.json"
    path.write_text(json.dumps({"title": "t", "description": "d", "method": [action]}))
    experiment = ToolkitExperiment.load(path)
    assert (tmp_path / "ran").read_text() == "imported"
    experiment.run()
    assert (tmp_path / "ran").read_text() == "called"


def test_a_module_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_experiment.py").write_text("raise RuntimeError('out of\\norder')\n")
    monkeypatch.syspath_prepend(tmp_path)
    provider = HERE | {"module": "broken_experiment", "func": "act"}
    action = {"type": "action", "name": "a", "provider": provider}
    text = problem({"title": "t", "description": "d", "method": [action]})
    assert r"RuntimeError: out of\norder" in text
    assert one_sentence(text)
