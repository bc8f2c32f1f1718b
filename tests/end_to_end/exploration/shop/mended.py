"""The shop of `seeded`, without its bugs."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import sqlite3
import threading

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.end_to_end.exploration.shop.service import Pool
from tests.end_to_end.exploration.shop.service import ask
from tests.end_to_end.exploration.shop.service import checked


__all__ = [
    "Cache", "Stock", "charge", "invoice", "place_order", "rate", "reserve", "run", "save_report",
    "save_settings", "total",
]  # fmt: skip


def total(port: int, cart: Sequence[str]) -> int:
    """What a cart costs. Raises what asking for a price raises."""
    return sum(ask(port, f"/price/{item}")["price"] for item in cart)


def rate(port: int) -> int:
    """The exchange rate, of a service that is often busy."""
    for _ in range(2):
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            return int(ask(port, "/rate")["rate"])
    raise ConnectionError("no rate")


def place_order(database: Path, items: Sequence[str]) -> None:
    """An order, with its lines."""
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        number = connection.execute("INSERT INTO orders (lines) VALUES (?)", [len(items)]).lastrowid
        rows = [(number, item) for item in items]
        connection.executemany("INSERT INTO lines VALUES (?, ?)", rows)


def charge(port: int, order: str, amount: int) -> None:
    """Take the money, and try again if that fails."""
    body = {"order": order, "amount": amount, "key": order}
    try:
        ask(port, "/charge", body)
    except (OSError, http.client.HTTPException, ValueError):
        ask(port, "/charge", body)


def invoice(port: int, order: str) -> str:
    """The text of an invoice."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=1)) as connection:
        connection.request("GET", f"/invoice/{order}")
        return str(checked(connection.getresponse())["text"])


async def reserve(pool: Pool, item: str) -> int:
    """How many are left of an item, asked over a connection of the pool."""
    reader, writer = await pool.take()
    try:
        writer.write(f"GET /left/{item} HTTP/1.0\r\n\r\n".encode())
        await writer.drain()
        async with asyncio.timeout(1):
            answer = await reader.read()
    finally:
        await pool.give_back(writer)
    return int(pool.checked(answer)["left"])


class Cache:
    """Descriptions of items, each of which is asked for once."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._descriptions: dict[str, str] = {}

    def description(self, item: str) -> str:
        """In words."""
        if item not in self._descriptions:
            self._descriptions[item] = str(ask(self._port, f"/item/{item}")["text"])
        return self._descriptions[item]


def save_report(folder: Path, text: str) -> None:
    """A report, all of it or nothing. What could not be removed is written over the next time."""
    _save(folder / "report.txt", text)


def save_settings(path: Path, settings: dict[str, Any]) -> None:
    """The settings of the shop."""
    _save(path, json.dumps(settings))


def _save(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


class Stock:
    """What is on the shelves, which one thread at a time may count."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._lock = threading.Lock()

    def count(self, item: str) -> int:
        """How many there are."""
        with self._lock:
            return int(ask(self._port, f"/count/{item}")["count"])


def run(what: Any) -> Any:
    """The result of a coroutine."""
    return asyncio.run(what)
