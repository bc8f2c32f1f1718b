"""Payments that are charged once, although the answer to a COMMIT may be lost."""

from __future__ import annotations

import sqlite3

from contextlib import closing
from pathlib import Path


class Payments:
    """A ledger in a file.

    Who pays gives a key of its own. Whether a payment whose COMMIT was not answered was made,
    nobody knows until the ledger is asked for that key.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with closing(sqlite3.connect(path)) as ledger, ledger:
            ledger.execute("CREATE TABLE IF NOT EXISTS payments (key TEXT PRIMARY KEY, cents INT)")
            ledger.execute("CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, cents INT)")
            ledger.execute("INSERT OR IGNORE INTO accounts VALUES ('shop', 0)")

    def charge(self, key: str, cents: int, attempts: int = 3) -> None:
        """Book it, once. Raises sqlite3.OperationalError when that was not possible."""
        for attempt in range(1, attempts + 1):
            try:
                with closing(sqlite3.connect(self._path)) as ledger, ledger:
                    known = ledger.execute("SELECT 1 FROM payments WHERE key = ?", (key,))
                    if known.fetchone() is None:
                        ledger.execute("INSERT INTO payments VALUES (?, ?)", (key, cents))
                        ledger.execute("UPDATE accounts SET cents = cents + ?", (cents,))
            except sqlite3.OperationalError:
                if attempt == attempts:
                    raise
            else:
                return

    def balance(self) -> int:
        """Cents that the shop has."""
        with closing(sqlite3.connect(self._path)) as ledger:
            (cents,) = ledger.execute("SELECT cents FROM accounts").fetchone()
        return int(cents)
