"""Each command of `python -m`, with its help and at work, and what it says without an extra."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ahead import runs_job
from tests.end_to_end.installed.outside import PATIENCE
from tests.end_to_end.installed.outside import Outside
from tests.end_to_end.installed.outside import Project
from tests.end_to_end.installed.outside import Runs
from tests.end_to_end.installed.outside import shown


TEST = """
import socket


def test_it():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
"""

# With a name that not every terminal can show.
PROFILE = """
[tool.pytest_resilience.profiles.ci]
[[tool.pytest_resilience.profiles.ci.experiments]]
name = "caf\u00e9"
chaos_type = "network_failure"
rate = 1
"""

# What is given to each command, the status, and what it says.
COMMANDS = {
    "merge": (("all.json", "-o", "merged.json"), 0, "merged.json: 1 cell*"),
    "gate": (("all.json",), 1, "failed: test_it.py::test_it under 'caf\u00e9'"),
    "report": (("all.json", "-o", "all.md"), 0, "all.md: 1 cell*"),
    "baseline": (("all.json", "-o", "known.txt"), 0, "known.txt: 1 cell*"),
}

PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # shows ASCII only


def everything(outside: Outside, folder: Path) -> dict[str, pytest.RunResult]:
    Project(files={"test_it.py": TEST, "pyproject.toml": PROFILE}).write(folder)

    def command(*args: str, **variables: str) -> pytest.RunResult:
        return outside.run("-m", "pytest_resilience", *args, cwd=folder, **variables)

    def helped(command: str) -> pytest.RunResult:
        return outside.run("-OO", "-m", "pytest_resilience", command, "--help", cwd=folder)

    def tests(*args: str, **variables: str) -> pytest.RunResult:
        return outside.run(outside.command, *args, cwd=folder, **variables)

    matrix = ("--chaos-profile=ci", "--chaos-matrix")
    page = ("report", "all.json", "-o", "page.html")
    return {
        "matrix": tests(*matrix, "--resilience-report=all.json"),
        "help": command("--help"),
        **{name: command(name, *args) for name, (args, _, _) in COMMANDS.items()},
        **{f"{name} --help": helped(name) for name in COMMANDS},
        "plain gate": command("gate", "all.json", **PLAIN),
        "plain types": tests("--chaos-list", **PLAIN),
        "page without": command(*page),
        "run without": tests(*matrix, "--resilience-report=page.html"),
        "page having": command(*page, PYTHONPATH=outside.path_with("jinja2")),
    }


pytestmark = runs_job(Runs(module=__name__))


def test_each_command_is_tried(runs: dict[str, pytest.RunResult]) -> None:
    found = re.findall(r"^    (\w+)  ", runs["help"].stdout.str(), re.MULTILINE)
    assert found == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_does_it(
    command: str, runs: dict[str, pytest.RunResult], folder: Path
) -> None:
    args, ret, shows = COMMANDS[command]
    result = shown(runs[command])
    result.stdout.fnmatch_lines(shows)
    assert (result.ret, result.errlines) == (ret, [])
    if "-o" in args:
        assert (folder / args[-1]).read_text(encoding="utf-8")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_says_what_it_takes(command: str, runs: dict[str, pytest.RunResult]) -> None:
    result = runs[f"{command} --help"]
    result.stdout.fnmatch_lines(f"usage: python -m pytest_resilience {command} *")
    assert result.ret == 0


def test_what_a_terminal_cannot_show_is_escaped(runs: dict[str, pytest.RunResult]) -> None:
    gate = shown(runs["plain gate"])
    gate.stdout.fnmatch_lines(r"failed: test_it.py::test_it under 'caf\xe9'")
    assert gate.errlines == []
    types = shown(runs["plain types"])
    types.stdout.fnmatch_lines("network_failure: *")
    assert (types.ret, types.errlines) == (0, [])


def test_a_page_without_jinja2(runs: dict[str, pytest.RunResult], folder: Path) -> None:
    needs = "an HTML report needs Jinja2; pip install 'pytest-resilience[[]report]'"
    without, run, having = (runs[name] for name in ("page without", "run without", "page having"))
    assert shown(without).outlines == []
    without.stderr.fnmatch_lines(f"error: page.html: {needs}")
    shown(run).stderr.fnmatch_lines(f"ERROR: page.html: {needs}")
    assert (without.ret, run.ret) == (2, 4)
    assert having.ret == 0, having.stderr.str()
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "</style>" in page
    assert "</script>" in page


@contextlib.contextmanager
def proxy(outside: Outside, *args: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [outside.python, "-m", "pytest_resilience.proxy", *args],
        env=outside.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_proxy(outside: Outside, tmp_path: Path) -> None:
    usage = outside.run("-OO", "-m", "pytest_resilience.proxy", "--help", cwd=tmp_path)
    usage.stdout.fnmatch_lines(["usage: python -m pytest_resilience.proxy *", "  slow_close *"])
    with socket.create_server(("127.0.0.1", 0)) as server:
        upstream = f"127.0.0.1:{server.getsockname()[1]}"
        refused = "network_failure:mode=refuse,rate=1"
        with proxy(outside, "127.0.0.1:0", upstream, "--experiment", refused) as process:
            assert process.stdout is not None
            [port] = re.findall(rf"127.0.0.1:(\d+) -> {upstream} ", process.stdout.readline())
            process.stdout.readline()  # the experiment: from here on it is active
            with pytest.raises(ConnectionError):  # at the latest where an answer is awaited
                socket.create_connection(("127.0.0.1", int(port)), timeout=PATIENCE).recv(1)
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=PATIENCE)
    assert said == "network_failure: refusal, always, target any: matched 1, hit 1\n"
    assert process.returncode == 0
