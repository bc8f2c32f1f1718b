"""The page `docs/fidelity.md`, which tests compare with what they find, or write.

A section of it belongs to the versions that it was written with, which it names. With others
a row may read differently, so there its text is not compared; that what is injected is what
really happens, or that there is a remark, holds everywhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path


PAGE = Path(__file__).parents[1] / "docs" / "fidelity.md"

AGAIN = "UPDATE_DOCS=1 python -m pytest tests/end_to_end"
HEAD = f"""\
# What is injected, and what really happens

Each row is found by a test that brings about the same event twice: injected by an experiment, and
for real, by a hostile server on loopback or by the engine itself. psycopg, psycopg2 and grpc are
harmed by the proxy of `chaos_proxy`, and once more "in this process", where all else is. Where the
two differ, the last column says why.

Clients of the network: which exception they raise, and by which it was caused (`←`), with its
errno or code; then what the next request of the same client meets, on the connection that it keeps
or a new one, when all is well again. That is left open where a connection is kept through silence:
silence that is injected ends, and the connection with it, as when a kernel gives up. Where threads
of a client read all the time, a request is awaited already when its connection is harmed. Left out
are the codes of resolvers and of OpenSSL, which depend on the machine.

Databases: the class of the exception, its code, and the state that it leaves the connection in.

This page is written by

```sh
{AGAIN}
```

and compared by the same tests without `UPDATE_DOCS`: each section where its versions are installed.
"""
COLUMNS = ("event", "injected", "for real", "difference")

# In which order they stand here.
TITLES = (
    "requests", "urllib3", "httpx", "httpx, async", "httpx, async on trio", "aiohttp",
    "http.client", "urllib.request", "boto3", "redis", "redis.asyncio", "asyncpg", "psycopg",
    "psycopg, async", "psycopg2", "pymysql", "websockets.sync", "websockets.asyncio", "grpc",
    "pycurl", "curl_cffi", "uvloop", "psycopg, in this process",
    "psycopg, async, in this process", "psycopg2, in this process", "grpc, in this process",
    "grpc.aio", "mysqlclient", "pymssql", "confluent-kafka",
    "httpx, HTTP/2", "Applications in this process",
    "socket", "socket, polled", "smtplib", "imaplib", "ftplib", "paramiko", "pika", "paho-mqtt",
    "nats", "kafka-python", "websocket-client", "ldap3", "pymongo", "openai", "anthropic",
    "UDP", "Cancellation", "Memory", "sqlite3", "PostgreSQL",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page.

    Attributes:
        title: one of `TITLES`.
        events: what its rows are about, in their order.
        libraries: the distributions whose versions its text may depend on.
        about: what else there is to be said of it.
    """

    title: str
    events: tuple[str, ...]
    libraries: tuple[str, ...] = ()
    about: str = ""

    @property
    def versions(self) -> str:
        """What is installed."""
        found = [f"{name} {version(name)}" for name in self.libraries]
        return f"With {', '.join([*found, f'Python {platform.python_version()}'])}."

    def note(self, event: str, injected: str, real: str, remark: str = "") -> None:
        """Compare with the page, or write there; `remark` says why the two may differ."""
        row = (injected, real, remark if injected != real else "")
        if os.environ.get("UPDATE_DOCS"):
            with _locked():
                _write(self, event, row)
        assert injected == real or remark, f"injected: {injected}\nfor real: {real}"
        written = written_sections().get(self.title, Written(versions="", about="", rows={}))
        if written.versions == self.versions:
            assert written.rows.get(event) == row, f"{PAGE.name} says otherwise: {AGAIN}"


Row = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Written:
    """A section as it stands on the page."""

    versions: str
    about: str
    rows: dict[str, Row]


def written_sections() -> dict[str, Written]:
    """By their titles."""
    _, *parts = PAGE.read_text(encoding="utf-8").split("\n## ")
    return dict(_parsed(part) for part in parts)


def _parsed(part: str) -> tuple[str, Written]:
    title, *lines = part.splitlines()
    texts = [line for line in lines if line and not line.startswith("|")]
    cells = [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in lines
        if line.startswith("|")
    ]
    rows = {row[0]: row[1:] for row in cells[2:]}
    return title, Written(versions=texts[0], about="\n".join(texts[1:]), rows=rows)


def _write(section: Section, event: str, row: Row) -> None:
    sections = written_sections()
    old = sections.get(section.title)
    # What was written with other versions is not known to hold with these.
    kept = old.rows if old is not None and old.versions == section.versions else {}
    found = kept | {event: row}
    sections[section.title] = Written(
        versions=section.versions,
        about=section.about,
        rows={name: found[name] for name in section.events if name in found},
    )
    texts = [_rendered(title, sections[title]) for title in TITLES if title in sections]
    PAGE.write_text("\n".join([HEAD, *texts]), encoding="utf-8")


def _rendered(title: str, written: Written) -> str:
    lines = [f"## {title}", "", written.versions, *(["", written.about] if written.about else [])]
    lines += ["", f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    lines += [f"| {' | '.join((event, *row))} |" for event, row in written.rows.items()]
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """Several processes may write."""
    with PAGE.open("r+b") as page:
        fcntl.flock(page, fcntl.LOCK_EX)
        yield


def assert_complete(*sections: Section) -> None:
    """All of their rows are on the page, and no others are; once it is written."""
    if os.environ.get("UPDATE_DOCS"):
        return
    written = written_sections()
    for section in sections:
        found = written[section.title]
        assert (found.about, tuple(found.rows)) == (section.about, section.events)
