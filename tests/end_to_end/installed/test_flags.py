"""Each flag in each of its spellings, and each ini option, in processes of their own."""

from __future__ import annotations

import re

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.ahead import runs_job
from tests.end_to_end.installed.outside import SESSION
from tests.end_to_end.installed.outside import Outside
from tests.end_to_end.installed.outside import Project
from tests.end_to_end.installed.outside import Runs
from tests.end_to_end.installed.outside import shown


SHOP = """
import socket


def connect():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
"""

TEST = """
import shop


def test_it():
    shop.connect()
"""

LONG = """
import shop


def test_for_long(request):
    shop.connect()
    while request.config.getoption("--resilience-chaos-monkey"):
        shop.connect()  # until the monkey's thread has begun something
"""

# Not collected unless it is named.
CLOCK = """
import time


def test_clock():
    began = time.monotonic_ns()
    time.sleep(3600)
    assert time.monotonic_ns() - began == 3600 * 10**9
"""

PROFILE = """
[tool.pytest.ini_options]
pythonpath = ["."]

[tool.pytest_resilience.profiles.ci]
[[tool.pytest_resilience.profiles.ci.experiments]]
name = "outage"
chaos_type = "network_failure"
rate = 1

[[tool.pytest_resilience.profiles.ci.experiments]]
name = "slow"
chaos_type = "network_latency"
delay = "1ms"

[tool.pytest_resilience.profiles.wild]
interval = 3600
[[tool.pytest_resilience.profiles.wild.experiments]]
name = "wild outage"
chaos_type = "network_failure"
rate = 1
probability = 1
duration = "1h"
"""

