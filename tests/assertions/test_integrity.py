from __future__ import annotations

import json

from pathlib import Path

import pytest

from pytest_resilience import ConfigurationError
from pytest_resilience.assertions import assert_file_intact


OLD = b'{"port": 8080, "host": "a"}'
NEW = b'{"port": 9090, "hosts": ["a", "b"]}'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.json"


def trouble(path: Path, content: bytes, **asked: object) -> str:
    """What the assertion says, without the part that is always the same."""
    path.write_bytes(content)
    with pytest.raises(AssertionError) as caught:
        assert_file_intact(path, **asked)  # type: ignore[arg-type]
    head = f"expected {path} to be intact, but "
    assert str(caught.value).startswith(head)
    return str(caught.value).removeprefix(head)


@pytest.mark.parametrize("content", [OLD, NEW])
def test_the_old_and_the_new_version_are_whole(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert assert_file_intact(path, before=OLD, after=NEW) == content
    assert assert_file_intact(str(path), before=OLD.decode(), after=NEW.decode()) == content
    assert assert_file_intact(path, before=OLD, after=NEW, valid=json.loads) == content


def test_every_way_to_be_broken_has_its_words(path: Path) -> None:
    both = {"before": OLD, "after": NEW}
    assert trouble(path, b"", **both) == "it is empty"
    assert trouble(path, b"") == "it is empty"
    assert trouble(path, NEW[:20], **both) == ("it is torn: the first 20 of the 35 bytes of after=")
    assert trouble(path, OLD[:20], before=OLD) == (
        "it is torn: the first 20 of the 27 bytes of before="
    )
    assert trouble(path, NEW[:12] + OLD[12:], **both) == (
        "it is a mixture: 20 of the 35 bytes of after=, and then the rest of before="
    )
    assert trouble(path, NEW + b"!", **both) == (
        "it is neither before= nor after=: 36 bytes, which differ from the 35 of after= "
        "at byte 35: b'!'"
    )
    assert trouble(path, b'{"port": 1' + b"0" * 20, after=NEW) == (
        "it is not after=: 30 bytes, which differ from the 35 of after= at byte 9: "
        "b'1000000000000000'..."
    )
    assert trouble(path, b"no", valid=lambda content: content != b"no") == (
        "its 2 bytes are not valid: b'no'"
    )
    assert trouble(path, OLD[:9], valid=json.loads).startswith(
        "its 9 bytes are not valid: JSONDecodeError: Expecting value"
    )
    # Whole by its bytes, and still nothing that its reader takes.
    assert "are not valid: ValueError: " in trouble(path, OLD, before=OLD, valid=_reject)


def _reject(content: bytes) -> None:
    raise ValueError(f"{len(content)} bytes")


def test_a_file_that_is_not_there(path: Path) -> None:
    with pytest.raises(AssertionError, match=r"config\.json to be intact, but it is not there$"):
        assert_file_intact(path, after=NEW)
    assert assert_file_intact(path, after=NEW, missing_ok=True) == b""


def test_an_empty_file_may_be_a_version(path: Path) -> None:
    path.touch()
    assert assert_file_intact(path, before=b"", after=NEW) == b""
    assert assert_file_intact(path, valid=lambda content: not content) == b""


def test_without_versions_a_file_has_to_be_there_and_not_empty(path: Path) -> None:
    path.write_bytes(b"anything")
    assert assert_file_intact(path) == b"anything"


def test_texts_are_compared_in_their_encoding(path: Path) -> None:
    path.write_text("größer", encoding="latin-1")
    assert assert_file_intact(path, after="größer", encoding="latin-1")
    assert "it is not after=" in trouble(path, path.read_bytes(), after="größer")


def test_versions_that_tell_nothing_are_refused(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="before and after are the same"):
        assert_file_intact(path, before="a", after=b"a")


def test_what_is_no_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        assert_file_intact(tmp_path)
