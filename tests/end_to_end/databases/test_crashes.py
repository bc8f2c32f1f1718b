"""SQLite after a crash: what its documentation says of each setting, and no more.

https://sqlite.org/pragma.html#pragma_synchronous: with FULL and EXTRA a database is never corrupt;
EXTRA, and FULL in WAL mode, keep what was committed, while FULL with a journal that is deleted may
lose it; NORMAL in WAL mode is consistent and may lose it; with OFF a database may be corrupt when
the system crashes, and not when the program does.
"""

from __future__ import annotations

import contextlib
import sqlite3

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_resilience import UnavailableError
from pytest_resilience.chaos.crash_states import CrashModel
from pytest_resilience.interceptors.crash_recorder import CrashRecording
from pytest_resilience.runtime import Runtime
from pytest_resilience.runtime import recording_crashes


JOURNALS = ("delete", "truncate", "persist", "wal")
TOTAL = 400


def opened(path: Path) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(path))


@pytest.fixture
def bank(tmp_path: Path) -> Callable[[str], Path]:
    """A database of four accounts on pages of their own, in a journal mode."""

    def make(journal: str) -> Path:
        path = tmp_path / "bank.db"
        with opened(path) as connection:
            connection.execute(f"PRAGMA journal_mode = {journal}")
            connection.execute("CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance, padding)")
            rows = [(number, TOTAL // 4, "x" * 3000) for number in range(4)]
            connection.executemany("INSERT INTO accounts VALUES (?, ?, ?)", rows)
            connection.commit()
        return path

    return make


def transfer_twice(path: Path, synchronous: str) -> CrashRecording:
    with recording_crashes(Runtime().engine, path.parent) as recording, opened(path) as connection:
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        for done in (1, 2):
            change = "UPDATE accounts SET balance = balance + ?, padding = ? WHERE id = ?"
            connection.execute(change, (-10, str(done) * 3000, 0))
            connection.execute(change, (10, str(done) * 3000, 3))
            connection.commit()
            recording.acknowledge(done)
    return recording


def judged(path: Path, recording: CrashRecording, model: CrashModel) -> set[str]:
    """What is wrong after a crash, in one state or another."""
    found = set()
    for state in recording.states(model):
        try:
            with opened(path) as connection:
                intact = connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                [(total, first)] = connection.execute(
                    "SELECT SUM(balance), MIN(balance) FROM accounts"
                )
        except sqlite3.DatabaseError:
            found.add("corrupt")
            continue
        if not intact or total != TOTAL:
            found.add("corrupt")
        elif first > TOTAL // 4 - 10 * len(state.acknowledged):
            found.add("lost")
    return found


@pytest.mark.parametrize("journal", JOURNALS)
@pytest.mark.parametrize("synchronous", ["extra", "full", "normal", "off"])
def test_a_killed_process_loses_nothing(
    bank: Callable[[str], Path], journal: str, synchronous: str
) -> None:
    path = bank(journal)
    assert judged(path, transfer_twice(path, synchronous), CrashModel.KILLED) == set()


EXPECTED = {
    ("extra", "delete"): set[str](),
    ("extra", "truncate"): set[str](),
    ("extra", "persist"): set[str](),
    ("extra", "wal"): set[str](),
    ("full", "delete"): {"lost"},
    ("full", "wal"): set[str](),
    ("normal", "wal"): {"lost"},
}


@pytest.mark.parametrize("model", [CrashModel.EXT4, CrashModel.POSIX])
@pytest.mark.parametrize(("synchronous", "journal"), EXPECTED)
def test_what_is_promised_when_the_system_crashes(
    bank: Callable[[str], Path], synchronous: str, journal: str, model: CrashModel
) -> None:
    path = bank(journal)
    found = judged(path, transfer_twice(path, synchronous), model)
    assert found == EXPECTED[synchronous, journal]


@pytest.mark.parametrize("model", CrashModel)
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_what_is_not_promised(bank: Callable[[str], Path], model: CrashModel, journal: str) -> None:
    path = bank(journal)
    corrupt = "corrupt" in judged(path, transfer_twice(path, "off"), model)
    assert corrupt == (model is not CrashModel.KILLED)


def test_a_connection_that_was_open_before_is_not_seen(bank: Callable[[str], Path]) -> None:
    path = bank("delete")
    engine = Runtime().engine
    with opened(path) as connection, recording_crashes(engine, path.parent) as recording:
        connection.execute("UPDATE accounts SET balance = 0")
        connection.commit()
    with pytest.raises(UnavailableError, match=r"bank\.db changed unseen"):
        next(recording.states())


def test_what_is_done_after_the_recording_is_not_recorded(bank: Callable[[str], Path]) -> None:
    path = bank("delete")
    with contextlib.ExitStack() as stack:
        with recording_crashes(Runtime().engine, path.parent) as recording:
            connection = stack.enter_context(opened(path))
            connection.execute("UPDATE accounts SET balance = 1")
            connection.commit()
        connection.execute("UPDATE accounts SET balance = 2")
        connection.rollback()
    with opened(path) as connection:
        assert connection.execute("SELECT SUM(balance) FROM accounts").fetchone() == (4,)
    assert len(list(recording.states("killed"))) > 1
