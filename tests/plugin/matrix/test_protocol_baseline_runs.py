"""What a test does in its baseline run says which experiments are applicable to it."""

from __future__ import annotations

import sys

from pathlib import Path

import pytest

from pytest_resilience.plugin.matrix.results_and_exit_status import MATRIX_FAILED
from tests.ahead import ALONE_AND_XDIST
from tests.ahead import runs_each
from tests.cells import cells_of
from tests.suites import SERVER


EXPERIMENTS = """
[tool.pytest_resilience.profiles.ci.services]
stock = "shop:stock"
price = "shop:price"

[[tool.pytest_resilience.profiles.ci.experiments]]
name = "refused"
chaos_type = "network_failure"
rate = 1

[[tool.pytest_resilience.profiles.ci.experiments]]
name = "lost"
chaos_type = "database_failure"
rate = 1

[[tool.pytest_resilience.profiles.ci.experiments]]
name = "full"
chaos_type = "disk_failure"
rate = 1

[[tool.pytest_resilience.profiles.ci.experiments]]
name = "stock"
chaos_type = "service_failure"
target_services = ["stock"]
rate = 1

[[tool.pytest_resilience.profiles.ci.experiments]]
name = "price"
chaos_type = "service_failure"
target_services = ["price"]
rate = 1

[[tool.pytest_resilience.profiles.ci.experiments]]
name = "busy"
chaos_type = "cpu_stress"
load = 0.01
cores = 1
"""
NAMES = ("refused", "lost", "full", "stock", "price")
FLAGS = ("--chaos-matrix", "--chaos-profile=ci", "--resilience-report=out.json")
SHOP = "def stock():\n    return 3\n\ndef price():\n    return 4\n"


@pytest.fixture
def shop(suite: pytest.Pytester) -> pytest.Pytester:
    suite.makepyprojecttoml(EXPERIMENTS)
    suite.makepyfile(shop=SHOP)
    suite.syspathinsert()
    return suite


def run(shop: pytest.Pytester, *arguments: str, only: tuple[str, ...] = NAMES) -> pytest.RunResult:
    return shop.runpytest(*FLAGS, *(f"--chaos-experiment={each}" for each in only), *arguments)


def verdicts(folder: Path) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for cell in cells_of(folder / "out.json"):
        name = cell["test"].rpartition("::")[2]
        found.setdefault(name, {})[cell["experiment"]] = cell["verdict"]
    return found


def applicable(folder: Path) -> dict[str, set[str]]:
    return {
        test: {name for name, verdict in cells.items() if verdict != "not_applicable"}
        for test, cells in verdicts(folder).items()
    }


@runs_each(
    ALONE_AND_XDIST,
    *FLAGS,
    *(f"--chaos-experiment={each}" for each in NAMES),
    conftest=SERVER,
    shop=SHOP,
    test_it="""
        import contextlib
        import sqlite3
        import requests
        import shop

        def test_pure():
            assert sum([1, 2]) == 3

        def test_network(url):
            requests.get(url, timeout=5)

        def test_database():
            with contextlib.closing(sqlite3.connect(":memory:")) as connection:
                connection.execute("SELECT 1")

        def test_files(tmp_path):
            (tmp_path / "file").write_text("some")

        def test_service():
            assert shop.stock() == 3
    """,
    others={"pyproject.toml": EXPERIMENTS},
)
def test_a_test_is_run_under_what_could_hit_it(ran: pytest.RunResult, ran_in: Path) -> None:
    ran.assert_outcomes(passed=5)
    assert applicable(ran_in) == {
        "test_pure": set(),
        "test_network": {"refused"},
        "test_database": {"lost"},
        "test_files": {"full"},
        "test_service": {"stock"},
    }
    assert verdicts(ran_in)["test_service"]["stock"] == "failed"


def test_what_is_done_in_a_block_of_schedules_is_done_by_the_test(shop: pytest.Pytester) -> None:
    shop.makepyfile("""
        import subprocess
        import sys
        import pytest
        import requests
        import shop

        def test_recorded(chaos_schedules, url):
            with chaos_schedules.recording():
                requests.get(url, timeout=5)

        @pytest.mark.resilience(own_chaos=True)
        def test_under_faults(chaos_schedules, tmp_path):
            with chaos_schedules.faults("create(tmp_path/other)#1=disk_full"):
                (tmp_path / "file").write_text("some")

        def test_service(chaos_schedules):
            with chaos_schedules.recording():
                shop.stock()

        def test_child(chaos_schedules):
            with chaos_schedules.recording():
                subprocess.run([sys.executable, "-c", ""], check=True)

        def test_pure(chaos_schedules):
            with chaos_schedules.recording():
                pass
    """)
    run(shop).assert_outcomes(passed=5)
    found = applicable(shop.path)
    assert found.pop("test_child") >= {"refused", "lost", "full"}
    assert found == {
        "test_recorded": {"refused"},
        "test_under_faults": {"full"},
        "test_service": {"stock"},
        "test_pure": set(),
    }


