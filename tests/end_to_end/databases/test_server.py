"""What is left of a test run that is killed."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest


STORY = """
import time
from tests.end_to_end.databases.server import server
with server() as (url, pid):
    print(pid, flush=True)
    time.sleep(600)
"""


def test_no_server_outlives_a_run_that_is_killed() -> None:
    pytest.importorskip("pgserver", reason="there is no PostgreSQL for this Python")
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", STORY], stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        server = psutil.Process(int(run.stdout.readline()))
        run.kill()
        run.wait()
    end = time.monotonic() + 30
    while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.01)
