"""The exploration in a suite: what it finds, how that is repeated, kept, reported and refused."""

from __future__ import annotations

import json
import os
import re

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pytest_resilience.report.cell import CellVerdict
from tests.ahead import ALONE_AND_XDIST
from tests.ahead import runs
from tests.cells import cells_of
from tests.cells import verdicts_of
from tests.report.conftest import SCHEMA


SHOP = """
import sqlite3

def save(path, text):
    with open(path, "w") as file:
        file.write(text)

def load(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return None

def shout(path):
    return load(path).upper()

def insist(path):
    for _ in range(100):
        found = load(path)
        if found is not None:
            return found

def order(path):
    connection = sqlite3.connect(path)
    try:
        connection.execute("INSERT INTO orders VALUES (1)")
        connection.commit()
        connection.execute("INSERT INTO lines VALUES (1)")
        connection.commit()
    finally:
        connection.close()
"""

TESTS = """
import sqlite3
import pytest
import shop

@pytest.fixture
def note(tmp_path):
    path = tmp_path / "note.txt"
    path.write_text("hello")
    return path

@pytest.fixture
def database(tmp_path):
    path = str(tmp_path / "shop.db")
    connection = sqlite3.connect(path)
    connection.executescript("CREATE TABLE orders (id); CREATE TABLE lines (id)")
    connection.close()
    return path

def consistent(database):
    connection = sqlite3.connect(database)
    orders, lines = (connection.execute(f"SELECT count(*) FROM {name}").fetchone()
                     for name in ("orders", "lines"))
    connection.close()
    assert orders == lines

def test_loads(note):
    assert shop.load(note) in ("hello", None)

def test_shouts(note):
    assert shop.shout(note) == "HELLO"

def test_insists(note):
    shop.insist(note)

@pytest.mark.chaos_explore(faults=["lost", "locked"], invariant=[consistent])
def test_orders(database):
    shop.order(database)

def test_computes():
    assert 1 + 1 == 2

@pytest.mark.no_chaos
def test_exempt(note):
    shop.shout(note)

def test_fails():
    assert 0

again = []

def test_never_alike(tmp_path):
    again.append(1)
    for each in again:
        shop.save(tmp_path / f"{len(again)}.txt", "x")
"""

WORST = {
    "test_loads": "degraded",
    "test_shouts": "failed",
    "test_insists": "storm",
    "test_orders": "invariant",
    "test_computes": "not_applicable",
    "test_fails": "invalid",
    "test_never_alike": "unexplorable",
}
WORKERS = ("-p", "xdist", "-n2")
ONE_WORKER = ("-p", "xdist", "-n1")
LINE = re.compile(r"pytest (test_\S+) (--chaos-replay=.+)")


@pytest.fixture
def shop(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(shop=SHOP, test_shop=TESTS)
    pytester.syspathinsert()
    return pytester


def run(shop: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return shop.runpytest("-p", "no:ordeal", "-p", "no:randomly", *arguments)


def cells(shop: pytest.Pytester, *arguments: str, name: str = "out.json") -> list[dict[str, Any]]:
    report = shop.path / name
    report.unlink(missing_ok=True)  # of a run before
    run(shop, "--chaos-explore", f"--resilience-report={name}", *arguments)
    return cells_of(report)


def test_what_breaks_is_found_shrunk_and_told_with_the_line_that_repeats_it(
    shop: pytest.Pytester,
) -> None:
    result = run(shop, "--chaos-explore", "--resilience-report=out.json")
    result.assert_outcomes(passed=7, failed=1)
    document = json.loads((shop.path / "out.json").read_text())
    jsonschema.validate(document, SCHEMA)
    found: dict[str, list[str]] = {}
    for cell in document["cells"]:
        found.setdefault(cell["test"].rpartition("::")[2], []).append(cell["verdict"])
    order = list(CellVerdict)
    worst = {test: max(map(CellVerdict, each), key=order.index) for test, each in found.items()}
    assert worst == WORST
    result.stdout.fnmatch_lines([
        "*test_shouts: 2 operations, * runs*, 1 way to fail",
        "  failed: AttributeError: 'NoneType' object has no attribute *, in shop.py in shout",
        "    pytest test_shop.py::test_shouts --chaos-replay='open(tmp_path/note.txt)@shop.load#*'",
        "  storm: more than 20 operations*",
        "    pytest test_shop.py::test_insists --chaos-replay='*+=*'",
        "  invariant: AssertionError*",
        "*test_computes: not applicable: there is nothing to explore: * it would need one on a *",
        "*test_never_alike: unexplorable: without faults it does not do the same each time: only *",
        "resilience gate FAILED: *",
    ])  # fmt: skip


def test_a_timeline_shows_what_was_done_and_what_was_not(shop: pytest.Pytester) -> None:
    [insisting] = [
        each
        for each in cells(shop)
        if each["what"].endswith("#1+=permission_denied") and each["verdict"] == "storm"
    ]
    told = [(each["kind"], each["text"].partition(" at ")[0]) for each in insisting["timeline"]]
    assert told == [("operation", "begun"), ("fault", "permission_denied")] * (len(told) // 2)
    assert len(told) > 4
    shop.makepyfile(
        test_shop=TESTS.replace('"lost", "locked"', '"lost_answer"').replace("test_fails", "fails")
    )
    stored = next(each for each in cells(shop) if each["verdict"] == "invariant")
    told = [(each["kind"], each["text"].partition(" at ")[0]) for each in stored["timeline"]]
    assert told[-2:] == [("operation", "done"), ("fault", "lost_answer")]  # it was stored


def test_a_printed_line_repeats_the_failure(shop: pytest.Pytester) -> None:
    result = run(shop, "--chaos-explore", "-k", "shouts or insists or orders")
    lines = [
        (found[1], found[2]) for line in result.outlines if (found := LINE.search(line.strip()))
    ]
    assert len(lines) >= 3
    for test, replay in dict(lines).items():
        repeated = run(shop, test, replay.replace("'", ""))
        repeated.assert_outcomes(failed=1)
        repeated.stdout.fnmatch_lines(["*under *"])


@pytest.mark.parametrize(
    ("test", "schedule", "outcome", "told"),
    [
        ("test_loads", "open(tmp_path/note.txt)#1=permission_denied", "passed", "*1 passed*"),
        ("test_loads", "open(tmp_path/other.txt)#1=permission_denied", "failed", "*did not come*"),
        ("test_loads", "open(tmp_path/note.txt)#2=permission_denied", "failed", "stale: *"),
        ("test_computes", "connect(payments:443)#1=refuse", "failed", "*the test did: nothing*"),
    ],
)
def test_a_replay_is_green_only_if_its_operation_came_and_the_test_held(
    shop: pytest.Pytester, test: str, schedule: str, outcome: str, told: str
) -> None:
    result = run(shop, f"test_shop.py::{test}", f"--chaos-replay={schedule}")
    result.assert_outcomes(**{outcome: 1})
    result.stdout.fnmatch_lines([told])


def test_a_replay_tells_the_verdict_also_where_the_test_ended_as_it_may(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        test_notes="""
        import pytest

        def kept(tmp_path):
            assert (tmp_path / "a").read_text() == "one"

        @pytest.mark.chaos_explore(invariant=kept)
        def test_saves(tmp_path):
            (tmp_path / "a").write_text("one")
    """
    )
    replay = "--chaos-replay=write(tmp_path/a)#1+=io_error"
    result = run(pytester, replay)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*- chaos replay -*",
            "invariant: AssertionError: assert '' == 'one'",
            "  - one",
            "under write(tmp_path/a)#1+=io_error",
            "FAILED test_notes.py::test_saves - invariant: AssertionError: assert *",
        ]
    )
    stale = run(pytester, replay.replace("/a", "/b"), "--tb=line")
    stale.stdout.fnmatch_lines(["test_notes.py:6: stale: write(tmp_path/b)#1 did not come; *"])


@pytest.mark.parametrize("distributed", [(), ONE_WORKER])
def test_its_line_is_for_the_folder_that_pytest_was_run_in(
    shop: pytest.Pytester, distributed: tuple[str, ...]
) -> None:
    shop.makeini("[pytest]")
    folder = shop.mkdir("deeper")
    for name in ("shop.py", "test_shop.py"):
        (shop.path / name).rename(folder / name)
    os.chdir(folder)
    result = run(shop, "-k", "shouts", "--chaos-explore", *distributed)
    test, replay = next(
        (found[1], found[2]) for line in result.outlines if (found := LINE.search(line.strip()))
    )
    again = run(shop, test, replay.replace("'", ""))
    again.assert_outcomes(failed=1)
    again.stdout.no_fnmatch_line("*did not come*")


@pytest.mark.parametrize("distributed", [(), ONE_WORKER])
def test_a_replay_that_passes_says_what_the_test_has_made_of_the_fault(
    shop: pytest.Pytester, distributed: tuple[str, ...]
) -> None:
    shop.makepyfile(
        test_notes="""
        def test_loads(tmp_path):
            (tmp_path / "note.txt").write_text("hello")

        def test_shrugs(tmp_path):
            try:
                (tmp_path / "note.txt").write_text("hello")
            except OSError:
                pass
        """
    )
    schedule = "--chaos-replay=create(tmp_path/note.txt)#1=disk_full"
    result = run(shop, "test_notes.py", schedule, *distributed)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "*= chaos replay =*",
            "test_notes.py::test_loads: degraded: OSError: *No space left on device*note.txt'",
            "test_notes.py::test_shrugs: survived",
        ]
    )


