from __future__ import annotations

import fnmatch

from pathlib import Path
from typing import Any

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ConfigurationError
from pytest_resilience.chaos.operation import OPEN
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.parsing.path_globs import PathPattern
from pytest_resilience.chaos.parsing.path_globs import parse_paths


@pytest.mark.parametrize(
    ("glob", "path", "meant"),
    [
        ("/data/config.json", "/data/config.json", True),
        ("/data/config.json", "/data/config.jsonl", False),
        ("/data", "/data", True),
        ("/data", "/data/a/b.txt", True),
        ("/data/", "/data/a/b.txt", True),
        ("/data", "/database", False),
        ("/data/*", "/data/a", True),
        ("/data/*", "/data/a/b", False),
        ("/data/*", "/data", False),
        ("/data/**", "/data/a", True),
        ("/data/**", "/data/a/b/c", True),
        ("/data/**", "/data", False),
        ("/data/**/*.json", "/data/a.json", True),
        ("/data/**/*.json", "/data/a/b/c.json", True),
        ("/data/**/*.json", "/data/a/b/c.txt", False),
        ("/data/**/cache", "/data/a/cache/x/y", True),
        ("/data/**/cache", "/data/cache", True),
        ("/data/**/cache", "/data/cache/x", True),
        ("/**/**/cache", "/cache", True),
        ("/data/**/b/**/d", "/data/a/b/c/d", True),
        ("/data/**/b/**/d", "/data/a/c/d", False),
        ("/data/?.txt", "/data/a.txt", True),
        ("/data/?.txt", "/data//.txt", False),
        ("/data/[ab].txt", "/data/c.txt", False),
        ("/data/a[0].txt", "/data/a0.txt", True),
        ("/data/../etc/*", "/etc/a", True),
        ("/data/*", "/data/.hidden", True),
        ("/DATA/*", "/data/a", False),
        ("/**", "/anything/at/all", True),
        ("/", "/anything/at/all", True),
    ],
)
def test_globs(glob: str, path: str, meant: bool) -> None:
    assert PathPattern(glob).matches(path) is meant


@given(glob=st.text("ab*?[]!-^.\\", min_size=1, max_size=8), name=st.text("ab-^!.\\]", min_size=1))
def test_within_one_name_signs_mean_what_they_mean_everywhere(glob: str, name: str) -> None:
    if glob in {".", "..", "**"} or name in {".", ".."}:
        return
    # One with a plain name is about what is below, too, which a single name has nothing of.
    assert PathPattern(f"/base/{glob}").matches(f"/base/{name}") is fnmatch.fnmatchcase(name, glob)


@given(st.lists(st.sampled_from(["a", "b", "*", "?"]), min_size=1, max_size=4), st.data())
def test_any_number_of_folders_is_also_none(parts: list[str], data: st.DataObject) -> None:
    there = "/".join(["", *("a" if part in "*?" else part for part in parts)])
    assert PathPattern("/".join(["", *parts])).matches(there)
    at = data.draw(st.integers(0, len(parts) - 1))
    assert PathPattern("/".join(["", *parts[:at], "**", *parts[at:]])).matches(there)


def test_relative_globs_begin_at_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = PathPattern("config/*.json")
    assert not pattern.matches(f"{tmp_path}/config/a.json")
    monkeypatch.chdir(tmp_path)
    assert pattern.matches(f"{tmp_path}/config/a.json")
    assert PathPattern("**/a.json").matches(f"{tmp_path}/a.json")
    assert PathPattern("./**").matches(f"{tmp_path}/config/a.json")
    assert not PathPattern("./**").matches("/elsewhere/config/a.json")


def test_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert PathPattern("~/.config").matches("/home/somebody/.config/app.toml")


def test_a_glob_that_begins_at_a_link_is_about_both_places(tmp_path: Path) -> None:
    (tmp_path / "releases").mkdir()
    (tmp_path / "current").symlink_to("releases")
    pattern = PathPattern(f"{tmp_path}/current/*.json")
    assert pattern.matches(f"{tmp_path}/current/a.json")
    assert pattern.matches(f"{tmp_path}/releases/a.json")
    assert not PathPattern(f"{tmp_path}/releases/*.json").matches(f"{tmp_path}/current/a.json")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/data/** | /etc/app.toml", "path /data/** | /etc/app.toml"),
        (Path("/data/config.json"), "path /data/config.json"),
        (["/data", Path("/etc")], "path /data | /etc"),
    ],
)
def test_several_globs(value: Any, shown: str) -> None:
    paths = parse_paths("path", value)
    assert str(paths) == shown
    assert parse_paths("path", paths) is paths
    named = Operation(kind=OPEN, target="/data/config.json", names=("/data/config.json",))
    assert paths.accepts(named)
    assert not paths.accepts(Operation(kind=OPEN, target="/x", names=("/x",)))
    # A file with two names is meant by either.
    assert paths.accepts(Operation(kind=OPEN, target="/x", names=("/x", "/data/config.json")))


@pytest.mark.parametrize("value", ["", " ", "a||b", "a\0b", 3, b"a", [], [3], None])
def test_what_is_no_glob(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="path="):
        parse_paths("path", value)


@pytest.mark.parametrize(
    ("glob", "path", "meant"),
    [
        ("**/x.csv", "/tmp/a/b/x.csv", True),
        ("**/x.csv", "/x.csv", True),
        ("**/x.csv", "/tmp/a/y.csv", False),
        ("**/data/*.csv", "/tmp/a/data/x.csv", True),
        ("**/data/*.csv", "/tmp/a/data/b/x.csv", False),
        ("**/data", "/tmp/a/data/b/x.csv", True),
        ("**", "/tmp/a", True),
        ("./**/x.csv", "/tmp/a/x.csv", False),
        ("data/**/x.csv", "/tmp/data/x.csv", False),
    ],
)
def test_one_that_begins_with_any_folders_begins_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, glob: str, path: str, meant: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    assert PathPattern(glob).matches(path) == meant


def test_where_the_current_folder_is_gone_nothing_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert not PathPattern("x.csv").matches("/tmp/x.csv")
    assert PathPattern("**/x.csv").matches("/tmp/x.csv")