FILES = {
    "shop.py": SHOP,
    "test_it.py": TEST,
    "test_long.py": LONG,
    "clock.py": CLOCK,
    "pyproject.toml": PROFILE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag at work.

    Attributes:
        value: what is given to it; none for a switch.
        args: what is given as well.
        shows: a line that is printed because of it.
        ret: the status.
        along: the flag in whose run this one is tried too.
    """

    shows: str
    value: str = ""
    args: tuple[str, ...] = ()
    ret: int = 0
    along: str = ""


MATRIX = ("--chaos-profile=ci", "--chaos-matrix")
REFUSED = "FAILED test_it.py::test_it - ConnectionRefusedError*"
EXPLORED = "test_it.py::test_it: 1 operation, 4 runs, 1 way to fail"  # and none left out as known

FLAGS = {
    "--chaos": Flag(value="network_failure:rate=1", shows=REFUSED, ret=1),
    "--chaos-profile": Flag(value="ci", shows=REFUSED, ret=1),
    "--chaos-monkey": Flag(value="wild", shows="*wild outage: refusal*hit*", ret=1),
    "--chaos-matrix": Flag(args=("--chaos-profile=ci",), shows="outage: 2 failed*", ret=10),
    "--chaos-experiment": Flag(
        value="slow", args=("--chaos-profile=ci",), shows="slow: latency 1ms*hit 2*"
    ),
    "--chaos-seed": Flag(
        value="7", args=("--chaos=network_latency:delay=1ms",), shows="chaos: seed 7"
    ),
    "--chaos-intensity": Flag(value="1", args=("--chaos=network_failure",), shows=REFUSED, ret=1),
    "--chaos-probability": Flag(
        value="0", args=("--chaos=network_failure:rate=1",), shows="*not started*"
    ),
    "--chaos-operations": Flag(
        args=("--chaos=network_failure:rate=1",), shows="*1 network.connect*"
    ),
    "--no-chaos": Flag(args=("--chaos=network_failure:rate=1",), shows="chaos: none (--no-chaos)"),
    "--chaos-list": Flag(shows="network_failure: *"),
    "--chaos-explore": Flag(value="1", args=("test_it.py", "clock.py"), shows=EXPLORED, ret=10),
    "--no-prune": Flag(shows=EXPLORED, ret=10, along="--chaos-explore"),
    "--chaos-explore-budget": Flag(
        value="4",
        shows="*1 more schedule was *: the budget is over",
        ret=10,
        along="--chaos-explore",
    ),
    "--chaos-schedules": Flag(
        value="kept.txt", shows="kept in kept.txt*", ret=10, along="--chaos-explore"
    ),
    "--virtual-time": Flag(shows="*2 passed*", ret=10, along="--chaos-explore"),
    "--chaos-replay": Flag(
        value="connect(localhost:port1)@shop.connect#2=refuse",
        args=("test_it.py",),
        shows="FAILED test_it.py::test_it - stale: connect(localhost:port1)@shop.connect#2 d*",
        ret=1,
    ),
    "--resilience-report": Flag(value="report.json", args=MATRIX, shows="*report.json*", ret=10),
    "--resilience-report-only": Flag(args=MATRIX, shows="outage: 2 failed*"),
    "--resilience-gate": Flag(value="100", args=MATRIX, shows="*below the 100 asked*", ret=10),
    "--resilience-baseline": Flag(value="known.txt", args=MATRIX, shows="*slow: 2 survived*"),
    "--resilience-shard": Flag(value="1/2", args=MATRIX, shows="*1 deselected*", ret=10),
}


# What stands in the ini file, with what pytest meets it, what comes of it, and the status.
INI = {
    "chaos_services": (
        "shop = shop:connect",
        "--chaos=service_failure:target_services=shop,exception=TimeoutError,rate=1",
        "FAILED test_it.py::test_it - TimeoutError*",
        1,
    ),
    "chaos_native": (
        "maybe",
        "--chaos=network_latency:delay=1ms",
        "ERROR: ini option chaos_native: invalid truth value 'maybe'; give true or false",
        4,
    ),
    "chaos_max_cpu": (
        "10%",
        "--chaos=cpu_stress:load=1,cores=1",
        "ERROR: *chaos_max_cpu = 10% allows*",
        4,
    ),
    "chaos_max_memory": (
        "1MiB",
        "--chaos=memory_stress:size=2MiB",
        "ERROR: *over the cap*_max_memory*",
        4,
    ),
    "chaos_max_disk": (
        "1MiB",
        "--chaos=disk_stress:size=2MiB",
        "ERROR: *over the cap*chaos_max_disk*",
        4,
    ),
    "virtual_time": ("true", "clock.py", "*1 passed*", 0),
}


def spelled(flag: str) -> list[str]:
    """As --chaos-…, and as --resilience-… ."""
    return [flag, *([] if flag.startswith("--resilience") else [f"--resilience-{flag[2:]}"])]


def leader(flag: str, spelling: str) -> str:
    """The spelling of the flag in whose run this one is tried."""
    along = FLAGS[flag].along or flag
    return spelled(along)[spelled(flag).index(spelling)]


def arguments(leading: str) -> list[str]:
    """All that is given in the run of a flag that is spelled so."""
    found = []
    for flag, spelling in SPELLINGS:
        if leader(flag, spelling) == leading:
            found += [f"{spelling}={FLAGS[flag].value}".rstrip("="), *FLAGS[flag].args]
    return found


# Those that load nothing, or other than the rest, before a test.
FRESH = ("--chaos", "--chaos-list", "--chaos-monkey", "--no-chaos")
SPELLINGS = [(flag, spelling) for flag in FLAGS for spelling in spelled(flag)]
TIMELESS = (*spelled("--chaos-explore"), "virtual_time")  # their time is virtual


def everything(outside: Outside, folder: Path) -> dict[str, pytest.RunResult]:
    files = FILES | {"known.txt": known(outside, folder)}
    projects = {
        name: Project(files=files, args=("--tb=no", *arguments(name)))
        for name in dict.fromkeys(leader(*each) for each in SPELLINGS)
    }
    for name, (value, given, *_) in INI.items():
        args = ("--tb=no", "-o", f"{name}={value}", given)
        projects[name] = Project(files=FILES, args=args)
    for name in TIMELESS:
        having = (*projects[name].args, *outside.having("time-machine"))
        projects[name] = Project(files=FILES, args=having)
    for name, more in {"help": (), "plain help": ("-p", "no:resilience")}.items():
        projects[name] = Project(files={}, args=("--help", *more))
    ready = ("--tb=no", "--chaos-profile=flaky-network", "--chaos-matrix")
    projects["no configuration"] = Project(files={"shop.py": SHOP, "test_it.py": TEST}, args=ready)
    fresh = {name: projects.pop(name) for name in FRESH}
    # All others begin with the same code: it need not be loaded each time.
    return outside.forks(fresh) | outside.forks(projects, SESSION)


def known(outside: Outside, folder: Path) -> str:
    """A baseline with what breaks."""
    Project(files=FILES).write(folder)
    outside.run(outside.command, *MATRIX, "--resilience-report=all.json", cwd=folder)
    command = ("baseline", "all.json", "-o", "known.txt")
    assert outside.run("-m", "pytest_resilience", *command, cwd=folder).ret == 0
    return (folder / "known.txt").read_text(encoding="utf-8")


pytestmark = runs_job(Runs(module=__name__))


def new_in_help(runs: dict[str, pytest.RunResult], pattern: str) -> set[str]:
    """What is found in the help because of us."""

    def found(name: str) -> set[str]:
        return set(re.findall(pattern, runs[name].stdout.str(), re.MULTILINE))

    return found("help") - found("plain help")


def test_each_flag_is_tried(runs: dict[str, pytest.RunResult]) -> None:
    lines = new_in_help(runs, r"^  (--.*)$")
    options = {option for line in lines for option in re.findall(r"--[a-z-]+", line)}
    assert options == {spelling for _, spelling in SPELLINGS}


@pytest.mark.parametrize(("flag", "spelling"), SPELLINGS, ids=str)
def test_each_spelling_does_it(flag: str, spelling: str, runs: dict[str, pytest.RunResult]) -> None:
    result = shown(runs[leader(flag, spelling)])
    result.stdout.fnmatch_lines(FLAGS[flag].shows)
    assert result.ret == FLAGS[flag].ret


def test_a_profile_of_the_package_needs_no_configuration(
    runs: dict[str, pytest.RunResult],
) -> None:
    result = shown(runs["no configuration"])
    result.stdout.fnmatch_lines(["first connection refused: 1 failed"])
    assert result.ret == 10


def test_each_ini_option_is_tried(runs: dict[str, pytest.RunResult]) -> None:
    assert new_in_help(runs, r"^  (\w+) \(") == INI.keys()


@pytest.mark.parametrize("name", INI)
def test_each_ini_option_does_it(name: str, runs: dict[str, pytest.RunResult]) -> None:
    result = shown(runs[name])
    *_, shows, status = INI[name]
    pytest.LineMatcher(result.outlines + result.errlines).fnmatch_lines(shows)
    assert result.ret == status
