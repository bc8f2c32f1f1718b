"""An assertion about a file that somebody was writing when the disk failed."""

from __future__ import annotations

import os

from collections.abc import Callable
from typing import Any

from pytest_resilience.errors import ConfigurationError


__all__ = ["assert_file_intact"]

_CONTEXT = 16  # bytes of a file that a message shows
_Versions = dict[str, bytes]  # by the name of the parameter: before, after


def assert_file_intact(
    path: str | os.PathLike[str],
    *,
    before: bytes | str | None = None,
    after: bytes | str | None = None,
    valid: Callable[[bytes], object] | None = None,
    missing_ok: bool = False,
    encoding: str = "utf-8",
) -> bytes:
    """Raise AssertionError unless a file is whole: never torn, mixed, or empty by accident.

    Everything that is given must hold. Without `before`, `after` and `valid` the file has to be
    there and not empty.

    Args:
        path: the file.
        before: its content before the write, which it may still have.
        after: the content that was to be written. It may have this one, whole.
        valid: called with the content; raises or returns False if it is broken: `json.loads`.
        missing_ok: whether the file may be missing, as before it was first written.
        encoding: of texts in `before` and `after`. Line ends are compared as they are.

    Returns the content; b"" if the file is missing. Raises ConfigurationError if `before` and
    `after` are the same.
    """
    __tracebackhide__ = True
    versions = _versions(before, after, encoding)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError:
        if missing_ok:
            return b""
        problem = "it is not there"
    else:
        problem = _problem(content, versions, valid)
        if not problem:
            return content
    raise AssertionError(f"expected {os.fspath(path)} to be intact, but {problem}")


def _versions(before: bytes | str | None, after: bytes | str | None, encoding: str) -> _Versions:
    versions = {
        name: text.encode(encoding) if isinstance(text, str) else bytes(text)
        for name, text in (("before", before), ("after", after))
        if text is not None
    }
    if len(versions) == 2 and versions["before"] == versions["after"]:
        raise ConfigurationError("before and after are the same; give what the write changes")
    return versions


def _problem(content: bytes, versions: _Versions, valid: Callable[[bytes], object] | None) -> str:
    """Say how the content is broken; "" if it is not."""
    if versions and content not in versions.values():
        return _difference(content, versions)
    if not content and not versions and valid is None:
        return "it is empty"
    return "" if valid is None else _invalid(content, valid)


def _invalid(content: bytes, valid: Callable[[bytes], object]) -> str:
    try:
        verdict: Any = valid(content)
    except Exception as error:
        return f"its {len(content)} bytes are not valid: {type(error).__name__}: {error}"
    if verdict is False:
        return f"its {len(content)} bytes are not valid: {_shown(content)}"
    return ""


def _difference(content: bytes, versions: _Versions) -> str:
    """Say how the content differs from each of the versions."""
    if not content:
        return "it is empty"
    for name, version in versions.items():
        if version.startswith(content):
            return f"it is torn: the first {len(content)} of the {len(version)} bytes of {name}="
    shared = {
        name: len(os.path.commonprefix([content, version]))  # noqa: RUF071  # byte by byte
        for name, version in versions.items()
    }
    if len(versions) == 2:
        # What a write in place leaves when it is broken off.
        written = shared["after"]
        if 0 < written < len(content) and content[written:] == versions["before"][written:]:
            return (
                f"it is a mixture: {written} of the {len(versions['after'])} bytes of after=, and "
                "then the rest of before="
            )
    name = max(shared, key=lambda each: shared[each])
    at = shared[name]
    others = "neither" if len(versions) == 2 else "not"
    return (
        f"it is {others} {' nor '.join(f'{each}=' for each in versions)}: {len(content)} bytes, "
        f"which differ from the {len(versions[name])} of {name}= at byte {at}: "
        f"{_shown(content[at:])}"
    )


def _shown(content: bytes) -> str:
    more = "..." if len(content) > _CONTEXT else ""
    return f"{content[:_CONTEXT]!r}{more}"
