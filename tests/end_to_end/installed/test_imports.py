"""What can be imported, each as the first thing of a process, and where there is no pytest."""

from __future__ import annotations

import json

from pathlib import Path

from tests.end_to_end.installed.conftest import Outside
from tests.end_to_end.installed.conftest import shown


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


def test_each_comes_alone(outside: Outside, tmp_path: Path) -> None:
    no_pytest = ["pytest", "_pytest"]
    jobs = [(f"from {name} import *", [] if name in NEED_PYTEST else no_pytest) for name in MODULES]
    result = shown(outside.run("-W", "error", "-c", ALONE, cwd=tmp_path, stdin=json.dumps(jobs)))
    assert (result.outlines, result.errlines) == ([], [])


def test_chaos_toolkit_with_and_without_its_library(outside: Outside, tmp_path: Path) -> None:
    experiment = {"title": "t", "description": "d", "method": []}
    (tmp_path / "experiment.json").write_text(json.dumps(experiment))
    code = (
        "from pytest_resilience import ToolkitExperiment\n"
        "print(ToolkitExperiment.load('experiment.json').run().verdict.name)"
    )
    without = shown(outside.run("-W", "error", "-c", code, cwd=tmp_path))
    assert without.errlines[-1] == (
        "pytest_resilience.errors.ConfigurationError: an experiment of Chaos Toolkit is run by its "
        "library chaostoolkit-lib, which is not installed; "
        "pip install 'pytest-resilience[chaostoolkit]'"
    )
    library = outside.path_with("chaostoolkit-lib")
    having = shown(outside.run("-W", "error", "-c", code, cwd=tmp_path, PYTHONPATH=library))
    assert having.outlines == ["PASSED"]