RANDOM_NAMES = """
import uuid
import shop

def test_shouts(tmp_path):
    path = tmp_path / uuid.uuid4().hex[:3] / f"{uuid.uuid4().hex}.txt"
    path.parent.mkdir()
    shop.save(path, "hello")
    assert shop.shout(path) == "HELLO"
"""


def test_files_with_random_names_are_told_by_what_is_done_with_them(shop: pytest.Pytester) -> None:
    shop.makepyfile(test_names=RANDOM_NAMES)
    result = run(shop, "--chaos-explore", "test_names.py")
    result.stdout.fnmatch_lines(["  failed: AttributeError: *in *shop.py in shout*"])
    result.stdout.no_fnmatch_line("*only the first run*")  # which had other names
    lines = [found for line in result.outlines if (found := LINE.search(line.strip()))]
    replays = {line[2].replace("'", "") for line in lines}
    (replay,) = (each for each in replays if "open(tmp_path/*/*.txt)@shop.load#1=" in each)
    run(shop, "test_names.py", replay).assert_outcomes(failed=1)


CLIENT = """
import socket

class Client:
    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=5)

    def write(self):
        self.sock.sendall(b"GET /tea HTTP/1.1\\r\\nHost: shop\\r\\nConnection: close\\r\\n\\r\\n")

    def read(self):
        with self.sock:
            return b"".join(iter(lambda: self.sock.recv(1000), b""))
"""

READS = """
import urllib.parse
import client

def test_it(stub_server):
    stub_server.respond("/tea", json=4)
    asking = client.Client(urllib.parse.urlsplit(stub_server.url).port)
    asking.write()
    assert asking.read().endswith(b"4")
"""


STATUS_204 = """
    import requests

    def test_it(stub_server):
        requests.put(stub_server.respond("/tea", method="PUT", status=204).url, timeout=5)
"""
HANDSHAKE_OF_A_WEBSOCKET = """
    import threading
    import pytest
    import websockets.sync.client
    import websockets.sync.server

    @pytest.fixture(scope="module")
    def port():
        with websockets.sync.server.serve(lambda peer: list(peer), "127.0.0.1", 0) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            yield server.socket.getsockname()[1]
            server.shutdown()
            thread.join()

    def test_it(port):
        limits = {"open_timeout": 5, "close_timeout": 0.2}
        with websockets.sync.client.connect(f"ws://127.0.0.1:{port}", **limits):
            pass
"""


@pytest.mark.parametrize(
    ("code", "is_followed"),  # by messages, of which something is cut off
    [(STATUS_204, False), (HANDSHAKE_OF_A_WEBSOCKET, True)],
    ids=["204", "websocket"],
)
def test_of_a_response_without_a_body_nothing_is_cut_off(
    pytester: pytest.Pytester, code: str, is_followed: bool
) -> None:
    """It cannot have that fault, so that no cell of it is there to prove nothing."""
    pytester.makepyfile(code)
    arguments = ("--chaos-explore=1", "--chaos-explore-budget=60", "--resilience-report=out.json")
    assert pytester.runpytest("-q", *arguments).ret == 0
    tried = {each["experiment"] for each in cells_of(Path("out.json"))}
    assert any("=reset" in name for name in tried)
    for fault in ("=truncate", "=corrupt"):
        assert any(fault in name for name in tried) is is_followed


def test_a_client_that_sends_and_receives_in_two_functions(shop: pytest.Pytester) -> None:
    shop.makepyfile(client=CLIENT, test_client=READS)
    result = run(shop, "--chaos-explore", "test_client.py", "--resilience-report=out.json")
    result.stdout.no_fnmatch_line("*stale*")
    found = cells_of(shop.path / "out.json")
    silent = "receive(localhost:port1)@client.write=timeout"
    assert [each["verdict"] for each in found if each["experiment"] == silent] == ["degraded"]


def test_a_marked_test_is_explored_without_a_flag_and_fails_for_what_breaks(
    shop: pytest.Pytester,
) -> None:
    result = run(shop, "-k", "orders or shouts")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([
        "the exploration has found 1 way to fail in * runs",
        "invariant: AssertionError*",
        "*pytest test_shop.py::test_orders --chaos-replay='*'",
    ])  # fmt: skip
    result.stdout.no_fnmatch_line("*resilience gate*")


def test_the_cells_are_the_same_alone_in_the_whole_run_in_workers_and_in_shards(
    shop: pytest.Pytester,
) -> None:
    whole = verdicts_of(cells(shop))
    assert verdicts_of(cells(shop, *WORKERS)) == whole
    alone = verdicts_of(cells(shop, "test_shop.py::test_shouts"))
    assert alone == {key: each for key, each in whole.items() if key[0].endswith("::test_shouts")}
    parts = [
        verdicts_of(cells(shop, f"--resilience-shard={number}/2", name=f"{number}.json"))
        for number in (1, 2)
    ]
    assert parts[0] | parts[1] == whole
    of_shouts = [{key for key in part if key in alone} for part in parts]
    assert all(of_shouts)
    assert not of_shouts[0] & of_shouts[1]


def test_nothing_is_missed_by_leaving_out_what_is_known(shop: pytest.Pytester) -> None:
    pruned, whole = (verdicts_of(cells(shop, *arguments)) for arguments in ((), ("--no-prune",)))
    assert {key: whole[key] for key in pruned} == pruned
    for (test, name), verdict in whole.items():
        if (test, name) not in pruned:
            assert verdict == whole[test, name.replace("+=", "=")]


@pytest.mark.parametrize(("tries", "is_storm"), [(11, False), (21, True)])
def test_each_call_may_try_again_before_all_of_them_are_a_storm(
    shop: pytest.Pytester, *, tries: int, is_storm: bool
) -> None:
    shop.makepyfile(
        test_cache=f"""
        import pytest
        import shop

        def read(path):
            found = (shop.load(path) for _ in range({tries}))
            return next((each for each in found if each is not None), "")

        @pytest.mark.chaos_explore(faults=["permission_denied"], depth=1)
        def test_reads(tmp_path):
            note = tmp_path / "note.txt"
            note.write_text("x")
            assert {{read(note), read(note)}} <= {{"x", ""}}
    """
    )
    out = run(shop, "test_cache.py").stdout.str()
    assert ("storm: more than" in out) is is_storm, out
    assert "0 runs" not in out


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("", "*: not applicable: there is nothing to explore: only the first run did something *"),
        ("note.read_text()", "*no fault was tried where only the first run did something (*"),
        (
            "(note.parent / f'{uuid.uuid4().hex}.tmp').touch()",
            "*where only the first run did something (*(tmp_path/a)*#1, *(tmp_path/a)*#1), for *",
        ),
    ],
)
def test_what_the_first_run_alone_does_is_told_and_what_would_be_needed(
    pytester: pytest.Pytester, more: str, told: str
) -> None:
    """As one that fills a cache, or opens a connection, which the later ones have."""
    pytester.makepyfile(f"""
        import uuid
        import pytest
        @pytest.fixture(scope="module")
        def note(tmp_path_factory):
            return tmp_path_factory.mktemp("notes") / "a"
        def test_it(note):
            if not note.exists():
                note.write_text("a")
            {more}
    """)
    result = run(pytester, "--chaos-explore", "--chaos-explore-budget=5")
    result.stdout.fnmatch_lines([told])
    assert "let a fixture of functions make that" in result.stdout.str()


