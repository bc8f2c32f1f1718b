from __future__ import annotations

import builtins
import contextlib
import errno
import functools
import io
import logging
import os
import shutil
import socket
import sys
import tempfile
import threading

from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from pytest_resilience import ChaosExperiment
from pytest_resilience import Event
from pytest_resilience import FaultInjected
from pytest_resilience import ManualClock
from pytest_resilience import NeverFiredError
from pytest_resilience import RetryConfig
from pytest_resilience import RetryHandler
from pytest_resilience.assertions import assert_file_intact
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.diagnosis import never_fired
from pytest_resilience.interceptors.files.interceptor import FileInterceptor
from tests.injecting import Inject
from tests.injecting import ending
from tests.injecting import injecting


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def engine(clock: ManualClock) -> Iterator[Engine]:
    with ending(Engine(lambda engine: [FileInterceptor(engine)], clock=clock)) as engine:
        yield engine


@pytest.fixture
def inject(engine: Engine) -> Inject:
    return functools.partial(injecting(engine.start, name="disk", rate=1), "disk_failure")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fails(code: int) -> contextlib.AbstractContextManager[pytest.ExceptionInfo[OSError]]:
    return pytest.raises(OSError, check=lambda error: error.errno == code)


# Ways to write "abcdefgh" to a path, all of one system call. A descriptor is opened before.


def by_open(path: Path) -> None:
    with open(path, "w") as file:
        file.write("abcdefgh")


def by_fdopen(path: Path) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
        file.write(b"abcdefgh")


def by_opener(path: Path) -> None:
    with open("irrelevant", "w", opener=lambda _, flags: os.open(path, flags | os.O_CREAT)) as file:
        file.write("abcdefgh")


