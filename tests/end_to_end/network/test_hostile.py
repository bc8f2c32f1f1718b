"""What the places do is one event, whoever is quicker."""

from __future__ import annotations

import select
import socket

from tests.end_to_end.network import hostile
from tests.interceptors.conftest import echo
from tests.interceptors.conftest import serve


def test_an_answer_is_broken_off_only_when_the_client_polls_for_the_rest() -> None:
    with serve(echo) as port, hostile.place(hostile.relay(("127.0.0.1", port))) as place:
        place.turn(hostile.BREAK)
        with socket.create_connection(("127.0.0.1", place.port)) as client:
            poller = select.poll()
            poller.register(client, select.POLLIN)
            client.sendall(b"answer")
            assert client.recv(100) == b"ans"
            told_before = [poller.poll(0) for _ in range(100_000)]
            [(_, told)] = poller.poll(10_000)
    assert not any(told_before)
    assert told & select.POLLIN
    assert told & select.POLLERR