def test_a_file_that_is_looked_for_in_vain_is_no_operation(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        def test_it(tmp_path):
            try:
                (tmp_path / "settings").read_text()
            except FileNotFoundError:
                pass
            (tmp_path / "a").touch()
    """)
    run(pytester, "--chaos-explore").stdout.fnmatch_lines(["*: 1 operation, *, 0 ways to fail"])


def test_a_budget_is_kept_and_what_it_leaves_is_told(shop: pytest.Pytester) -> None:
    result = run(
        shop, "--chaos-explore", "--chaos-explore-budget=1", "-k", "loads",
        "--resilience-report=out.json",
    )  # fmt: skip
    result.stdout.fnmatch_lines(["*2 operations, 1 run*", "*not explored: the budget is over"])
    found = verdicts_of(cells_of(shop.path / "out.json"))
    assert sorted(found.values()).count("survived") == 1
    assert "not_run" in found.values()


def test_what_failed_is_run_first_until_it_passes(
    shop: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p resilience")  # with a cache
    budget = ("--chaos-explore", "--chaos-explore-budget=1", "-k", "insists")
    run(shop, "--chaos-explore", "-k", "insists").stdout.fnmatch_lines(
        ["  storm: *", "kept in .pytest_cache, and run first the next time"]
    )
    run(shop, *budget).stdout.fnmatch_lines(["*1 run*, 1 way to fail", "  storm: *"])
    (shop.path / "shop.py").write_text(SHOP.replace("range(100)", "range(2)"))
    run(shop, *budget).stdout.fnmatch_lines(["*1 run*, 0 ways to fail"])
    (shop.path / "shop.py").write_text(SHOP)
    run(shop, *budget).stdout.fnmatch_lines(["*1 run*, 0 ways to fail"])


def test_what_failed_is_forgotten_where_its_operation_does_not_come_any_more(
    shop: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p resilience")  # with a cache
    assert any(each["verdict"] == "failed" for each in cells(shop, "-k", "shouts"))
    renamed = SHOP.replace("load(path).upper()", "(read(path) or 'hello').upper()")
    (shop.path / "shop.py").write_text(renamed.replace("def load", "def read"))
    assert {each["verdict"] for each in cells(shop, "-k", "shouts")} <= {"survived", "degraded"}
    run(shop, "--chaos-explore", "-k", "shouts").stdout.no_fnmatch_line("kept in *")


def test_schedules_are_kept_in_a_file_and_repeated_from_it(shop: pytest.Pytester) -> None:
    run(shop, "--chaos-explore", "--chaos-schedules=kept.txt", "-k", "shouts or loads")
    kept = (shop.path / "kept.txt").read_text().splitlines()
    assert kept[0].startswith("# pytest-resilience schedules")
    assert [line.partition("  ")[0] for line in kept[1:]] == ["test_shop.py::test_shouts"]
    result = run(shop, "--chaos-schedules=kept.txt", "-k", "shouts or loads or computes")
    result.assert_outcomes(passed=2, failed=1)
    (shop.path / "shop.py").write_text(
        SHOP.replace("load(path).upper", "(load(path) or 'hello').upper")
    )
    run(shop, "--chaos-schedules=kept.txt", "-k", "shouts").assert_outcomes(passed=1)


KEPT = """\
test_shop.py::test_loads  open(tmp_path/note.txt)#1=permission_denied
test_shop.py::test_left  open(tmp_path/note.txt)#1=permission_denied
test_shop.py::test_left  open(tmp_path/note.txt)#1=memory
test_old.py::test_moved  open(tmp_path/note.txt)#1=memory
"""
Ways = Mapping[str, tuple[str, ...]]
ALONE_AND_IN_WORKERS: Ways = {"alone": (), "in workers": WORKERS}


def repeats(
    *parts: str,
    kept: str = KEPT,
    ways: Ways = ALONE_AND_XDIST,
    **more: str,
) -> pytest.MarkDecorator:
    """A test about runs that repeat what is kept, of each part of the suite, in each way."""
    loading, _, _ = TESTS.partition("def test_shouts")
    modules = {"shop": SHOP, "test_shop": loading, **more}
    files = {"kept.txt": kept} | {f"{name}.py": text for name, text in modules.items()}
    asked = ("-p", "no:ordeal", "-p", "no:randomly", "--chaos-schedules=kept.txt")
    found = [
        pytest.param(
            f"{part} {way}", marks=runs(*asked, *filter(None, [part]), *arguments, others=files)
        )
        for part in parts
        for way, arguments in ways.items()
    ]
    return pytest.mark.parametrize("ran", found, indirect=True)


@repeats("", ways=ALONE_AND_IN_WORKERS)
def test_a_kept_schedule_whose_test_is_gone_is_an_error_in_a_whole_run(
    ran: pytest.RunResult,
) -> None:
    assert ran.ret == pytest.ExitCode.TESTS_FAILED
    out = ran.stdout.str()
    assert out.count("test_shop.py::test_left: there is no such test any more, with 2 sche") == 1
    assert out.count("test_old.py::test_moved: there is no such test any more, with 1 sche") == 1
    assert "test_loads: " not in out


@repeats("-k=loads", "test_shop.py::test_loads", "--deselect=test_shop.py::test_other")
def test_it_is_none_in_a_run_of_a_part(ran: pytest.RunResult) -> None:
    assert ran.ret == pytest.ExitCode.OK
    ran.stdout.no_fnmatch_line("*no such test*")


@repeats("test_shop.py")
def test_it_is_one_in_a_run_of_its_file(ran: pytest.RunResult) -> None:
    assert ran.ret == pytest.ExitCode.TESTS_FAILED
    ran.stdout.fnmatch_lines(["test_shop.py::test_left: there is no such test any more, *"])
    ran.stdout.no_fnmatch_line("*test_moved*")  # of that file nobody has asked


@repeats("", kept=KEPT.partition("\n")[0])
def test_a_run_with_all_that_is_kept_is_green(ran: pytest.RunResult) -> None:
    assert ran.ret == pytest.ExitCode.OK


@repeats(
    "",
    kept=KEPT.partition("\n")[0],
    conftest="collect_ignore = ['test_shop.py']",  # as for want of a library
    test_another="def test_it(): pass",
)
def test_a_file_that_is_ignored_has_lost_no_tests(ran: pytest.RunResult) -> None:
    assert ran.ret == pytest.ExitCode.OK
    ran.stdout.no_fnmatch_line("*no such test*")


def test_what_is_kept_of_a_test_that_is_gone_is_said_and_forgotten(
    shop: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p resilience")  # with a cache
    first, _, _ = TESTS.partition("def test_insists")
    shop.makepyfile(test_shop=first)
    run(shop, "--chaos-explore")
    shop.makepyfile(test_shop=first.replace("def test_shouts", "def test_calls"))
    said = "test_shop.py::test_shouts: there is no such test any more, with 1 schedule; forgotten"
    run(shop, "--chaos-explore", "-k", "calls").stdout.no_fnmatch_line(said)
    run(shop, "--chaos-explore").stdout.fnmatch_lines([said])
    run(shop, "--chaos-explore").stdout.no_fnmatch_line(said)


def test_schedules_of_tests_that_are_skipped_are_told_as_such(shop: pytest.Pytester) -> None:
    step = "open(tmp_path/a)#1=permission_denied"
    shop.makepyfile(
        test_marked=f"""
        import pytest

        pytestmark = pytest.mark.chaos_replay({step!r})

        @pytest.mark.skip
        def test_elsewhere():
            pass

        @pytest.mark.xfail(strict=True)
        def test_some_day():
            assert 0
    """
    )
    result = run(shop, "test_marked.py")
    result.assert_outcomes(skipped=1, xfailed=1)
    result.stdout.fnmatch_lines(["*::test_elsewhere: it was skipped, with 1 schedule"])
    alone = run(shop, "test_marked.py::test_elsewhere", f"--chaos-replay={step}")
    assert alone.ret == pytest.ExitCode.TESTS_FAILED  # it has proved nothing


def test_schedules_of_a_module_that_is_skipped_are_not_lost(shop: pytest.Pytester) -> None:
    (shop.path / "kept.txt").write_text("test_far.py::test_it  open(a)#1=memory\n")
    shop.makepyfile(test_far="import pytest; pytest.importorskip('not_there')")
    (shop.path / "test_shop.py").unlink()
    result = run(shop, "--chaos-schedules=kept.txt")
    result.stdout.no_fnmatch_line("*no such test*")


def test_schedules_can_stand_at_the_test(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        test_marked="""
        import pytest
        import shop

        @pytest.mark.chaos_replay(
            "open(tmp_path/a)#1=permission_denied", "read(tmp_path/a)#1=io_error"
        )
        def test_loads(tmp_path):
            (tmp_path / "a").write_bytes(b"x")
            assert shop.load(tmp_path / "a") in ("x", None)

        @pytest.mark.chaos_replay("open(tmp_path/b)#1=permission_denied")
        def test_gone(tmp_path):
            (tmp_path / "a").write_bytes(b"x")
            assert shop.load(tmp_path / "a") in ("x", None)
    """
    )
    result = run(shop, "test_marked.py")
    result.assert_outcomes(passed=1, failed=1)


def test_the_runs_of_an_exploration_write_and_warn_no_more_than_the_test_alone(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest("""
        import sys
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item):
            print("written between two phases", file=sys.stderr)
            return (yield)

        @pytest.fixture(scope="session")
        def served():
            yield
            print("written as the session ends")
    """)
    pytester.makepyfile("""
        import logging
        import threading
        import warnings

        def test_saves(served, tmp_path):
            warnings.warn("a warning of its own")
            logging.warning("a log of its own")
            thread = threading.Thread(target=(tmp_path / "a").write_text, args=["x"])
            thread.start()  # it dies of the fault, of which pytest warns
            thread.join()
    """)
    result = run(pytester, "--chaos-explore", "-o", "log_cli=true", "-W", "default")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.no_fnmatch_line("*written*")
    result.stderr.no_fnmatch_line("*written*")
    assert sum("a log of its own" in line for line in result.outlines) == 1
    result.stdout.fnmatch_lines(["*test_saves: 2 operations, *, 0 ways to fail"])


def test_a_marked_test_that_may_fail_is_not_explored_and_fails_neither_way(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.mark.chaos_explore
        @pytest.mark.xfail(reason="a bug")
        @pytest.mark.parametrize("holds", [True, False])
        def test_saves(tmp_path, holds):
            (tmp_path / "a").touch()
            assert holds
    """)
    run(pytester).assert_outcomes(xpassed=1, xfailed=1)