def test_a_pure_unit_test_is_not_run_again_and_spoils_no_gate(shop: pytest.Pytester) -> None:
    shop.makepyfile("""
        import requests

        runs = []

        def test_pure():
            runs.append(1)

        def test_network(url):
            try:
                requests.get(url, timeout=5)
            except requests.ConnectionError:
                assert runs == [1]
    """)
    result = run(shop, "-p", "no:randomly", "--resilience-gate=100", only=("refused",))
    assert result.ret == 0
    result.stdout.fnmatch_lines([
        "refused: 1 not applicable, 1 survived",
        "resilience gate passed: 100 %, 100 asked, coverage 100 %",
        "* 2 passed, 2 cells (1 good, 1 left out) in *",
    ])  # fmt: skip
    [cell] = [
        each for each in cells_of(shop.path / "out.json") if each["verdict"] == "not_applicable"
    ]
    assert cell["reason"] == (
        "it hits network.connect, network.send_datagram; without chaos the test did: "
        "nothing that any could hit"
    )


def test_a_wrong_target_and_a_trigger_that_chooses_none_never_fire(shop: pytest.Pytester) -> None:
    right = "rate = 1"
    for wrong, reason in (
        (
            'rate = 1\ntarget = "10.0.0.1:*"',
            "*no operation matched 10.0.0.1:?; the code did: network.conn*",
        ),
        (
            "rate = 1\nnth = 9",
            "*it matched 1 operation and hit none: 1 network.connect 127.0.0.1:*",
        ),
        ("rate = 1e-12", "*it matched 1 operation and hit none, by chance (*); rate=1 hits *"),
    ):
        shop.makepyprojecttoml(EXPERIMENTS.replace(right, wrong, 1))
        shop.makepyfile("""
            import requests

            def test_network(url):
                requests.get(url, timeout=5)
        """)
        result = run(shop, only=("refused",))
        assert result.ret == 10
        result.stdout.fnmatch_lines(["never fired: *::test_network under 'refused'", reason])


def test_fixtures_that_open_nothing_for_a_test_do_not_make_experiments_applicable(
    shop: pytest.Pytester,
) -> None:
    """As an autouse fixture of pytest-django, which opens the database of those that are marked."""
    shop.makepyfile("""
        import sqlite3

        import pytest

        @pytest.fixture(autouse=True)
        def helper(request):
            if request.node.name == "test_database":
                request.getfixturevalue("database")

        @pytest.fixture
        def database():
            connection = sqlite3.connect(":memory:")
            yield connection
            connection.close()

        @pytest.fixture
        def after_it(helper):
            pass

        def test_database(database, after_it):
            database.execute("SELECT 1")

        def test_pure(after_it):
            pass
    """)
    run(shop, "-p", "no:randomly", only=("lost",))
    assert verdicts(shop.path) == {
        "test_database": {"lost": "failed"},
        "test_pure": {"lost": "not_applicable"},
    }


@pytest.mark.parametrize("fault", ['mode = "status"', 'mode = "reset"\nmethod = "*"'])
def test_what_happens_to_http_only_is_not_applicable_to_what_speaks_none(
    shop: pytest.Pytester, fault: str
) -> None:
    shop.makepyprojecttoml(EXPERIMENTS.replace("rate = 1", f"{fault}\nrate = 1", 1))
    shop.makepyfile("""
        import asyncio
        import socket
        import threading

        import pytest
        import requests

        def once(server):
            connection, _ = server.accept()
            with connection:
                connection.sendall(connection.recv(100))

        @pytest.fixture
        def port():
            with socket.create_server(("127.0.0.1", 0)) as server:
                thread = threading.Thread(target=once, args=(server,))
                thread.start()
                yield server.getsockname()[1]
                thread.join()

        def ping(port):
            with socket.create_connection(("127.0.0.1", port)) as sock:
                sock.sendall(b"PING\\r\\n")
                sock.recv(100)

        def test_other(port):
            ping(port)

        def test_other_in_a_loop(port):
            async def main():
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"PING\\r\\n")
                await reader.read(100)
                writer.close()
                await writer.wait_closed()

            asyncio.run(main())

        def test_both(port, url):
            ping(port)
            requests.get(url, timeout=5).raise_for_status()

        def test_name():
            with pytest.raises(requests.ConnectionError):
                requests.get("http://shop.invalid/", timeout=5)
    """)
    run(shop, only=("refused",))
    assert applicable(shop.path) == {
        "test_other": set(),
        "test_other_in_a_loop": set(),
        "test_both": {"refused"},
        "test_name": {"refused"},
    }


