"""Python processes that a test starts, in every way, meet the experiments of the test."""

from __future__ import annotations

# Once for all: each run in this process would load its own, and pickle no other's.
import concurrent.futures.process  # noqa: F401

import pytest

from tests.ahead import ALONE_AND_XDIST
from tests.ahead import runs
from tests.ahead import runs_each


COMMON = """
import asyncio
import concurrent.futures
import multiprocessing
import os
import signal
import socket
import subprocess
import sys

import pytest

NOWHERE = "nowhere.example"
PROGRAM = '''
import socket
try:
    socket.getaddrinfo("nowhere.example", 80)
except OSError as error:
    print(error.errno)
'''

def ask(*_):
    try:
        socket.getaddrinfo(NOWHERE, 80)
    except OSError as error:
        return error.errno

lost = pytest.mark.chaos("network_failure", mode="dns", target=NOWHERE)
START = ["fork", "spawn", "forkserver"]
"""


@runs_each(
    ALONE_AND_XDIST,
    test_it=COMMON
    + """
@pytest.fixture(autouse=True)
def counts(chaos):
    yield
    assert chaos.hits == chaos.matched == len(chaos.events) == 1
    assert chaos.events[0].kind == "network.resolve"

@lost
def test_run():
    command = [sys.executable, "-c", PROGRAM]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "-3\\n"

@lost
def test_check_output_of_a_module_in_an_environment_like_this_one(tmp_path):
    (tmp_path / "asks.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "asks"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert subprocess.check_output(command, env=env) == b"-3\\n"

@lost
def test_shell():
    command = f"{sys.executable} -c '{PROGRAM}'".replace("'nowhere", '"nowhere')
    process = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE)
    assert process.communicate()[0] == b"-3\\n"

@lost
def test_system(capfd):
    assert os.system(f"{sys.executable} -c '{PROGRAM}'") == 0
    assert capfd.readouterr().out == "-3\\n"

@lost
def test_asyncio():
    async def main():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, stdout=subprocess.PIPE
        )
        return await process.communicate()

    assert asyncio.run(main())[0] == b"-3\\n"

@lost
@pytest.mark.parametrize("how", START)
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_process(how):
    process = multiprocessing.get_context(how).Process(target=ask)
    process.start()
    process.join()
    assert process.exitcode == 0

@lost
@pytest.mark.parametrize("how", START)
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_pool(how):
    context = multiprocessing.get_context(how)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(ask).result() == -3

def test_block(chaos):
    with chaos.network_failure(mode="dns", target=NOWHERE) as failure:
        assert subprocess.check_output([sys.executable, "-c", PROGRAM]) == b"-3\\n"
    assert failure.hits == 1

def test_block_in_a_loop(chaos, monkeypatch):
    code = f"import sys\\nprint(flush=True)\\nsys.stdin.readline()\\n{PROGRAM}"

    async def main():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        await process.stdout.readline()
        waits = []
        from pytest_resilience.interceptors.children.parent import Host
        original = Host._wait
        def wait(*args):
            waits.append(asyncio._get_running_loop())
            original(*args)
        monkeypatch.setattr(Host, "_wait", wait)
        async with chaos.network_failure(mode="dns", target=NOWHERE):
            assert (await process.communicate(b"\\n"))[0] == b"-3\\n"
        assert waits == [None]  # in a thread, where there is none

    asyncio.run(main())

@lost
def test_that_kills_its_child(tmp_path):
    code = f"{PROGRAM}\\nimport os, signal\\nos.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL

@lost
def test_that_its_child_outlives(request):
    code = f"{PROGRAM}\\nimport sys\\nsys.stdout.flush()\\nsys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"-3\\n"
    request.session.outlives = process

def test_of_the_next_one(request, chaos):
    with chaos.network_failure(mode="dns", target=NOWHERE):
        ask()
    request.session.outlives.communicate()
    assert request.session.outlives.returncode == 0
""",
)
def test_every_way_to_start(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=16)
    ran.stdout.fnmatch_lines(
        "network_failure: * target nowhere.example [[]marker] - 13 tests, matched 13, hit 13"
    )


@runs(
    "--chaos=network_failure:mode=dns,target=nowhere.example,rate=1",
    "--chaos-profile=chaos.toml:ci",
    test_it=COMMON
    + """
def test_it(chaos):
    code = f"{PROGRAM}\\nopen('there', 'w')"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert [event.source for event in chaos.events] == ["network_failure"]
""",
    others={
        "chaos.toml": """
        [profiles.ci]
        [[profiles.ci.experiments]]
        name = "disk"
        chaos_type = "disk_failure"
        mode = "disk_full"
        at = "open"
        path = "**/there"
        children = false
        """
    },
)
def test_flags_and_profiles(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=1)
    ran.stdout.fnmatch_lines(["*[[]flag] - 1 test, matched 1, hit 1", "disk: *never fired*"])


@runs(
    test_it=COMMON
    + """
@pytest.fixture(scope="module")
def server():
    code = f"import sys\\nfor _ in sys.stdin:\\n    exec({PROGRAM!r})\\n    sys.stdout.flush()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        def asked():
            process.stdin.write(b"\\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield asked
        process.stdin.close()

def test_calm(server):
    assert server() != -3

@lost
def test_marker(server):
    assert server() == -3

@lost
def test_that_asks_nobody(server):
    pass

def test_calm_again(server):
    assert server() != -3

def test_block(server, chaos):
    with chaos.network_failure(mode="dns", target=NOWHERE):
        assert server() == -3
    assert server() != -3

@lost
def test_an_environment_of_its_own():
    subprocess.run([sys.executable, "-c", PROGRAM], env={})
"""
)
def test_a_child_of_a_wider_fixture_meets_what_each_test_asks_for(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=6, errors=2)
    text = ran.stdout.str()
    assert "started with an environment of its own, without PYTEST_RESILIENCE_CHILD" in text
    assert "ERROR at teardown of test_that_asks_nobody" in text


