"""An assertion about a file that somebody was writing when the disk failed."""

from __future__ import annotations

import os

from collections.abc import Callable
from typing import Any

from pytest_resilience.errors import ConfigurationError


__all__ = ["assert_file_intact"]

_CONTEXT = 16  # bytes of a file that a message shows


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

    Everything that is given must hold.

    Args:
        path: the file.
        before: what was in it before the write. It may still be.
        after: what the write was to put there. It may be there, and it alone.
        valid: what tells a whole file from a broken one by its content: it raises, or
            returns False, for a broken one, e.g. `json.loads`.
        missing_ok: whether the file may not be there at all, as before it was first written.
        encoding: of texts in `before` and `after`. Line ends are compared as they are.

    Without `before`, `after` and `valid` the file has to be there and not empty: the least
    that can be said of any.

    Returns:
        The content of the file; b"" where it is missing, as it may.

    Raises:
        AssertionError: telling in which way the file is broken.
        ConfigurationError: where `before` and `after` are the same, so that nothing is told.
    """
    __tracebackhide__ = True
    versions = {
        name: text.encode(encoding) if isinstance(text, str) else bytes(text)
        for name, text in (("before", before), ("after", after))
        if text is not None
    }
    if len(versions) == 2 and versions["before"] == versions["after"]:
        raise ConfigurationError("before and after are the same; give what the write changes")
    content = _read(path)
    if content is None:
        if missing_ok:
            return b""
        raise AssertionError(f"expected {os.fspath(path)} to be intact, but it is not there")
    trouble = _trouble(content, versions, valid)
    if trouble:
        raise AssertionError(f"expected {os.fspath(path)} to be intact, but {trouble}")
    return content


def _read(path: str | os.PathLike[str]) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _trouble(
    content: bytes, versions: dict[str, bytes], valid: Callable[[bytes], object] | None
) -> str:
    """What is wrong, in words; "" for nothing."""
    if versions and content not in versions.values():
        return _difference(content, versions)
    if not content and not versions and valid is None:
        return "it is empty"
    return "" if valid is None else _objection(content, valid)


def _objection(content: bytes, valid: Callable[[bytes], object]) -> str:
    try:
        verdict: Any = valid(content)
    except Exception as error:
        return f"its {len(content)} bytes are not valid: {type(error).__name__}: {error}"
    if verdict is False:
        return f"its {len(content)} bytes are not valid: {_shown(content)}"
    return ""


def _difference(content: bytes, versions: dict[str, bytes]) -> str:
    """In which way it is none of the versions."""
    if not content:
        return "it is empty"
    for name, version in versions.items():
        if version.startswith(content):
            return f"it is torn: the first {len(content)} of the {len(version)} bytes of {name}="
    shared = {name: _shared(content, version) for name, version in versions.items()}
    if len(versions) == 2 and _is_mixture(content, versions["before"], shared["after"]):
        return (
            f"it is a mixture: {shared['after']} of the {len(versions['after'])} bytes of after=, "
            "and then the rest of before="
        )
    name = max(shared, key=lambda each: shared[each])
    at = shared[name]
    others = "neither" if len(versions) == 2 else "not"
    return (
        f"it is {others} {' nor '.join(f'{each}=' for each in versions)}: {len(content)} bytes, "
        f"which differ from the {len(versions[name])} of {name}= at byte {at}: "
        f"{_shown(content[at:])}"
    )


def _is_mixture(content: bytes, before: bytes, written: int) -> bool:
    return 0 < written < len(content) and content[written:] == before[written:]


def _shared(content: bytes, version: bytes) -> int:
    """How many bytes they begin with in common."""
    pairs = enumerate(zip(content, version, strict=False))
    return next(
        (at for at, (ours, theirs) in pairs if ours != theirs), min(len(content), len(version))
    )


def _shown(content: bytes) -> str:
    more = "..." if len(content) > _CONTEXT else ""
    return f"{content[:_CONTEXT]!r}{more}"
