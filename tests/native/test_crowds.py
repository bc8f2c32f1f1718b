"""Many clients in C at once, while experiments begin and end and processes are forked."""

from __future__ import annotations

import errno
import itertools
import threading

import pytest

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.native.slots import all_slots
from tests.forks import in_fork
from tests.injecting import Inject
from tests.interceptors.conftest import echo
from tests.interceptors.conftest import serve
from tests.native.conftest import Client
from tests.native.conftest import ClientOfAnAddress
from tests.native.conftest import met
from tests.native.test_slots import pointers


HOST = "127.0.0.1"
THREADS, CALLS = 100, 5
EXPERIMENTS = (
    ("network_failure", {"mode": "refuse", "rate": 0.5}),
    ("network_failure", {"mode": "reset", "rate": 0.5}),
    ("network_latency", {"delay": "1ms"}),
)
POSSIBLE = {b"tea", b"", errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE}


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_each_meets_what_can_happen_and_all_is_given_back(inject: Inject, engine: Engine) -> None:
    of_others = set(threading.enumerate())
    with inject("network_latency", delay="1ms"):
        pass
    before, found = pointers(all_slots()), set[bytes | int | None]()

    def call() -> None:
        for _ in range(CALLS):
            found.add(met(port, Client()))

    with serve(echo) as port:
        threads = [threading.Thread(target=call) for _ in range(THREADS)]
        for each in threads:
            each.start()
        for number in itertools.count():
            kind, given = EXPERIMENTS[number % len(EXPERIMENTS)]
            with inject(kind, target=f"{HOST}:{port}", **given):
                assert in_fork(lambda: int(met(port, ClientOfAnAddress()) not in POSSIBLE)) == 0
            if not any(each.is_alive() for each in threads):
                break
    assert b"tea" in found
    assert found <= POSSIBLE
    assert pointers(all_slots()) == before
    for each in set(threading.enumerate()) - of_others:
        if each.name == "clients in C":  # it is on its way
            each.join(60)
            assert not each.is_alive()
