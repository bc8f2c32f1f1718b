"""Where in the user's code an operation came from."""

from __future__ import annotations

import os
import sys
import sysconfig

from functools import lru_cache
from types import FrameType


__all__ = ["caller"]

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARIES = tuple(
    {
        path + os.sep
        for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")  # where pytest is
        if (path := sysconfig.get_path(name))
    }
)


@lru_cache(maxsize=4096)
def _foreign(filename: str) -> bool:
    return filename.startswith((*_LIBRARIES, _HERE, "<")) or "site-packages" in filename


def caller() -> str:
    """`file:line in function` of the nearest frame that is no library's; '' if none is.

    Walks the stack: 1 to 100 µs, so only for what is recorded.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  # inspect's way is 100 times slower
    while frame is not None:
        code = frame.f_code
        if not _foreign(code.co_filename):
            name = _short(code.co_filename, _folder())
            return f"{name}:{frame.f_lineno} in {code.co_name}"
        frame = frame.f_back
    return ""


def _folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # the test has removed it
        return os.sep


@lru_cache(maxsize=4096)
def _short(filename: str, folder: str) -> str:
    try:
        relative = os.path.relpath(filename, folder)
    except ValueError:  # another drive on Windows
        return filename
    return filename if relative.startswith(os.pardir) else relative
