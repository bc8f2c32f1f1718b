"""What threads wait for, told from outside."""

from __future__ import annotations

import socket

from collections.abc import Callable

import pytest

from pytest_resilience.interceptors.sockets import waiting_threads
from tests.interceptors.conftest import serve
from tests.interceptors.conftest import silent
from tests.interceptors.sockets.test_outages import in_a_selector
from tests.interceptors.sockets.test_outages import in_poll
from tests.interceptors.sockets.test_outages import in_recv
from tests.interceptors.sockets.test_outages import in_recv_with_a_timeout
from tests.interceptors.sockets.test_outages import in_select
from tests.interceptors.sockets.test_outages import in_trio
from tests.interceptors.sockets.test_outages import waiting


@pytest.mark.parametrize(
    ("wait", "how"),
    [
        (in_recv, waiting_threads.IN_RECEIVE),
        (in_recv_with_a_timeout, waiting_threads.IN_POLL),  # as Python does it
        (in_select, waiting_threads.IN_POLL),
        (in_poll, waiting_threads.IN_POLL),
        (in_a_selector, waiting_threads.IN_EPOLL),
        (in_trio, waiting_threads.IN_EPOLL_ONCE),
    ],
)
def test_it_is_known_what_is_waited_for(wait: Callable[[socket.socket], bytes], how: str) -> None:
    before = set(waiting_threads.waits())
    with serve(silent) as port, waiting(wait, port):
        assert how in {each.how for each in set(waiting_threads.waits()) - before}
