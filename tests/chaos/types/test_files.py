from __future__ import annotations

import errno

from typing import Any

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience import ConfigurationError
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.operation import CREATE
from pytest_resilience.chaos.operation import LOCK_FILE
from pytest_resilience.chaos.operation import MAKE
from pytest_resilience.chaos.operation import OPEN
from pytest_resilience.chaos.operation import OPEN_IN_VAIN
from pytest_resilience.chaos.operation import OPEN_TO_WRITE
from pytest_resilience.chaos.operation import READ
from pytest_resilience.chaos.operation import REMOVE
from pytest_resilience.chaos.operation import RENAME
from pytest_resilience.chaos.operation import RESIZE
from pytest_resilience.chaos.operation import SYNC
from pytest_resilience.chaos.operation import WRITE
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.types.files import DiskDelay
from pytest_resilience.chaos.types.files import DiskError
from pytest_resilience.chaos.types.files import ShortWrite
from pytest_resilience.chaos.types.files import TornWrite


OPENING = frozenset({OPEN, OPEN_TO_WRITE, CREATE})
CHANGES = frozenset({OPEN_TO_WRITE, CREATE, RESIZE, RENAME, MAKE, REMOVE})
WRITING = frozenset({WRITE})


def failure(**parameters: Any) -> ChaosExperiment:
    return ChaosExperiment("disk", "disk_failure", **parameters)


def fault(**parameters: Any) -> Fault:
    [only] = failure(**parameters).faults
    return only


@pytest.mark.parametrize(
    ("parameters", "expected", "words"),
    [
        ({}, DiskError(at=WRITING, code=errno.ENOSPC), "ENOSPC at write"),
        (
            {"mode": "quota_exceeded", "at": "write|sync"},
            DiskError(at=frozenset({WRITE, SYNC}), code=errno.EDQUOT),
            "EDQUOT at write/sync",
        ),
        (
            {"mode": "io_error", "at": "read"},
            DiskError(at=frozenset({READ}), code=errno.EIO),
            "EIO at read",
        ),
        (
            {"mode": "read_only"},
            DiskError(at=CHANGES, code=errno.EROFS),
            "EROFS at open/resize/rename/make/remove",
        ),
        (
            {"mode": "permission_denied", "at": "open"},
            DiskError(at=OPENING, code=errno.EACCES),
            "EACCES at open",
        ),
        (
            {"mode": "too_many_open_files"},
            DiskError(at=OPENING | {OPEN_IN_VAIN}, code=errno.EMFILE),
            "EMFILE at open",
        ),
        (
            {"mode": "failed_fsync"},
            DiskError(at=frozenset({SYNC}), code=errno.EIO),
            "EIO at sync",
        ),
        (
            {"mode": "failed_rename"},
            DiskError(at=frozenset({RENAME}), code=errno.EIO),
            "EIO at rename",
        ),
        (
            {"mode": "locked"},
            DiskError(at=frozenset({LOCK_FILE}), code=errno.EAGAIN),
            "EAGAIN at lock",
        ),
        ({"mode": "short_write"}, ShortWrite(), "short write, half of it"),
        (
            {"mode": "short_write", "bytes_written": "4KiB"},
            ShortWrite(bytes_written=4096),
            "short write, 4 KiB",
        ),
        ({"mode": "torn_write"}, TornWrite(), "torn write, half of it"),
        ({"bytes_written": 0}, TornWrite(bytes_written=0), "torn write, 0 B"),
        ({"mode": "slow_write"}, DiskDelay(delay=1.0), "write slower by 1s"),
        (
            {"delay": "200ms", "at": "sync"},
            DiskDelay(delay=0.2, at=frozenset({SYNC})),
            "sync slower by 200ms",
        ),
    ],
)
def test_what_parameters_mean(parameters: dict[str, Any], expected: Fault, words: str) -> None:
    found = fault(**parameters)
    assert found == expected
    assert str(found) == words
    assert found.kinds


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EIO", "EROFS", "EACCES", "EMFILE", "eio "])
def test_the_names_of_errors_are_modes(name: str) -> None:
    found = fault(mode=name)
    assert isinstance(found, DiskError)
    assert errno.errorcode[found.code] == name.strip().upper()


@pytest.mark.parametrize("mode", ["ENOSPC", "EDQUOT"])
def test_a_full_disk_can_fail_at_open_only_where_a_file_is_made(mode: str) -> None:
    assert fault(mode=mode, at="open").kinds == {CREATE}


def test_a_read_only_disk_can_be_read() -> None:
    assert fault(mode="EROFS", at="open").kinds == {OPEN_TO_WRITE, CREATE}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"mode": "disk_ful"}, r"mode='disk_ful' \(did you mean 'disk_full'\?\): give one of "),
        ({"mode": 28}, "mode=28"),
        ({"at": "wrte"}, r"at='wrte' \(did you mean 'write'\?\)"),
        ({"at": "read"}, "at='read': disk_full happens to open, write, resize, sync, rename, make"),
        ({"mode": "EMFILE", "at": "write"}, "too_many_open_files happens to open only"),
        ({"mode": "failed_rename", "at": "sync"}, "failed_rename happens to rename only"),
        ({"mode": "EIO", "delay": 1}, "mode='io_error': delay is for mode='slow_write'"),
        (
            {"mode": "EIO", "bytes_written": 1},
            "mode='io_error': bytes_written is for mode='torn_write' or 'short_write'",
        ),
        ({"bytes_written": "10%"}, "'%' is no unit of bytes; give bytes, or a text with B, "),
        ({"bytes_written": -1}, "bytes_written=-1"),
        ({"bytes_written": 1, "delay": 1}, "mode='torn_write': delay is for"),
        ({"target": "a:1"}, r"unknown parameter 'target' .did you mean 'path'\?"),
        ({"path": ""}, "path=''"),
    ],
)
def test_what_makes_no_sense(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        failure(**parameters)


@pytest.mark.parametrize(
    ("wanted", "size", "short", "torn"),
    [(None, 10, 5, 5), (None, 1, 1, 0), (3, 10, 3, 3), (0, 10, 1, 0), (20, 10, 10, 10)],
)
def test_how_much_is_written(wanted: int | None, size: int, short: int, torn: int) -> None:
    assert ShortWrite(bytes_written=wanted).taken(size) == short
    assert TornWrite(bytes_written=wanted).taken(size) == torn


def test_intensity_is_the_rate() -> None:
    assert failure(intensity=0.3).triggers_text == "rate 0.3"
    assert failure(intensity=1).triggers_text == "always"
    assert failure(rate=1, nth=3).triggers == failure(intensity=1, nth=3).triggers


def test_delays_can_differ() -> None:
    assert str(fault(delay="10ms", jitter="2ms")) == "write slower by 10ms +- 2ms"


def test_an_experiment_is_aimed_at_files() -> None:
    aimed = failure(path="/data/** | /etc/app.toml", rate=1)
    assert str(aimed) == ("disk: ENOSPC at write, always, target path /data/** | /etc/app.toml")
    assert aimed.matches_target(Operation(kind=WRITE, target="/data/a", names=("/data/a",)))
    assert not aimed.matches_target(Operation(kind=WRITE, target="/tmp/a", names=("/tmp/a",)))
    assert failure().matches_target(Operation(kind=WRITE, target="/tmp/a", names=("/tmp/a",)))
