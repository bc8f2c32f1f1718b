"""Clients in C that are on every machine: OpenSSL's own sockets, as Python has loaded it."""

from __future__ import annotations

import ctypes
import os
import socket
import ssl

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.native.loader_tables import unsupported
from pytest_resilience.runtime import new_engine
from tests.injecting import Inject
from tests.injecting import ending
from tests.injecting import injecting


collect_ignore_glob = ["test_*.py"] if unsupported() else []


def _loaded(name: str) -> str:
    """The file of a library that is loaded."""
    assert ssl.OPENSSL_VERSION  # so that it is
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return next(path for *_, path in map(str.split, lines) if Path(path).name.startswith(name))


class Client:
    """A connection of OpenSSL's. Raises OSError where C says errno."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(_loaded("libcrypto.so"), use_errno=True)
        self._library.BIO_new_connect.restype = ctypes.c_void_p
        self._bio: ctypes.c_void_p | None = None

    def begin(self, host: str, port: int) -> int:
        """Begin a connect and do not wait for it; the number of the descriptor."""
        self._new(host, port)
        self._library.BIO_ctrl(self._bio, 102, 1, None)  # BIO_set_nbio
        self._library.BIO_ctrl(self._bio, 101, 0, None)  # BIO_do_connect
        return self.number()

    def connect(self, host: str, port: int) -> None:
        ctypes.set_errno(0)
        if self._connect(host, port) <= 0:
            code = ctypes.get_errno()
            self.close()
            raise OSError(code, os.strerror(code))

    def _connect(self, host: str, port: int) -> int:
        self._new(host, port)
        return int(self._library.BIO_ctrl(self._bio, 101, 0, None))  # BIO_do_connect

    def _new(self, host: str, port: int) -> None:
        self._bio = ctypes.c_void_p(self._library.BIO_new_connect(f"{host}:{port}".encode()))

    def ask(self, request: bytes) -> bytes:
        """Send it; what comes at once, empty for EOF."""
        self._library.BIO_write(self._bio, request, len(request))
        buffer = ctypes.create_string_buffer(1 << 16)
        ctypes.set_errno(0)
        size = self._library.BIO_read(self._bio, buffer, len(buffer))
        code = ctypes.get_errno()
        if size < 0 and code:
            raise OSError(code, os.strerror(code))
        return buffer.raw[: max(size, 0)]

    def number(self) -> int:
        """Of its descriptor."""
        return int(self._library.BIO_ctrl(self._bio, 105, 0, None))  # BIO_get_fd

    def close(self) -> None:
        if self._bio is not None:
            self._library.BIO_free_all(self._bio)
            self._bio = None


class ClientOfAnAddress(Client):
    """One that has nobody find out where its host is.

    `getaddrinfo` of glibc takes a lock, for literal addresses as well, which a process that is
    forked meanwhile finds taken for ever. So that is not for a child of a process with threads,
    whether we are there or not.
    """

    def _connect(self, host: str, port: int) -> int:
        library, where = self._library, socket.inet_aton(host)
        library.BIO_ADDR_new.restype = library.BIO_new_socket.restype = ctypes.c_void_p
        number = library.BIO_socket(socket.AF_INET, socket.SOCK_STREAM, 0, 0)
        self._bio = ctypes.c_void_p(library.BIO_new_socket(number, 1))  # BIO_CLOSE
        address = ctypes.c_void_p(library.BIO_ADDR_new())
        library.BIO_ADDR_rawmake(address, socket.AF_INET, where, len(where), socket.htons(port))
        connected = int(library.BIO_connect(number, address, 0))
        library.BIO_ADDR_free(address)
        return connected


def met(port: int, client: Client) -> bytes | int | None:
    """What comes of a request to a port of this machine: the response, or an errno."""
    try:
        client.connect("127.0.0.1", port)
        return client.ask(b"tea")
    except OSError as error:
        return error.errno
    finally:
        client.close()


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


@pytest.fixture
def engine() -> Iterator[Engine]:
    with ending(new_engine()) as engine:
        yield engine
    engine.watch(False)


@pytest.fixture
def inject(engine: Engine) -> Inject:
    return injecting(engine.start)
