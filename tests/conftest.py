"""What every test can use."""

from __future__ import annotations

import compileall
import functools
import gc
import importlib.metadata
import mimetypes
import os
import shutil
import signal
import sys
import tempfile

from collections.abc import Generator
from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import certifi
import pytest

from _pytest.assertion import rewrite

from tests.ahead import root
from tests.ahead import runs_tests
from tests.ahead import surroundings
from tests.end_to_end.databases.server import server
from tests.end_to_end.installed.outside import built
from tests.free_loops import free_loops


pytest_plugins = ["pytester", "tests.suites", "tests.ahead"]

mimetypes.init()  # of files, which it reads when it is first asked: maybe in a loop
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as of what a script begins with `&`
    signal.signal(signal.SIGINT, signal.default_int_handler)
gc.disable()  # what is loaded from here on all stays, until `pytest_collection_finish`

ROOT = Path(__file__).parents[1]
WORKERS = 6
MEMORY = Path("/dev/shm")
ENOUGH = 4 << 30  # bytes of it, of which all of this takes some hundred million


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--soak",
        action="store_true",
        help="10^5 calls of each of 32 threads through each pattern, in test_soak.py",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run all of the suite in six processes, as by `-n 6`: most of its time it waits.

    In however many, each is left most modules alone, and no other waits in the end for the last.
    """
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    alone = hasattr(config, "workerinput") or config.option.usepdb
    if whole and not alone and getattr(config.option, "numprocesses", 0) is None:
        config.option.numprocesses = WORKERS
    is_distributed = getattr(config.option, "numprocesses", 0) and not config.option.distload
    if is_distributed and config.option.dist == "no":
        config.option.dist = "worksteal"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Keep what pytest makes of the modules of tests, which takes it half of the time to collect.

    The next run reads it, though the environment says that no process may write what it compiles.
    """
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, False
    try:
        if hasattr(session.config, "workerinput"):
            _rewrite_a_share(session.config, session.config.workerinput)
        return (yield)
    finally:
        sys.dont_write_bytecode = before


def _rewrite_a_share(config: pytest.Config, worker: Mapping[str, Any]) -> None:
    """Of all modules, which each worker of xdist loads: it finds what the others have rewritten."""
    number, count = worker["workerid"], worker["workercount"]
    files = {file for arg in config.args for file in (config.rootpath / arg).rglob("test_*.py")}
    for file in sorted(files)[int(number.removeprefix("gw")) :: count]:
        _keep_rewritten(config, file)


def _keep_rewritten(config: pytest.Config, file: Path) -> None:
    folder = rewrite.get_cache_dir(file)
    kept = folder / (file.stem + rewrite.PYC_TAIL)
    state = config.stash[rewrite.assertstate_key]
    if rewrite._read_pyc(file, kept, state.trace) is None and rewrite.try_makedirs(folder):
        stat, code = rewrite._rewrite_test(file, config)
        rewrite._write_pyc(state, code, stat, kept)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let garbage be looked for among what tests make, not in all that was loaded for them.

    Each pytest that runs inside a test looks five times before it ends.
    """
    # This run has chaos, of the examples. So it would watch the connections of these tests, which
    # watch for themselves.
    ours = session.config.pluginmanager.get_plugin("resilience-chaos")
    if ours is not None:
        ours._engine.watch(False)
        if ours._children is not None:
            ours._children.close()
            ours._children = None
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)  # not every 700 objects: each module looks when it ends
    gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    _keep_files_in_memory(config)
    config.addinivalue_line(
        "markers", "may_block(reason): the test itself, or its client, blocks an event loop."
    )
    if runs_tests(config):
        # No machine is too slow for a rule to hold. This also loads Hypothesis before
        # `pytest_collection_finish`: later it would not see who refers to what is frozen.
        import hypothesis

        hypothesis.settings.register_profile("any machine", deadline=None)
        hypothesis.settings.load_profile("any machine")
    _trust_one_authority(config)
    # Hundreds of processes load it from here on, and may not write what they compile.
    compileall.compile_dir(ROOT / "pytest_resilience", quiet=2)
    if not hasattr(config, "workerinput"):
        _keep_plugins_rewritten(config)


def _keep_plugins_rewritten(config: pytest.Config) -> None:
    """All that pytest takes for a part of plugins, which is much: the workers need not do it."""
    for module in list(sys.modules.values()):
        loader = getattr(module, "__loader__", None)
        if isinstance(loader, rewrite.AssertionRewritingHook) and module.__file__ is not None:
            _keep_rewritten(config, Path(module.__file__))


def _keep_files_in_memory(config: pytest.Config) -> None:
    """Nobody waits for a disk there: databases of tests sync what they write a thousand times."""
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK):
        return
    if shutil.disk_usage(MEMORY).free > ENOUGH:
        patch = pytest.MonkeyPatch()
        config.add_cleanup(patch.undo)
        patch.setenv("TMPDIR", str(MEMORY))
        patch.setattr(tempfile, "tempdir", None)  # where it was found before


def _trust_one_authority(config: pytest.Config) -> None:
    """Most clients read whom to trust when they are made; of all of them that takes 40 ms."""
    first, end, _ = certifi.contents().partition("-----END CERTIFICATE-----\n")
    file = root(config) / "authority.pem"
    file.write_text(first + end, encoding="ascii")
    patch = pytest.MonkeyPatch()
    config.add_cleanup(patch.undo)
    patch.setattr(certifi, "where", lambda: str(file))
    patch.setenv("SSL_CERT_FILE", str(file))
    patch.setenv("SSL_CERT_DIR", str(root(config)))


@pytest.fixture(autouse=True, scope="module")
def _leaves_little_garbage() -> Iterator[None]:
    """What a module has loaded is not looked at by those after it, and what it left is complained
    about here."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _loops_stay_free(request: pytest.FixtureRequest) -> Iterator[None]:
    """In every module that has to do with one: what blocks an event loop raises."""
    asynchronous = "asyncio" in vars(request.module) or request.path.parent.name == "network"
    if asynchronous and request.node.get_closest_marker("may_block") is None:
        with free_loops():
            yield
    else:
        yield


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Suites of their own.

    Their surroundings are set here and not outside: pytester clears the environment when it begins.
    """
    monkeypatch.setattr(importlib.metadata, "distributions", _installed)
    # Each test of an exploration and of a matrix asks, and a million objects are counted each time.
    monkeypatch.setattr(gc, "get_freeze_count", lambda: 1)
    for name, value in surroundings().items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    return pytester


@functools.cache
def _installed() -> list[importlib.metadata.Distribution]:
    """What is installed, of which every pytest reads all for every `-p`: here, it is kept."""
    found = list(importlib.metadata.Distribution.discover())
    for each in found:
        each.read_text = functools.cache(each.read_text)  # type: ignore[method-assign]
    return found


@pytest.fixture(scope="session")
def dist(pytestconfig: pytest.Config) -> Path:
    """A folder with the wheel and the sdist of this checkout."""
    return built(root(pytestconfig))


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server of this run's, on a socket of the file system."""
    pytest.importorskip("pgserver", reason="there is no PostgreSQL for this Python")
    with server() as (url, _):
        yield url