def by_temporary_file(path: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(b"abcdefgh")
    os.replace(file.name, path)


def by_logging(path: Path) -> None:
    raising = type("Raising", (logging.FileHandler,), {"handleError": _reraise})
    handler = raising(path, mode="w")
    handler.terminator = ""
    try:
        handler.emit(logging.LogRecord("name", 0, "", 0, "abcdefgh", (), None))
    finally:
        handler.close()


def _reraise(_handler: object, _record: object) -> None:
    raise  # noqa: PLE0704  # called while the error is handled


STREAMS = [
    by_open,
    by_fdopen,
    by_opener,
    by_temporary_file,
    lambda path: path.write_text("abcdefgh"),
    lambda path: path.write_bytes(b"abcdefgh"),
]


def with_descriptor(path: Path, write: Callable[[int], int]) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        return write(descriptor)
    finally:
        os.close(descriptor)


def copied(path: Path, copy: Callable[[int, int], int]) -> int:
    source = path.with_name("source")
    source.write_bytes(b"abcdefgh")
    with source.open("rb") as file:
        return with_descriptor(path, lambda target: copy(file.fileno(), target))


CALLS: list[Callable[[Path], int]] = [
    lambda path: with_descriptor(path, lambda fd: os.write(fd, b"abcdefgh")),
    lambda path: with_descriptor(path, lambda fd: os.write(fd, memoryview(b"abcdefgh"))),
    lambda path: with_descriptor(path, lambda fd: os.pwrite(fd, b"abcdefgh", 0)),
    lambda path: with_descriptor(path, lambda fd: os.writev(fd, [b"abcd", b"", b"efgh"])),
    lambda path: with_descriptor(path, lambda fd: os.pwritev(fd, [b"abcd", b"efgh"], 0)),
    lambda path: copied(path, lambda source, target: os.sendfile(target, source, 0, 1000)),
    lambda path: copied(path, lambda source, target: os.sendfile(target, source, None, 1000)),
    lambda path: copied(path, lambda source, target: os.copy_file_range(source, target, 1000)),
    lambda path: copied(path, lambda source, target: os.copy_file_range(source, target, 99, 0)),
]


@pytest.mark.parametrize("write", [*STREAMS, by_logging, *CALLS])
def test_every_way_of_writing_can_fail(
    tmp_path: Path, inject: Inject, write: Callable[[Path], object]
) -> None:
    path = tmp_path / "file"
    write(path)
    assert path.read_bytes() == b"abcdefgh"
    with inject(path=f"{path}|{tmp_path}/tmp*", mode="ENOSPC", first=1) as full, fails(28):
        write(path)
    assert full.hits == 1
    path.unlink(missing_ok=True)
    write(path)
    assert path.read_bytes() == b"abcdefgh"


@pytest.mark.parametrize("write", STREAMS)
def test_buffers_finish_short_writes(
    tmp_path: Path, inject: Inject, write: Callable[[Path], object]
) -> None:
    path = tmp_path / "file"
    with inject(path=tmp_path, mode="short_write", bytes_written=3) as short:
        write(path)
    assert path.read_bytes() == b"abcdefgh"
    assert short.hits == 3


@pytest.mark.parametrize("write", CALLS)
def test_calls_say_how_much_they_wrote(
    tmp_path: Path, inject: Inject, write: Callable[[Path], int]
) -> None:
    path = tmp_path / "file"
    with inject(path=path, mode="short_write", bytes_written=3):
        assert write(path) == 3
    assert path.read_bytes() == b"abc"


@pytest.mark.parametrize("write", STREAMS[:3])
def test_torn_writes_stay_torn(
    tmp_path: Path, inject: Inject, write: Callable[[Path], object]
) -> None:
    path = tmp_path / "file"
    with inject(path=path, mode="torn_write", bytes_written=3, nth=1) as torn:
        with fails(errno.EIO):
            write(path)
        assert path.read_bytes() == b"abc"
        write(path)  # another descriptor, and another fate
    assert path.read_bytes() == b"abcdefgh"
    assert torn.hits == 1


def test_a_torn_descriptor_is_not_mistaken_for_the_next_of_its_number(
    tmp_path: Path, inject: Inject
) -> None:
    path = tmp_path / "file"
    flags = os.O_WRONLY | os.O_CREAT
    with inject(path=path, bytes_written=2, nth=1):
        descriptor = os.open(path, flags)
        assert os.write(descriptor, b"abcd") == 2
        with fails(errno.EIO):
            os.write(descriptor, b"cd")
        os.close(descriptor)
        assert os.open(path, flags) == descriptor
        assert os.write(descriptor, b"abcd") == 4
        os.close(descriptor)


def test_what_was_torn_works_again_when_the_experiment_is_over(
    tmp_path: Path, inject: Inject
) -> None:
    with inject(path=tmp_path, bytes_written=0, nth=1):
        file = open(tmp_path / "file", "wb", buffering=0)  # noqa: SIM115  # outlives it
        with fails(errno.EIO):
            file.write(b"abcd")
        with fails(errno.EIO):
            file.write(b"abcd")
    with file:
        assert file.write(b"abcd") == 4
    assert (tmp_path / "file").read_bytes() == b"abcd"


def test_data_in_a_buffer_is_lost_when_it_is_flushed(tmp_path: Path, inject: Inject) -> None:
    path = tmp_path / "file"
    with inject(path=path, mode="ENOSPC"):
        file = open(path, "w")  # noqa: SIM115  # closing is a step
        file.write("short")  # accepted
        with fails(errno.ENOSPC):
            file.flush()
        with fails(errno.ENOSPC):
            file.close()
        assert file.closed
    assert path.read_bytes() == b""


@pytest.mark.parametrize(
    ("mode", "more"),
    [
        ("r", {}),
        ("rt", {"encoding": "latin-1", "errors": "replace", "newline": "\r\n"}),
        ("rb", {}),
        ("rb", {"buffering": 0}),
        ("w", {}),
        ("w", {"buffering": 1}),
        ("wb", {}),
        ("wb", {"buffering": 7}),
        ("bw+", {}),
        ("a", {"buffering": 100}),
        ("ab", {"buffering": 0}),
        ("r+", {}),
        ("rb+", {"buffering": 0}),
        ("xb", {}),
    ],
)
def test_files_are_what_open_returns(
    tmp_path: Path, inject: Inject, mode: str, more: dict[str, Any]
) -> None:
    def facts(path: Path) -> dict[str, Any]:
        if "x" not in mode:
            path.write_bytes(b"content\n")
        with open(path, mode, **more) as file:
            found = {
                name: getattr(file, name, None)
                for name in ("mode", "encoding", "errors", "line_buffering", "newlines", "closed")
            }
            buffer = getattr(file, "buffer", file)
            raw = getattr(buffer, "raw", buffer)
            found["types"] = [
                type(file) if file is not raw else None,
                type(buffer) if buffer is not raw else None,
            ]
            found["able"] = [file.readable(), file.writable(), file.seekable(), file.isatty()]
            found["raw mode"] = raw.mode
            found["names"] = [file.name == str(path), raw.name == str(path)]
            found["is raw"] = isinstance(raw, io.FileIO)
            found["inheritable"] = os.get_inheritable(file.fileno())
            found["tell"] = file.tell()
            if file.writable():
                file.write(b"0123456" if "b" in mode else "0123456")
                found["written at once"] = path.stat().st_size
            else:
                found["content"] = file.read()
        found["closed now"] = file.closed, raw.closed
        return found

    plain = facts(tmp_path / "plain")
    with inject(path=tmp_path / "targeted", mode="failed_fsync", at="sync"):
        assert facts(tmp_path / "targeted") == plain
    (tmp_path / "targeted").unlink()
    with inject(path=tmp_path / "targeted", rate=0, mode="io_error", at="read|write") as seen:
        assert facts(tmp_path / "targeted") == plain
    assert seen.matched


def test_buffers_are_as_large_as_ever(tmp_path: Path, inject: Inject) -> None:
    def flushed(path: Path) -> list[int]:
        with open(path, "wb") as file:
            sizes = []
            for _ in range(200):
                file.write(b"x" * 100)
                sizes.append(path.stat().st_size)
            return sizes

    plain = flushed(tmp_path / "plain")
    with inject(path=tmp_path / "targeted", rate=0):
        assert flushed(tmp_path / "targeted") == plain


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (("rw",), {}),
        (("rr",), {}),
        (("q",), {}),
        (("",), {}),
        (("+",), {}),
        ((3,), {}),
        (("rbt",), {}),
        (("r", 0), {}),
        (("r", "1"), {}),
        (("rb",), {"encoding": "utf-8"}),
        (("rb",), {"newline": ""}),
        (("r",), {"encoding": "no such"}),
        (("r",), {"newline": "x"}),
        (("r",), {"closefd": False}),
        (("r",), {"unknown": 1}),
    ],
)
def test_misuse_is_told_by_open_itself(
    tmp_path: Path, inject: Inject, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    path = tmp_path / "file"
    path.touch()

    def complaint() -> tuple[type[BaseException], str]:
        with pytest.raises(Exception) as caught:
            open(path, *args, **kwargs).close()
        return caught.type, str(caught.value)

    plain = complaint()
    with inject(path=path):
        assert complaint()[0] is plain[0]
        if "unknown" not in kwargs:
            assert complaint() == plain


def test_what_is_no_path_is_told_by_the_functions_themselves(inject: Inject) -> None:
    with inject(path="/**", mode="EACCES"):
        calls: list[Callable[..., object]] = [open, os.unlink, os.mkdir]
        for call in calls:
            with pytest.raises(TypeError):
                call(None)
        with pytest.raises(ValueError, match="null"):
            Path("a\0b").read_text()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fsync(99_999)
        with pytest.raises(TypeError):
            os.fsync("file")  # type: ignore[arg-type]


def test_what_cannot_be_written_is_told_by_the_functions_themselves(
    tmp_path: Path, inject: Inject
) -> None:
    def complaints() -> list[str]:
        found = []
        with open(tmp_path / "file", "wb", 0) as file:
            bad: list[Callable[[], int]] = [
                lambda: file.write("text"),  # type: ignore[arg-type]
                lambda: file.write(memoryview(b"abcd")[::2]),
                lambda: os.write(file.fileno(), "text"),  # type: ignore[arg-type]
                lambda: os.writev(file.fileno(), ["text"]),  # type: ignore[list-item]
            ]
            for write in bad:
                with pytest.raises((TypeError, BufferError)) as caught:
                    write()
                found.append(f"{caught.type.__name__}: {caught.value}")
        with pytest.raises(ValueError, match="closed"):
            file.write(b"x")
        with open(tmp_path / "file", "rb", 0) as file, pytest.raises(OSError, match="writ"):
            file.write(b"x")
        return found

    plain = complaints()
    with inject(path=tmp_path) as full:
        assert complaints() == plain
    assert full.matched == 0


@given(
    chunks=st.lists(st.binary(max_size=40), max_size=10),
    size=st.integers(0, 50),
    buffering=st.sampled_from([-1, 0, 2, 16]),
    nth=st.integers(1, 8),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_reaches_a_file_is_a_beginning_of_what_was_written(
    tmp_path: Path, inject: Inject, *, chunks: list[bytes], size: int, buffering: int, nth: int
) -> None:
    path, whole = tmp_path / "file", b"".join(chunks)

    def write() -> None:
        with open(path, "wb", buffering) as file:
            for chunk in chunks:
                rest = chunk
                while rest:
                    rest = rest[file.write(rest) :]

    with inject(path=path, mode="short_write", bytes_written=size, every=nth):
        write()
    assert path.read_bytes() == whole
    tearing = inject(path=path, mode="torn_write", bytes_written=size, nth=nth)
    with tearing as torn, contextlib.suppress(OSError):
        write()
    content = path.read_bytes()
    assert whole.startswith(content)
    assert torn.hits or content == whole


def test_descriptors_that_were_open_before(tmp_path: Path, inject: Inject) -> None:
    path = tmp_path / "file"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    with inject(path=path, mode="EIO", at="write|read|sync|resize") as broken:
        for call in (
            lambda: os.write(descriptor, b"x"),
            lambda: os.read(descriptor, 1),
            lambda: os.fsync(descriptor),
            lambda: os.fdatasync(descriptor),
            lambda: os.ftruncate(descriptor, 0),
            lambda: os.truncate(descriptor, 0),
        ):
            with fails(errno.EIO) as caught:
                call()
            assert caught.value.filename is None
    os.close(descriptor)
    assert broken.hits == 6


def test_reading_can_fail(tmp_path: Path, inject: Inject) -> None:
    path = tmp_path / "file"
    path.write_text("one\ntwo\n")
    with inject(path=path, mode="EIO", at="read") as broken, open(path, "rb", 0) as raw:
        for read in (
            path.read_text,
            path.read_bytes,
            raw.read,
            lambda: raw.read(3),
            raw.readline,
            lambda: raw.readinto(bytearray(3)),
        ):
            with fails(errno.EIO):
                read()
    assert broken.hits == 6


def test_slow_writes_wait_on_the_clock(tmp_path: Path, inject: Inject, clock: ManualClock) -> None:
    slowly = inject(path=tmp_path, delay="200ms", at="write|sync")
    with slowly as slow, open(tmp_path / "file", "w") as file:
        file.write("x")
        file.flush()
        os.fsync(file.fileno())
    assert sum(clock.sleeps) == pytest.approx(0.4)
    assert slow.delay == pytest.approx(0.4)
    assert (tmp_path / "file").read_text() == "x"


def test_triggers_count_the_operations_on_files_that_are_meant(
    here: Path, inject: Inject, engine: Engine
) -> None:
    heard: list[Event] = []
    engine.listeners.add(heard.append)
    with inject(path="data/*.json", mode="ENOSPC", nth=2) as full:
        (here / "data").mkdir()
        (here / "data" / "a.txt").write_text("not meant")
        (here / "data" / "a.json").write_text("the first")
        with fails(errno.ENOSPC):
            (here / "data" / "b.json").write_text("the second")
        # A buffer that could not be flushed is tried again when it is closed.
        assert (here / "data" / "b.json").read_text() == "the second"
    assert (full.matched, full.hits) == (3, 1)
    [event] = heard
    assert isinstance(event, FaultInjected)
    assert (event.kind, event.target) == ("file.write", str(here / "data" / "b.json"))
    assert event.fault == "ENOSPC at write"
    assert "test_interceptor.py" in event.place


def test_what_was_done_instead_is_told(tmp_path: Path, inject: Inject) -> None:
    with inject(path=tmp_path / "*.json", mode="ENOSPC") as idle:
        (tmp_path / "a.txt").write_text("x")
    error = never_fired(idle)
    assert isinstance(error, NeverFiredError)
    assert f"file.open {tmp_path}/a.txt" in str(error)


def test_renames_are_meant_by_either_name(tmp_path: Path, inject: Inject) -> None:
    (tmp_path / "a").write_text("x")
    for path in (tmp_path / "a", tmp_path / "b"):
        with inject(path=path, mode="failed_rename") as broken:
            with fails(errno.EIO) as caught:
                os.replace(tmp_path / "a", tmp_path / "b")
            assert caught.value.filename == str(tmp_path / "a")
            assert caught.value.filename2 == str(tmp_path / "b")
        assert broken.hits == 1
        assert not (tmp_path / "b").exists()
    with inject(path=tmp_path, mode="failed_rename"):
        shutil.move(tmp_path / "a", tmp_path / "b")  # which then copies, as it always would
    assert (tmp_path / "b").read_text() == "x"


def test_what_would_fail_anyway_fails_for_its_own_reason(tmp_path: Path, inject: Inject) -> None:
    (tmp_path / "folder").mkdir()
    with inject(path=tmp_path, mode="EACCES") as denied:
        with pytest.raises(FileNotFoundError):
            (tmp_path / "missing").read_text()
        with pytest.raises(FileNotFoundError):
            os.rename(tmp_path / "missing", tmp_path / "other")
        (tmp_path / "missing").unlink(missing_ok=True)
        (tmp_path / "folder").mkdir(exist_ok=True)
        with pytest.raises(FileExistsError):
            os.symlink("a", tmp_path / "folder")
    assert denied.matched == 0


def test_links_are_followed_wherever_they_lead(here: Path, inject: Inject) -> None:
    for release in ("one", "two"):
        (here / release).mkdir()
        (here / release / "file").write_text(release)
    os.symlink("one", "current")
    with inject(path="two/**", mode="EIO", at="read"):
        assert Path("current/file").read_text() == "one"
        os.symlink("two", "next")
        os.replace("next", "current")
        with fails(errno.EIO):
            Path("current/file").read_text()
        os.unlink("current")
        os.symlink("one", "current")
        assert Path("current/file").read_text() == "one"


@pytest.mark.parametrize(
    "way",
    [
        "folder/file",
        "link/file",
        "folder/other",
        "link/../two/file",
        "link/./file",
        "link//file",
        "two/",
    ],
)
def test_every_way_to_a_file_is_the_same_file(here: Path, inject: Inject, way: str) -> None:
    (here / "two").mkdir()
    (here / "two" / "file").write_text("two")
    os.symlink("file", here / "two" / "other")
    for name in ("folder", "link"):
        os.symlink("two", here / name)
    with inject(path=here / "two" / "*", mode="EACCES", at="open"):
        (here / "beside").write_text("another one in the same folder is no target")
        with open(os.path.join(here, "beside")):
            pass
        path = os.path.join(here, way)
        for _ in range(2):
            failing = pytest.raises(IsADirectoryError) if way == "two/" else fails(errno.EACCES)
            with failing, open(path):
                pass


def test_a_relative_path_is_another_one_elsewhere(here: Path, inject: Inject) -> None:
    for folder in ("one", "two"):
        (here / folder).mkdir()
        (here / folder / "file").write_text(folder)
    with inject(path=here / "two", mode="EIO", at="read"):
        os.chdir("one")
        assert Path("file").read_text() == "one"
        os.chdir("../two")
        with fails(errno.EIO):
            Path("file").read_text()
        descriptor = os.open("../one", os.O_RDONLY)
        os.fchdir(descriptor)
        os.close(descriptor)
        assert Path("file").read_text() == "one"


def test_paths_below_a_descriptor(tmp_path: Path, inject: Inject) -> None:
    (tmp_path / "folder").mkdir()
    folder = os.open(tmp_path / "folder", os.O_RDONLY)
    with inject(path=tmp_path / "folder" / "*", mode="EROFS"):
        for call in (
            lambda: os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=folder),
            lambda: os.mkdir("new", dir_fd=folder),
            lambda: os.symlink("x", "new", dir_fd=folder),
        ):
            with fails(errno.EROFS):
                call()
    os.mkdir("new", dir_fd=folder)
    with inject(path=tmp_path / "folder", mode="EROFS"):
        with fails(errno.EROFS):
            os.rmdir("new", dir_fd=folder)
        with fails(errno.EROFS):
            os.rename("new", "newer", src_dir_fd=folder, dst_dir_fd=folder)
    os.close(folder)


def test_everything_is_put_back(tmp_path: Path, inject: Inject) -> None:
    def state() -> list[object]:
        functions = [getattr(os, name) for name in dir(os)]
        sets = [os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks]
        return [*functions, builtins.open, io.open, *(frozenset(each) for each in sets)]

    before = state()
    with inject(path=tmp_path, mode="EIO", at="write"):
        assert builtins.open is io.open is not before[-4]
        inner = inject(path=tmp_path, mode="read_only")
        with inner:
            assert os.mkdir in os.supports_dir_fd
        during = state()
    assert during != before
    assert state() == before


def test_a_name_that_a_module_has_bound_a_function_to_is_hit(
    tmp_path: Path, inject: Inject, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = {"opened": builtins.open, "move": os.replace, "remove": os.remove}
    module = ModuleType("bound_before")
    vars(module).update(usual)
    monkeypatch.setitem(sys.modules, "bound_before", module)
    names = vars(module)
    (tmp_path / "a.txt").write_text("a")
    for _ in range(2):  # the second time it is known
        with inject(path=f"{tmp_path}/*", mode="EACCES"):
            with pytest.raises(PermissionError):
                names["opened"](tmp_path / "a.txt")
            with pytest.raises(PermissionError):
                names["move"](tmp_path / "a.txt", tmp_path / "b.txt")
            with pytest.raises(PermissionError):
                names["remove"](tmp_path / "a.txt")
        assert {name: names[name] for name in usual} == usual
    names["opened"](tmp_path / "a.txt").close()


def test_what_somebody_kept_passes_on_afterwards(tmp_path: Path, inject: Inject) -> None:
    with inject(path=tmp_path, mode="EIO", at="write|rename|open"):
        kept_open, kept_write, kept_replace = open, os.write, os.replace
    with kept_open(tmp_path / "file", "w") as file:
        file.write("x")
    with_descriptor(tmp_path / "file", lambda fd: kept_write(fd, b"y"))
    kept_replace(tmp_path / "file", tmp_path / "other")
    assert (tmp_path / "other").read_text() == "y"


def test_a_file_opened_under_one_experiment_can_be_hit_by_the_next(
    tmp_path: Path, inject: Inject
) -> None:
    with inject(path=tmp_path, rate=0):
        file = open(tmp_path / "file", "wb", 0)  # noqa: SIM115  # outlives it
    assert file.write(b"ab") == 2
    with inject(path=tmp_path), fails(errno.ENOSPC):
        file.write(b"cd")
    file.close()
    assert (tmp_path / "file").read_bytes() == b"ab"


def test_a_tool_that_replaced_open_meanwhile_keeps_its_own(
    tmp_path: Path, inject: Inject, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open
    calls = []
    with inject(path=tmp_path, mode="ENOSPC"):
        below = open

        def recording(*args: Any, **kwargs: Any) -> Any:
            calls.append(args)
            return below(*args, **kwargs)

        monkeypatch.setattr(builtins, "open", recording)
        with fails(errno.ENOSPC):
            by_open(tmp_path / "file")
    by_open(tmp_path / "file")
    assert len(calls) == 2
    assert open is recording
    monkeypatch.undo()
    engine.refresh()
    assert open is before


def test_functions_do_not_become_methods(tmp_path: Path, inject: Inject) -> None:
    with inject(path=tmp_path / "other", mode="EIO", at="write|open"):

        class Storage:
            opener: Any = open
            write: Any = os.write

        with Storage().opener(tmp_path / "file", "wb", 0) as file:
            assert Storage().write(file.fileno(), b"x") == 1


def test_rmtree_is_as_careful_as_ever(tmp_path: Path, inject: Inject) -> None:
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "inner" / "file").touch()
    with inject(path=tmp_path, mode="EACCES", at="remove") as denied:
        assert {os.open, os.unlink, os.rmdir} <= os.supports_dir_fd
        with fails(errno.EACCES):
            shutil.rmtree(tmp_path / "folder")
        assert denied.hits == 1
    shutil.rmtree(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_only_files_with_a_name_are_hit(
    tmp_path: Path, inject: Inject, capfd: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    left, right = socket.socketpair()
    nameless = tmp_path / "nameless"
    with nameless.open("wb", 0) as gone, left, right:
        nameless.unlink()
        with inject(path="/**", mode="EIO", at="write|read|sync|open") as broken:
            os.write(1, b"out\n")
            os.write(2, b"err\n")
            sys.stdout.write("printed\n")
            os.write(writer, b"x")
            assert os.read(reader, 1) == b"x"
            left.sendall(b"x")
            assert right.recv(1) == b"x"
            os.write(gone.fileno(), b"x")
            os.fsync(gone.fileno())
            with open(os.devnull, "w") as null:
                null.write("x")
            with open("/proc/self/status") as status:
                assert status.read(4) == "Name"
    os.close(reader)
    os.close(writer)
    assert capfd.readouterr().out == "out\nprinted\n"
    assert broken.matched == 0


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there are no files in /dev/shm")
def test_files_in_memory_are_files_too(inject: Inject) -> None:
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as folder,
        inject(mode="ENOSPC"),
        fails(errno.ENOSPC),
    ):
        by_open(Path(folder, "here"))


@pytest.mark.parametrize(
    "module",
    [
        "_pytest.cacheprovider", "_pytest.assertion.rewrite", "pytest_html.report", "pluggy._hooks",
        "xdist.remote", "execnet.gateway", "coverage.data", "hypothesis.database",
        "pytest_resilience.report.formats",
    ],
)  # fmt: skip
def test_tools_are_never_hit(tmp_path: Path, inject: Inject, module: str) -> None:
    source = """
def save(path):
    path.parent.mkdir(exist_ok=True)
    path.write_text("cached")
    descriptor = os.open(path, os.O_WRONLY)
    os.write(descriptor, b"cached")
    os.fsync(descriptor)
    os.close(descriptor)
    path.rename(path.with_name("renamed"))
    shutil.copy(path.with_name("renamed"), path)
    os.unlink(path)
"""
    names: dict[str, Any] = {"__name__": module, "os": os, "shutil": shutil}
    exec(source, names)
    for mode in ("EACCES", "EIO"):
        with inject(path="/**", mode=mode) as broken:
            names["save"](tmp_path / mode / "file")
        assert broken.matched == 0
        assert (tmp_path / mode / "renamed").read_text() == "cached"


@pytest.mark.parametrize("module", ["shop.storage", "__main__", "yaml.dumper", "conftest"])
def test_everybody_else_is(tmp_path: Path, inject: Inject, module: str) -> None:
    names: dict[str, Any] = {"__name__": module}
    exec("def save(path): path.write_text('x')", names)
    with inject(path=tmp_path), fails(errno.ENOSPC):
        names["save"](tmp_path / "file")


def test_our_own_patterns_and_raises_stand_between(tmp_path: Path, inject: Inject) -> None:
    path = tmp_path / "file"
    with inject(path=path, first=2) as full:
        RetryHandler(RetryConfig(max_attempts=3, base_delay=0.001), clock=ManualClock()).execute(
            path.write_text, "x"
        )
    assert full.hits == 2
    with inject(path=path):
        pytest.raises(OSError, path.write_text, "x")  # noqa: RUF061  # it is what calls here


def test_what_a_listener_writes_is_not_hit(tmp_path: Path, inject: Inject, engine: Engine) -> None:
    log = tmp_path / "faults.log"

    def note(event: Event) -> None:
        with log.open("a") as file:
            file.write(f"{event.source}\n")

    engine.listeners.add(note)
    with inject(path=tmp_path) as full:
        for _ in range(2):
            with fails(errno.ENOSPC), open(tmp_path / "file", "wb", 0) as file:
                file.write(b"x")
    assert full.hits == 2
    assert log.read_text() == "disk\ndisk\n"


def test_a_file_that_is_forgotten_in_the_middle_of_a_decision(
    tmp_path: Path, inject: Inject, engine: Engine
) -> None:
    with inject(path=tmp_path, rate=0.5) as active_experiment:
        forgotten = [open(tmp_path / "forgotten", "wb")]  # noqa: SIM115  # that is the point
        forgotten[0].write(b"x")

        class Stream:  # as when garbage is collected while the lock is held
            def draw(self, _number: int) -> float:
                forgotten[0].flush()
                return 0.0

        vars(active_experiment)["_draws"] = Stream()
        with fails(errno.ENOSPC), open(tmp_path / "file", "wb", 0) as file:
            file.write(b"x")
        forgotten[0].close()
    assert (tmp_path / "forgotten").read_bytes() == b"x"


def test_what_a_thread_does_is_hit(tmp_path: Path, inject: Inject) -> None:
    with inject(path=tmp_path, mode="short_write") as short:
        thread = threading.Thread(target=(tmp_path / "file").write_text, args=("abcdefgh",))
        thread.start()
        thread.join(10)
    assert (tmp_path / "file").read_text() == "abcdefgh"
    assert short.hits == 4  # 4 + 2 + 1 + 1 bytes


def test_an_assertion_about_a_file_is_not_hit(tmp_path: Path, inject: Inject) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    with inject(path=path, mode="EIO", at="read|open"):
        assert assert_file_intact(path, after="x") == b"x"


def test_only_what_is_needed_is_replaced(tmp_path: Path, inject: Inject) -> None:
    reading, mkdir, opening = os.read, os.mkdir, open
    with inject(path=tmp_path, mode="failed_fsync"):
        assert (os.read, os.mkdir, open) == (reading, mkdir, opening)
        with inject(path=tmp_path, mode="EIO", at="read"):
            assert os.read is not reading
            assert open is not opening
            assert os.mkdir is mkdir


def test_an_operation_is_matched_once_when_its_file_is_known(engine: Engine, here: Path) -> None:
    matched: list[str] = []

    class Everything:
        def accepts(self, operation: Operation) -> bool:
            matched.append(operation.kind)
            return True

    late = ChaosExperiment("disk", "disk_failure", mode="EIO", rate=0, path=str(here))
    engine.start(late.filtered("only", Everything()), seed=1)
    for _ in range(2):
        matched.clear()
        with open("orders", "w") as file:
            file.write("tea")
        os.write(descriptor := os.open("orders", os.O_WRONLY), b"cup")
        os.close(descriptor)
    assert matched == ["file.write", "file.write"]
