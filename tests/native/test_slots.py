"""The slots of shared objects: taken while somebody listens, and given back as they were."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import subprocess
import sys
import threading

from pathlib import Path
from typing import Any

import pytest

from pytest_resilience.native import slots
from pytest_resilience.native.slots import Call
from pytest_resilience.native.slots import Slots
from pytest_resilience.native.slots import all_slots
from tests.native.conftest import Client


NOWHERE = ("127.0.0.1", 9)


class Passing:
    """A listener that only notes what it is asked."""

    def __init__(self, name: str = "", notes: list[str] | None = None) -> None:
        self.name = name
        self.notes: list[str] = [] if notes is None else notes

    def connect(self, proceed: Call, *args: Any) -> int:
        self.notes.append(f"{self.name}connect")
        return proceed(*args)

    def getaddrinfo(self, proceed: Call, *args: Any) -> int:
        self.notes.append(f"{self.name}getaddrinfo")
        return proceed(*args)


def pointers(all_: Slots) -> dict[int, int]:
    """What is in every slot that is known, read past all of ours."""
    places = [each.slot.address for each in all_._known]
    return {at: int.from_bytes(ctypes.string_at(at, 8), sys.byteorder) for at in places}


def crypto(all_: Slots) -> int:
    """The slot by which OpenSSL connects, as its client here does."""
    return next(
        each.slot.address
        for each in all_._known
        if each.slot.function == "connect" and "libcrypto" in each.slot.owner.path
    )


def refused(client: Client) -> None:
    with pytest.raises(ConnectionRefusedError):
        client.connect(*NOWHERE)


def refused_and_on(client: Client) -> None:
    refused(client)
    while True:
        os.sched_yield()


@pytest.fixture
def taken(client: Client) -> Slots:
    found = all_slots()
    found.listen(first := Passing())
    found.stop(first)
    return found


def test_everything_is_given_back(taken: Slots, client: Client) -> None:
    before = pointers(taken)
    assert before
    listener = Passing()
    taken.listen(listener)
    assert all(pointers(taken)[at] != value for at, value in before.items())
    refused(client)
    taken.stop(listener)
    assert pointers(taken) == before
    assert listener.notes == ["getaddrinfo", "connect"]
    refused(client)
    assert listener.notes == ["getaddrinfo", "connect"]


def test_listeners_are_asked_the_last_one_first(taken: Slots, client: Client) -> None:
    notes: list[str] = []
    first, second = Passing("1 ", notes), Passing("2 ", notes)
    for each in (first, second, second):
        taken.listen(each)
    refused(client)
    taken.stop(first)
    refused(client)
    taken.stop(second)
    taken.stop(second)
    assert notes[:4] == ["2 getaddrinfo", "1 getaddrinfo", "2 connect", "1 connect"]
    assert notes[4:] == ["2 getaddrinfo", "2 connect"]


def test_what_another_tool_put_on_top_stays_and_leads_on(taken: Slots, client: Client) -> None:
    at, listener, calls = crypto(taken), Passing(), []
    found = ctypes.c_uint64.from_address(at)
    before = found.value
    taken.listen(listener)
    below = slots._Connect(found.value)

    def theirs(*args: Any) -> int:
        calls.append("theirs")
        code = below(*args)
        return int(code)

    on_top = slots._Connect(theirs)
    ours, found.value = found.value, slots._address_of(on_top)
    taken.stop(listener)
    assert found.value == slots._address_of(on_top)
    refused(client)
    found.value = ours  # it puts back what it has found
    refused(client)
    assert (calls, listener.notes.count("connect")) == (["theirs"], 0)
    found.value = before


def test_what_another_tool_put_there_before_is_called_and_found_again(
    taken: Slots, client: Client
) -> None:
    at, listener, calls = crypto(taken), Passing(), []
    found = ctypes.c_uint64.from_address(at)
    before = found.value
    below = slots._Connect(before)

    def theirs(*args: Any) -> int:
        calls.append("theirs")
        return int(below(*args))

    theirs_in_c = slots._Connect(theirs)
    found.value = slots._address_of(theirs_in_c)
    taken.listen(listener)
    refused(client)
    taken.stop(listener)
    assert found.value == slots._address_of(theirs_in_c)
    assert (calls, listener.notes.count("connect")) == (["theirs"], 1)
    found.value = before


def test_what_fails_in_python_is_logged_and_passes(
    taken: Slots, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Passing):
        def connect(self, proceed: Call, *args: Any) -> int:
            raise ZeroDivisionError

    listener = Broken()
    taken.listen(listener)
    with caplog.at_level(logging.ERROR, "pytest_resilience.native"):
        refused(client)
    taken.stop(listener)
    assert "ZeroDivisionError" in caplog.text


def test_an_interrupt_goes_on_in_python(taken: Slots, client: Client) -> None:
    class Interrupted(Passing):
        def connect(self, proceed: Call, *args: Any) -> int:
            raise KeyboardInterrupt

    class TimedOut(Passing):
        def connect(self, proceed: Call, *args: Any) -> int:
            pytest.fail("the test took too long")

    for listener, error in (
        (Interrupted(), KeyboardInterrupt),
        (TimedOut(), pytest.fail.Exception),
    ):
        taken.listen(listener)
        with pytest.raises(error):
            refused_and_on(client)
        taken.stop(listener)


def test_the_listener_says_errno(taken: Slots, client: Client) -> None:
    class Unreachable(Passing):
        def connect(self, proceed: Call, *args: Any) -> int:
            ctypes.set_errno(errno.ENETUNREACH)
            return -1

    taken.listen(listener := Unreachable())
    with pytest.raises(OSError, match=os.strerror(errno.ENETUNREACH)):
        client.connect(*NOWHERE)
    taken.stop(listener)


def test_a_call_on_its_way_outlives_the_listener(taken: Slots) -> None:
    asked, go_on = threading.Event(), threading.Event()

    class Waiting(Passing):
        def connect(self, proceed: Call, *args: Any) -> int:
            asked.set()
            go_on.wait(60)
            return proceed(*args)

    met: list[str] = []

    def connect() -> None:
        client = Client()
        try:
            client.connect(*NOWHERE)
        except ConnectionRefusedError:
            met.append("refused")

    before = pointers(taken)
    taken.listen(listener := Waiting())
    thread = threading.Thread(target=connect)
    thread.start()
    assert asked.wait(60)
    taken.stop(listener)
    assert pointers(taken) == before
    go_on.set()
    thread.join(60)
    assert met == ["refused"]


def test_what_was_read_only_is_so_again(taken: Slots) -> None:
    def protected() -> set[int]:
        return slots._read_only(list(pointers(taken)))

    taken.protect()
    before = protected()
    taken.listen(listener := Passing())
    assert not protected()
    taken.protect()  # not while it is used
    assert not protected()
    taken.stop(listener)
    taken.protect()
    assert protected() == before


def test_python_s_own_sockets_are_left_out(taken: Slots) -> None:
    owners = {Path(each.slot.owner.path).name for each in taken._known}
    assert not any(name.startswith(("_socket", "libc.so", "libresolv")) for name in owners)


def test_what_is_loaded_meanwhile_is_reached() -> None:
    program = (
        "from pytest_resilience import ChaosExperiment\n"
        "from pytest_resilience.runtime import new_engine\n"
        "engine = new_engine()\n"
        "refusal = ChaosExperiment('x', 'network_failure', mode='refuse', rate=1)\n"
        "running = engine.start(refusal, seed=1)\n"
        "import psycopg2\n"
        "try: psycopg2.connect('host=127.0.0.1 port=9 dbname=x')\n"
        "except psycopg2.OperationalError: print(running.hits)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "1\n"
