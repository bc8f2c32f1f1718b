"""What can be imported, each as the first thing of a process, and where there is no pytest."""

from __future__ import annotations

import json

from pathlib import Path

import pytest

from tests.ahead import runs_job
from tests.end_to_end.installed.outside import Outside
from tests.end_to_end.installed.outside import Runs
from tests.end_to_end.installed.outside import shown


MODULES = [
    "pytest_resilience",
    "pytest_resilience.assertions",
    "pytest_resilience.clock",
    "pytest_resilience.errors",
    "pytest_resilience.events",
    "pytest_resilience.runtime",
    "pytest_resilience.patterns",
    "pytest_resilience.plugin",
    "pytest_resilience.plugin.newhooks",
    "pytest_resilience.proxy",
    "pytest_resilience.toolkit_actions",
]
NEED_PYTEST = {
    "pytest_resilience",  # because of `Chaos`, the type of the fixture
    "pytest_resilience.plugin",
    "pytest_resilience.plugin.newhooks",
}

# Prints what comes of each line of code, in a process that has done nothing before.
ALONE = """
import json
import os
import sys

for code, forbidden in json.load(sys.stdin):
    child = os.fork()
    if not child:
        sys.modules.update(dict.fromkeys(forbidden))
        try:
            exec(code)
        except BaseException as error:
            print(f"{code}: {error!r}")
        loaded = sys.modules.keys() & {"psutil", "requests", "responses"}
        if loaded and "patterns" in code:
            print(f"{code}: {loaded}")
        sys.exit()
    os.waitpid(child, 0)
"""


TOOLKIT = """
from pytest_resilience import ToolkitExperiment

print(ToolkitExperiment.load("experiment.json").run().verdict.name)
"""


def everything(outside: Outside, folder: Path) -> dict[str, pytest.RunResult]:
    no_pytest = ["pytest", "_pytest"]
    jobs = [(f"from {name} import *", [] if name in NEED_PYTEST else no_pytest) for name in MODULES]
    experiment = {"title": "t", "description": "d", "method": []}
    (folder / "experiment.json").write_text(json.dumps(experiment))
    toolkit = ("-W", "error", "-c", TOOLKIT)
    library = outside.path_with("chaostoolkit-lib")
    return {
        "alone": outside.run("-W", "error", "-c", ALONE, cwd=folder, stdin=json.dumps(jobs)),
        "without": outside.run(*toolkit, cwd=folder),
        "having": outside.run(*toolkit, cwd=folder, PYTHONPATH=library),
    }


pytestmark = runs_job(Runs(module=__name__))


def test_each_comes_alone(runs: dict[str, pytest.RunResult]) -> None:
    result = shown(runs["alone"])
    assert (result.outlines, result.errlines) == ([], [])


def test_chaos_toolkit_with_and_without_its_library(runs: dict[str, pytest.RunResult]) -> None:
    assert shown(runs["without"]).errlines[-2:] == [
        (
            "pytest_resilience.errors.ConfigurationError: an experiment of Chaos Toolkit is run "
            "by its library chaostoolkit-lib, which is not installed; "
            "pip install 'pytest-resilience[chaostoolkit]'"
        ),
        "See https://pytest-resilience.readthedocs.io/en/stable/messages/#configurationerror",
    ]
    assert shown(runs["having"]).outlines == ["PASSED"]
