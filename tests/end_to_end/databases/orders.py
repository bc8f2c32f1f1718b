"""An application with two tables, once as it should be and once as it is often written."""

from __future__ import annotations

import uuid

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any


SCHEMA = (
    "CREATE TABLE orders (id VARCHAR(40) PRIMARY KEY, customer VARCHAR(40), total INTEGER)",
    "CREATE TABLE items (order_id VARCHAR(40), name VARCHAR(40), price INTEGER)",
)
HALF_ORDERS = """
    SELECT orders.id, orders.total, COALESCE(SUM(items.price), 0)
    FROM orders LEFT JOIN items ON items.order_id = orders.id
    GROUP BY orders.id, orders.total
    HAVING orders.total <> COALESCE(SUM(items.price), 0)
"""
Items = list[tuple[str, int]]
TEA: Items = [("tea", 4), ("cup", 7), ("pot", 20)]


class Orders:
    """Takes orders: each once, whole or not at all, whatever happens to the database.

    The customer's own key makes an order recognisable: a second try finds out whether the
    first one was done, which nobody knows when the answer to a COMMIT was lost.
    """

    def __init__(self, connect: Callable[[], Any], mark: str, transient: Iterable[type[Exception]]):
        """`mark` stands for a parameter in SQL; `transient`: errors that may go away."""
        self._connect = connect
        self._mark = mark
        self._transient = tuple(transient)

    def place(self, key: str, customer: str, items: Items, attempts: int = 4) -> None:
        for attempt in range(1, attempts + 1):
            try:
                connection = self._connect()
            except self._transient:
                if attempt == attempts:
                    raise
                continue
            try:
                self._place_once(connection, key, customer, items)
            except self._transient:
                if attempt == attempts:
                    raise
            else:
                return
            finally:
                _close(connection)

    def _place_once(self, connection: Any, key: str, customer: str, items: Items) -> None:
        cursor = connection.cursor()
        try:
            cursor.execute(f"SELECT id FROM orders WHERE id = {self._mark}", (key,))
            if cursor.fetchone() is None:
                for statement in order_of(self._mark, key, customer, items):
                    cursor.execute(*statement)
            connection.commit()
        except BaseException:
            _rollback(connection)
            raise
        finally:
            cursor.close()


class NaiveOrders:
    """Takes orders, and tries again when something goes wrong: twice the same, or a half."""

    def __init__(self, connect: Callable[[], Any], mark: str, transient: Iterable[type[Exception]]):
        self._connect = connect
        self._mark = mark
        self._transient = tuple(transient)

    def place(self, key: str, customer: str, items: Items, attempts: int = 4) -> None:
        del key  # a number of its own for every try
        for _ in range(attempts):
            connection = self._connect()
            try:
                cursor = connection.cursor()
                for statement in order_of(self._mark, str(uuid.uuid4()), customer, items):
                    cursor.execute(*statement)
                    connection.commit()
            except self._transient:
                continue
            else:
                return
            finally:
                _close(connection)


def order_of(mark: str, key: str, customer: str, items: Items) -> Iterator[tuple[str, Any]]:
    """The statements that make an order, with their parameters."""
    values = f"VALUES ({mark}, {mark}, {mark})"
    yield f"INSERT INTO orders {values}", (key, customer, sum(price for _, price in items))
    for name, price in items:
        yield f"INSERT INTO items {values}", (key, name, price)


def _rollback(connection: Any) -> None:
    try:
        connection.rollback()
    except Exception:  # it is gone, and so is its transaction
        return


def _close(connection: Any) -> None:
    try:
        connection.close()
    except Exception:  # as above
        return