def test_pressure_is_applicable_to_everything(shop: pytest.Pytester) -> None:
    shop.makepyfile("def test_pure():\n    assert sum(range(100)) == 4950")
    run(shop, only=("busy",)).assert_outcomes(passed=1)
    assert verdicts(shop.path) == {"test_pure": {"busy": "survived"}}


def test_an_experiment_of_no_strength_never_fires(shop: pytest.Pytester) -> None:
    table = 'chaos_type = "cpu_stress"\nload = 0.01\ncores = 1'
    shop.makepyprojecttoml(
        EXPERIMENTS.replace(table, 'chaos_type = "network_failure"\nintensity = 0')
    )
    shop.makepyfile("""
        import requests

        def test_network(url):
            requests.get(url, timeout=5)
    """)
    run(shop, only=("busy",))
    assert verdicts(shop.path) == {"test_network": {"busy": "never_fired"}}


def test_a_chaos_type_of_somebody_else_is_taken_to_be_applicable(shop: pytest.Pytester) -> None:
    table = 'chaos_type = "cpu_stress"\nload = 0.01\ncores = 1'
    shop.makepyprojecttoml(EXPERIMENTS.replace(table, 'chaos_type = "late_mail"'))
    shop.makeconftest("""
        from dataclasses import dataclass
        from typing import ClassVar

        from pytest_resilience.chaos.faults.network import Fault
        from pytest_resilience.chaos.types.schema import TypeSchema
        from pytest_resilience.runtime import NewChaosType

        @dataclass(frozen=True, slots=True, kw_only=True)
        class Late(Fault):
            kinds: ClassVar = frozenset({"mail.send"})

        class MailInterceptor:
            kinds = frozenset({"mail.send"})

            def __init__(self, engine):
                pass

            def install(self):
                pass

            refresh = remove = install

        def pytest_resilience_chaos_types():
            schema = TypeSchema(
                summary="mail is late", parameters=(),
                faults=lambda given, intensity: (Late(),),
            )
            return [NewChaosType("late_mail", schema, MailInterceptor)]
    """)
    shop.makepyfile("def test_it():\n    pass")
    run(shop, only=("busy",))
    assert verdicts(shop.path) == {"test_it": {"busy": "never_fired"}}


@pytest.mark.parametrize("scope", ["function", "module", "session"])
def test_a_connection_that_a_fixture_has_opened_is_hit(shop: pytest.Pytester, scope: str) -> None:
    shop.makepyfile(f"""
        import sqlite3
        import pytest

        @pytest.fixture(scope="{scope}")
        def rows():
            connection = sqlite3.connect(":memory:", check_same_thread=False)
            yield connection
            connection.close()

        def test_first(rows):
            rows.execute("SELECT 1")

        def test_second(rows):
            rows.execute("SELECT 1")

        def test_pure():
            pass
    """)
    run(shop, only=("lost",))
    assert verdicts(shop.path) == {
        "test_first": {"lost": "failed"},
        "test_second": {"lost": "failed"},
        "test_pure": {"lost": "not_applicable"},
    }


CALM = """
    import builtins
    import contextlib
    import io
    import os
    import socket
    import sqlite3
    import requests
    import shop

    def test_it(url, tmp_path):
        assert requests.get(url, timeout=5).text == "ok"
        with open(tmp_path / "file", "wb") as file:
            assert type(file.raw) is io.FileIO
            file.write(b"some")
        assert (tmp_path / "file").read_bytes() == b"some"
        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            assert connection.execute("SELECT 1").fetchall() == [(1,)]
        assert (shop.stock(), shop.price()) == (3, 4)
"""


def test_the_baseline_run_is_without_chaos_and_leaves_nothing_replaced(
    shop: pytest.Pytester,
) -> None:
    shop.makepyfile(CALM)
    shop.makeconftest(
        (shop.path / "conftest.py").read_text()
        + """
import builtins
import os
import shop
import socket

def found():
    return [
        builtins.open, os.replace, shop.stock, socket.socket.recv, socket.socket.connect,
        socket.getaddrinfo,
    ]

@pytest.fixture(scope="session", autouse=True)
def unchanged():
    yield
    assert found() == BEFORE

BEFORE = found()

def pytest_resilience_fault_injected(nodeid, event):
    assert not CALM, event

CALM = [1]

def pytest_resilience_verdict(item, cell):
    CALM.clear()
"""
    )
    result = run(shop)
    result.assert_outcomes(passed=1)
    assert verdicts(shop.path)["test_it"].keys() == set(NAMES)


