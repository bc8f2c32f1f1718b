"""A shop with ten bugs, which its tests do not see as long as nothing fails. `mended` has none.

Each is one that people write: what is wrong is said where it is, and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import sqlite3
import tempfile
import threading

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.end_to_end.exploration.shop.service import Pool
from tests.end_to_end.exploration.shop.service import ask
from tests.end_to_end.exploration.shop.service import checked


__all__ = [
    "Cache", "Stock", "charge", "invoice", "place_order", "rate", "reserve", "run",
    "save_report", "save_settings", "total",
]  # fmt: skip


def total(port: int, cart: Sequence[str]) -> int:
    """What a cart costs."""
    cost = 0
    for item in cart:
        with contextlib.suppress(OSError):  # the failure is swallowed, and the tea is free
            cost += ask(port, f"/price/{item}")["price"]
    return cost


def rate(port: int) -> int:
    """The exchange rate, of a service that is often busy."""
    for _ in range(100):  # a storm: so many, and at once
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            return int(ask(port, "/rate")["rate"])
    raise ConnectionError("no rate")


def place_order(database: Path, items: Sequence[str]) -> None:
    """An order, with its lines."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        number = connection.execute("INSERT INTO orders (lines) VALUES (?)", [len(items)]).lastrowid
        connection.commit()  # two commits: the order may be there without its lines
        rows = [(number, item) for item in items]
        connection.executemany("INSERT INTO lines VALUES (?, ?)", rows)
        connection.commit()


def charge(port: int, order: str, amount: int) -> None:
    """Take the money, and try again if that fails."""
    body = {"order": order, "amount": amount}  # nothing tells a second try from a second charge
    try:
        ask(port, "/charge", body)
    except (OSError, http.client.HTTPException, ValueError):
        ask(port, "/charge", body)


_open: list[http.client.HTTPConnection] = []


def invoice(port: int, order: str) -> str:
    """The text of an invoice."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    _open.append(connection)
    connection.request("GET", f"/invoice/{order}")
    found = checked(connection.getresponse())  # if that raises, the connection stays open
    connection.close()
    _open.remove(connection)
    return str(found["text"])


async def reserve(pool: Pool, item: str) -> int:
    """How many are left of an item, asked over a connection of the pool."""
    reader, writer = await pool.take()
    writer.write(f"GET /left/{item} HTTP/1.0\r\n\r\n".encode())
    await writer.drain()
    async with asyncio.timeout(1):
        answer = await reader.read()  # who is cancelled here never gives the connection back
    await pool.give_back(writer)
    return int(pool.checked(answer)["left"])


class Cache:
    """Descriptions of items, each of which is asked for once."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._answers: dict[str, bytes] = {}

    def description(self, item: str) -> str:
        """In words."""
        if item not in self._answers:
            with contextlib.closing(
                http.client.HTTPConnection("127.0.0.1", self._port, timeout=1)
            ) as connection:
                connection.request("GET", f"/item/{item}")
                response = connection.getresponse()
                # It is kept before anybody has looked at it: half an answer is kept, too.
                self._answers[item] = _all_that_comes(response)
        return str(json.loads(self._answers[item])["text"])


def _all_that_comes(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read()
    except http.client.IncompleteRead as error:
        return error.partial


def save_report(folder: Path, text: str) -> None:
    """A report, all of it or nothing."""
    descriptor, name = tempfile.mkstemp(suffix=".tmp", dir=folder)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(name, folder / "report.txt")  # if the disk is full, the temporary file stays


def save_settings(path: Path, settings: dict[str, Any]) -> None:
    """The settings of the shop."""
    with path.open("w", encoding="utf-8") as file:  # what was there is gone, whatever comes
        json.dump(settings, file)


class Stock:
    """What is on the shelves, which one thread at a time may count."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._lock = threading.Lock()

    def count(self, item: str) -> int:
        """How many there are."""
        self._lock.acquire()
        found = ask(self._port, f"/count/{item}")["count"]  # after a timeout nobody unlocks it
        self._lock.release()
        return int(found)


def run(what: Any) -> Any:
    """The result of a coroutine."""
    return asyncio.run(what)
