from __future__ import annotations

import os
import subprocess
import sys

from string import ascii_lowercase
from string import digits
from typing import Any

import pytest

from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from pytest_resilience import ConfigurationError
from pytest_resilience.proxy import ChaosProxy
from pytest_resilience.proxy.addresses import Address
from pytest_resilience.proxy.addresses import redirect


HERE = Address("127.0.0.1", 7)


@pytest.mark.parametrize(
    ("dsn", "redirected"),
    [
        ("postgresql://u:p%40@db:5432/app?a=1", "postgresql://u:p%40@127.0.0.1:7/app?a=1"),
        ("postgresql://db1:1,db2:2/app", "postgresql://127.0.0.1:7/app"),
        ("postgresql://u@/app?host=/run/pg&port=9&a=b c", "postgresql://u@127.0.0.1:7/app?a=b c"),
        ("postgresql://db/app?port=9", "postgresql://127.0.0.1:7/app"),
        ("postgresql:///app", "postgresql://127.0.0.1:7/app"),
        ("postgresql+psycopg://db/app", "postgresql+psycopg://127.0.0.1:7/app"),
        ("redis://:secret@cache:6379/0", "redis://:secret@127.0.0.1:7/0"),
        ("mysql+pymysql://u:p@[::1]:3306/app", "mysql+pymysql://u:p@127.0.0.1:7/app"),
        ("http://api.example.com/v1?q=1#x", "http://127.0.0.1:7/v1?q=1#x"),
        ("mysql://u@localhost/app?unix_socket=/x&a=1", "mysql://u@127.0.0.1:7/app?a=1"),
        (
            "amqp://u:p@rabbit:5672/%2Fshop?heartbeat=1",
            "amqp://u:p@127.0.0.1:7/%2Fshop?heartbeat=1",
        ),
        ("mongodb://u:p@a:1,b:2,c/app?replicaSet=r", "mongodb://u:p@127.0.0.1:7/app?replicaSet=r"),
        ("postgresql://u:p/w@db:5432/app", "postgresql://u:p/w@127.0.0.1:7/app"),
        (
            "postgresql+psycopg2://u:p/?#@db/app?a=1",
            "postgresql+psycopg2://u:p/?#@127.0.0.1:7/app?a=1",
        ),
        ("postgresql+psycopg2://u:p@1@db/app", "postgresql+psycopg2://u:p@1@127.0.0.1:7/app"),
        ("http://api:80/v1/a@b", "http://127.0.0.1:7/v1/a@b"),
        ("redis://:p[w@cache/0?", "redis://:p[w@127.0.0.1:7/0?"),
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


USERS = st.text(st.characters(exclude_characters="/?#@", codec="ascii"), max_size=12)
PORTS = st.just("") | st.text(digits, min_size=1, max_size=4).map(":{}".format)
HOSTS = st.one_of(  # what `from_regex` finds takes several times as long
    st.builds(
        "{}{}{}".format,
        st.sampled_from(ascii_lowercase),
        st.text(ascii_lowercase + digits + ".-", max_size=9),
        PORTS,
    ),
    st.builds("[{}]{}".format, st.text(digits + "abcdef:", min_size=2, max_size=9), PORTS),
)
LETTERS = st.characters(categories=["L", "N"], include_characters="_%.-")
PATHS = st.lists(st.text(LETTERS, max_size=5).map("/{}".format), max_size=2).map("".join)
FIELDS = st.dictionaries(
    st.sampled_from(["ssl", "sslmode", "replicaSet", "hostname", "timeout", "a"]),
    st.text(st.characters(exclude_characters="#&", codec="ascii"), max_size=9),
)


@settings(deadline=None)
@given(
    st.sampled_from(["postgresql+asyncpg", "mysql+pymysql", "redis", "rediss", "amqp", "mongodb"]),
    st.none() | USERS,
    st.lists(HOSTS, min_size=1, max_size=3),
    PATHS,
    FIELDS,
)
def test_nothing_else_of_a_url_changes(
    scheme: str, user: str | None, hosts: list[str], path: str, fields: dict[str, str]
) -> None:
    who = "" if user is None else f"{user}@"
    query = "&".join(f"{name}={value}" for name, value in fields.items())
    rest = path + (f"?{query}" if query else "")
    url = f"{scheme}://{who}{','.join(hosts)}{rest}"
    assert redirect(url, HERE) == f"{scheme}://{who}127.0.0.1:7{rest}".strip()


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["user", "password", "dbname", "options", "application_name"]),
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=9),
    ),
    st.sampled_from(["db", "/run/pg", "a,b", ""]),
)
@example({"user": "://"}, "db")
def test_nothing_else_of_a_libpq_string_changes(fields: dict[str, str], host: str) -> None:
    conninfo: Any = pytest.importorskip("psycopg.conninfo")
    there = {"host": host, "port": "5"} if host else {"port": "5"}
    redirected = conninfo.conninfo_to_dict(
        redirect(conninfo.make_conninfo(**fields, **there), HERE)
    )
    name = "db" if host == "db" else "127.0.0.1"
    assert redirected == fields | {"host": name, "hostaddr": "127.0.0.1", "port": "7"}


def test_what_the_name_service_says_cannot_be_led_elsewhere() -> None:
    with pytest.raises(ConfigurationError) as caught:
        redirect("mongodb+srv://u:secret@cluster.example/app", HERE)
    assert str(caught.value) == (
        "dsn='mongodb+srv://u:***@cluster.example/app' is looked up in the name service, hosts and "
        "ports; give one with the host, such as 'mongodb://host:port/...'"
    )


@pytest.mark.parametrize(
    "dsn", ["", "  ", "db", "sqlite:///app.db", "host=db 'x'", "http://", "Server=db;Database=app"]
)
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


def test_variables_with_dsns(proxy: ChaosProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://app:secret@db:5432/app?sslmode=require")
    monkeypatch.setenv("REDIS_URL", "redis://cache/0")
    assert proxy.environment("DATABASE_URL", "REDIS_URL") == {
        "DATABASE_URL": f"postgresql://app:secret@{proxy.listen}/app?sslmode=require",
        "REDIS_URL": f"redis://{proxy.listen}/0",
    }
    program = "import os; print(os.environ['REDIS_URL'])"
    with proxy.in_environment("REDIS_URL"):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
    assert done.stdout == f"redis://{proxy.listen}/0\n"
    assert os.environ["REDIS_URL"] == "redis://cache/0"
    monkeypatch.delenv("REDIS_URL")
    with pytest.raises(ConfigurationError) as caught:
        proxy.environment("REDIS_URL")
    assert str(caught.value) == (
        "REDIS_URL is not set in the environment; leave it out, or set it to the DSN that is to "
        "lead to the proxy"
    )
    monkeypatch.setenv("REDIS_URL", "unix://app:secret@/run/redis.sock")
    with pytest.raises(ConfigurationError) as caught:
        proxy.environment("REDIS_URL")
    assert str(caught.value).startswith(
        "REDIS_URL in the environment: dsn='unix://app:***@/run/redis.sock' has no host to replace"
    )


def test_blocks_that_overlap_end_in_any_order(
    proxy: ChaosProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACHE", "redis://cache/0")
    with ChaosProxy("127.0.0.1:1") as other:
        first, second = proxy.in_environment("CACHE"), other.in_environment("CACHE")
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert os.environ["CACHE"] == f"redis://{other.listen}/0"
        second.__exit__(None, None, None)
    assert os.environ["CACHE"] == "redis://cache/0"
