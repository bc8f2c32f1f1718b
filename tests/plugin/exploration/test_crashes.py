"""What a crash may leave, as one more thing that an exploration tries."""

from __future__ import annotations

import re

import pytest

from tests.cells import cells_of


CODE = """
import json
import os

def in_place(path, value):
    with open(path, "w") as file:
        json.dump(value, file)

def renamed(path, value):
    new = path.with_suffix(".new")
    with open(new, "w") as file:
        json.dump(value, file)
    os.replace(new, path)

def synced(path, value):
    new = path.with_suffix(".new")
    with open(new, "w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
"""

SAVING = """
import json
import pytest
import settings

@pytest.fixture
def path(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text("[1]")
    return path

def old_or_new(path):
    assert json.loads(path.read_text()) in ([1], [2])
"""
FILES = f"""{SAVING}
@pytest.mark.chaos_explore(invariant=old_or_new, faults=CRASHES)
@pytest.mark.parametrize("way", ["in_place", "renamed", "synced"])
def test_saves(path, way):
    getattr(settings, way)(path, [2])
"""

DATABASE = """
import sqlite3
import pytest

@pytest.fixture
def shop(tmp_path):
    connection = sqlite3.connect(tmp_path / "shop.db")
    connection.executescript(
        "PRAGMA journal_mode = MODE;"
        "CREATE TABLE orders (item); CREATE TABLE stock (number); INSERT INTO stock VALUES (5)"
    )
    yield connection
    connection.close()

def nothing_is_lost(shop):
    [[orders]] = shop.execute("SELECT count(*) FROM orders")
    [[left]] = shop.execute("SELECT number FROM stock")
    assert orders + left == 5

@pytest.mark.chaos_explore(invariant=nothing_is_lost, faults=["killed", "crash_posix"])
@pytest.mark.parametrize("commits", [1, 2])
def test_orders(shop, commits):
    shop.execute("INSERT INTO orders VALUES ('tea')")
    if commits == 2:
        shop.commit()
    shop.execute("UPDATE stock SET number = 4")
    shop.commit()
"""
LINE = re.compile(r"pytest \S+ (--chaos-replay='\S+')")
PAIR = re.compile(r"pytest \S+ --chaos-replay='([^']+, [^']+)'")


def explored(pytester: pytest.Pytester, *arguments: str, **modules: str) -> pytest.RunResult:
    pytester.makepyfile(**modules)
    pytester.syspathinsert()
    return pytester.runpytest("-p", "no:ordeal", "-p", "no:randomly", *arguments)


def cells(pytester: pytest.Pytester) -> dict[str, dict[str, str]]:
    """The verdict of each crash, by what the test was made with."""
    found: dict[str, dict[str, str]] = {}
    for each in cells_of(pytester.path / "out.json"):
        verdicts = found.setdefault(each["test"].rpartition("[")[2].rstrip("]"), {})
        verdicts[each["experiment"].replace("tmp_path/settings.", "")] = each["verdict"]
    return found


def test_each_way_to_save_holds_against_the_crashes_that_it_is_made_for(
    pytester: pytest.Pytester,
) -> None:
    every = '["killed", "crash_ext4", "crash_posix"]'
    result = explored(
        pytester, "--resilience-report=out.json",
        settings=CODE, test_it=FILES.replace("CRASHES", every),
    )  # fmt: skip
    result.assert_outcomes(passed=1, failed=2)
    found = cells(pytester)
    # Emptied before it is written: so it is found, however the process dies.
    assert found["in_place"]["open_to_write(json)@settings.in_place=killed"] == "invariant"
    # ext4 writes a file before it renames it over another, POSIX says nothing of it.
    renames = {name: each for name, each in found["renamed"].items() if name[0] == "r"}
    assert renames == {
        "rename(json)@settings.renamed=killed": "survived",
        "rename(json)@settings.renamed=crash_ext4": "survived",
        "rename(json)@settings.renamed=crash_posix": "invariant",
    }
    assert set(found["synced"].values()) == {"survived"}
    assert {name.partition("(")[0] for name in found["synced"]} == {"create", "write", "rename"}
    result.stdout.fnmatch_lines([
        "*--chaos-replay='open_to_write(tmp_path/settings.json)@settings.in_place#1=killed'",
        "*(crash after rename settings.new to settings.json, lost: bytes 0 to 3 of *",
        "*test_saves[[]in_place]: *states after crashes*, 1 way to fail",
    ], consecutive=False)  # fmt: skip


def test_its_line_repeats_a_crash_and_nothing_else(pytester: pytest.Pytester) -> None:
    marks = FILES.replace(", faults=CRASHES", "")
    result = explored(pytester, "-k", "renamed", settings=CODE, test_it=marks)
    [line] = {found[1] for each in result.outlines if (found := LINE.search(each))}
    repeated = pytester.runpytest("-k", "renamed", line.replace("'", ""))
    repeated.assert_outcomes(failed=1)
    repeated.stdout.fnmatch_lines(["*under rename(*)@settings.renamed#1=crash_posix"])
    for changed, told in (
        (line.replace("posix", "ext4"), ""),
        (line.replace("#1", "#2"), "stale: rename(*#2 did not come; the test did: create(*"),
    ):
        other = pytester.runpytest("-k", "renamed", changed.replace("'", ""))
        other.assert_outcomes(**{"failed" if told else "passed": 1})
        other.stdout.fnmatch_lines([told] if told else [])


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_connection_of_a_fixture_is_recorded_and_opened_anew_for_the_invariant(
    pytester: pytest.Pytester, mode: str
) -> None:
    result = explored(
        pytester, "--resilience-report=out.json", test_it=DATABASE.replace("MODE", mode)
    )
    result.assert_outcomes(passed=1, failed=1)
    found = cells(pytester)
    assert set(found["1"].values()) == {"survived"}
    # The first of two commits is there, and the second is not.
    assert found["2"]["commit(tmp_path/shop.db)@test_it.test_orders=killed"] == "invariant"
    result.stdout.fnmatch_lines(["*test_orders[[]1]: * states after crashes, 0 ways to fail"])


