"""An operation that gets no memory: injected, and for real."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
import sqlite3
import subprocess
import sys

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_resilience.runtime import Runtime
from tests.fidelity_page import Section
from tests.fidelity_page import assert_complete
from tests.injecting import Inject
from tests.injecting import injecting


IMPORTS = "from __future__ import annotations\nimport contextlib, sqlite3\n"
TOO_MUCH = 1 << 50  # bytes: no machine has them
SECTION = Section(
    title="Memory",
    events=("socket, receive", "file, read", "sqlite3, execute"),
    about="Really there is none for a buffer of a petabyte, and in SQLite for a statement that is "
    "longer than its `hard_heap_limit`. After the error comes what the same object does next.",
)


def receive(size: int) -> str:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        client = stack.enter_context(socket.create_connection(listener.getsockname()))
        server = stack.enter_context(listener.accept()[0])
        client.sendall(b"?")
        server.sendall(b"tea")
        return told(lambda: client.recv(size), lambda: client.recv(3))


def read(size: int) -> str:
    Path("tea.txt").write_bytes(b"tea")
    with open("tea.txt", "rb", buffering=0) as file:
        return told(lambda: file.read(size), lambda: file.read(3))


def execute(limit: int) -> str:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE teas (name)")
        connection.commit()
        insert = f"INSERT INTO teas VALUES ('{'x' * 2**24}')"
        if limit:
            connection.execute(f"PRAGMA hard_heap_limit = {limit}")
        return told(
            lambda: connection.execute(insert),
            lambda: (connection.in_transaction, connection.execute("SELECT 1").fetchone()),
        )


def told(fail: Callable[[], object], then: Callable[[], object]) -> str:
    try:
        fail()
    except Exception as error:  # of whatever kind: it is compared
        return f"{type(error).__name__}({', '.join(map(repr, error.args))}); then {then()!r}"
    return "nothing"


def test_all_of_it_is_on_the_page() -> None:
    assert_complete(SECTION)


@pytest.fixture
def inject() -> Inject:
    return injecting(Runtime().start, rate=1, first=1)


@pytest.mark.parametrize("event", ["socket, receive", "file, read"])
def test_no_buffer(
    event: str, inject: Inject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    deed = {"receive": receive, "read": read}[event.rsplit(maxsplit=1)[-1]]
    with inject("memory_failure", at=event.rsplit(maxsplit=1)[-1]) as experiment:
        injected = deed(3)
    assert experiment.hits == 1
    SECTION.note(event, injected, deed(TOO_MUCH))


def test_sqlite(inject: Inject) -> None:
    with inject("memory_failure", at="execute", match="INSERT*"):
        injected = execute(0)
    # In another process, for nobody can raise the limit again.
    deeds = inspect.getsource(execute) + inspect.getsource(told)
    code = f"{IMPORTS}{deeds}print(execute({2**21}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=60
    )
    SECTION.note("sqlite3, execute", injected, done.stdout.strip())


async def ask(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"?")
        return await reader.read(3)
    finally:
        writer.close()


@pytest.mark.parametrize("at", ["connect", "receive"])
def test_a_task_meets_it_where_it_awaits(inject: Inject, at: str) -> None:
    async def main() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"tea")
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with inject("memory_failure", at=at) as experiment:
                with pytest.raises(MemoryError):
                    await ask(port)
                assert await ask(port) == b"tea"
            assert (experiment.matched, experiment.hits) == (2, 1)

    asyncio.run(main())