def test_a_test_with_chaos_of_its_own_has_it_in_the_baseline_run_as_always(
    shop: pytest.Pytester,
) -> None:
    shop.makepyfile("""
        import pytest
        import requests

        @pytest.mark.resilience(own_chaos=True)
        @pytest.mark.chaos("network_latency", delay="1ms")
        def test_it(url):
            for _ in range(2):
                try:
                    requests.get(url, timeout=5)
                except requests.ConnectionError:
                    pass
    """)
    run(shop, only=("refused", "lost")).assert_outcomes(passed=1)
    assert verdicts(shop.path) == {"test_it": {"refused": "survived", "lost": "not_applicable"}}


def test_a_forked_child_may_do_anything(shop: pytest.Pytester) -> None:
    shop.makepyfile("""
        import multiprocessing
        import requests

        def ask(url):
            try:
                requests.get(url, timeout=5)
            except requests.ConnectionError:
                pass

        def test_child(url):
            child = multiprocessing.get_context("fork").Process(target=ask, args=(url,))
            child.start()
            child.join()
            assert child.exitcode == 0
    """)
    run(shop, "-W", "ignore", only=("refused",))
    assert verdicts(shop.path) == {"test_child": {"refused": "survived"}}


def test_a_name_that_does_not_resolve_is_refused_all_the_same(shop: pytest.Pytester) -> None:
    shop.makepyfile("""
        import requests

        def test_nowhere():
            try:
                requests.get("http://nowhere.invalid/", timeout=5)
            except requests.ConnectionError:
                pass
    """)
    run(shop, only=("refused",))
    assert verdicts(shop.path) == {"test_nowhere": {"refused": "survived"}}


@pytest.mark.parametrize(
    "body",
    [
        "import urllib.request; urllib.request.urlopen(url, timeout=5).read()",
        "import asyncio, httpx; asyncio.run(get(url))",
    ],
)
def test_clients_of_every_sort_are_seen(shop: pytest.Pytester, body: str) -> None:
    shop.makepyfile(f"""
        async def get(url):
            import httpx

            async with httpx.AsyncClient() as client:
                await client.get(url)

        def test_it(url):
            {body}
    """)
    run(shop, only=("refused", "full"))
    assert verdicts(shop.path) == {"test_it": {"refused": "failed", "full": "not_applicable"}}


_OWN_CHAOS = """
    import socket
    import sqlite3

    import pytest
    import requests

    @pytest.mark.chaos("network_latency", delay="1ms")
    def test_marker(url):
        requests.get(url, timeout=5)

    @pytest.mark.parametrize("broken", [True, False])
    def test_fixture(chaos, url, broken):
        if broken:
            with chaos.network_failure(mode="refuse"), pytest.raises(requests.ConnectionError):
                requests.get(url, timeout=5)
        else:
            requests.get(url, timeout=5)

    def test_forgotten_until_the_matrix(chaos_proxy, url):
        address = url.removeprefix("http://").rstrip("/")
        with chaos_proxy(address) as proxy, proxy.inject("network_latency", delay="1ms"):
            requests.get(f"http://127.0.0.1:{proxy.port}/", timeout=5)

    def test_proxy_alone(chaos_proxy, url):
        with chaos_proxy(url.removeprefix("http://").rstrip("/")) as proxy:
            requests.get(f"http://127.0.0.1:{proxy.port}/", timeout=5)

    def test_services(chaos, url):
        chaos.service("other", "shop:stock")
        requests.get(url, timeout=5)

    def test_schedule(chaos_schedules, tmp_path, url):
        with chaos_schedules.faults("create(tmp_path/file)#1=disk_full"), pytest.raises(OSError):
            (tmp_path / "file").write_text("some")
        requests.get(url, timeout=5)

    def test_sqlite(sqlite_chaos, tmp_path, url):
        requests.get(url, timeout=5)

    def test_none(url):
        requests.get(url, timeout=5)
"""


