from __future__ import annotations

import json

from pathlib import Path
from typing import Any

import pytest

from tests.ahead import runs


SAVING = """
import json

def save(path, settings):
    with open(path, "w") as file:
        json.dump(settings, file)
"""


@pytest.fixture
def saving(pytester: pytest.Pytester) -> pytest.Pytester:
    """A suite about a module that saves something."""
    pytester.makepyfile(saving=SAVING)
    pytester.syspathinsert()
    return pytester


def test_marker_fixture_and_flag(saving: pytest.Pytester) -> None:
    saving.makepyfile("""
        import errno
        import os

        import pytest

        from saving import save

        @pytest.mark.chaos("disk_failure", path="*.json", mode="disk_full", rate=1)
        def test_marked(tmp_path, monkeypatch):
            monkeypatch.chdir(tmp_path)
            with pytest.raises(OSError, match="No space left on device"):
                save("config.json", {})

        def test_around_a_part(tmp_path, chaos):
            save(tmp_path / "config.json", {})
            with chaos.disk_failure(path=tmp_path, mode="read_only", rate=1) as outage:
                with pytest.raises(OSError, match="Read-only file system"):
                    save(tmp_path / "config.json", {})
                with pytest.raises(OSError):
                    os.replace(tmp_path / "config.json", tmp_path / "other.json")
            save(tmp_path / "config.json", {})
            assert (outage.matched, outage.hits) == (2, 2)
            assert [event.kind for event in chaos.events] == ["file.open_to_write", "file.rename"]
            assert chaos.events[0].place.startswith("saving.py:4 in save")

        @pytest.mark.chaos("disk_failure", path="/**/config.json", nth=2, rate=1)
        def test_the_second(tmp_path):
            save(tmp_path / "config.json", {})
            # A write of its own for the buffer, and one when the file is closed.
            with open(tmp_path / "other.json", "w") as file:
                file.write("x")
            with pytest.raises(OSError):
                save(tmp_path / "config.json", {})
    """)
    saving.runpytest().assert_outcomes(passed=3)
    saving.makepyfile(
        test_flag="""
        import pytest
        from saving import save

        def test_save(tmp_path):
            with pytest.raises(OSError, match="quota"):
                save(tmp_path / "config.json", {})
    """
    )
    result = saving.runpytest(
        "test_flag.py", "--chaos=disk_failure:mode=EDQUOT,path=/**/*.json|/x,rate=1"
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines("disk_failure: EDQUOT at write, always, target path /*")


def test_a_failure_is_told_with_what_the_disk_did(saving: pytest.Pytester) -> None:
    saving.makepyfile("""
        from saving import save

        def test_save(tmp_path, chaos):
            with chaos.disk_failure(path=tmp_path, rate=1):
                save(tmp_path / "config.json", {})
    """)
    result = saving.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*No space left on device*", "*chaos*", "*ENOSPC at write*"])
    # The frames between the user's code and the system are ours, and nobody's business.
    result.stdout.no_fnmatch_line("*interceptors*")


def test_what_never_fires_is_an_error(saving: pytest.Pytester) -> None:
    saving.makepyfile("""
        import pytest

        from saving import save

        @pytest.mark.chaos("disk_failure", path="/etc/**")
        def test_idle(tmp_path):
            save(tmp_path / "config.json", {})
    """)
    result = saving.runpytest()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*(*, target path /etc/[*][*]) never fired*"])
    result.stdout.fnmatch_lines(["*file.open */config.json*"])


def test_mistakes_are_told_at_collection(saving: pytest.Pytester) -> None:
    saving.makepyfile("""
        import pytest

        @pytest.mark.chaos("disk_failure", mode="disk_ful")
        def test_a():
            pass

        @pytest.mark.chaos("disk_failure", paths="*")
        def test_b():
            pass
    """)
    result = saving.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "*py:3: mode='disk_ful' (did you mean 'disk_full'?): give one of *",
            "*py:7: unknown parameter 'paths' (did you mean 'path'?); allowed: *",
        ]
    )


def test_the_list_of_types(saving: pytest.Pytester) -> None:
    result = saving.runpytest("--chaos-list")
    result.stdout.fnmatch_lines(["*disk_failure*", "*path*globs of files*"])


