"""What programs do with files, step by step: run here, and where the failure is real."""

from __future__ import annotations

import os

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO
from typing import Any


__all__ = ["access", "locking", "overflowing", "told", "writing"]


def told(action: Callable[[], object]) -> Any:
    """What an action says to its caller."""
    try:
        result = action()
    except OSError as error:
        names = [
            name if name is None else os.path.basename(name)
            for name in (error.filename, error.filename2)
        ]
        return [type(error).__name__, error.errno, error.strerror, *names]
    return result if isinstance(result, (int, str)) else None


def access(folder: Path | str) -> dict[str, Any]:
    """Every way to reach files, below a folder with `there` (a file) and `inner` (a folder)."""
    there, new = Path(folder, "there"), Path(folder, "new")
    return {
        "open": told(lambda: open(there).close()),
        "open what is not there": told(lambda: open(new).close()),
        "open to write": told(lambda: open(there, "r+b").close()),
        "open to append": told(lambda: open(str(there), "a").close()),
        "create": told(lambda: open(new, "w").close()),
        "create exclusively": told(lambda: open(there, "x").close()),
        "os.open": told(lambda: os.close(os.open(there, os.O_RDONLY))),
        "os.open to write": told(lambda: os.close(os.open(there, os.O_WRONLY))),
        "os.open to create": told(lambda: os.close(os.open(new, os.O_CREAT | os.O_WRONLY))),
        "touch": told(lambda: new.touch(exist_ok=False)),
        "write_text": told(lambda: new.write_text("x")),
        "mkdir": told(lambda: os.mkdir(new)),
        "mkdir again": told(lambda: os.mkdir(Path(folder, "inner"))),
        "mkdir where it is": told(lambda: Path(folder, "inner").mkdir(parents=True, exist_ok=True)),
        "rename": told(lambda: there.rename(new)),
        "replace": told(lambda: os.replace(there, new)),
        "symlink": told(lambda: os.symlink("there", new)),
        "link": told(lambda: os.link(there, new)),
        "truncate": told(lambda: os.truncate(there, 1)),
        "unlink": told(there.unlink),
        "rmdir": told(lambda: os.rmdir(Path(folder, "inner"))),
    }


def writing(path: Path | str) -> dict[str, Any]:
    """What each step of writing a file says, of the ways to write one."""
    steps: dict[str, Any] = {}
    for name, mode, buffering in (
        ("text", "w", -1),
        ("text by lines", "w", 1),
        ("binary", "wb", -1),
        ("unbuffered", "wb", 0),
        ("both ways", "r+b", -1),
    ):
        file: IO[Any] = open(path, mode, buffering)  # noqa: SIM115  # closing is a step
        line: Any = "some\n" if "b" not in mode else b"some\n"
        steps[f"{name}: write"] = told(partial(file.write, line))
        steps[f"{name}: much"] = told(partial(file.write, line * 10_000))
        steps[f"{name}: flush"] = told(file.flush)
        steps[f"{name}: close"] = told(file.close)
        steps[f"{name}: closed"] = file.closed
    descriptor = os.open(path, os.O_WRONLY)
    steps["os.write"] = told(lambda: os.write(descriptor, b"some"))
    steps["os.writev"] = told(lambda: os.writev(descriptor, [b"some", b"more"]))
    os.close(descriptor)
    steps["write_bytes"] = told(lambda: Path(path).write_bytes(b"some"))
    steps["write_text"] = told(lambda: Path(path).write_text("some"))
    return steps


def overflowing(path: Path | str) -> dict[str, Any]:
    """Writing 16 bytes to a place that has room for 10."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    steps = {
        "os.write": told(lambda: os.write(descriptor, b"0123456789abcdef")),
        "os.write again": told(lambda: os.write(descriptor, b"abcdef")),
        "and again": told(lambda: os.write(descriptor, b"abcdef")),
    }
    os.close(descriptor)
    steps["left"] = Path(path).read_text()
    file = open(path, "wb")  # noqa: SIM115  # as above
    steps["write"] = told(lambda: file.write(b"0123456789abcdef"))
    steps["flush"] = told(file.flush)
    steps["close"] = told(file.close)
    steps["left by open"] = Path(path).read_text()
    return steps


def locking(folder: Any) -> dict[str, Any]:
    """Locks without waiting, and what is no lock, of a file that another process may have."""
    import fcntl

    with open(os.path.join(folder, "there"), "r+b") as file:
        return {
            f"{lock.__name__} {name}": told(lambda: lock(given, how))  # noqa: B023  # called here
            for lock in (fcntl.flock, fcntl.lockf)
            for name, given, how in (
                ("alone", file, fcntl.LOCK_EX | fcntl.LOCK_NB),
                ("shared", file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB),
                ("free", file, fcntl.LOCK_UN),
            )
        }