def test_an_invariant_that_does_not_hold_without_faults_is_told(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        test_marked="""
        import pytest
        import shop

        def never(tmp_path):
            assert (tmp_path / "none").exists()

        @pytest.mark.chaos_explore(invariant=never)
        def test_saves(tmp_path):
            shop.save(tmp_path / "a", "x")
    """
    )
    result = run(shop, "test_marked.py")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the invariant does not hold without any fault: AssertionError*"])


def test_a_test_that_cannot_be_run_twice_in_its_fixtures_is_explored_without_that(
    shop: pytest.Pytester,
) -> None:
    shop.makepyfile(
        test_once="""
        import pytest
        import shop

        @pytest.fixture
        def folder(tmp_path):
            return tmp_path

        def test_saves(folder):
            assert not (folder / "a").exists()
            shop.save(folder / "a", "x")

        @pytest.mark.chaos_explore(probe=True)
        def test_saves_again(folder):
            test_saves(folder)
    """
    )
    result = run(shop, "test_once.py", "--chaos-explore", "--chaos-explore-budget=9")
    result.stdout.fnmatch_lines([
        "*::test_saves: * operations, 9 runs*, 0 ways to fail",
        "*::test_saves_again: invalid: the probe does not pass without any fault: AssertionError*",
    ])  # fmt: skip


def test_what_does_not_work_again_after_the_fault_is_found(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        test_probe="""
        import pytest
        import shop

        class Cache:
            def __init__(self):
                self.found = {}

            def get(self, path):
                if path not in self.found:
                    self.found[path] = shop.load(path)
                if self.found[path] is None:
                    raise OSError("no note")
                return self.found[path]

        @pytest.fixture
        def cache():
            return Cache()

        def test_reads(cache, tmp_path):
            (tmp_path / "a").write_text("x")
            assert cache.get(tmp_path / "a") == "x"
    """
    )
    result = run(shop, "test_probe.py", "--chaos-explore", "--chaos-explore-budget=20")
    result.stdout.fnmatch_lines(["  probe: OSError: no note*"])


OVER_AFTER_AN_ERROR = """
import contextlib
import pytest

class Session:
    def __init__(self, path):
        self.path, self.error = path, None

    def load(self):
        if self.error is not None:
            raise RuntimeError("it is over") from self.error
        try:
            return self.path.read_text()
        except OSError as error:
            self.error = error
            raise

    def {begin}(self): ...
    def {end}(self): ...
    def {close}(self): ...

@pytest.fixture(scope="{scope}")
def session(tmp_path_factory):
    path = tmp_path_factory.mktemp("notes") / "note.txt"
    path.write_text("hello")
    session = Session(path)
    yield {given}
    session.{close}()

@pytest.mark.chaos_explore(faults=["permission_denied"])
def test_loads(session):
    session, *_ = session if isinstance(session, tuple) else [session]
    assert session.load() == "hello"
"""


@pytest.mark.usefixtures("recovery_clock")
@pytest.mark.parametrize(
    ("scope", "methods", "is_told"),
    [
        ("function", "commit rollback close", False),
        ("function", "transaction is_closed close", False),
        ("function", "write drain close", False),
        ("function", "send recv close", False),
        ("function", "send receive aclose", False),
        ("function", "send_all receive_some aclose", False),
        ("function", "get post close", True),
        ("module", "commit rollback close", True),
    ],
)
@pytest.mark.parametrize("given", ["session", "(session, path)"])
def test_a_connection_that_an_error_has_ended_is_opened_anew_by_its_fixture(
    shop: pytest.Pytester, scope: str, methods: str, given: str, *, is_told: bool
) -> None:
    begin, end, close = methods.split()
    suite = OVER_AFTER_AN_ERROR.format(scope=scope, begin=begin, end=end, close=close, given=given)
    shop.makepyfile(test_over=suite)
    out = run(shop, "test_over.py").stdout.str()
    assert ("probe: RuntimeError: it is over" in out) is is_told, out
    assert "0 runs" not in out


def test_a_random_name_that_only_a_fault_leads_to_is_one_operation(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        test_spare="""
        import uuid
        import pytest

        @pytest.mark.chaos_explore(faults=["permission_denied", "disk_full"])
        def test_saves(tmp_path):
            try:
                (tmp_path / "a").write_text("x")
            except OSError:
                spare = tmp_path / f"a.{uuid.uuid4().hex}.spare"
                try:
                    spare.write_text("x")
                except OSError:
                    raise AssertionError("no spare file") from None
    """
    )
    result = run(shop, "test_spare.py")
    result.stdout.fnmatch_lines(
        ["*--chaos-replay='create(tmp_path/a)*=disk_full, create(tmp_path/a.*.spare)*#1=disk_full'"]
    )
    result.stdout.no_fnmatch_line("*could not be tried*")


