"""Schedules that are kept: in the cache of pytest, or in a file to commit."""

from __future__ import annotations

import json
import re

from collections.abc import Iterable
from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_resilience.chaos.parsing.texts import printable
from pytest_resilience.chaos.parsing.texts import read_text
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import with_page
from pytest_resilience.exploration.schedule import Schedule
from pytest_resilience.exploration.schedule import format_schedule
from pytest_resilience.exploration.schedule import parse_schedule
from pytest_resilience.plugin.exploration.settings import ExploreSettings
from pytest_resilience.report.writers import write_text


__all__ = ["Store", "parse_schedules", "schedules_text"]

_CACHE = "resilience/failing-schedules"
_HEADING = "# pytest-resilience schedules: test  schedule (two spaces between)"
_BARE = re.compile(r'(?!["#])\S+(?: \S+)*')
_LINE = re.compile(r'("(?:[^"\\]|\\.)*"|(?!["#])\S+(?: \S+)*)(?:\t|  )\s*(\S.*)')


class Store:
    """The schedules of each test that are kept until they pass."""

    def __init__(self, config: pytest.Config, path: Path | None) -> None:
        """Raises `pytest.UsageError` for a file that is none of schedules."""
        self._config = config
        self._path = path
        self._kept = self._read()

    def of(self, nodeid: str) -> list[Schedule]:
        """Those of one test."""
        return list(self._kept.get(nodeid, ()))

    @property
    def nodeids(self) -> tuple[str, ...]:
        """Of the tests that have some."""
        return tuple(self._kept)

    @property
    def place(self) -> str:
        """Where they are kept, for people; "" where there is no place."""
        if self._path is not None:
            return str(self._path)
        return "" if self._cache is None else ".pytest_cache"

    def keep(self, found: Mapping[str, list[Schedule]]) -> None:
        """Put the schedules of these tests in the place of those that were kept of them."""
        after = {name: each for name, each in {**self._kept, **found}.items() if each}
        if after == self._kept:
            return
        self._kept = after
        if self._path is not None:
            write_text(self._path, schedules_text(after))
        elif self._cache is not None:
            texts = {name: list(map(format_schedule, each)) for name, each in after.items()}
            self._cache.set(_CACHE, texts)

    def forget(self, nodeids: Iterable[str]) -> None:
        """Keep none of these tests any more."""
        self.keep({nodeid: [] for nodeid in nodeids})

    @property
    def _cache(self) -> pytest.Cache | None:
        return getattr(self._config, "cache", None)

    def _read(self) -> dict[str, list[Schedule]]:
        if self._path is not None:
            if ExploreSettings.of(self._config).suite and not self._path.exists():
                return {}  # it is about to be written
            try:
                return parse_schedules(self._path, read_text(self._path))
            except ConfigurationError as error:
                raise pytest.UsageError(printable(with_page(error))) from None
        found = None if self._cache is None else self._cache.get(_CACHE, None)
        return _cached(found)


def _cached(found: object) -> dict[str, list[Schedule]]:
    """What the cache holds, as far as it still makes sense."""
    kept: dict[str, list[Schedule]] = {}
    for nodeid, texts in (found if isinstance(found, dict) else {}).items():
        for text in texts if isinstance(texts, list) else ():
            try:
                kept.setdefault(nodeid, []).append(parse_schedule(text))
            except (ConfigurationError, TypeError):
                continue  # of another version
    return kept


def parse_schedules(path: Path, text: str) -> dict[str, list[Schedule]]:
    """The schedules of each test. Raises ConfigurationError with file and line."""
    found: dict[str, list[Schedule]] = {}
    for number, line in enumerate(map(str.strip, text.split("\n")), 1):
        if not line or line.startswith("#"):
            continue
        parts = _LINE.fullmatch(line)
        try:
            if parts is None:
                raise ConfigurationError(
                    f"{line!r} is no line of schedules; write: test  schedule (two spaces between)"
                )
            nodeid = str(json.loads(parts[1])) if parts[1].startswith('"') else parts[1]
            found.setdefault(nodeid, []).append(parse_schedule(parts[2]))
        except (ConfigurationError, ValueError) as error:
            raise ConfigurationError(f"{path}:{number}: {error}") from None
    return found


def schedules_text(kept: Mapping[str, Iterable[Schedule]]) -> str:
    """The file that `parse_schedules` reads back, sorted."""
    lines = [
        f"{nodeid if _is_bare(nodeid) else json.dumps(nodeid)}  {format_schedule(schedule)}"
        for nodeid, schedules in kept.items()
        for schedule in schedules
    ]
    return "\n".join([_HEADING, *sorted(lines)]) + "\n"


def _is_bare(nodeid: str) -> bool:
    return nodeid.isprintable() and _BARE.fullmatch(nodeid) is not None
