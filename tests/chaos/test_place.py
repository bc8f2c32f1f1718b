from __future__ import annotations

import concurrent.futures
import json
import os
import sysconfig

from pathlib import Path

import pytest

from pytest_resilience.chaos.place import caller


def ask() -> str:
    return caller()


def test_it_is_who_asked() -> None:
    here = os.path.relpath(__file__)
    line = ask.__code__.co_firstlineno + 1
    assert ask() == f"{here}:{line} in ask"


def test_libraries_in_between_are_left_out() -> None:
    class Answer:
        """Something the standard library calls back."""

    seen: list[str] = []
    json.dumps({"x": Answer()}, default=lambda _: seen.append(ask_from_here()))
    assert seen[0].endswith(" in ask_from_here")


def ask_from_here() -> str:
    namespace = {"caller": caller}
    exec(compile("found = caller()", "<generated>", "exec"), namespace)
    return str(namespace["found"])


def test_the_program_that_was_started_is_nobodys_place() -> None:
    """The loop of asyncio hears an answer with nothing of the user's below it but `bin/pytest`."""
    script = f"{sysconfig.get_path('scripts')}/pytest"
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        console = compile("found = caller()", script, "exec")
        namespace = {"caller": caller}
        pool.submit(exec, console, namespace).result()
    assert namespace["found"] == ""  # type: ignore[comparison-overlap]


def test_a_thread_of_a_library_alone_has_no_place() -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(caller).result() == ""


def test_a_file_outside_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert ask().startswith(f"{__file__}:")


def test_a_folder_that_is_gone_keeps_nobody_from_telling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert ask().endswith(" in ask")
