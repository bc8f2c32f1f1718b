"""Which SQL statements a pattern stands for."""

from __future__ import annotations

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ConfigurationError
from pytest_resilience.chaos.parsing.sql import StatementPattern
from pytest_resilience.chaos.parsing.sql import control_word
from pytest_resilience.chaos.parsing.sql import parse_statements
from pytest_resilience.chaos.parsing.sql import plain_text


@pytest.mark.parametrize(
    ("pattern", "statement"),
    [
        ("SELECT … FROM orders*", "select id, total\n  from Orders where id = ?"),
        ("SELECT * FROM orders", "SELECT id FROM orders"),
        ("UPDATE accounts", "UPDATE accounts SET money = 0"),
        ("update accounts", '  UPDATE /* all */ "accounts" -- now\n SET money = 0;'),
        ("INSERT INTO `items`*", "INSERT INTO items VALUES (1)"),
        ("DELETE FROM t?", "delete from t1"),
    ],
)
def test_matches(pattern: str, statement: str) -> None:
    assert StatementPattern(pattern).matches(statement)


@pytest.mark.parametrize(
    ("pattern", "statement"),
    [
        ("UPDATE accounts", "UPDATE accounts_old SET money = 0"),
        ("SELECT * FROM orders", "SELECT id FROM orders WHERE id = 1"),
        ("SELECT*", "INSERT INTO t SELECT 1"),
        ("DELETE FROM t?", "delete from t"),
        ("SELECT [a-z]*", "SELECT x"),
    ],
)
def test_does_not_match(pattern: str, statement: str) -> None:
    assert not StatementPattern(pattern).matches(statement)


def test_several() -> None:
    found = parse_statements("match", "SELECT* | UPDATE orders")
    assert [str(each) for each in found] == ["SELECT*", "UPDATE orders"]


@pytest.mark.parametrize("value", ["", "  ", 3, None, "-- nothing", "SELECT*|"])
def test_nonsense(value: object) -> None:
    with pytest.raises(ConfigurationError, match="match="):
        parse_statements("match", value)


@given(st.text())
def test_any_text_matches_itself_unless_it_is_nothing(text: str) -> None:
    plain = plain_text(text)
    if plain and not set("*?…") & set(plain):
        assert StatementPattern(plain).matches(text)


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("BEGIN IMMEDIATE", "begin"),
        ("start transaction", "begin"),
        ("COMMIT;", "commit"),
        ("/* x */ END", "commit"),
        ("ROLLBACK", "rollback"),
        ("rollback to savepoint a", "savepoint"),
        ("SAVEPOINT a", "savepoint"),
        ("RELEASE a", "savepoint"),
        ("SELECT 1", ""),
        ("endless", ""),
    ],
)
def test_statements_that_control_transactions(statement: str, word: str) -> None:
    assert control_word(statement) == word
