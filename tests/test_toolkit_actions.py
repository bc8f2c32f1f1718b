"""One file, run by the command of Chaos Toolkit and by ours, against a real server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_resilience import DuplicateNameError
from pytest_resilience import UnknownNameError
from pytest_resilience import toolkit_actions
from pytest_resilience.chaostoolkit import ToolkitExperiment
from pytest_resilience.monkey.steady_state import Verdict
from pytest_resilience.runtime import default_runtime
from tests.health_server import health_server


ROOT = Path(__file__).parents[1]
EXPERIMENT = ROOT / "examples" / "chaos-toolkit.json"
PATIENCE = 60  # seconds


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    with health_server() as port:
        monkeypatch.setenv("SERVICE_URL", f"http://127.0.0.1:{port}/health")
        monkeypatch.setenv("SERVICE_TARGET", f"127.0.0.1:{port}")
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.delenv("http_proxy", raising=False)
        monkeypatch.setenv("no_proxy", "*")
        yield port


def chaos(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """The command `chaos` of Chaos Toolkit."""
    settings = str(folder / "settings.yaml")
    command = [sys.executable, "-W", "ignore", "-m", "chaostoolkit", "--no-version-check"]
    return subprocess.run(
        [*command, "--no-log-file", "--settings", settings, *args],
        cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False, env=os.environ,
    )  # fmt: skip


def theirs(folder: Path) -> dict[str, Any]:
    chaos(
        folder, "run", "--rollback-strategy=always", "--journal-path=theirs.json", str(EXPERIMENT)
    )
    found: dict[str, Any] = json.loads((folder / "theirs.json").read_text())
    return found


def ours(folder: Path) -> dict[str, Any]:
    ToolkitExperiment.load(EXPERIMENT).run(journal=folder / "ours.json")
    found: dict[str, Any] = json.loads((folder / "ours.json").read_text())
    return found


def told(journal: dict[str, Any]) -> dict[str, Any]:
    """What a journal says without its times, and without the words of errors."""

    def runs(of: Any) -> Any:
        return [(each["activity"]["name"], each["status"]) for each in of]

    def state(of: Any) -> Any:
        return of and (of["steady_state_met"], runs(of["probes"]))

    states = journal["steady_states"]
    return {
        "status": journal["status"],
        "deviated": journal["deviated"],
        "before": state(states["before"]),
        "after": state(states["after"]),
        "run": runs(journal["run"]),
        "rollbacks": runs(journal["rollbacks"]),
    }


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    untouched = (socket.socket.connect, socket.getaddrinfo)
    yield
    assert default_runtime().engine.active == ()
    assert (socket.socket.connect, socket.getaddrinfo) == untouched


def test_chaos_toolkit_finds_our_file_valid(port: int, tmp_path: Path) -> None:
    done = chaos(tmp_path, "validate", str(EXPERIMENT))
    assert done.returncode == 0, done.stderr
    assert "experiment syntax and semantic look valid" in done.stdout + done.stderr


def test_both_run_it_to_the_same_end(port: int, tmp_path: Path) -> None:
    first, second = theirs(tmp_path), ours(tmp_path)
    assert told(first) == told(second)
    assert (second["status"], second["deviated"]) == ("completed", False)
    assert first.keys() - second.keys() == set()
    for journal in (first, second):
        assert journal["run"][1]["output"] == ["trouble"]
        assert journal["run"][2]["output"]["status"] == 200
        (stopped,) = journal["rollbacks"][0]["output"]
        assert stopped["hits"] >= 2  # of the probe of the method: to connect, and its answer
        assert stopped["delay"] > 0


def test_both_see_a_system_that_deviates(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TROUBLE", "network_failure")
    first, second = theirs(tmp_path), ours(tmp_path)
    assert (second["status"], second["deviated"]) == ("failed", True)
    assert told(first) == told(second)
    (stopped,) = second["rollbacks"][0]["output"]
    assert stopped["hits"] >= 2


def test_a_deviation_is_told_apart_from_a_failure(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TROUBLE", "network_failure")
    assert ToolkitExperiment.load(EXPERIMENT).run().verdict is Verdict.DEVIATED
    monkeypatch.setenv("TROUBLE", "no such thing")
    journal = ToolkitExperiment.load(EXPERIMENT).run()
    assert journal.verdict is Verdict.FAILED
    assert "unknown chaos type 'no such thing'" in journal.document["run"][0]["exception"][-1]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        unused = listener.getsockname()[1]
    monkeypatch.setenv("SERVICE_URL", f"http://127.0.0.1:{unused}/health")
    journal = ToolkitExperiment.load(EXPERIMENT).run()
    assert journal.verdict is Verdict.FAILED
    assert journal.document["run"] == []  # it was not well to begin with
    assert not journal.document["deviated"]


def test_actions_and_probes() -> None:
    started = toolkit_actions.start_experiment("network_latency", delay="1ms", target="a.invalid")
    assert started == {
        "name": "network_latency",
        "what": "network_latency: latency 1ms, always, target a.invalid",
    }
    with pytest.raises(DuplicateNameError, match="a chaos experiment named 'network_latency'"):
        toolkit_actions.start_experiment("network_latency")
    toolkit_actions.start_experiment("network_latency", "second", seed=3, target="b.invalid")
    assert toolkit_actions.active_experiments() == ["network_latency", "second"]
    assert toolkit_actions.count_hits("second") == 0
    ended = {"name": "second", "matched": 0, "hits": 0, "delay": 0.0}
    assert toolkit_actions.stop_experiment("second") == ended
    assert toolkit_actions.stop_experiment("second") == ended
    with pytest.raises(UnknownNameError, match="no chaos experiment is named 'third'"):
        toolkit_actions.stop_experiment("third")
    (last,) = toolkit_actions.stop_all_experiments()
    assert last["name"] == "network_latency"
    assert toolkit_actions.stop_all_experiments() == []
    toolkit_actions.start_experiment("network_latency", target="a.invalid")  # again
    toolkit_actions.stop_all_experiments()
