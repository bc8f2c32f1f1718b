"""Whatever the disk does, the settings are the old ones or the new ones."""

from __future__ import annotations

import itertools
import json
import os

from pathlib import Path
from typing import Any

import pytest

from examples.config_file import ConfigFile
from examples.config_file import HastyConfigFile
from examples.config_file import HopefulConfigFile
from pytest_resilience import Chaos
from pytest_resilience.assertions import assert_file_intact


OLD = {"port": 8080}
NEW = {"port": 9090, "hosts": ["a", "b"], "motd": "x" * 100_000}  # more than a buffer holds

FAILURES: list[dict[str, Any]] = [
    {"mode": "disk_full"},
    {"mode": "disk_full", "at": "open|write|sync|rename"},
    {"mode": "quota_exceeded"},
    {"mode": "io_error", "at": "open|write|sync|rename|remove"},
    {"mode": "read_only"},
    {"mode": "permission_denied"},
    {"mode": "too_many_open_files"},
    {"mode": "failed_fsync"},
    {"mode": "failed_rename"},
    {"mode": "short_write", "bytes_written": 1000},
    {"mode": "torn_write"},
    {"mode": "torn_write", "bytes_written": 0},
    {"mode": "slow_write", "delay": "1ms", "at": "write|sync|rename"},
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(OLD))
    return path


def attempt(config: ConfigFile) -> bool:
    """Whether saving says that it worked."""
    try:
        config.save(NEW)
    except OSError:
        return False
    return True


def check(config: ConfigFile, *, saved: bool) -> None:
    """The file is whole, and new where that was said."""
    old = None if saved else json.dumps(OLD)
    assert_file_intact(config.path, before=old, after=json.dumps(NEW), valid=json.loads)
    assert config.load() in ([NEW] if saved else [OLD, NEW])


@pytest.mark.parametrize("failure", FAILURES, ids=str)
def test_a_disk_that_fails_for_good(path: Path, chaos: Chaos, failure: dict[str, Any]) -> None:
    config = ConfigFile(path)
    with chaos.disk_failure(path=path.parent, **failure):
        saved = attempt(config)
    check(config, saved=saved)
    config.save(NEW)  # and when the disk is well again
    assert config.load() == NEW


@pytest.mark.parametrize("failure", FAILURES, ids=str)
def test_each_operation_in_turn(path: Path, chaos: Chaos, failure: dict[str, Any]) -> None:
    for number in itertools.count(1):
        path.write_text(json.dumps(OLD))
        config = ConfigFile(path)
        with chaos.disk_failure(path=path.parent, nth=number, must_fire=False, **failure) as disk:
            saved = attempt(config)
        check(config, saved=saved)
        assert os.listdir(path.parent) == [path.name], "nothing is left beside it"
        if not disk.hits:
            break
    assert number > 1


@pytest.mark.chaos("disk_failure", path="/**/settings.json", mode="EIO", at="read|open")
def test_settings_that_cannot_be_read_are_not_none(path: Path) -> None:
    with pytest.raises(OSError, match="Input/output error"):
        ConfigFile(path).load()


@pytest.mark.parametrize(
    ("failure", "trouble"),
    [
        ({"mode": "disk_full"}, "but it is empty"),
        ({"mode": "torn_write", "bytes_written": 9}, "but it is torn: the first 9 of the"),
        ({"mode": "io_error", "nth": 2}, "but it is torn: the first [0-9]+ of the"),
    ],
    ids=str,
)
def test_hope_is_not_enough(
    path: Path, chaos: Chaos, failure: dict[str, Any], trouble: str
) -> None:
    config = HopefulConfigFile(path)
    with chaos.disk_failure(path=path, **failure):
        saved = attempt(config)
    assert not saved
    with pytest.raises(AssertionError, match=trouble):
        check(config, saved=saved)


def test_haste_is_not_even_told(path: Path, chaos: Chaos) -> None:
    config = HastyConfigFile(path)
    with chaos.disk_failure(path=path.parent, mode="short_write"):
        saved = attempt(config)
    assert saved
    with pytest.raises(AssertionError, match="but it is torn"):
        check(config, saved=saved)
