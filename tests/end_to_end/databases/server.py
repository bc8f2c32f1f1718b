"""A PostgreSQL server of the test run's own, which ends with it whatever ends it."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile

from collections.abc import Iterator
from pathlib import Path


# Waits for its input to end, as it does when whoever holds it is gone.
_GUARD = 'read line; kill -INT "$0" 2>/dev/null'


@contextlib.contextmanager
def server() -> Iterator[tuple[str, int]]:
    """The URL of a server on a socket of its own, and its process id."""
    import pgserver

    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        # The server runs as somebody else where tests run as root.
        Path(folder).chmod(0o755)
        data = Path(folder) / "data"
        running = pgserver.get_server(data, cleanup_mode="delete")  # type: ignore[attr-defined]
        pid = int((data / "postmaster.pid").read_text().split()[0])
        guard = subprocess.Popen(["sh", "-c", _GUARD, str(pid)], stdin=subprocess.PIPE)
        try:
            yield running.get_uri(), pid
        finally:
            running.cleanup()
            guard.communicate()
