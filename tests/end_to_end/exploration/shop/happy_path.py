"""The tests of the shop, for good days: nothing is said here of what may fail.

Three have an invariant, for what is wrong there is seen by nobody who asks the shop.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.end_to_end.exploration.shop import mended
from tests.end_to_end.exploration.shop import seeded
from tests.end_to_end.exploration.shop.service import Pool
from tests.end_to_end.exploration.shop.service import Service
from tests.end_to_end.exploration.shop.service import running


@pytest.fixture(params=[seeded, mended], ids=["seeded", "mended"])
def shop(request: pytest.FixtureRequest) -> ModuleType:
    found: ModuleType = request.param
    return found


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running() as service:
        yield service


@pytest.fixture
def port(service: Service) -> int:
    return service.server_port


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE orders (number INTEGER PRIMARY KEY, lines)")
        connection.execute("CREATE TABLE lines (number, item)")
    return path


def test_total(shop: ModuleType, port: int) -> None:
    assert shop.total(port, ["tea", "cup"]) == 8


def test_rate(shop: ModuleType, port: int) -> None:
    assert shop.rate(port) == 7


def every_order_has_its_lines(database: Path) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        query = """SELECT number FROM orders
            WHERE lines != (SELECT COUNT(*) FROM lines WHERE lines.number = orders.number)"""
        assert connection.execute(query).fetchall() == []


@pytest.mark.chaos_explore(invariant=[every_order_has_its_lines])
def test_order(shop: ModuleType, database: Path) -> None:
    shop.place_order(database, ["tea", "cup"])
    assert number_of_orders(database) >= 1


def number_of_orders(database: Path) -> int:
    with (
        contextlib.closing(sqlite3.connect(database)) as connection,
        contextlib.closing(connection.execute("SELECT COUNT(*) FROM orders")) as rows,
    ):
        return int(rows.fetchone()[0])


def test_charge(shop: ModuleType, service: Service, port: int) -> None:
    order = f"order {len(service.charges) + 1}"
    shop.charge(port, order, 1200)
    assert service.charges[order] == [1200]


def test_invoice(shop: ModuleType, port: int) -> None:
    assert shop.invoice(port, "7") == "tea: 4"


@pytest.fixture
def pool(port: int) -> Pool:
    return Pool(port)


def test_reservation(shop: ModuleType, pool: Pool) -> None:
    assert shop.run(shop.reserve(pool, "tea")) == 3


@pytest.fixture
def cache(shop: ModuleType, port: int) -> object:
    return shop.Cache(port)


def test_description(cache: seeded.Cache) -> None:
    assert cache.description("tea") == "green"


def the_next_report_is_all_there_is(shop: ModuleType, tmp_path: Path) -> None:
    shop.save_report(tmp_path, "the next day")
    assert [each.name for each in tmp_path.iterdir()] == ["report.txt"]


@pytest.mark.chaos_explore(invariant=[the_next_report_is_all_there_is])
def test_report(shop: ModuleType, tmp_path: Path) -> None:
    shop.save_report(tmp_path, "a good day")
    assert (tmp_path / "report.txt").read_text() == "a good day"


OLD, NEW = {"theme": "light"}, {"theme": "dark"}


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(OLD))
    return path


def there_are_settings(settings: Path) -> None:
    assert json.loads(settings.read_text()) in (OLD, NEW)


@pytest.mark.chaos_explore(invariant=[there_are_settings])
def test_settings(shop: ModuleType, settings: Path) -> None:
    shop.save_settings(settings, NEW)
    assert json.loads(settings.read_text()) == NEW


@pytest.fixture
def stock(shop: ModuleType, port: int) -> object:
    return shop.Stock(port)


@pytest.mark.resilience(deadline="2s")
def test_count(stock: seeded.Stock) -> None:
    assert stock.count("tea") == 5