def test_no_experiment_is_run_around_chaos_that_a_test_has_of_its_own(
    shop: pytest.Pytester,
) -> None:
    shop.makepyfile(_OWN_CHAOS)
    result = run(shop, only=("refused",))
    result.assert_outcomes(passed=9)
    found = {name: cells["refused"] for name, cells in verdicts(shop.path).items()}
    assert {name for name, verdict in found.items() if verdict == "failed"} == {
        "test_fixture[False]", "test_proxy_alone", "test_services", "test_none",
    }  # fmt: skip
    assert {name for name, verdict in found.items() if verdict == "not_applicable"} == {
        "test_marker", "test_fixture[True]", "test_forgotten_until_the_matrix", "test_schedule",
        "test_sqlite",
    }  # fmt: skip
    result.stdout.fnmatch_lines([
        "note: 5 tests have chaos already, and no further experiment: @pytest.mark.resilience(*",
    ])  # fmt: skip


def test_chaos_of_its_own_is_named_where_it_keeps_the_matrix_away(shop: pytest.Pytester) -> None:
    shop.makepyfile("""
        import pytest
        import requests

        @pytest.mark.chaos("network_latency", name="slow", delay="1ms")
        def test_it(url):
            requests.get(url, timeout=5)
    """)
    result = run(shop, "-v", only=("refused",))
    result.stdout.fnmatch_lines([
        "not applicable: *::test_it under 'refused': it has chaos of its own (slow), *own_chaos=*",
    ])  # fmt: skip
    result.stdout.no_fnmatch_line("*is applicable to no test*")


@pytest.mark.parametrize("own_chaos", [True, False])
def test_a_test_that_its_own_chaos_breaks_was_not_without_any(
    shop: pytest.Pytester, own_chaos: bool
) -> None:
    shop.makepyfile(f"""
        import pytest
        import requests

        @pytest.mark.resilience(own_chaos={own_chaos})
        @pytest.mark.chaos("network_failure", mode="reset")
        def test_it(url):
            requests.get(url, timeout=5)
    """)
    result = run(shop, only=("refused",))
    result.assert_outcomes(failed=1)
    said = "the test, under its own chaos alone, failed in call: *"
    if own_chaos:
        result.stdout.fnmatch_lines(["invalid: *::test_it under 'refused'", f"    {said}"])
    result.stdout.no_fnmatch_line("*without any experiment*")


def test_the_nearest_mark_says_whether_experiments_join(shop: pytest.Pytester) -> None:
    shop.makepyfile("""
        import pytest
        import requests

        pytestmark = pytest.mark.resilience(own_chaos=True)

        @pytest.mark.chaos("network_latency", delay="1ms")
        def test_joined(url):
            requests.get(url, timeout=5)

        @pytest.mark.resilience(own_chaos=False)
        @pytest.mark.chaos("network_latency", delay="1ms")
        def test_alone(url):
            requests.get(url, timeout=5)
    """)
    run(shop, only=("refused",)).assert_outcomes(passed=2)
    found = {name: cells["refused"] for name, cells in verdicts(shop.path).items()}
    assert found == {"test_joined": "failed", "test_alone": "not_applicable"}


def test_a_failure_that_says_no_rate_happens_for_certain_in_a_matrix(shop: pytest.Pytester) -> None:
    shop.makepyprojecttoml(EXPERIMENTS.replace("rate = 1\n", "", 1))
    shop.makepyfile("""
        import pytest
        import requests

        @pytest.mark.parametrize("number", range(20))
        def test_it(url, number):
            requests.get(url, timeout=5)
    """)
    run(shop, only=("refused",)).assert_outcomes(passed=20)
    assert {cells["refused"] for cells in verdicts(shop.path).values()} == {"failed"}
    # And so does the cell when it is repeated alone.
    repeated = shop.runpytest("--chaos-profile=ci", "--chaos-experiment=refused")
    repeated.assert_outcomes(failed=20)


def test_a_reviewed_baseline_lets_a_suite_with_chaos_of_its_own_pass(shop: pytest.Pytester) -> None:
    shop.makepyfile("""
        import pytest
        import requests

        def test_known(url):
            requests.get(url, timeout=5)

        @pytest.mark.chaos("network_failure", mode="reset", first=1)
        def test_own(url):
            with pytest.raises(requests.ConnectionError):
                requests.get(url, timeout=5)
    """)
    gate = "--resilience-gate=100"
    assert run(shop, gate, only=("refused",)).ret == MATRIX_FAILED
    command = ("-m", "pytest_resilience", "baseline", "out.json", "-o", "known.txt")
    assert shop.run(sys.executable, *command).ret == 0
    assert "test_known" in (shop.path / "known.txt").read_text()
    accepted = run(shop, gate, "--resilience-baseline=known.txt", only=("refused",))
    assert accepted.ret == 0