@pytest.mark.parametrize(
    ("fixture", "invariant", "told"),
    [
        ("path", "lambda: None", "the invariant opens no file below tmp_path*"),
        ("path", "lambda path: 1 / (path.read_text() == '[2]')", "*before the test has done *"),
        ("unseen", "lambda unseen: unseen.read_text()", "*strange.txt changed unseen*"),
        ("elsewhere", "lambda: None", "the test has no tmp_path*"),
    ],
)
def test_where_no_crash_can_be_judged_it_is_said_why(
    pytester: pytest.Pytester, fixture: str, invariant: str, told: str
) -> None:
    code = f"""
        import subprocess
        import sys
        import tempfile
        from pathlib import Path
        import pytest
        import settings

        @pytest.fixture
        def path(tmp_path):
            (tmp_path / "it.json").write_text("[1]")
            return tmp_path / "it.json"

        @pytest.fixture
        def unseen(tmp_path):
            yield tmp_path / "it.json"

        @pytest.fixture
        def elsewhere():
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder, "it.json")

        @pytest.mark.chaos_explore(invariant={invariant}, faults="crash_posix")
        def test_it({fixture}):
            settings.synced({fixture}, [2])
            if {fixture!r} == "unseen":
                other = {fixture}.with_name("strange.txt")
                subprocess.run([sys.executable, "-c", f"open({{str(other)!r}}, 'w').write('x')"])
    """
    result = explored(pytester, settings=CODE, test_it=code)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"  no crash was looked at: {told}"])


def test_without_an_invariant_nothing_is_said_of_crashes(pytester: pytest.Pytester) -> None:
    marks = FILES.replace("invariant=old_or_new, faults=CRASHES", "depth=1")
    result = explored(pytester, "-k", "synced", settings=CODE, test_it=marks)
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*: 4 operations*crash*")
    result.stdout.no_fnmatch_line("*no crash*")


IGNORING = """
import json
import os

def saved(path, value, careful):
    new = path.with_suffix(".new")
    with open(new, "w") as file:
        json.dump(value, file)
        file.flush()
        try:
            os.fsync(file.fileno())
        except OSError:
            if careful:
                return
    os.replace(new, path)
"""
TWICE = f"""{SAVING}
@pytest.mark.chaos_explore(
    invariant=old_or_new, faults=["failed_fsync", "crash_posix"], depth=DEPTH
)
@pytest.mark.parametrize("careful", [True, False])
def test_saves(path, careful):
    settings.saved(path, [2], careful)
"""


def test_a_crash_after_a_fault_finds_what_neither_finds_alone(pytester: pytest.Pytester) -> None:
    result = explored(pytester, settings=IGNORING, test_it=TWICE.replace("DEPTH", "2"))
    result.assert_outcomes(passed=1, failed=1)
    [replay] = {found[1] for line in result.outlines if (found := PAIR.search(line))}
    assert re.fullmatch(
        r"sync\(tmp_path/settings.new\)@settings.saved#1=failed_fsync, "
        r"rename\(tmp_path/settings.json\)@settings.saved#1=crash_posix",
        replay,
    )
    for careful, outcome in ("False", {"failed": 1}), ("True", {"failed": 1}):
        test = f"test_it.py::test_saves[{careful}]"
        again = pytester.runpytest("-p", "no:randomly", test, f"--chaos-replay={replay}")
        again.assert_outcomes(**outcome)
        told = "invariant: *" if careful == "False" else "stale: * did not come*"
        again.stdout.fnmatch_lines([told])
    alone = explored(pytester, settings=IGNORING, test_it=TWICE.replace("DEPTH", "1"))
    alone.assert_outcomes(passed=2)


def test_crashes_after_faults_that_there_is_no_budget_for_are_counted(
    pytester: pytest.Pytester,
) -> None:
    short = TWICE.replace("depth=DEPTH", "budget=2")
    result = explored(pytester, "-k", "False", settings=IGNORING, test_it=short)
    result.stdout.fnmatch_lines(["*1 more schedule was not explored: the budget is over"])


def test_an_invariant_that_writes_is_told_that_no_crash_can_be_judged_so(
    pytester: pytest.Pytester,
) -> None:
    writing = TWICE.replace("DEPTH", "1").replace(
        "    assert json",
        "    with open(path, 'a') as file:\n        file.write(' ')\n    assert json",
    )
    result = explored(pytester, settings=IGNORING, test_it=writing)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["*no crash was looked at: * changed unseen; *invariants only read"]
    )