def test_a_poll_before_the_first_request_hides_no_response(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        test_polls="""
        import contextlib
        import select
        import socket
        import socketserver
        import threading
        import pytest

        class Echo(socketserver.BaseRequestHandler):
            def handle(self):
                while text := self.request.recv(100):
                    self.request.sendall(text)

        @pytest.fixture
        def connection():
            with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
                threading.Thread(target=server.serve_forever, args=(0.01,)).start()
                with socket.create_connection(server.server_address) as connection:
                    ask(connection)
                    yield connection
                server.shutdown()

        def ask(connection):
            assert not select.select([connection], [], [], 0)[0]
            connection.sendall(b"hello")
            return connection.recv(100)

        @pytest.mark.chaos_explore(faults=["reset"], depth=1)
        def test_asks(connection):
            with contextlib.suppress(ConnectionError):
                assert [ask(connection), ask(connection)] == [b"hello"] * 2
    """
    )
    result = run(shop, "test_polls.py", "--resilience-report=out.json", "--chaos-explore")
    found = json.loads((shop.path / "out.json").read_text())
    verdicts = {cell["experiment"]: cell["verdict"] for cell in found["cells"]}
    assert set(verdicts.values()) == {"survived"}, verdicts
    result.stdout.no_fnmatch_line("*stale*")


def test_a_response_is_that_of_who_asked_for_it_behind_what_is_not_answered(
    shop: pytest.Pytester,
) -> None:
    shop.makepyfile(
        test_notes="""
        import contextlib
        import socket
        import socketserver
        import threading
        import pytest

        class Answer(socketserver.StreamRequestHandler):
            def handle(self):
                for line in self.rfile:
                    if line == b"ask\\n":
                        self.wfile.write(b"x")

        @pytest.fixture(scope="module")
        def address():
            with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
                threading.Thread(target=server.serve_forever, args=(0.01,)).start()
                yield server.server_address
                server.shutdown()

        def note(connection):
            connection.sendall(b"note\\n")

        def ask(connection):
            connection.sendall(b"ask\\n")
            return connection.recv(1)

        @pytest.mark.chaos_explore(faults=["timeout"], depth=1)
        def test_asks(address):
            with contextlib.suppress(TimeoutError), socket.create_connection(address, 5) as it:
                note(it)
                note(it)
                assert [ask(it), ask(it), ask(it)] == [b"x"] * 3
                note(it)
    """
    )
    run(shop, "test_notes.py", "--resilience-report=out.json", "--chaos-explore")
    verdicts = verdicts_of(cells_of(shop.path / "out.json"))
    assert set(verdicts.values()) == {"survived"}, verdicts


@pytest.mark.parametrize(
    "how", ["--chaos-explore=1", "--chaos-replay=open(tmp_path/note)#1=cancel"]
)
def test_a_thread_that_is_left_waiting_does_not_keep_pytest_from_its_end(
    pytester: pytest.Pytester, how: str
) -> None:
    pytester.makepyfile("""
        import asyncio
        import queue
        import threading

        class Reader(threading.Thread):
            def __init__(self):
                super().__init__()
                self.asked = queue.SimpleQueue()
            def run(self):
                while (asked := self.asked.get()) is not None:
                    future, path = asked
                    found = path.read_text()
                    future.get_loop().call_soon_threadsafe(future.set_result, found)
            async def read(self, path):
                self.start()
                future = asyncio.get_running_loop().create_future()
                self.asked.put((future, path))
                found = await future
                self.asked.put(None)
                return found

        def test_reads(tmp_path):
            (tmp_path / "note").write_text("hello")
            assert asyncio.run(Reader().read(tmp_path / "note")) == "hello"
    """)
    result = pytester.runpytest_subprocess("-p", "no:ordeal", how, timeout=60)
    result.stdout.fnmatch_lines(["*leak: it left 1 thread behind"])


def test_what_only_the_error_of_a_run_keeps_open_does_not_stop_the_next_call(
    shop: pytest.Pytester,
) -> None:
    shop.makepyfile(
        test_lock="""
        import pytest

        class Lock:
            held = 0

            def __init__(self, path):
                if Lock.held:
                    raise BlockingIOError("somebody has it")
                Lock.held += 1
                self.text = path.read_text()

            def __del__(self):
                Lock.held = max(0, Lock.held - 1)

        @pytest.fixture
        def path(tmp_path):
            (tmp_path / "a").write_text("x")
            Lock.held = 0
            return tmp_path / "a"

        @pytest.mark.chaos_explore(faults=["permission_denied"])
        def test_reads(path):
            assert Lock(path).text == "x"
    """
    )
    result = run(shop, "test_lock.py")
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("asks", [False, True], ids=["", "asks what is left"])
@pytest.mark.parametrize("closes", [False, True], ids=["keeps it", "closes it"])
def test_a_connection_that_a_cancelled_call_leaves_with_its_answer_is_found(
    shop: pytest.Pytester, *, closes: bool, asks: bool
) -> None:
    """Also where a client asks before it sends: the answer comes after that."""
    pytest.importorskip("pytest_asyncio")
    shop.makepyfile(
        test_cancelled=f"""
        import asyncio
        import socketserver
        import threading
        import pytest
        import pytest_asyncio

        class Client:
            connection = None

            async def echo(self, text):
                if {asks} and self.connection is not None and self.connection[0]._buffer:
                    self.close()
                if self.connection is None:
                    self.connection = await asyncio.open_connection("127.0.0.1", self.port)
                reader, writer = self.connection
                try:
                    writer.write(text.encode())
                    return (await reader.readexactly(1)).decode()
                except {"BaseException" if closes else "OSError"}:
                    self.close()
                    raise

            def close(self):
                self.connection[1].close()
                self.connection = None

        class Repeat(socketserver.BaseRequestHandler):
            def handle(self):
                while byte := self.request.recv(1):
                    self.request.sendall(byte)

        @pytest.fixture(scope="module")
        def port():
            with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Repeat) as server:
                thread = threading.Thread(target=server.serve_forever, args=(0.01,))
                thread.start()
                yield server.server_address[1]
                server.shutdown()
                thread.join()

        @pytest_asyncio.fixture
        async def client(port):
            client = Client()
            client.port = port
            yield client
            if client.connection is not None:
                client.close()

        @pytest.mark.asyncio
        @pytest.mark.chaos_explore(faults=["cancel"])
        async def test_echo(client):
            async with asyncio.timeout(1):
                assert [await client.echo(letter) for letter in "ab"] == ["a", "b"]
    """
    )
    scope = "asyncio_default_fixture_loop_scope=function"
    out = run(
        shop, "test_cancelled.py", "-p", "pytest_asyncio.plugin", "-o", scope
    ).stdout.str()  # fmt: skip
    assert ("probe: AssertionError" in out) is not closes, out
    assert "0 runs" not in out


