from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pytest_resilience import ConfigurationError
from pytest_resilience.proxy import ChaosProxy
from pytest_resilience.proxy.addresses import Address
from pytest_resilience.proxy.dsn import redirect


HERE = Address("127.0.0.1", 7)


@pytest.mark.parametrize(
    ("dsn", "redirected"),
    [
        ("postgresql://u:p%40@db:5432/app?a=1", "postgresql://u:p%40@127.0.0.1:7/app?a=1"),
        ("postgresql://db1:1,db2:2/app", "postgresql://127.0.0.1:7/app"),
        ("postgresql://u@/app?host=/run/pg&port=9&a=b c", "postgresql://u@127.0.0.1:7/app?a=b+c"),
        ("postgresql:///app", "postgresql://127.0.0.1:7/app"),
        ("postgresql+psycopg://db/app", "postgresql+psycopg://127.0.0.1:7/app"),
        ("redis://:secret@cache:6379/0", "redis://:secret@127.0.0.1:7/0"),
        ("mysql+pymysql://u:p@[::1]:3306/app", "mysql+pymysql://u:p@127.0.0.1:7/app"),
        ("http://api.example.com/v1?q=1#x", "http://127.0.0.1:7/v1?q=1#x"),
        ("db:5432", "127.0.0.1:7"),
        ("[::1]:5432", "127.0.0.1:7"),
        ("dbname=app", "dbname=app host=127.0.0.1 hostaddr=127.0.0.1 port=7"),
        (
            "host=db.example.com port = 5432 user='a b' password='it\\'s' sslmode=verify-full",
            (
                "user='a b' password='it\\'s' sslmode=verify-full host=db.example.com "
                "hostaddr=127.0.0.1 port=7"
            ),
        ),
        (
            "host=/run/postgresql dbname=app",
            "dbname=app host=127.0.0.1 hostaddr=127.0.0.1 port=7",
        ),
        ("host=a,b port=1,2", "host=127.0.0.1 hostaddr=127.0.0.1 port=7"),
    ],
)
def test_the_host_is_replaced_and_all_else_stays(dsn: str, redirected: str) -> None:
    assert redirect(dsn, HERE) == redirected


@pytest.mark.parametrize("dsn", ["", "  ", "db", "sqlite:///app.db", "host=db 'x'"])
def test_texts_without_a_host(dsn: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        redirect(dsn, HERE)
    assert str(caught.value) == (
        f"dsn={dsn!r} has no host to replace; give a URL with a host, a libpq string such as "
        "'host=db port=5432 dbname=app', or 'host:port'"
    )


def test_an_address_of_six(proxy: ChaosProxy) -> None:
    assert redirect("redis://cache/0", Address("::1", 7)) == "redis://[::1]:7/0"


def test_variables_for_libpq(proxy: ChaosProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db")
    monkeypatch.delenv("PGPORT", raising=False)
    monkeypatch.delenv("PGHOSTADDR", raising=False)
    there = {"PGHOST": "127.0.0.1", "PGHOSTADDR": "127.0.0.1", "PGPORT": str(proxy.port)}
    assert proxy.environment() == there
    program = "import os; print(sorted((k, v) for k, v in os.environ.items() if k[:2] == 'PG'))"
    with proxy.in_environment():
        seen = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        assert all(str(pair) in seen.stdout for pair in there.items())
    assert (os.environ["PGHOST"], os.environ.get("PGPORT")) == ("db", None)
    assert proxy.dsn("redis://cache/0") == f"redis://127.0.0.1:{proxy.port}/0"
