"""A customer pays once, whatever the database does."""

from __future__ import annotations

import sqlite3

from contextlib import closing
from pathlib import Path

import pytest

from examples.payments import Payments
from pytest_resilience import Chaos
from pytest_resilience.assertions import assert_no_partial_write


UNBOOKED = """
    SELECT * FROM (SELECT SUM(cents) AS paid FROM payments), accounts WHERE paid <> cents
"""


@pytest.fixture
def payments(tmp_path: Path) -> Payments:
    return Payments(tmp_path / "ledger.db")


def test_charged_once_although_the_answer_was_lost(payments: Payments, chaos: Chaos) -> None:
    with chaos.database_failure(after="commit", first=1) as lost:
        payments.charge("order-7", 1200)
    assert lost.hits == 1
    assert payments.balance() == 1200


@pytest.mark.parametrize("statement", range(1, 3))
def test_whole_or_not_at_all(
    payments: Payments, chaos: Chaos, tmp_path: Path, statement: int
) -> None:
    """Each of the statements of a payment fails in turn, and goes on failing."""
    failing = chaos.database_failure(mode="disk_full", position=statement)
    with failing, pytest.raises(sqlite3.OperationalError):
        payments.charge("order-7", 1200)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger:
        assert_no_partial_write(ledger, UNBOOKED)
    assert payments.balance() == 0
