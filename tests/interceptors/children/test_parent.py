"""What the parent awaits of its children."""

from __future__ import annotations

import os

from collections.abc import Iterator

import pytest

from pytest_resilience import proc
from pytest_resilience.interceptors.children.parent import Host


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host("", native=False)
    yield host
    host.close()


def test_who_answers_before_it_is_awaited_is_not_awaited(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(f"{host.folder}/members/1")
    child = os.open(f"{host.folder}/members/1", os.O_RDONLY | os.O_NONBLOCK)
    answers = os.open(f"{host.folder}/answers", os.O_WRONLY)
    wake = host._wake

    def wake_and_answer(name: str, data: bytes = b".") -> bool:
        lives = wake(name, data)
        if data:
            os.write(answers, b"1 2\n")  # of the second change: the first is when it is made
        return lives

    monkeypatch.setattr(host, "_wake", wake_and_answer)
    monkeypatch.setattr(host, "patience", 0.0)
    try:
        host.publish([], wait=True)
        assert host._silent == set()
    finally:
        os.close(child)
        os.close(answers)


def test_who_is_not_reached_lives_as_long_as_its_program(host: Host) -> None:
    os.mkfifo(f"{host.folder}/members/1")
    assert not host._wake("1")
    own = f"{os.getpid()}:{proc.program_of(os.getpid())}"
    before_it = f"{os.getpid()}:1 2"  # a process that had the same number
    for program, lives in {own: True, before_it: False, f"{os.getpid()}:": False}.items():
        os.symlink(program, f"{host.folder}/programs/1")
        assert host._wake("1") is lives
        os.unlink(f"{host.folder}/programs/1")
