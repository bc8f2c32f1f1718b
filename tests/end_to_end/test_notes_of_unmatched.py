"""What is done with files, services, mocks and databases is noted, and nothing happens to it."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import shutil
import sqlite3
import sys
import types

from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import requests_mock
import responses

from pytest_resilience import ChaosExperiment
from pytest_resilience import DatabaseSimulator
from pytest_resilience import NetworkSimulator
from pytest_resilience import ServiceFailureSimulator
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.recorder import Recorder
from pytest_resilience.chaos.types.service import Service
from pytest_resilience.chaos.types.service import Services
from pytest_resilience.runtime import new_engine
from tests.injecting import ending
from tests.interceptors.files import test_interceptor
from tests.interceptors.files.file_actions import access
from tests.interceptors.files.file_actions import locking
from tests.interceptors.files.file_actions import writing


def never(name: str, kind: str, **parameters: Any) -> ChaosExperiment:
    """One that matches, and hits nothing."""
    return ChaosExperiment(name, kind, **{"nth": 10**6, **parameters})


FILES = [
    never(step, "disk_failure", mode="slow_write", delay="1us", at=step)
    for step in ("open", "read", "write", "resize", "sync", "rename", "make", "remove", "lock")
] + [never("in vain", "disk_failure", mode="too_many_open_files")]
ROWS = [
    never("connect", "database_failure", mode="refused"),
    never("execute", "database_slowdown"),
    never("commit", "database_slowdown", at="commit"),
    never("fetch", "database_slowdown", at="fetch"),
]
NETWORK = [
    never("connect", "network_failure", mode="refuse"),
    never("receive", "network_failure", mode="corrupt"),
    never("resolve", "network_failure", mode="dns"),
    never("close", "network_latency", mode="slow_close"),
]
CALLS = [
    never(name, "service_failure", target_services=[name]) for name in ("stock", "price", "missing")
]


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("watched_shop")
    vars(module).update(stock=lambda: 3, price=lambda: 4)
    monkeypatch.setitem(sys.modules, "watched_shop", module)
    return module


@pytest.fixture
def engine(shop: types.ModuleType) -> Iterator[Engine]:
    places = {"stock": shop, "price": shop, "missing": shop}
    services = [Service.at(name, [f"watched_shop:{name}"]) for name in places]
    with ending(new_engine(services=Services(services))) as engine:
        yield engine
        assert engine.recorder is None


def noted(
    engine: Engine, experiments: list[ChaosExperiment], deed: Callable[[], object]
) -> set[str]:
    """The names of the experiments that could hit what `deed` does."""
    recorder = Recorder(each.bind(engine.services) for each in experiments)
    with engine.recording(recorder), engine.recording_test():
        deed()
    return {each.name for each in experiments if recorder.could_hit(each)}


def matches(engine: Engine, experiment: ChaosExperiment, deed: Callable[[], object]) -> bool:
    """Whether it is aimed at something that `deed` does."""
    active_experiment = engine.start(experiment, seed=1)
    try:
        deed()
    finally:
        active_experiment.stop()
    return bool(active_experiment.matched)


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "inner").mkdir(parents=True)
    (folder / "there").write_text("some")
    return folder


def synced(folder: Path) -> None:
    with open(folder / "there", "rb") as file:
        os.fsync(file.fileno())


def read_by_descriptor(folder: Path) -> None:
    descriptor = os.open(folder / "there", os.O_RDONLY)
    os.read(descriptor, 3)
    os.close(descriptor)


def resized(folder: Path) -> None:
    descriptor = os.open(folder / "there", os.O_RDWR)
    os.ftruncate(descriptor, 2)
    os.close(descriptor)


def in_memory(_folder: Path) -> None:
    with io.StringIO() as file:
        print("some", file=file)
    os.getcwd()
    os.path.exists("/nowhere")


def opened_in_vain(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        open(folder / "nothing").close()


FILE_DEEDS: dict[str, Callable[[Path], object]] = {
    **{f"stream {n}": each for n, each in enumerate(test_interceptor.STREAMS)},
    **{f"call {n}": each for n, each in enumerate(test_interceptor.CALLS)},
    "logging": test_interceptor.by_logging,
}
FOLDER_DEEDS: dict[str, Callable[[Path], object]] = {
    "access": access,
    "writing": lambda folder: writing(folder / "there"),
    "open": lambda folder: open(folder / "there").close(),
    "open in vain": opened_in_vain,
    "read": lambda folder: (folder / "there").read_bytes(),
    "read by descriptor": read_by_descriptor,
    "sync": synced,
    "resize": resized,
    "lock": locking,
    "rename": lambda folder: (folder / "there").rename(folder / "new"),
    "mkdir": lambda folder: os.mkdir(folder / "new"),
    "remove": lambda folder: (folder / "there").unlink(),
    "in memory": in_memory,
}


@pytest.mark.parametrize("name", [*FILE_DEEDS, *FOLDER_DEEDS])
def test_what_is_done_with_files_is_noted_step_by_step(
    name: str, engine: Engine, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    path = folder if name in FOLDER_DEEDS else folder / "file"
    deed = functools.partial((FILE_DEEDS | FOLDER_DEEDS)[name], path)
    hit = set()
    for each in FILES:
        fresh(folder)
        hit |= {each.name} if matches(engine, each, deed) else set()
    fresh(folder)
    could = noted(engine, FILES, deed)
    assert could >= hit
    assert could - hit <= {"resize", "write", "read"}  # what may be done with an open file


def test_a_file_is_opened_as_it_always_is(engine: Engine, tmp_path: Path) -> None:
    found: list[Any] = []

    def deed() -> None:
        with open(tmp_path / "file", "w+b") as file:
            found.append(type(file.raw))

    assert noted(engine, FILES, deed) >= {"open", "write", "read"}
    assert found == [io.FileIO]


def test_tools_and_devices_do_nothing_of_the_test(engine: Engine) -> None:
    def deed() -> None:
        with open(os.devnull, "w") as file:
            file.write("x")
        sys.stdout.write("captured by pytest")

    assert noted(engine, FILES, deed) == set()


def in_a_transaction() -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection, connection:
        connection.execute("CREATE TABLE t (a)")
        connection.execute("INSERT INTO t VALUES (1)")


def read_rows() -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        assert connection.execute("SELECT 1").fetchall() == [(1,)]


@pytest.mark.parametrize(
    ("deed", "expected"),
    [
        (in_a_transaction, {"connect", "execute", "commit"}),
        (read_rows, {"connect", "execute", "fetch"}),
        (lambda: DatabaseSimulator.simulate_query(lambda: 1), {"execute"}),
        (lambda: None, set()),
    ],
)
def test_what_is_done_with_a_database_is_noted_step_by_step(
    engine: Engine, deed: Callable[[], object], expected: set[str]
) -> None:
    assert noted(engine, ROWS, deed) == expected
    assert {each.name for each in ROWS if matches(engine, each, deed)} == expected


def test_a_connection_is_noted_as_long_as_it_lives(engine: Engine) -> None:
    opened: list[sqlite3.Connection] = []
    noted(engine, ROWS, lambda: opened.append(sqlite3.connect(":memory:")))
    for _ in range(2):
        assert noted(engine, ROWS, lambda: opened[0].execute("SELECT 1")) == {"execute"}
    [experiment] = [each for each in ROWS if each.name == "execute"]
    assert matches(engine, experiment, lambda: opened[0].execute("SELECT 1"))
    opened[0].close()


def test_what_is_opened_before_the_test_stays_as_it_is_and_is_told(engine: Engine) -> None:
    recorder = Recorder(ROWS)
    with engine.recording(recorder), recorder.opening() as kinds:
        connection = sqlite3.connect(":memory:")
    assert type(connection) is sqlite3.Connection
    assert {each.name for each in ROWS if each.kinds & kinds} == {each.name for each in ROWS}
    assert not any(map(recorder.could_hit, ROWS))  # it was not the test
    connection.close()


@pytest.mark.parametrize(
    ("called", "expected"), [("stock", {"stock"}), ("price", {"price"}), (None, set())]
)
def test_calls_are_noted_by_service(
    engine: Engine, shop: types.ModuleType, called: str | None, expected: set[str]
) -> None:
    original = shop.stock
    found = noted(engine, CALLS, lambda: None if called is None else getattr(shop, called)())
    assert found == {*expected, "missing"}  # which is not there: who starts it is told so
    assert shop.stock is original


def test_explicit_points_are_noted(engine: Engine) -> None:
    request = functools.partial(NetworkSimulator.request_to, "shop.example:80", lambda: 1)
    assert noted(engine, NETWORK, request) == {"connect", "receive", "resolve", "close"}
    call = functools.partial(ServiceFailureSimulator.simulate_service_call, "stock", lambda: 1)
    assert "stock" in noted(engine, CALLS, call)


@pytest.mark.parametrize("kind", ["responses", "requests-mock"])
@pytest.mark.parametrize("host", ["shop.example", "127.0.0.1"])
def test_calls_of_mocks_are_noted_as_whole_exchanges(engine: Engine, kind: str, host: str) -> None:
    mock: Any = responses.RequestsMock() if kind == "responses" else requests_mock.Mocker()
    url = f"http://{host}/orders"
    with mock:
        mock.get(url, json=[])
        found = noted(engine, NETWORK, lambda: requests.get(url, timeout=5))
    names = {"resolve"} if host == "shop.example" else set()
    assert found == {"connect", "receive", "close"} | names


def test_a_seam_that_cannot_be_installed_leaves_the_test_alone(engine: Engine) -> None:
    class Broken:
        kinds = frozenset({"network.connect"})

        def install(self) -> None:
            if engine.recorder is not None:
                raise RuntimeError("no licence is left")

        def refresh(self) -> None: ...

        def remove(self) -> None: ...

    engine._interceptors._all = (*engine._interceptors._all, Broken())
    before = requests.adapters.HTTPAdapter.send
    assert noted(engine, NETWORK, lambda: None) == {each.name for each in NETWORK}
    assert requests.adapters.HTTPAdapter.send is before