def test_a_job_that_nobody_awaits_in_time_has_no_caller_to_cancel(shop: pytest.Pytester) -> None:
    """Whether its caller awaits it when it is done is for a thread to say, and may differ."""
    shop.makepyfile(
        test_job="""
        import asyncio
        import threading
        runs = []

        def read(path, done):
            try:
                return path.read_text()
            finally:
                done()

        async def ask(path):
            runs.append(path)
            loop, done, told = asyncio.get_running_loop(), threading.Event(), asyncio.Event()
            if len(runs) <= 3:  # without faults: the loop is in the middle of what it does
                job = loop.run_in_executor(None, read, path, done.set)
                done.wait(10)
            else:
                job = loop.run_in_executor(
                    None, read, path, lambda: loop.call_soon_threadsafe(told.set)
                )
                await asyncio.wait({loop.create_task(told.wait())}, timeout=10)
            return await job

        def test_asks(tmp_path):
            (tmp_path / "a").write_text("x")
            try:
                assert asyncio.run(ask(tmp_path / "a")) == "x"
            except OSError:
                pass
    """
    )
    result = run(shop, "test_job.py", "--chaos-explore=1")
    result.stdout.fnmatch_lines(["*::test_asks: * 0 ways to fail", "resilience gate passed*"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--chaos-explore=0"], "*--chaos-explore='0': without a fault there is nothing to *"),
        (["--chaos-explore=x"], "*--chaos-explore='x'*"),
        (["--chaos-explore", "--chaos-explore-budget=0"], "*a budget of nothing explores nothing*"),
        (
            ["--chaos-explore", "--chaos-explore-budget=0s"],
            "*a budget of nothing explores nothing*",
        ),
        (["--chaos-replay=connect(a:1#1=refuse"], "*column 21: found the end, expected ) behind *"),
        (["--chaos-schedules=none.txt"], "*=none.txt: there is no such file; *writes it*"),
        (["--chaos-explore", "--chaos-replay=connect(a:1)#1=refuse"], "*give one of them*"),
        (["--chaos-explore", "--chaos-matrix"], "*give one of them*"),
        (["--chaos-explore", "--chaos-explore-budget=lots"], "*='lots' is no budget; give runs *"),
        (["--chaos-schedules="], "*--chaos-schedules=: give a file, such as *"),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_test_runs(
    shop: pytest.Pytester, arguments: list[str], told: str
) -> None:
    result = run(shop, *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([told])


@pytest.fixture
def marked_and_unmarked(pytester: pytest.Pytester) -> pytest.Pytester:
    unmarked = "def test_it(tmp_path): (tmp_path / 'a').touch()"
    marked = f"import pytest\n@pytest.mark.chaos_explore\n{unmarked}"
    pytester.makepyfile(test_marked=marked, test_unmarked=unmarked)
    return pytester


@pytest.mark.parametrize("arguments", [("--no-prune",), ("--chaos-explore-budget=5", *ONE_WORKER)])
def test_flags_that_say_how_to_explore_are_refused_where_nothing_is_explored(
    marked_and_unmarked: pytest.Pytester, arguments: tuple[str, ...]
) -> None:
    result = run(marked_and_unmarked, *arguments, "test_unmarked.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    flag = arguments[0].partition("=")[0]
    told = f"{flag} needs --chaos-explore, or a test that is marked chaos_explore"
    assert told in result.stderr.str() + result.stdout.str()  # the latter of workers


@pytest.mark.parametrize(
    "arguments",
    [
        ("--chaos-explore-budget=1", "test_marked.py"),
        ("--no-prune", "test_marked.py"),
        ("-o", "addopts=--chaos-explore-budget=1", "test_unmarked.py"),
    ],
)
def test_flags_that_say_how_to_explore_are_taken_where_a_test_does_or_addopts_have_them(
    marked_and_unmarked: pytest.Pytester, arguments: tuple[str, ...]
) -> None:
    run(marked_and_unmarked, *arguments).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("mark", "told"),
    [
        ("chaos_explore(depht=2)", "*not 'depht' (did you mean 'depth'?)"),
        ("chaos_explore(faults=['refused_'])", "*is none (did you mean 'refused'?)*"),
        ("chaos_explore(max_calls='x')", "*or *'4x' for four times those*"),
        ("chaos_explore(invariant=3)", "*give a function*"),
        ("chaos_explore(budget=0)", "*a budget of nothing*"),
        ("chaos_explore(budget=[])", "*budget=[[]]: give runs such as 200, seconds *"),
        ("chaos_replay()", "*takes schedules as texts*"),
        ("chaos_replay('connect(')", "*column 9: found the end, expected a target*"),
    ],
)
def test_a_bad_mark_is_told_with_its_line(shop: pytest.Pytester, mark: str, told: str) -> None:
    shop.makepyfile(test_marked=f"import pytest\n@pytest.mark.{mark}\ndef test(): pass")
    result = run(shop, "test_marked.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*test_marked.py:2: {told}"])


def test_a_profile_can_say_how(shop: pytest.Pytester) -> None:
    shop.makepyprojecttoml("""
        [tool.pytest_resilience.profiles.quick.explore]
        depth = 1
        budget = [3, "30s"]
    """)
    result = run(shop, "--chaos-explore", "--chaos-profile=quick", "-k", "insists")
    result.stdout.fnmatch_lines(["*2 operations, 3 runs*"])


def test_a_profile_can_say_how_marked_tests_are_explored(
    marked_and_unmarked: pytest.Pytester,
) -> None:
    marked_and_unmarked.makepyprojecttoml("""
        [tool.pytest_resilience.profiles.quick.explore]
        budget = 1
    """)
    result = run(marked_and_unmarked, "--chaos-profile=quick")
    result.stdout.fnmatch_lines(["test_marked.py::test_it: * operation*, 1 run*"])
    refused = run(marked_and_unmarked, "--chaos-profile=quick", "test_unmarked.py")
    refused.stderr.fnmatch_lines(["*profile 'quick', with no experiments, needs --chaos-explore*"])
    usual = run(
        marked_and_unmarked, "-o", "addopts=--chaos-profile=quick", "test_unmarked.py"
    )  # as for flags that say how
    usual.assert_outcomes(passed=1)
    for flag in ("--chaos-matrix", "--chaos-monkey=quick"):
        refused = run(marked_and_unmarked, "--chaos-profile=quick", flag)
        refused.stderr.fnmatch_lines(["*profile 'quick' has no experiments*"])


@pytest.mark.parametrize(
    ("said", "mark", "verdict"),
    [
        ("deadline = '300ms'", "", "hang"),
        ("deadline = '300ms'", "deadline='60s'", "survived"),
        ("max_calls = 2", "", "storm"),
        ("max_calls = '1x'", "", "storm"),
        ("max_calls = 2", "max_calls=20", "survived"),
    ],
)
def test_a_profile_says_when_tests_hang_or_make_a_storm(
    pytester: pytest.Pytester, said: str, mark: str, verdict: str
) -> None:
    pytester.makepyprojecttoml(f"[tool.pytest_resilience.profiles.strict.explore]\n{said}\n")
    pytester.makepyfile(f"""
        import threading
        import pytest
        @pytest.mark.chaos_explore(faults=["permission_denied"], depth=1, {mark})
        def test_it(tmp_path):
            for number in range(4):
                try:
                    (tmp_path / "a").touch()
                    break
                except PermissionError:
                    threading.Event().wait(0.2)
    """)
    found = cells(pytester, "--chaos-profile=strict", "--chaos-explore")
    worst = max((CellVerdict(each["verdict"]) for each in found), key=lambda each: each.severity)
    assert worst == CellVerdict(verdict)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("budget = 0", "explore: budget=0: a budget of nothing explores nothing*"),
        ("budget = []", "explore: budget=[[]]: give runs such as 200*"),
        ("depth = 9", "explore: depth=9: 4 faults at once at most*"),
        ("depht = 1", "explore: unknown key 'depht' (did you mean 'depth'?)*"),
        ("deadline = 0", "explore: deadline=0: give more than nothing*"),
    ],
)
def test_a_profile_that_says_it_in_a_wrong_way_is_named(
    pytester: pytest.Pytester, said: str, told: str
) -> None:
    pytester.makepyprojecttoml(f"[tool.pytest_resilience.profiles.quick.explore]\n{said}\n")
    result = run(pytester, "--chaos-explore", "--chaos-profile=quick")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*pyproject.toml: profile 'quick': {told}"])


def test_the_gate_and_the_baseline_know_the_cells(shop: pytest.Pytester) -> None:
    from pytest_resilience.__main__ import main

    arguments = ("--chaos-explore", "-k", "shouts")
    assert run(shop, *arguments, "--resilience-report=out.json").ret == 10
    main(["baseline", "out.json", "--output", "known.txt"])
    assert Path("known.txt").exists()
    run(shop, *arguments, "--resilience-baseline=known.txt").stdout.fnmatch_lines(
        ["resilience gate passed*"]
    )


