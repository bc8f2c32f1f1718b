"""A settings file that is whole at any time, and two that are not."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile

from pathlib import Path
from typing import Any


class ConfigFile:
    """Settings on a disk: what was saved last, or what was there before."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[str, Any]:
        """The settings; none where nothing was saved yet."""
        try:
            return dict(json.loads(self.path.read_text("utf-8")))
        except FileNotFoundError:
            return {}

    def save(self, settings: dict[str, Any]) -> None:
        """Replace the settings at once.

        They are written beside the file and reach the disk before they take its name. Raises
        OSError; the file is what it was, or, where only the name did not reach the disk, new.
        """
        descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=".settings-")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(settings, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        _sync(self.path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class HopefulConfigFile(ConfigFile):
    """Empties the file before it knows that there is room for more."""

    def save(self, settings: dict[str, Any]) -> None:
        with self.path.open("w", encoding="utf-8") as file:
            json.dump(settings, file)


class HastyConfigFile(ConfigFile):
    """Replaces the file, but does not ask how much of it was written."""

    def save(self, settings: dict[str, Any]) -> None:
        beside = self.path.with_suffix(".new")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(descriptor, json.dumps(settings).encode())
        os.close(descriptor)
        beside.replace(self.path)
