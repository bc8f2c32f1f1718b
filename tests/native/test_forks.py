"""Clients in C in a process that is forked while experiments begin and end."""

from __future__ import annotations

import errno

import pytest

from tests.forks import in_fork
from tests.injecting import Inject
from tests.interceptors.conftest import echo
from tests.interceptors.conftest import serve
from tests.native.conftest import Client
from tests.native.conftest import met


HOST = "127.0.0.1"
EXPERIMENTS = (
    ("network_failure", {"mode": "refuse", "rate": 1}),
    ("network_failure", {"mode": "reset", "rate": 1}),
    ("network_latency", {"delay": "1ms"}),
)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_in_between_goes_on_in_both_processes(inject: Inject) -> None:
    found = list[bytes | int | None]()
    with serve(echo) as port:
        for kind, given in EXPERIMENTS:
            with inject(kind, target=f"{HOST}:{port}", **given):
                found.append(met(port, Client()))
                assert in_fork(lambda: int(met(port, Client()) != found[-1])) == 0
            assert in_fork(lambda: int(met(port, Client()) != b"tea")) == 0
            assert met(port, Client()) == b"tea"
    assert found[0] == errno.ECONNREFUSED
    assert found[1] in {b"", errno.ECONNRESET}
    assert found[2] == b"tea"