HOLDERS = """
import pytest

held = []

@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.excinfo is not None:
        item.errors = {call.when: call.excinfo}
        held.append(call.excinfo.value)
    return report
"""


def test_what_only_an_error_holds_is_no_leak(shop: pytest.Pytester) -> None:
    shop.makeconftest(HOLDERS)
    shop.makepyfile(
        test_client="""
        import socket
        import pytest

        class Client:
            def __init__(self):
                self.pair = socket.socketpair()

            def load(self, path):
                try:
                    return next(self.generate(path))
                except OSError as error:
                    error.client = self
                    raise OSError("no note") from error

            def generate(self, path):
                def chunks():
                    with open(path) as file:
                        self.pair[0].getsockname()
                        yield file.read()
                return chunks()

        @pytest.fixture
        def client():
            return Client()

        def test_loads(client, tmp_path):
            (tmp_path / "a").write_text("x")
            assert client.load(tmp_path / "a") == "x"
    """
    )
    # In a process of its own: pytester keeps all that hooks are called with, tracebacks too.
    result = shop.runpytest_subprocess(
        "-p", "no:ordeal", "-p", "no:randomly", "-W", "ignore::ResourceWarning",
        "--chaos-explore", "test_client.py",
    )  # fmt: skip
    result.stdout.fnmatch_lines(["*::test_loads: 4 operations, * 0 ways to fail"])


def test_a_client_of_a_fixture_that_connects_again_leaks_nothing(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        test_client="""
        import http.client
        import http.server
        import threading
        import pytest

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.send_response(204)
                self.end_headers()

            def log_message(self, *args):
                pass

        @pytest.fixture(scope="module")
        def client():
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            client = http.client.HTTPConnection(*server.server_address, timeout=0.2)
            client.connect()
            yield client
            client.close()
            server.shutdown()
            thread.join()
            server.server_close()

        def test_asks(client):
            for _ in range(3):
                try:
                    client.request("GET", "/")
                    client.getresponse().read()
                except (OSError, http.client.HTTPException):
                    client.close()
    """
    )
    result = shop.runpytest("--chaos-explore=1", "test_client.py")
    result.stdout.fnmatch_lines(["*::test_asks: 6 operations, * 0 ways to fail"])


@pytest.mark.parametrize(("most", "ways"), [(1, "0 ways"), (100, "1 way")])
def test_a_leak_is_what_comes_each_time(shop: pytest.Pytester, most: int, ways: str) -> None:
    """Where a pool of a fixture has grown once, it is not."""
    shop.makepyfile(
        test_pool=f"""
        import socket
        import pytest

        @pytest.fixture(scope="module")
        def pool():
            pool = []
            yield pool
            for each in pool:
                each.close()

        def test_writes(pool, tmp_path):
            try:
                (tmp_path / "a").write_text("x")
            except OSError:
                if len(pool) < {most}:
                    pool.append(socket.socket())
    """
    )
    result = shop.runpytest("--chaos-explore=1", "test_pool.py")
    result.stdout.fnmatch_lines([f"*::test_writes: 2 operations, * {ways} to fail"])


BACKING_OFF = """
    import pytest

    class Client:
        rest = 0

        def write(self, path):
            self.rest -= 1
            try:
                if self.rest < 0:
                    path.write_text("x")
            except OSError:
                self.rest = {times}

    @pytest.fixture(scope="module")
    def client():
        return Client()

    def test_writes(client, tmp_path):
        client.write(tmp_path / "a")
"""


def test_a_client_that_backs_off_is_waited_for(shop: pytest.Pytester) -> None:
    shop.makepyfile(test_client=BACKING_OFF.format(times=4))
    result = shop.runpytest("--chaos-explore=1", "test_client.py")
    result.stdout.fnmatch_lines(["*::test_writes: 2 operations, * 0 ways to fail"])
    result.stdout.no_fnmatch_line("*stale*")


@pytest.mark.usefixtures("recovery_clock")
def test_one_that_does_not_come_back_is_told(shop: pytest.Pytester) -> None:
    of_the_module = BACKING_OFF.format(times=1_000_000).replace("return Client()", "return CLIENT")
    shop.makepyfile(test_client=of_the_module + "\n    CLIENT = Client()\n")
    result = shop.runpytest("--chaos-explore=1", "test_client.py")
    result.stdout.fnmatch_lines(["*create(*#1=disk_full has left something that outlives *"])
    result.stdout.no_fnmatch_line("*stale*")


def test_what_a_run_has_not_closed_does_not_spoil_the_next(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        test_writes="""
        def test_writes(tmp_path):
            file = open(tmp_path / "a", "w")
            file.write("x")
            file.flush()
            file.close()

        def test_after():
            pass
    """
    )
    found = cells(shop, "test_writes.py", "-W", "error")
    of_writes = {each["verdict"] for each in found if each["test"].endswith("::test_writes")}
    assert of_writes == {"degraded"}
    run(shop, "test_writes.py", "--chaos-explore", "-W", "error").assert_outcomes(passed=2)


def test_a_test_with_chaos_of_its_own_takes_its_own_time(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        test_slow="""
        import time
        import pytest
        import shop

        @pytest.mark.chaos("disk_failure", mode="slow_write", delay=0.2)
        def test_saves(tmp_path):
            began = time.monotonic()
            shop.save(tmp_path / "a", "x")
            assert time.monotonic() - began >= 0.2
    """
    )
    run(shop, "test_slow.py").assert_outcomes(passed=1)
    run(shop, "test_slow.py", "--chaos-explore").assert_outcomes(passed=1)


def test_what_breaks_alike_is_told_once_and_all_of_it_under_v(shop: pytest.Pytester) -> None:
    arguments = ("--chaos-explore", "--resilience-report=out.json", "-k", "shouts or computes")
    result = run(shop, *arguments)
    document = json.loads((shop.path / "out.json").read_text())
    names = [each["experiment"] for each in document["cells"] if each["verdict"] == "failed"]
    assert len(names) > 1
    told = [line for line in result.outlines if line.lstrip().startswith("failed: ")]
    assert len(told) == 1
    also = [line for line in result.outlines if line.startswith("    also under: ")]
    operations = {name.rpartition("=")[0] for name in names}
    [repeat] = [line for line in result.outlines if "--chaos-replay=" in line]
    told_of = " ".join([repeat.replace("#1", ""), *also])
    assert [told_of.count(f"{each}=") for each in operations] == [1] * len(operations)
    assert all(name.rpartition("=")[2] in told_of for name in names)
    assert "applicable to no test" not in result.stdout.str()
    told = run(shop, *arguments, "-v").outlines
    assert sum(line.startswith("failed: ") for line in told) == len(names)


def test_a_test_that_fails_for_what_was_found_tells_it_once(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        test_marked="""
        import pytest
        import shop
        from test_shop import note

        @pytest.mark.chaos_explore
        def test_marked(note):
            assert shop.load(note).upper() == "HELLO"
    """
    )
    for style in ("auto", "no"):
        result = run(shop, "test_marked.py", f"--tb={style}")
        result.assert_outcomes(failed=1)
        assert result.stdout.str().count("--chaos-replay=") == 1, style
        result.stdout.fnmatch_lines("*::test_marked: * operations, * runs, *1 way to fail")


@pytest.mark.parametrize(
    ("mark", "told"),
    [
        (
            "faults='dns'",
            "faults=[[]'dns'] can happen to no operation of the test; possible are: *",
        ),
        ("faults='killed'", "of crashes nothing can be told without an invariant; give *"),
    ],
)
def test_faults_that_fit_no_operation_are_told_with_those_that_do(
    pytester: pytest.Pytester, mark: str, told: str
) -> None:
    pytester.makepyfile(f"""
        import pytest
        @pytest.mark.chaos_explore({mark})
        def test_it(tmp_path):
            (tmp_path / "it").write_text("x")
    """)
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["not applicable: " + told])


