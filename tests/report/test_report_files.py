from __future__ import annotations

import importlib.util
import os
import stat
import subprocess
import sys

from pathlib import Path
from typing import Any

import pytest

from pytest_resilience import ConfigurationError
from pytest_resilience.report import report_files
from pytest_resilience.report.formats import markdown_text
from pytest_resilience.report.formats import page_text
from pytest_resilience.report.report_files import append_summary
from pytest_resilience.report.report_files import check_writable
from pytest_resilience.report.report_files import json_text
from pytest_resilience.report.report_files import read_report
from pytest_resilience.report.report_files import write_report
from pytest_resilience.report.report_files import write_reports
from pytest_resilience.report.report_files import write_text
from tests.report.conftest import cell
from tests.report.conftest import report


FOUND = report(cell("failed", reason="caf\u00e9"))


def test_the_suffix_says_what_is_written(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.json", "deep/er/a.md", "a.html")]
    for path in paths:
        check_writable(path)
    assert write_reports(paths, FOUND) == []
    assert read_report(paths[0]) == FOUND
    assert paths[1].read_text(encoding="utf-8") == markdown_text(FOUND)
    assert paths[2].read_text(encoding="utf-8") == page_text(FOUND)


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "b.json").write_text("before")
    check_writable(tmp_path / "b.json")
    assert (tmp_path / "b.json").read_text() == "before"


@pytest.mark.parametrize("name", ["a.txt", "a", "a.JSON", ".json"])
def test_a_suffix_nobody_knows_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    kind = path.suffix or "no suffix"
    text = rf"{name}: {kind} is no kind of report; known: \.html, \.json, \.md"
    with pytest.raises(ConfigurationError, match=text):
        check_writable(path)
    with pytest.raises(ConfigurationError, match=text):
        write_report(path, FOUND)


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ConfigurationError, match=r"file/a\.json cannot be written: "):
        check_writable(tmp_path / "file" / "a.json")
    with pytest.raises(ConfigurationError, match=r"folder\.json is no file; give the path of a"):
        check_writable(tmp_path / "folder.json")
    with pytest.raises(ConfigurationError, match=r"cannot be written: File name too long"):
        check_writable(tmp_path / f"{'x' * 300}.json")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc here")
def test_a_directory_nobody_may_write_in_is_refused_even_to_root() -> None:
    with pytest.raises(ConfigurationError, match=r"^/proc/a\.json cannot be written: "):
        check_writable(Path("/proc/a.json"))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_rights_are_heeded(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigurationError, match="cannot be written: Permission denied"):
        check_writable(tmp_path / "a.json")


def test_html_without_jinja_is_refused_before_the_tests_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"a\.html: an HTML report needs Jinja2; pip inst"):
        check_writable(tmp_path / "a.html")
    check_writable(tmp_path / "a.json")


def test_jinja_is_not_imported_before_a_page_is_written() -> None:
    script = (
        "import sys, pytest_resilience.report.report_files, pytest_resilience.report.formats\n"
        "print({'jinja2', 'markupsafe', 'jsonschema'} & set(sys.modules))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    )
    assert shown.stdout == "set()\n"


def test_one_report_that_fails_keeps_no_other_back(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    failures = write_reports([tmp_path / "file" / "a.json", tmp_path / "b.md"], FOUND)
    [failure] = failures
    assert failure.startswith(f"{tmp_path / 'file' / 'a.json'} was not written: ")
    assert (tmp_path / "b.md").exists()


def test_a_report_is_never_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("before")
    write_bytes = Path.write_bytes

    def fill_the_disk(self: Path, data: bytes) -> Any:
        write_bytes(self, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill_the_disk)
    [failure] = write_reports([path], FOUND)
    assert failure.endswith("OSError: [Errno 28] No space left on device")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_who_reads_a_report_meanwhile_reads_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_report(path, FOUND)
    with path.open(encoding="utf-8") as reader:
        write_report(path, report())
        assert reader.read() == json_text(FOUND)
    assert read_report(path) == report()


def test_a_link_stays_a_link_and_others_may_read(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.touch()
    link.symlink_to(real)
    write_report(link, FOUND)
    assert link.is_symlink()
    assert read_report(real) == FOUND
    (tmp_path / "usual").touch()
    assert stat.S_IMODE(real.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


def test_a_summary_is_added_to_what_others_wrote(tmp_path: Path) -> None:
    path = tmp_path / "summary"
    path.write_text("# Build\n")
    append_summary(path, FOUND)
    append_summary(path, FOUND)
    text = markdown_text(FOUND)
    assert path.read_text(encoding="utf-8") == f"# Build\n\n{text}\n{text}"


def test_names_that_are_no_text_are_written_all_the_same(tmp_path: Path) -> None:
    odd = report(cell("failed", "t\udcff.py::t", reason="\ud800"), profiles=("\udcfe",))
    paths = [tmp_path / f"a{suffix}" for suffix in report_files.SUFFIXES]
    assert write_reports(paths, odd) == []
    assert read_report(tmp_path / "a.json") == odd
    assert "t\\udcff.py" in (tmp_path / "a.md").read_text(encoding="utf-8")


def test_json_is_the_same_on_every_machine(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", json_text(FOUND))
    assert b"\r" not in (tmp_path / "a.json").read_bytes()
