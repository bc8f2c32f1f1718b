"""What is ours works while an experiment leaves this process no descriptor, thread or memory."""

from __future__ import annotations

import subprocess
import sys

from collections.abc import Iterator
from pathlib import Path

import pytest


STORIES = Path(__file__).with_name("within_limits.py")
SERVER = """
import socket
import threading

def serve(client):
    with client:
        while data := client.recv(65536):
            if data.startswith(b"GET"):
                client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 4\\r\\n\\r\\ntrue")
            else:
                client.sendall(data)

with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server in a process that nothing limits."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline())
        server.kill()


@pytest.mark.parametrize("limit", ["fd_exhaustion", "thread_exhaustion", "memory_stress"])
def test_what_is_ours_works_within_a_limit(port: int, limit: str, tmp_path: Path) -> None:
    # In a process of its own, where nothing of ours is loaded yet: loading takes files.
    done = subprocess.run(
        [sys.executable, str(STORIES), str(port), limit],
        stderr=subprocess.PIPE, text=True, timeout=120, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