def test_a_failure_is_told_by_a_fault_that_is_meant(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        test_it="""
        import pytest
        import shop
        @pytest.mark.chaos_explore(faults=["memory"])
        def test_it(tmp_path):
            try:
                shop.save(tmp_path / "a", "x")
            except (MemoryError, OSError):
                pass
            assert (tmp_path / "a").exists()
        """
    )
    result = run(shop, "test_it.py")
    result.stdout.fnmatch_lines(["*--chaos-replay='create(tmp_path/a)@shop.save#1=memory'"])


def test_who_waits_where_a_run_has_hung_hangs_as_well_only_if_nobody_is_about_to_wake_it(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile("""
        import asyncio
        import concurrent.futures
        import threading
        import time
        import pytest

        def read(path):
            try:
                return path.read_text()
            except PermissionError:
                threading.Event().wait(60)
            except MemoryError:
                time.sleep(0.5)
                return path.read_text()

        async def read_in_a_loop(path):
            try:
                return path.read_text()
            except PermissionError:
                await asyncio.sleep(60)
            except MemoryError:
                await asyncio.sleep(0.5)
                return path.read_text()

        @pytest.fixture
        def loop():
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, daemon=True)
            thread.start()
            yield loop
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

        @pytest.fixture
        def path(tmp_path):
            path = tmp_path / "note.txt"
            path.write_text("5")
            return path

        def ask_a_thread(loop, path):
            done = concurrent.futures.Future()
            work = threading.Thread(target=lambda: done.set_result(read(path)), daemon=True)
            work.start()
            return done.result()

        def ask_a_loop(loop, path):
            return asyncio.run_coroutine_threadsafe(read_in_a_loop(path), loop).result()

        @pytest.mark.parametrize("ask", [ask_a_loop, ask_a_thread])
        @pytest.mark.chaos_explore(
            faults=["permission_denied", "memory"], depth=1, deadline="2s", probe=False
        )
        def test_it(loop, path, ask):
            assert ask(loop, path) == "5"
    """)
    result = run(pytester, "-v", "-W", "ignore")
    stdout = result.stdout.str()
    assert stdout.count("hang: it was still running after 2 s, at test_who") == 2
    assert "=memory" not in stdout


def test_a_connect_in_a_loop_that_is_never_answered_hangs_at_once(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        test_connects="""
        import asyncio
        import socket
        import pytest

        async def connect(address):
            reader, writer = await asyncio.open_connection(*address)
            writer.close()

        @pytest.mark.chaos_explore(faults=["timeout"], depth=1, deadline="60s", probe=False)
        def test_it():
            with socket.create_server(("127.0.0.1", 0)) as listener:
                asyncio.run(connect(listener.getsockname()))
    """
    )
    result = pytester.runpytest_subprocess()  # in which no thread of this process may wake it
    told = re.search(
        r"hang: it was still running after (\S+) s, at \S+:6 in connect", result.stdout.str()
    )
    assert told is not None
    assert float(told[1]) < 60


def test_what_an_assertion_explains_stands_below_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.chaos_explore(faults=["permission_denied"], depth=1)
        def test_it(tmp_path):
            found = [1, 2]
            try:
                (tmp_path / "note.txt").write_text("1")
            except OSError:
                found.append(3)
            assert found == [1, 2]
    """
    )
    told = run(pytester).outlines
    first = told.index(
        "failed: AssertionError: assert [1, 2, 3] == [1, 2], in test_it.py in test_it"
    )
    assert told[first + 1] == "      Left contains one more item: 3"
    assert told[first + 3].startswith("    pytest test_it.py::test_it --chaos-replay=")


def test_in_virtual_time_waits_cost_nothing_and_a_deadlock_is_told_with_its_place(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile("""
        import threading
        import time
        import pytest

        def load(path):
            for delay in (60, 600, 0):
                try:
                    return path.read_text()
                except OSError:
                    time.sleep(delay)

        class Counter:
            def __init__(self, path):
                self.path, self.lock = path, threading.Lock()
            def count(self):
                self.lock.acquire()
                found = self.path.read_text()
                self.lock.release()
                return found

        @pytest.fixture
        def path(tmp_path):
            path = tmp_path / "note.txt"
            path.write_text("5")
            return path

        @pytest.fixture
        def counter(path):
            return Counter(path)

        @pytest.mark.virtual_time
        @pytest.mark.chaos_explore(faults="permission_denied", depth=1)
        def test_loads(path):
            assert load(path) in ("5", None)

        @pytest.mark.virtual_time
        @pytest.mark.chaos_explore(faults="permission_denied", depth=1)
        def test_counts(counter):
            assert counter.count() == "5"
    """)
    result = run(pytester)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([
        "probe: ClockStalledError: *every thread of the test waits*",
        "*MainThread (the test): waits in lock for ever, at *.py:* in count*",
    ])  # fmt: skip


def test_in_virtual_time_a_hang_is_known_at_once_whatever_it_waits_for(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile("""
        import asyncio
        import queue
        import socket
        import threading
        import pytest

        pytestmark = pytest.mark.chaos_explore(faults="permission_denied", depth=1)

        @pytest.fixture
        def answers(tmp_path):
            path = tmp_path / "note.txt"
            path.write_text("5")

            def ask():
                try:
                    return path.read_text()
                except OSError:
                    return None

            return ask

        def test_socket(answers):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                if answers():
                    theirs.send(b"x")
                ours.recv(1)

        def test_asyncio(answers):
            async def main():
                done = asyncio.Event()
                if answers():
                    done.set()
                await done.wait()

            asyncio.run(main())

        def test_queue(answers):
            found = queue.Queue()
            if answers():
                found.put(True)
            found.get()
    """)
    result = run(pytester, "--virtual-time")
    result.assert_outcomes(failed=3)
    told = "hang: *every thread of the test waits*"
    result.stdout.fnmatch_lines([
        told,
        "*MainThread (the test): waits in receive for ever, at *.py:* in test_socket",
        told,
        "*MainThread (the test): waits in select for ever, *",
        "*Task 1 (main): waits, at *.py:* in main*",
        told,
        "*MainThread (the test): waits in lock for ever, at *.py:* in test_queue*",
    ])  # fmt: skip


def test_calls_of_services_are_tried_as_well_and_each_fault_happens(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeini("[pytest]\nchaos_services =\n    pay = pay:charge\n    ask = pay:ask\n")
    pytester.makepyfile(
        pay="""
            def charge():
                return 1
            async def ask():
                return 1
        """,
        test_it="""
            import asyncio
            import pay
            def test_charge():
                assert pay.charge() == 1
            def test_ask():
                assert asyncio.run(pay.ask()) == 1
        """,
    )
    pytester.syspathinsert()
    found = verdicts_of(cells(pytester))
    assert found == {
        ("test_it.py::test_charge", "call(pay)@test_it.test_charge=error"): "degraded",
        ("test_it.py::test_charge", "call(pay)@test_it.test_charge=memory"): "degraded",
        ("test_it.py::test_ask", "call(ask)@test_it.test_ask=error"): "degraded",
        ("test_it.py::test_ask", "call(ask)@test_it.test_ask=memory"): "degraded",
        ("test_it.py::test_ask", "call(ask)@test_it.test_ask=cancel"): "degraded",
    }


def test_a_lock_of_a_file_that_another_process_has_once_is_tried(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        test_locks="""
        import fcntl
        import pytest

        def append(path, text):
            with open(path, "a") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return
                file.write(text)

        @pytest.mark.chaos_explore(faults=["locked"])
        def test_append(tmp_path):
            append(tmp_path / "log", "x")
            assert (tmp_path / "log").read_text() == "x"
    """
    )
    result = run(pytester)
    result.stdout.fnmatch_lines([
        "the exploration has found 1 way to fail in 1 run",
        "*--chaos-replay='lock_file(tmp_path/log)@test_locks.append#1=locked'",
    ])  # fmt: skip
