"""Injected failures of files beside the same failures of a real system.

The real ones are made in a process of its own, with a limit, without rights, or on a small
file system that only that process sees. What is compared is all that a program can tell them
by: the class, the number, the names in the error, and the step at which it comes.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import shutil
import subprocess
import sys

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.files.interceptor import FileInterceptor
from tests.injecting import Inject
from tests.injecting import injecting
from tests.interceptors.files import file_actions
from tests.interceptors.files.file_actions import access
from tests.interceptors.files.file_actions import locking
from tests.interceptors.files.file_actions import overflowing
from tests.interceptors.files.file_actions import told
from tests.interceptors.files.file_actions import writing


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="real failures as Linux has them")

DEEDS = Path(file_actions.__file__)


@pytest.fixture
def inject() -> Iterator[Inject]:
    engine = Engine(lambda engine: [FileInterceptor(engine)])

    yield functools.partial(injecting(engine.start, name="disk", rate=1), "disk_failure")
    assert not engine.active


def really(deed: str, path: Path | str, before: str, *under: str) -> dict[str, Any]:
    """The same deed in another process, after some preparation."""
    code = f"{DEEDS.read_text()}\nimport json\npath = {str(path)!r}\n{before}\n"
    done = subprocess.run(
        [*under, sys.executable, "-c", f"{code}print(json.dumps({deed}(path)))"],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    if under and "Traceback" not in done.stderr and done.returncode:
        pytest.skip(f"no file systems of one's own here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def as_told(found: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(found)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a file and a folder in it."""
    return afresh(tmp_path / "data")


def afresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "inner").mkdir(parents=True)
    (folder / "there").write_text("content")
    return folder


def test_a_full_disk_fails_every_way_of_writing_as_dev_full_does(
    folder: Path, inject: Inject
) -> None:
    real = really("writing", "/dev/full", "")
    with inject(path=folder, mode="ENOSPC"):
        injected = writing(folder / "there")
    assert as_told(injected) == real
    assert real["text: close"] == ["OSError", 28, "No space left on device", None, None]


def test_a_torn_write_is_what_a_place_without_room_does(folder: Path, inject: Inject) -> None:
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))"
    real = really("overflowing", folder / "real", limit)
    with inject(path=folder / "there", mode="torn_write", bytes_written=10, rate=1):
        injected = overflowing(folder / "there")
    text = json.dumps(real).replace('27, "File too large"', '5, "Input/output error"')
    assert as_told(injected) == json.loads(text)
    assert real["left"] == real["left by open"] == "0123456789"


def test_without_rights(folder: Path, inject: Inject) -> None:
    become = "os.setgroups([]); os.setegid(65534); os.seteuid(65534)"
    limit = "os.chmod(path + '/there', 0); os.chmod(path, 0o555)\n"
    limit += f"os.chdir(path)\nif os.geteuid() == 0: {become}\npath = '.'"
    real = really("access", folder, limit)
    with inject(path=folder, mode="EACCES"):
        injected = access(folder)
    # To a file that is another's the system forbids links before it looks at the folder.
    assert real.pop("link")[0] == injected.pop("link")[0] == "PermissionError"
    assert as_told(injected) == real
    assert real["open"][:2] == ["PermissionError", 13]


def test_too_many_open_files(folder: Path, inject: Inject) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))"
    real = really("access", folder, limit)
    afresh(folder)
    with inject(path=folder, mode="EMFILE"):
        injected = access(folder)
    assert as_told(injected) == real
    assert real["open"] == ["OSError", 24, "Too many open files", "there", None]


def test_a_lock_that_another_process_has(folder: Path, inject: Inject) -> None:
    another = """
import fcntl
ready, held = os.pipe(), os.pipe()
if not os.fork():
    os.close(held[1])
    with open(os.path.join(path, "there"), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_EX)
        os.write(ready[1], b"x")
        os.read(held[0], 1)
    os._exit(0)
os.read(ready[0], 1)
"""
    real = really("locking", folder, another)
    with inject(path=folder, mode="locked") as seen:
        injected = locking(folder)
    assert as_told(injected) == real
    assert real["flock alone"] == [
        "BlockingIOError", 11, "Resource temporarily unavailable", None, None,
    ]  # fmt: skip
    assert real["lockf free"] is None
    assert seen.matched == 4


def test_who_waits_for_a_lock_gets_it(folder: Path, inject: Inject) -> None:
    with inject(path=folder, mode="EAGAIN") as seen, open(folder / "there", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
    assert not seen.matched


@pytest.mark.parametrize(
    ("mode", "at", "fill"),
    [
        ("EROFS", None, "mount -o remount,ro {path}"),
        ("ENOSPC", "open|make", "for at in 1 2 3 4 5 6 7 8 9; do mkdir {path}/filler$at; done"),
    ],
)
def test_file_systems(folder: Path, inject: Inject, mode: str, at: str | None, fill: str) -> None:
    options = ["-o", "size=64k,nr_inodes=8"]
    prepare = (
        f"import subprocess\nmount = ['mount', '-t', 'tmpfs', *{options}, 'tmpfs', path]\n"
        "if subprocess.run(mount).returncode: raise SystemExit('no right to mount')\n"
        "os.mkdir(path + '/inner'); open(path + '/there', 'w').write('content')\n"
        f"subprocess.run({fill.format(path=folder)!r}, shell=True, check=False, stderr=-3)"
    )
    real = really("access", folder, prepare, "unshare", "-m")
    with inject(path=folder, mode=mode, **({} if at is None else {"at": at})):
        injected = access(folder)
    assert as_told(injected) == real
    assert real["create"][1] == (30 if mode == "EROFS" else 28)


def test_errors_by_descriptor_name_no_file(folder: Path, inject: Inject) -> None:
    every_call = inject(path=folder, mode="EIO", at="sync|resize|read")
    with open(folder / "there", "r+b") as file, every_call:
        for call in (
            lambda: os.fsync(file.fileno()),
            lambda: os.fdatasync(file.fileno()),
            lambda: os.ftruncate(file.fileno(), 1),
            lambda: os.posix_fallocate(file.fileno(), 0, 1),
            lambda: os.read(file.fileno(), 1),
            lambda: os.pread(file.fileno(), 1, 0),
        ):
            assert told(call) == ["OSError", 5, "Input/output error", None, None]
    # As with a real failure of the same calls.
    assert told(lambda: os.fsync(99_999)) == ["OSError", 9, "Bad file descriptor", None, None]
    assert told(lambda: os.read(99_999, 1)) == ["OSError", 9, "Bad file descriptor", None, None]