OWN_FILES = """
import importlib
import os
import sys

import pytest

pytestmark = pytest.mark.chaos("disk_failure", path="/**", rate=1, include_setup=True, **ASKED)

@pytest.fixture
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("folder")


@pytest.mark.parametrize("number", range(3))
def test_save(number, tmp_path, folder, capfd, request, caplog, pytestconfig):
    print("captured")
    os.write(1, b"by descriptor\\n")
    os.write(2, b"to stderr\\n")
    pytestconfig.cache.set("saving/number", number)
    late = importlib.import_module(f"late_{number}")  # compiled and rewritten only now
    with pytest.raises(OSError):
        late.save(tmp_path / "config.json")
    assert "captured" in capfd.readouterr().out
    request.getfixturevalue("tmp_path_factory").mktemp("another")


def test_that_fails(tmp_path):
    print("shown")
    assert tmp_path.joinpath("a").name == "b"
"""


LATE = """
def save(path):
    assert path.parent.is_dir()
    path.write_text("x")
"""


def hitting(mode: str, *workers: str) -> Any:
    asked = {"mode": mode} | ({"at": "open|read|write"} if mode == "io_error" else {})
    suite = runs(
        "--junitxml=report.xml",
        *workers,
        # With a cache.
        variables={"PYTEST_ADDOPTS": "-p resilience", "PYTHONDONTWRITEBYTECODE": None},
        others={"pytest.ini": "[pytest]\ntmp_path_retention_policy = failed\n"},
        conftest="import pytest\npytest.register_assert_rewrite(*(f'late_{n}' for n in range(3)))",
        test_own=f"ASKED = {asked}\n{OWN_FILES}",
        late_0=LATE,
        late_1=LATE,
        late_2=LATE,
    )
    return pytest.param(mode, marks=suite, id="-".join([mode, *workers[-1:]]))


@pytest.mark.parametrize(
    "mode",
    [
        hitting("disk_full"),
        hitting("io_error"),
        hitting("permission_denied"),
        hitting("too_many_open_files"),
        hitting("read_only"),
        hitting("permission_denied", "-p", "xdist", "-n2"),
    ],
)
def test_nothing_of_the_run_itself_is_hit(mode: str, ran: pytest.RunResult, ran_in: Path) -> None:
    ran.assert_outcomes(passed=3, failed=1)
    # What the test writes, and nothing else. A buffer is flushed again when it is closed.
    hits = 6 if mode == "disk_full" else 3
    told = f"disk_failure: *, always, target path /[*][*] [[]marker[]] - 4 tests, matched {hits}, *"
    ran.stdout.fnmatch_lines(["*AssertionError*", "*shown*", told])
    report = (ran_in / "report.xml").read_text()
    assert report.rstrip().endswith("</testsuites>")
    cache = ran_in / ".pytest_cache" / "v"
    assert list(json.loads((cache / "cache" / "lastfailed").read_text())) == [
        "test_own.py::test_that_fails"
    ]
    assert json.loads((cache / "saving" / "number").read_text()) in range(3)
    compiled = {path.name.partition(".")[0] for path in ran_in.glob("__pycache__/*.pyc")}
    assert compiled >= {"test_own", "late_0", "late_1", "late_2"}


def test_a_glob_that_begins_anywhere_reaches_temporary_folders(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest

        @pytest.mark.chaos("disk_failure", path="**/x.csv", mode="EIO", at="open")
        def test_below(tmp_path):
            with pytest.raises(OSError, match="Input/output error"):
                (tmp_path / "x.csv").write_text("a")

        @pytest.mark.chaos("disk_failure", path="shop/y.csv", mode="EIO")
        def test_never_fires(tmp_path):
            for n in range(20):
                (tmp_path / f"{n}.txt").write_text("a")
            (tmp_path / "y.csv").write_text("a")
    """)
    result = suite.runpytest()
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.re_match_lines([r".*The code did:", r".* /\S+/y\.csv$"], consecutive=True)
    result.stdout.fnmatch_lines(["*with [*][*]/ in front it begins anywhere*"])
