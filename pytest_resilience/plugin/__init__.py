"""The entry point: what every pytest run loads, chaotic or not.

It registers options, markers and fixtures, and looks at the collected items. Whatever
does something lives in modules imported by those who ask for it, so that an idle run
pays for this file alone. For each name in it, too: pytest looks at all of them for hooks and for
fixtures. So what one function knows stands in that. No assertion stands here: PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

import os

from typing import TYPE_CHECKING

import pytest


if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Generator
    from collections.abc import Iterator
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import Any

    import pytest_resilience

    from pytest_resilience.runtime import CrashRecording


_STARTING = "resilience-starting"  # the name of `starting` as a plugin

# A line says what for; those below it say what may be given. A time is in seconds, or a text.
_MARKERS = (
    (
        "chaos(type_or_experiment, *, must_fire=True, include_setup=False, name=..., "
        "intensity=..., probability=..., duration=..., **parameters): put a fault around "
        "the test; stackable.\n"
        "    chaos('network_latency', delay='200ms', target='api.*:443'), for example. All types "
        "and parameters, with units: pytest --chaos-list."
    ),
    "no_chaos: never put chaos around the test.",
    (
        "resilience(allowed=[], deadline='60s', own_chaos=False): say how the test may end in the "
        "matrix.\n"
        "    allowed: exceptions that mean degraded and not failed. deadline: when it hangs. "
        "own_chaos=True: run it under the experiments also where it has chaos of its own."
    ),
    (
        "virtual_time(start=None, schedule=None): let every wait of the test be over at once.\n"
        "    All clocks agree on how long it was. start: the date, such as '2030-01-01T00:00Z'. "
        "schedule='seeded': one thread at a time, chosen by the seed."
    ),
    "no_virtual_time: let the test wait in real time.",
    (
        "chaos_explore(faults=[...], depth=2, allowed=[...], invariant=[...], probe=..., "
        "deadline='10s', max_calls='4x', budget=200): try every fault that an operation can have.\n"
        "    The test fails for what breaks. depth: faults at once. allowed: exceptions that mean "
        "degraded. invariant: functions that raise where something does not hold. probe: a "
        "function that has to work afterwards. max_calls: operations of one kind on one "
        "target, or times those without faults. budget: runs, or a time."
    ),
    (
        "chaos_replay(*schedules): try the faults that an exploration has printed.\n"
        "    chaos_replay('connect(payments:443)#1=refuse'), for example."
    ),
)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, object, object]:
    """Describe our hooks where somebody has one, before pytest refuses those it does not know."""
    report = yield
    _describe_hooks(collector.config)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collect_directory(path: Path, parent: pytest.Collector) -> None:
    """Look at a conftest file before it is imported."""
    _look_ahead(parent.config, f"{path}/conftest.py")


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> None:
    """Look at a test module before it is imported, or any other of its folder."""
    _look_ahead(parent.config, module_path)


def pytest_configure(config: pytest.Config) -> None:
    """Describe the markers; begin the session if a flag asks for chaos, or hand on its seed."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    _describe_hooks(config)  # also where workers of pytest-xdist collect
    if config.getoption("dist", "no") != "no":  # the controller of pytest-xdist
        from pytest_resilience.plugin import terminal

        config.pluginmanager.register(terminal, "resilience-terminal")
    starting = config.pluginmanager.get_plugin(_STARTING)
    if starting is not None:
        starting.begin_if_asked(config)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini options."""
    parser.addini(
        "chaos_native",
        "let experiments of the network reach clients that connect in C, C++ or Rust, such as "
        "psycopg, grpc and uvloop, in this process (default true; Linux with glibc)",
        type="bool",
        default=True,
    )
    parser.addini(
        "chaos_services",
        "Services that experiments can fail, a line each: "
        "'payment = payments.internal:443 | shop.clients:Payment.charge' (which is imported).",
        type="linelist",
    )
    parser.addini("virtual_time", "Give every test virtual time, as its marker does.", type="bool")
    caps = {
        "chaos_max_cpu": "share of the CPUs that this process may use (default 100%)",
        "chaos_max_memory": "memory, or share of what is available to this process (default 50%)",
        "chaos_max_disk": "bytes on a disk, or share of what is free there (default 10%)",
    }
    for name, meaning in caps.items():
        parser.addini(name, f"The most that experiments may ask for: {meaning}.", default="")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> None:
    """Add the flags, if one of them may be typed, or help is asked for.

    Not sooner: a plugin that is loaded later could not add a flag of the same name, and no test
    would run. By now every installed plugin is loaded, and our flags make way. And see what
    conftest files make: connections, in a run with chaos; locks, in virtual time.
    """
    known = early_config.known_args_namespace
    ours = ("chaos", "resilience", "virtual-time", "no-prune")
    flags = [arg for arg in args if arg.startswith("--") and any(each in arg for each in ours)]
    # What begins with @ is a file of arguments, in which some may be.
    if flags or any(arg in {"-h", "--help"} or arg.startswith("@") for arg in args):
        known = _starting(early_config).add_flags(early_config, parser, args)
    is_off = getattr(known, "resilience_no_chaos", False)
    if not is_off and _may_have_chaos(early_config, known.file_or_dir):
        _starting(early_config).watch_databases(early_config)
    try:
        every = early_config.getini("virtual_time")
    except (ValueError, pytest.UsageError) as error:  # the latter since pytest 9
        raise pytest.UsageError(f"ini option virtual_time: {error}; give true or false") from None
    if every:  # before the first conftest file imports what makes locks
        from pytest_resilience.plugin.virtual_time import see_locks

        see_locks(early_config)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, object, object]:
    """Begin what the tests ask for, by the marks that they have in the end.

    By now the conftest files of all directories have been read, with their adapters.
    """
    result = yield
    names, fixtures = _asked_for(items)
    # Those of tests that ask for something, or for nothing in a wrong way.
    marks = {"chaos", "chaos_explore", "chaos_replay", "no_chaos", "resilience", "virtual_time"}
    if (
        fixtures
        or not marks.isdisjoint(names)
        or config.pluginmanager.has_plugin(_STARTING)
        or _describe_hooks(config)
        or config.getini("virtual_time")
    ):
        _starting(config).prepare(config, items, names, fixtures)
    return result


@pytest.fixture
def chaos(request: pytest.FixtureRequest) -> pytest_resilience.Chaos:
    """Faults for parts of a test: `with chaos.network_latency(delay="200ms"): ...`."""
    fixture: pytest_resilience.Chaos = _session(request.config).chaos(request.node)
    return fixture


@pytest.fixture
def chaos_monkey(request: pytest.FixtureRequest) -> Iterator[pytest_resilience.ChaosMonkey]:
    """A monkey for one test: register experiments with it and start it; it ends with the test."""
    with _session(request.config).monkey(request) as monkey:
        yield monkey


@pytest.fixture
def sqlite_chaos(request: pytest.FixtureRequest) -> Iterator[pytest_resilience.SqliteChaos]:
    """Makes SQLite itself fail: `with sqlite_chaos.locked(path): ...`; undone with the test."""
    from pytest_resilience.plugin.fixtures.databases import SqliteChaos

    with SqliteChaos(request.node.nodeid) as chaos:
        yield chaos


@pytest.fixture
def postgres_chaos(
    request: pytest.FixtureRequest,
) -> Iterator[Callable[[str], pytest_resilience.PostgresChaos]]:
    """Makes a PostgreSQL server itself fail: `postgres_chaos(url).terminate(pid)`."""
    from pytest_resilience.plugin.fixtures.databases import servers

    with servers(request.node.nodeid) as of:
        yield of


@pytest.fixture
def chaos_proxy(request: pytest.FixtureRequest) -> Iterator[pytest_resilience.ProxyFactory]:
    """Makes proxies for what no interceptor reaches: `chaos_proxy("127.0.0.1:5432").dsn(url)`."""
    with _session(request.config).proxies(request.node) as make:
        yield make


@pytest.fixture
def chaos_schedules(request: pytest.FixtureRequest) -> pytest_resilience.ChaosSchedules:
    """Records what a block does, and puts a schedule of faults into another: for Hypothesis."""
    fixture: pytest_resilience.ChaosSchedules = _session(request.config).schedules(request.node)
    return fixture


@pytest.fixture
def crash_recorder(
    request: pytest.FixtureRequest,
) -> Callable[..., AbstractContextManager[CrashRecording]]:
    """Records writes, for the states that a crash may leave: `crash_recorder(tmp_path)`."""
    record: Callable[..., AbstractContextManager[CrashRecording]]
    record = _session(request.config).record_crashes
    return record


@pytest.fixture
def chaos_responses(request: pytest.FixtureRequest) -> Iterator[pytest_resilience.ChaosResponses]:
    """A mock of `responses` that takes faults: `get(url, chaos="network_latency:delay=1s")`."""
    mock: pytest_resilience.ChaosResponses = _session(request.config).responses(request.node)
    with mock:
        yield mock


@pytest.fixture
def stub_server() -> Iterator[pytest_resilience.StubServer]:
    """An HTTP server on loopback: `stub_server.respond("/tea", json={"price": 4}).url`."""
    from pytest_resilience.plugin.fixtures.stub_server import StubServer

    with StubServer() as server:
        yield server


@pytest.fixture
def manual_clock() -> pytest_resilience.ManualClock:
    """A clock that sleeping moves, for what other fixtures make: `manual_clock.advance(30)`."""
    from pytest_resilience.clock import ManualClock

    return ManualClock()


@pytest.fixture
def virtual_clock(request: pytest.FixtureRequest) -> Iterator[pytest_resilience.VirtualClock]:
    """Virtual time for the test and its threads: every wait is over at once, for any code."""
    from pytest_resilience.plugin.virtual_time import clock_of_a_test

    with clock_of_a_test(request) as clock:
        yield clock


@pytest.fixture
def circuit_breaker(request: pytest.FixtureRequest) -> pytest_resilience.BreakerFactory:
    """Makes circuit breakers: `circuit_breaker(failure_threshold=3, name="prices")`."""
    from pytest_resilience.plugin.fixtures import patterns

    return patterns.BreakerFactory(patterns.clock_of(request))


@pytest.fixture
def retry_handler(request: pytest.FixtureRequest) -> pytest_resilience.RetryFactory:
    """Makes retry handlers: `retry_handler(max_attempts=5, jitter=False)`."""
    from pytest_resilience.plugin.fixtures import patterns

    return patterns.RetryFactory(patterns.clock_of(request))


@pytest.fixture
def retry_testing() -> Iterator[Callable[..., pytest_resilience.RetryTesting]]:
    """No retry waits during the test; `retry_testing(attempts=1)` turns retries off as well."""
    from pytest_resilience.patterns.retry.config import set_retry_testing

    with set_retry_testing():
        yield set_retry_testing


@pytest.fixture
def bulkhead_manager(request: pytest.FixtureRequest) -> Iterator[pytest_resilience.BulkheadManager]:
    """A manager of bulkheads, shut down by the test: `bulkhead_manager.create_bulkhead("db")`."""
    from pytest_resilience.plugin.fixtures import patterns

    with patterns.bulkheads(patterns.clock_of(request)) as manager:
        yield manager


@pytest.fixture
def degradation_manager(request: pytest.FixtureRequest) -> pytest_resilience.DegradationManager:
    """A manager of services that may fail: `degradation_manager.register_feature(...)`."""
    from pytest_resilience.plugin.fixtures import patterns

    return patterns.degradation(patterns.clock_of(request))


def _describe_hooks(config: pytest.Config) -> bool:
    """Whether a plugin or a conftest file has one of ours, or one that is named nearly so.

    `config.hook` does not say so before pytest 9.1. Raises `pytest.UsageError` for wrong ones.
    """
    if "pytest_resilience_" not in " ".join(vars(config.pluginmanager.hook)):
        return False
    from pytest_resilience.plugin.newhooks import describe

    describe(config.pluginmanager)
    return True


def _may_have_chaos(config: pytest.Config, places: Sequence[str]) -> bool:
    """Whether a setting, or a conftest file that pytest reads before it collects, says so."""
    for name in ("chaos_services", "chaos_max_cpu", "chaos_max_memory", "chaos_max_disk"):
        if config.getini(name):
            return True
    root = f"{config.rootpath}/".replace("//", "/")
    for place in places or config.getini("testpaths") or [""]:
        path = os.path.join(config.invocation_params.dir, place.partition("::")[0])
        if any(map(_says_chaos, _conftest_files(path.rstrip("/"), root))):
            return True
    return False


def _conftest_files(path: str, root: str) -> Iterator[str]:
    """Where they may be for what is below `path`. As text: it takes a tenth of what paths do."""
    folder, below = path, ""
    while folder != below and f"{folder}/".startswith(root):
        yield f"{folder}/conftest.py"
        folder, below = os.path.dirname(folder), folder
    if os.path.isdir(path):
        with os.scandir(path) as entries:
            for each in entries:
                if each.name.startswith("test") and each.is_dir():
                    yield f"{each.path}/conftest.py"


def _look_ahead(config: pytest.Config, path: Path | str) -> None:
    """If the text of a module asks for chaos, let what modules make at import be reached."""
    if _says_chaos(path):
        _starting(config).expect_anything(config)


def _says_chaos(path: Path | str) -> bool:
    if not os.access(path, os.R_OK):  # mostly it is not there, and an error costs ten times more
        return False
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError:
        return False
    if b"chaos" not in text:
        return False
    import re

    # A marker, or that a test asks for such a fixture.
    says = (
        rb"\bmark\s*\.\s*chaos(_explore|_replay)?\b"
        rb"|\bchaos(_monkey|_proxy|_responses|_schedules)?\s*[,:=)]"
        rb"|\b(usefixtures|getfixturevalue)\(.*[\"']chaos"
    )
    return re.search(says, text) is not None


def _asked_for(items: list[pytest.Item]) -> tuple[set[str], set[str]]:
    """The names of the marks on items and on what holds them, and of our fixtures that they use.

    Without `no_chaos`, where that is right. What holds items is looked at once.
    """
    marks: list[pytest.Mark] = []
    fixtures: set[str] = set()
    ours = {"chaos", "chaos_monkey", "chaos_proxy", "chaos_responses", "chaos_schedules"}
    ours |= {"crash_recorder", "virtual_clock"}  # those of ours that need more than themselves
    holders: dict[int, Any] = {}
    for item in items:
        marks += item.own_markers
        fixtures.update(ours.intersection(getattr(item, "fixturenames", ())))
        holders[id(item.parent)] = item.parent
    for holder in holders.values():
        marks += holder.iter_markers()
    names: set[str] = set()
    for mark in marks:
        if mark.name != "no_chaos" or mark.args or mark.kwargs:
            names.add(mark.name)
    return names, fixtures


def _starting(config: pytest.Config) -> Any:
    """The module `starting`, as a plugin."""
    from pytest_resilience.plugin import starting

    if not config.pluginmanager.has_plugin(_STARTING):
        config.pluginmanager.register(starting, _STARTING)
    return starting


def _session(config: pytest.Config) -> Any:
    """The `ChaosSession` of this run, started if need be."""
    return _starting(config).session_of(config)
