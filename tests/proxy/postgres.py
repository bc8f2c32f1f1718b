"""A PostgreSQL that listens on TCP: pgserver's own is on a socket of the file system."""

from __future__ import annotations

import contextlib
import socket
import threading

from collections.abc import Iterator
from urllib.parse import parse_qs
from urllib.parse import urlsplit


@contextlib.contextmanager
def listening(url: str) -> Iterator[tuple[int, str]]:
    """A port on 127.0.0.1 for the server at `url`, and the name of its user."""
    folder = parse_qs(urlsplit(url).query)["host"][0]
    with leading_to(f"{folder}/.s.PGSQL.5432") as port:
        yield port, urlsplit(url).username or "postgres"


@contextlib.contextmanager
def leading_to(path: str) -> Iterator[int]:
    """A port for a server that listens on a socket of the file system."""

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                there = socket.socket(socket.AF_UNIX)
                there.connect(path)
                for ends in ((client, there), (there, client)):
                    opened.extend(ends)
                    threads.append(threading.Thread(target=pump, args=ends, daemon=True))
                    threads[-1].start()

    opened: list[socket.socket] = []
    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads.append(threading.Thread(target=accept, args=(listener,), daemon=True))
        threads[0].start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
    for each in opened:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
    for thread in threads:
        thread.join(10)
