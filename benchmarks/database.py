"""What chaos on databases costs and how exact it is: `python benchmarks/database.py`.

With sqlite3 in memory, on one core. Takes a quarter of a minute.
"""

from __future__ import annotations

import contextlib
import sqlite3
import statistics
import time

from collections.abc import Callable
from typing import Any

from figures import Figure
from figures import pin
from figures import show
from side_by_side import costs

from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.runtime import Runtime


DELAYS = (0.005, 0.02, 0.1)
REPEATS = 21
ORDER = ("INSERT INTO orders VALUES (1)", *["INSERT INTO items VALUES (1)"] * 4)


def experiment(kind: str, **parameters: Any) -> ChaosExperiment:
    return ChaosExperiment(kind, kind, duration=3600, rate=1, **parameters)


def connect() -> sqlite3.Connection:
    connection: sqlite3.Connection = sqlite3.connect(":memory:")
    connection.executescript("CREATE TABLE orders (a); CREATE TABLE items (a)")
    return connection


def by_cursor(cursor: sqlite3.Cursor) -> Callable[[int], Any]:
    return lambda _: cursor.execute("SELECT 1")


def by_connection(connection: sqlite3.Connection) -> Callable[[int], Any]:
    return lambda _: connection.execute("SELECT 1")


def unmatched(runtime: Runtime) -> list[Figure]:
    with contextlib.closing(connect()) as plain:
        running = runtime.start(experiment("database_failure", match="DELETE*"), seed=1)
        with contextlib.closing(connect()) as under:
            found = costs(
                {
                    "cursor": by_cursor(plain.cursor()),
                    "cursor under": by_cursor(under.cursor()),
                    "connection": by_connection(plain),
                    "connection under": by_connection(under),
                }
            )
        running.stop()
    return [
        Figure(
            what=f"unmatched statement, {method}.execute, over none",
            value=(found[f"{method} under"] - found[method]) * 1e6,
            target=1.0,
            unit="us",
        )
        for method in ("cursor", "connection")
    ]


def delays(runtime: Runtime) -> list[Figure]:
    figures = []
    for delay in DELAYS:
        running = runtime.start(
            experiment("database_slowdown", delay=delay, match="SELECT*"), seed=1
        )
        with contextlib.closing(connect()) as connection:
            taken = []
            for _ in range(REPEATS):
                began = time.perf_counter()
                connection.execute("SELECT 1")
                taken.append(time.perf_counter() - began)
        running.stop()
        figures += [
            Figure(
                what=f"asked {delay * 1000:g} ms, median over it",
                value=(statistics.median(taken) - delay) * 1000,
                target=0.5,
                unit="ms",
            ),
            Figure(
                what=f"asked {delay * 1000:g} ms, the shortest below it",
                value=max(0.0, delay - min(taken)) * 1000,
                target=0.0,
                unit="ms",
            ),
        ]
    return figures


def each_statement_in_turn(runtime: Runtime) -> Figure:
    """Fail each of the five statements of a transaction; nothing may be left of it."""

    def one_run(number: int) -> None:
        failing = experiment("database_failure", mode="disk_full", match="INSERT*", nth=number)
        running = runtime.start(failing, seed=1)
        with contextlib.closing(connect()) as connection:
            with contextlib.suppress(sqlite3.OperationalError), connection:
                for statement in ORDER:
                    connection.execute(statement)
            left = connection.execute("SELECT count(*) FROM items").fetchone()
        running.stop()
        if running.hits != 1 or left != (0,):
            raise RuntimeError(f"statement {number} did not fail as it should")

    taken = []
    for _ in range(REPEATS):
        for number in range(1, 6):
            began = time.perf_counter()
            one_run(number)
            taken.append(time.perf_counter() - began)
    value = statistics.median(taken) * 1000
    return Figure(
        what="each of five statements failed in turn, a run", value=value, target=3.0, unit="ms"
    )


def main() -> int:
    pin()
    runtime = Runtime()
    # The drivers that are installed are loaded once; that is not what is measured.
    runtime.start(experiment("database_failure"), seed=1).stop()
    return show([*unmatched(runtime), *delays(runtime), each_statement_in_turn(runtime)])


if __name__ == "__main__":
    raise SystemExit(main())