SERVER = (
    COMMON
    + """
import contextlib
import http.client
import time

APP = '''
import socket

def ask():
    try:
        socket.getaddrinfo("nowhere.example", 80)
    except OSError as error:
        return str(error.errno).encode()

def wsgi(environment, start):
    start("200 OK", [])
    return [ask()]

async def asgi(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": ask()})
'''

@contextlib.contextmanager
def served(tmp_path, *command):
    (tmp_path / "app.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        command = [each.format(fd=fd) for each in command]
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=tmp_path, pass_fds=[fd], stderr=subprocess.DEVNULL
        )
        def get():
            with contextlib.closing(
                http.client.HTTPConnection(*listener.getsockname(), timeout=60)
            ) as client:
                client.request("GET", "/")
                return int(client.getresponse().read())

        try:
            yield get
        finally:
            process.terminate()
            process.wait()
"""
)


@runs(
    test_it=SERVER
    + """
@pytest.fixture
def uvicorn(tmp_path):
    with served(tmp_path, "uvicorn", "app:asgi", "--fd={fd}", "--no-access-log") as get:
        yield get

@pytest.fixture
def gunicorn(tmp_path):
    options = ["--bind=fd://{fd}", "--workers=1", "--no-control-socket"]
    with served(tmp_path, "gunicorn", "app:wsgi", *options) as get:
        yield get

@lost
@pytest.mark.parametrize("kind", ["uvicorn", "gunicorn"])
def test_it(kind, request, chaos):
    get = request.getfixturevalue(kind)
    assert get() == -3
    assert chaos.hits == 1

@pytest.mark.parametrize("kind", ["uvicorn", "gunicorn"])
def test_block(kind, request, chaos):
    get = request.getfixturevalue(kind)
    assert get() != -3
    with chaos.network_failure(mode="dns", target=NOWHERE) as failure:
        assert get() == -3
    assert get() != -3
    assert failure.hits == 1
"""
)
def test_servers_of_a_fixture(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=4)


@runs(
    tasks="""
        import celery
        import os
        import socket

        app = celery.Celery(
            broker_url="filesystem://",
            broker_transport_options={
                "data_folder_in": "queue", "data_folder_out": "queue", "polling_interval": 0.02,
            },
            result_backend=f"file://{os.path.abspath('results')}",
        )

        @app.task
        def ask():
            try:
                socket.getaddrinfo("nowhere.example", 80)
            except OSError as error:
                return error.errno
    """,
    test_it=COMMON
    + """
import tasks

@pytest.fixture(params=["solo", "prefork"])
def worker(request):
    for name in ("queue", "results"):
        os.makedirs(name, exist_ok=True)
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-P", request.param, "-c1"]
    alone = ["--without-mingle", "--without-gossip"]  # it waits for no other worker
    with subprocess.Popen([*command, *alone], stderr=subprocess.DEVNULL) as process:
        yield
        process.terminate()

@lost
def test_it(worker, chaos):
    assert tasks.ask.delay().get(timeout=60, interval=0.02) == -3
    assert chaos.hits == 1
""",
)
def test_workers_of_celery(ran: pytest.RunResult) -> None:
    pytest.importorskip("celery")
    ran.assert_outcomes(passed=2)


@runs(
    "-p",
    "pytest_cov",
    "--cov=covered",
    "--cov-report=term",
    variables={"COVERAGE_FILE": "found"},
    covered="""
        import socket

        def ask():
            try:
                socket.getaddrinfo("nowhere.example", 80)
            except OSError as error:
                print(error.errno)
    """,
    test_it=COMMON
    + """
@lost
def test_it(chaos):
    code = "import covered; covered.ask()"
    assert subprocess.check_output([sys.executable, "-c", code]) == b"-3\\n"
""",
    others={".coveragerc": "[run]\npatch = subprocess\nparallel = true\n"},
)
def test_coverage_of_children_is_measured_all_the_same(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=1)
    ran.stdout.fnmatch_lines(["covered.py * 0 * 100%"])


@runs(
    inner=COMMON
    + """
@pytest.mark.chaos("network_failure", mode="dns_not_found", target="inner.example")
def test_it():
    program = PROGRAM.replace(NOWHERE, "inner.example")
    assert subprocess.check_output([sys.executable, "-c", program]) == b"-2\\n"
    assert ask() == -3  # by the test outside
""",
    test_it=COMMON
    + """
@lost
def test_it(chaos):
    command = [sys.executable, "-m", "pytest", "-W", "error", "inner.py"]
    assert subprocess.run(command).returncode == 0
    assert chaos.hits == 1
""",
)
def test_a_pytest_that_is_a_child_has_children_of_its_own(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=1)


@runs(
    test_it=COMMON
    + """
@pytest.fixture(params=["process", "fork"])
def elsewhere(request):
    def run():
        if request.param == "process":
            subprocess.run([sys.executable, "-c", PROGRAM], check=True)
            return
        child = os.fork()
        if child == 0:
            ask()
            os._exit(0)
        os.waitpid(child, 0)

    return run

@pytest.mark.chaos("network_failure", mode="dns", target=NOWHERE, nth=9)
def test_it(elsewhere):
    ask()
    elsewhere()
    ask()
""",
)
def test_what_was_counted_in_a_child_is_listed_by_its_number(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=2, errors=2)
    lines = [each.strip() for each in ran.outlines]
    assert lines.count("1-3 network.resolve nowhere.example:80") == 2
