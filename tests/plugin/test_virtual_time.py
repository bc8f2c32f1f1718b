"""The fixture, marker, flag and ini option of virtual time."""

from __future__ import annotations

import queue
import threading

from typing import Any

import pytest

from tests.ahead import ALONE_AND_XDIST
from tests.ahead import runs
from tests.ahead import runs_each


REAL = """
    import time

    import pytest

    from pytest_resilience.clock import MACHINE_CLOCK

    def is_virtual():
        from pytest_resilience.virtual_time.scheduler import reader

        return reader() is not None
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(helper=REAL)
    return pytester


def test_fixture_and_marker(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import datetime
        import time

        import pytest

        from helper import is_virtual

        def test_fixture(virtual_clock):
            virtual_clock.advance(59)
            time.sleep(2)
            assert virtual_clock.elapsed == 61

        @pytest.mark.virtual_time
        def test_marker():
            began = time.monotonic()
            time.sleep(3600)
            assert time.monotonic() - began == 3600

        @pytest.mark.virtual_time(start="2030-01-01T00:00Z")
        class TestStart:
            def test_start(self, virtual_clock):
                assert datetime.datetime.now(datetime.UTC).year == 2030
                assert virtual_clock.now() == datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)

        def test_other():
            assert not is_virtual()
    """)
    suite.runpytest().assert_outcomes(passed=4)


@pytest.mark.parametrize("args", [["--virtual-time"], ["--resilience-virtual-time"], []], ids=str)
def test_a_whole_suite(suite: pytest.Pytester, args: list[str]) -> None:
    if not args:
        suite.makeini("[pytest]\nvirtual_time = true")
    suite.makepyfile("""
        import unittest

        import pytest

        from helper import is_virtual

        def test_plain():
            assert is_virtual()

        class TestCase(unittest.TestCase):
            def test_method(self):
                assert is_virtual()

        @pytest.mark.no_virtual_time
        def test_exempt():
            assert not is_virtual()
    """)
    result = suite.runpytest(*args)
    result.assert_outcomes(passed=3)
    assert "chaos" not in result.stdout.str()


@runs(
    "--virtual-time",
    "-p",
    "xdist",
    "-n2",
    helper=REAL,
    test_it="""
        import pytest

        from helper import is_virtual

        @pytest.mark.parametrize("number", range(4))
        def test_it(number):
            assert is_virtual()
    """,
)
def test_in_workers_of_xdist(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=4)


def test_what_wider_fixtures_start_keeps_real_time(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import threading
        import time

        import pytest

        from helper import is_virtual

        def thread_that_tells():
            told = []
            thread = threading.Thread(target=lambda: told.append(is_virtual()))
            thread.start()
            thread.join()
            return told

        @pytest.fixture(scope="module")
        def wide():
            return thread_that_tells()

        @pytest.fixture(scope="session")
        def wide_by_name():
            return thread_that_tells()

        @pytest.fixture(autouse=True)
        def narrow():
            return thread_that_tells()

        def test_it(wide, narrow, virtual_clock, request):
            assert (wide, narrow) == ([False], [True])
            assert request.getfixturevalue("wide_by_name") == [False]
            assert thread_that_tells() == [True]
    """)
    suite.runpytest().assert_outcomes(passed=1)


SEEDED = """
    import threading
    import time

    import pytest

    @pytest.mark.virtual_time(schedule="seeded")
    @pytest.mark.parametrize("number", range(3))
    def test_order(number):
        order = []

        def work(number):
            for _ in range(3):
                time.sleep(1)
                order.append(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert False, f"order {order}"
"""


def test_a_seed_repeats_the_order_of_threads(suite: pytest.Pytester) -> None:
    suite.makepyfile(SEEDED)

    def orders(*args: str) -> list[str]:
        result = suite.runpytest(*args)
        result.stdout.fnmatch_lines(
            [
                "*virtual time*",
                "3 s have passed in 3 jumps",
                "the order of its threads repeats with --chaos-seed=*",
                "3 s: *",
            ]
        )
        return [line for line in result.outlines if line.startswith("E ") and "order" in line]

    first = orders("--chaos-seed=42")
    assert len(set(first)) == 3
    assert orders("--chaos-seed=42") == first
    assert orders("--chaos-seed=43") != first
    assert sorted(orders("--chaos-seed=42", "-p", "xdist", "-n", "2")) == sorted(first)


def test_what_goes_wrong_is_said(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import threading
        import time

        def test_deadlock(virtual_clock):
            threading.Event().wait()

        def test_leak(virtual_clock):
            def poll():
                while True:
                    time.sleep(1)

            threading.Thread(target=poll, name="poller", daemon=True).start()
    """)
    result = suite.runpytest()
    result.assert_outcomes(failed=1, passed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "E *LeakedThreadsError: 1 thread(s) of the test have not ended*",
            "E * poller, at *test_what_goes_wrong_is_said.py:* in poll",
            "E *ClockStalledError: *every thread of the test waits*",
        ]
    )
    result.stdout.no_fnmatch_line("*virtual_time/scheduler.py:*")  # of no use to who reads it
    result.stdout.no_fnmatch_line("*virtual_time/locks.py:*")


@pytest.mark.parametrize(
    ("mark", "says"),
    [
        ("virtual_time('2030-01-01')", "it takes start='2030-01-01T00:00Z' and schedule='seeded'"),
        ("virtual_time(begin=1)", "virtual_time: begin; it takes start="),
        ("virtual_time(start='soon')", "start='soon' is no date"),
        ("virtual_time(schedule='random')", "schedule='random'; write schedule='seeded'"),
        ("no_virtual_time(1)", "no_virtual_time takes nothing"),
    ],
)
def test_a_mark_that_makes_no_sense(suite: pytest.Pytester, mark: str, says: str) -> None:
    suite.makepyfile(f"""
        import pytest

        @pytest.mark.{mark}
        def test_it(virtual_clock):
            pass
    """)
    result = suite.runpytest("--strict-markers")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*test_a_mark_that_makes_no_sense.py:3: *{says}*"])


@pytest.mark.parametrize("library", ["pytest_asyncio", "anyio"])
def test_async_tests(suite: pytest.Pytester, library: str) -> None:
    suite.makepyfile(f"""
        import asyncio
        import time

        import pytest

        {"import pytest_asyncio" if library == "pytest_asyncio" else "pytest_asyncio = pytest"}

        pytestmark = pytest.mark.{"asyncio" if library == "pytest_asyncio" else "anyio"}

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest_asyncio.fixture
        async def slow():
            await asyncio.sleep(100)

        async def test_it(virtual_clock, slow):
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(60):
                    await asyncio.sleep(3600)
            assert time.monotonic() - began == 60
            assert virtual_clock.elapsed == 160
            await asyncio.to_thread(time.sleep, 40)
            assert virtual_clock.elapsed == 200
    """)
    plugin: tuple[str, ...] = ("-p", "anyio")
    if library == "pytest_asyncio":
        plugin = "-p", "pytest_asyncio.plugin", "-o", "asyncio_default_fixture_loop_scope=function"
    suite.runpytest(*plugin).assert_outcomes(passed=1)


WAYS_OF_TIMEOUT = {
    f"{method}-{func_only}": (f"--timeout-method={method}", "-o", f"timeout_func_only={func_only}")
    for method in ("signal", "thread")
    for func_only in ("true", "false")
}


@runs_each(
    WAYS_OF_TIMEOUT,
    "-p",
    "pytest_timeout",
    "--timeout=300",
    test_it="""
        import threading
        import time

        def test_an_hour(virtual_clock):
            time.sleep(3600)
            threading.Timer(30, lambda: None).start()

        def test_another(virtual_clock):
            time.sleep(3600)
    """,
)
def test_pytest_timeout_measures_real_time(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=2)


@runs(
    "-p",
    "pytest_timeout",
    "--timeout-method=signal",
    test_it="""
        import os
        import threading
        import time

        import pytest

        # Of the function alone: on a busy machine a fixture may take as long.
        @pytest.mark.timeout(0.5, func_only=True)
        def test_blocked_in_c(virtual_clock):
            with open(os.pipe()[0], "rb") as nothing:
                nothing.read(1)

        @pytest.mark.timeout(0.5, func_only=True)
        def test_waits_for_one_who_computes(virtual_clock):
            ended = []

            def compute():
                while not ended:
                    pass

            try:
                threading.Thread(target=compute).start()
                time.sleep(3600)
            finally:
                ended.append(True)

        def test_next(virtual_clock):
            time.sleep(5)
            assert virtual_clock.elapsed == 5
    """,
)
def test_pytest_timeout_ends_what_hangs(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(failed=2, passed=1)
    ran.stdout.fnmatch_lines(["*Timeout*0.5*"])


@runs(
    test_it="""
        import os
        import signal
        import threading
        import time

        def test_it(virtual_clock):
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
            stopped = threading.Event()

            def interrupt():
                os.kill(os.getpid(), signal.SIGINT)
                while not stopped.is_set():
                    pass

            try:
                threading.Thread(target=interrupt).start()
                threading.Event().wait()
            finally:
                stopped.set()

        def test_next():
            raise AssertionError("was run")
    """
)
def test_ctrl_c_ends_the_run(ran: pytest.RunResult) -> None:
    assert ran.ret == pytest.ExitCode.INTERRUPTED
    ran.stdout.fnmatch_lines(["*KeyboardInterrupt*"])


@runs(
    test_it="""
        import os
        import signal
        import sys
        import threading

        sys.setswitchinterval(1e-4)  # who computes is soon interrupted, all the rest of the run

        def compute():
            while True:
                pass

        def test_it(virtual_clock):
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
            threading.Thread(target=compute, daemon=True).start()
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait()
    """
)
def test_ctrl_c_waits_for_no_thread_that_is_left(ran: pytest.RunResult) -> None:
    assert ran.ret == pytest.ExitCode.INTERRUPTED
    ran.stdout.fnmatch_lines(["*KeyboardInterrupt*"])
    ran.stdout.no_fnmatch_line("*LeakedThreadsError*")
    ran.stderr.no_fnmatch_line("*LeakedThreadsError*")


@runs(
    test_it="""
        import threading
        import time

        LOCK = threading.Lock()

        def hold():
            with LOCK:
                time.sleep(10)

        def test_it(virtual_clock):
            threads = [threading.Thread(target=hold, name=f"holder {n}") for n in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    """
)
def test_a_module_level_lock_that_is_held_over_a_wait_is_named(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines(
        [
            "E *ClockStalledError: a thread of the test is blocked where virtual time cannot see*",
            "E *holder *: NOT WAITING HERE: blocked in a lock of C, at test_it.py:* in hold",
            "E *make the lock in the test, give every test virtual time (--virtual-time, *",
        ]
    )


@pytest.mark.parametrize("args", [["--virtual-time"], [], ["--virtual-time", "-p", "xdist", "-n1"]])
def test_locks_that_are_made_at_import_where_every_test_has_virtual_time(
    suite: pytest.Pytester, args: list[str]
) -> None:
    if not args:
        suite.makeini("[pytest]\nvirtual_time = true")
    suite.makeconftest("import shop")
    suite.makepyfile(
        shop="""
            import queue
            import threading
            import time

            LOCKS = [threading.Lock(), threading.RLock(), threading.Condition()]
            TASKS = queue.SimpleQueue()

            def hold(lock):
                with lock:
                    time.sleep(10)
        """,
        test_it="""
            import _queue
            import threading

            import pytest
            import shop

            @pytest.mark.parametrize("lock", shop.LOCKS, ids=lambda lock: type(lock).__name__)
            def test_held_over_a_wait(virtual_clock, lock):
                threads = [threading.Thread(target=shop.hold, args=(lock,)) for _ in range(3)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                assert virtual_clock.elapsed == 30

            def test_queue(virtual_clock):
                with pytest.raises(_queue.Empty):
                    shop.TASKS.get(timeout=60)
                assert virtual_clock.elapsed == 60
        """,
    )
    before = threading.Lock, threading.RLock, queue.SimpleQueue
    suite.runpytest(*args).assert_outcomes(passed=4)
    assert (threading.Lock, threading.RLock, queue.SimpleQueue) == before


def test_faults_take_virtual_time(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import asyncio
        import sqlite3
        import time

        import httpx
        import pytest
        import requests

        from pytest_resilience.assertions import assert_recovers

        @pytest.mark.chaos("network_latency", delay="2s")
        def test_a_slow_response(virtual_clock, stub_server):
            assert requests.get(stub_server.respond("/x").url, timeout=5).status_code == 200
            assert virtual_clock.elapsed == 4  # to connect, and to receive

        @pytest.mark.chaos("network_latency", delay="20s")
        def test_the_timeout_of_a_client(virtual_clock, stub_server):
            with pytest.raises(requests.Timeout):
                requests.get(stub_server.respond("/x").url, timeout=5)
            assert virtual_clock.elapsed == 5

        @pytest.mark.chaos("network_failure", mode="timeout")
        def test_silence(virtual_clock, stub_server):
            with pytest.raises(requests.Timeout):
                requests.get(stub_server.respond("/x").url, timeout=5)
            assert virtual_clock.elapsed == 5

        def test_asyncio(virtual_clock, stub_server, chaos):
            url = stub_server.respond("/x").url

            async def get():
                async with httpx.AsyncClient(timeout=5) as client:
                    return (await client.get(url)).status_code

            with chaos.network_latency(delay="2s"):
                assert asyncio.run(get()) == 200
            assert virtual_clock.elapsed == 4
            with chaos.network_latency(delay="20s"), pytest.raises(httpx.TimeoutException):
                asyncio.run(get())
            assert virtual_clock.elapsed == 9

        @pytest.mark.chaos("database_slowdown", delay="3s")
        def test_a_slow_statement(virtual_clock):
            connection = sqlite3.connect(":memory:")
            connection.execute("select 1")
            connection.close()
            assert virtual_clock.elapsed == 3

        @pytest.mark.chaos("disk_failure", delay="3s")
        def test_a_slow_file(virtual_clock, tmp_path):
            (tmp_path / "x").write_text("x")
            assert virtual_clock.elapsed == 3

        def test_an_experiment_ends(virtual_clock, chaos, stub_server):
            url = stub_server.respond("/x").url
            with chaos.network_failure(mode="timeout", duration="30s") as silence:
                assert not silence.ended
                requests.get(url, timeout=60)
                assert silence.ended

        @pytest.mark.chaos("network_failure", mode="refuse", duration="30s")
        def test_recovery(virtual_clock, stub_server):
            url = stub_server.respond("/x").url
            assert_recovers(lambda: requests.get(url, timeout=5), within=60)
            assert 30 <= virtual_clock.elapsed < 31
    """)
    suite.runpytest("-p", "no:ordeal").assert_outcomes(passed=8)


def test_a_wait_of_a_fault_is_one_jump(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import asyncio
        import contextlib
        import select
        import socket
        import sqlite3
        import ssl
        import threading

        import httpx
        import pytest
        import requests
        import respx
        import responses
        import trustme

        MINUTE = pytest.mark.chaos("network_latency", delay="60s")

        @pytest.fixture(autouse=True)
        def one_jump(virtual_clock):
            yield
            assert (virtual_clock.elapsed, virtual_clock.jumps) == (60, 1)

        @contextlib.contextmanager
        def connection():
            with socket.create_server(("127.0.0.1", 0)) as listener:
                with socket.create_connection(listener.getsockname()) as ours:
                    with listener.accept()[0] as theirs:
                        theirs.send(b"x")
                        yield ours

        @MINUTE
        def test_blocking():
            with connection() as ours:
                assert ours.recv(1) == b"x"

        def test_tls(chaos):
            authority = trustme.CA()
            server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
            authority.issue_cert("127.0.0.1").configure_cert(server)
            authority.configure_trust(client)

            def serve(theirs):
                with server.wrap_socket(theirs, server_side=True) as theirs:
                    theirs.sendall(theirs.recv(1))

            with socket.create_server(("127.0.0.1", 0)) as listener:
                ours = socket.create_connection(listener.getsockname())
                thread = threading.Thread(target=serve, args=listener.accept()[:1])
                thread.start()
                with client.wrap_socket(ours, server_hostname="127.0.0.1") as ours:
                    with chaos.network_latency(delay="60s"):
                        ours.sendall(b"x")
                        assert ours.recv(1) == b"x"
                thread.join()

        @MINUTE
        def test_select():
            with connection() as ours:
                assert select.select([ours], [], [], 100)[0]

        def test_a_server_that_is_slow(stub_server):
            requests.get(stub_server.respond("/x", delay=60).url)

        @MINUTE
        def test_asyncio():
            async def serve(reader, writer):
                writer.write(b"ok")
                writer.close()

            async def main():
                async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
                    address = server.sockets[0].getsockname()
                    reader, writer = await asyncio.open_connection(*address)
                    assert await reader.read() == b"ok"
                    writer.close()

            asyncio.run(main())

        @MINUTE
        def test_mocked_client():
            with responses.RequestsMock() as mock:
                mock.get("http://a.example/", body="x")
                requests.get("http://a.example/")

        @MINUTE
        @pytest.mark.parametrize("in_a_task", [False, True])
        def test_mocked_httpx(in_a_task):
            async def get():
                async with httpx.AsyncClient(timeout=None) as client:
                    await client.get("http://a.example/")

            with respx.mock:
                respx.get("http://a.example/").respond(200)
                asyncio.run(get()) if in_a_task else httpx.get("http://a.example/", timeout=None)

        def test_partition(chaos):
            with socket.create_server(("127.0.0.1", 0)) as listener:
                with socket.create_connection(listener.getsockname()) as ours:
                    with listener.accept()[0] as theirs:
                        with chaos.network_failure(mode="partition", duration="60s"):
                            ours.sendall(b"x")
                            assert theirs.recv(1) == b"x"

        @pytest.mark.chaos("database_slowdown", delay="60s")
        def test_statement():
            with contextlib.closing(sqlite3.connect(":memory:")) as connection:
                connection.execute("select 1")

        @pytest.mark.chaos("disk_failure", delay="60s")
        def test_file(tmp_path):
            (tmp_path / "x").write_text("x")
    """)
    suite.runpytest("-p", "no:ordeal").assert_outcomes(passed=11)


def test_polls_wait_in_virtual_time(suite: pytest.Pytester) -> None:
    """Until something is due, and no longer."""
    suite.makepyfile("""
        import contextlib
        import select
        import selectors
        import socket

        import pytest

        def by_select(sock, seconds, writes=False):
            files = ([], [sock]) if writes else ([sock], [])
            return any(select.select(*files, [], seconds))

        def by_poll(sock, seconds, writes=False):
            poll = select.poll()
            poll.register(sock, select.POLLOUT if writes else select.POLLIN)
            return bool(poll.poll(seconds * 1000))

        def by_epoll(sock, seconds, writes=False):
            with select.epoll() as poll:
                poll.register(sock, select.EPOLLOUT if writes else select.EPOLLIN)
                return bool(poll.poll(seconds))

        def by_a_selector(sock, seconds, writes=False):
            with selectors.DefaultSelector() as selector:
                selector.register(sock, selectors.EVENT_WRITE if writes else selectors.EVENT_READ)
                return bool(selector.select(seconds))

        @pytest.fixture(params=[by_select, by_poll, by_epoll, by_a_selector])
        def polls(request):
            return request.param

        @pytest.fixture(params=[0, 5])
        def pair(request, virtual_clock):
            with socket.create_server(("127.0.0.1", 0)) as listener:
                with socket.create_connection(listener.getsockname()) as ours:
                    ours.settimeout(request.param)
                    with listener.accept()[0] as theirs:
                        yield ours, theirs
            assert virtual_clock.elapsed == 60

        @pytest.mark.parametrize("ends", [False, True])
        def test_what_is_late(polls, pair, chaos, ends):
            ours, theirs = pair
            with chaos.network_latency(delay="60s"):
                ours.sendall(b"x")
                theirs.sendall(b"x")
                if ends:
                    theirs.close()
                assert polls(ours, 100)
                assert ours.recv(1) == b"x"

        def test_silence(polls, pair, chaos):
            ours, theirs = pair
            with chaos.network_failure(mode="timeout", duration="10m"):
                ours.sendall(b"x")
                assert not polls(ours, 60)

        def test_an_end_that_is_late(polls, pair, chaos):
            ours, theirs = pair
            lasting = {"duration": "10m"}
            with (
                chaos.network_latency(delay="60s", **lasting),
                chaos.network_failure(mode="reset", **lasting),
            ):
                ours.sendall(b"x")
                assert polls(ours, 100)
                with pytest.raises(ConnectionResetError):
                    ours.recv(1)

        def test_a_stalled_upload(polls, pair, chaos):
            ours, theirs = pair
            with chaos.network_failure(mode="timeout", stream="upstream", duration="60s"):
                ours.setblocking(False)
                with pytest.raises(BlockingIOError):
                    while ours.send(bytes(1 << 16)):
                        pass
                assert not polls(ours, 0, writes=True)
                assert polls(ours, 100, writes=True)
    """)
    suite.runpytest("-p", "no:ordeal").assert_outcomes(passed=40)


def test_silence_between_two_ends_of_the_test_holds_up_no_time(suite: pytest.Pytester) -> None:
    """What the kernel drops on the way is not about to come."""
    suite.makepyfile("""
        import asyncio
        import contextlib
        import socket
        import threading
        import time

        import pytest

        @pytest.fixture
        def address(virtual_clock):
            def serve():
                ended = contextlib.suppress(ConnectionError)  # it is closed and not all read
                with listener.accept()[0] as theirs, ended:
                    while data := theirs.recv(1 << 16):
                        theirs.sendall(data[:1])

            with socket.create_server(("127.0.0.1", 0)) as listener:
                server = threading.Thread(target=serve)
                server.start()
                yield listener.getsockname()
                server.join()
            assert 60 <= virtual_clock.elapsed < 61

        @pytest.fixture
        def silence(chaos):
            return chaos.network_failure(mode="timeout", duration="10m")

        def test_who_receives(address, silence):
            with socket.create_connection(address, timeout=60) as client, silence:
                client.sendall(b"x")
                with pytest.raises(TimeoutError):
                    client.recv(1)

        def test_who_waits_already(address, silence):
            def wait():
                with pytest.raises(TimeoutError):
                    client.recv(1)

            with socket.create_connection(address, timeout=60) as client:
                waits = threading.Thread(target=wait)
                waits.start()
                time.sleep(1)
                with silence:
                    client.sendall(b"x")
                    waits.join()

        def test_who_sends_much_to_a_silent_peer(address, silence):
            with socket.create_connection(address, timeout=60) as client, silence:
                client.sendall(bytes(50_000_000))
                with pytest.raises(TimeoutError):
                    client.recv(1)

        def test_who_sends_more_than_gets_through(address, chaos):
            partition = chaos.network_failure(mode="partition", duration="10m")
            with socket.create_connection(address, timeout=60) as client, partition:
                with pytest.raises(TimeoutError):
                    client.sendall(bytes(50_000_000))

        def test_a_task(address, silence):
            async def story():
                reader, writer = await asyncio.open_connection(*address)
                with silence:
                    writer.write(b"x")
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(reader.read(1), 60)
                writer.close()

            asyncio.run(story())

        def test_what_was_dropped_comes_when_it_is_over(address, chaos):
            with socket.create_connection(address, timeout=100) as client:
                with chaos.network_failure(mode="timeout", duration="60s"):
                    client.sendall(b"x")
                    assert client.recv(1) == b"x"
    """)
    suite.runpytest("-p", "no:ordeal").assert_outcomes(passed=6)


def test_an_experiment_that_ends_lets_who_waits_go_on(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import asyncio
        import contextlib
        import socket
        import sqlite3
        import threading
        import time

        import pytest

        def in_a_thread(act):
            thread = threading.Thread(target=act)
            thread.start()
            return thread

        def statement():
            with contextlib.closing(sqlite3.connect(":memory:")) as connection:
                connection.execute("select 1")

        async def stream():
            async def serve(reader, writer):
                writer.write(b"ok")
                writer.close()

            async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                assert await reader.read() == b"ok"
                writer.close()

        @pytest.mark.parametrize(
            ("fault", "act"),
            [
                ("database_slowdown", statement),
                ("network_latency", lambda: asyncio.run(stream())),
            ],
        )
        def test_it(virtual_clock, chaos, fault, act):
            with getattr(chaos, fault)(delay="60s"):
                thread = in_a_thread(act)
                time.sleep(10)
            thread.join()
            assert virtual_clock.elapsed == 10

        def test_who_closes_a_socket(virtual_clock, chaos):
            with socket.create_server(("127.0.0.1", 0)) as listener:
                ours = socket.create_connection(listener.getsockname())
                theirs, _ = listener.accept()
                theirs.send(b"x")
                with chaos.network_latency(delay="60s"):
                    thread = in_a_thread(lambda: ours.recv(1))
                    time.sleep(10)
                    ours.shutdown(socket.SHUT_RDWR)
                    thread.join()
                assert virtual_clock.elapsed == 10
                ours.close()
                theirs.close()
    """)
    suite.runpytest("-p", "no:ordeal").assert_outcomes(passed=3)


def test_the_matrix_knows_at_once_what_hangs(suite: pytest.Pytester) -> None:
    suite.makepyprojecttoml("""
        [[tool.pytest_resilience.profiles.silent.experiments]]
        chaos_type = "network_failure"
        mode = "timeout"
        rate = 1
    """)
    suite.makepyfile("""
        import asyncio
        import queue
        import socket
        import threading
        import time

        import pytest
        import requests

        @pytest.fixture
        def answers(stub_server):
            url = stub_server.respond("/x").url

            def ask():
                try:
                    return requests.get(url, timeout=5).ok
                except requests.RequestException:
                    return False

            return ask

        def test_socket(answers):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                if answers():
                    theirs.send(b"x")
                ours.recv(1)

        def test_asyncio(answers):
            async def main():
                done = asyncio.Event()
                if await asyncio.to_thread(answers):
                    done.set()
                await done.wait()

            asyncio.run(main())

        def test_lock(answers):
            lock = threading.Lock()

            def work():
                lock.acquire()
                if answers():
                    lock.release()

            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            lock.acquire()

        def test_queue(answers):
            found = queue.Queue()
            threading.Thread(target=lambda: answers() and found.put(True)).start()
            found.get()

        def test_loop_without_an_end(answers):
            while not answers():
                while True:
                    time.sleep(1)

        @pytest.mark.resilience(deadline="10s")
        def test_longer_than_it_may(answers):
            if not answers():
                time.sleep(30)

        @pytest.mark.resilience(deadline="10s")
        def test_in_time(answers):
            answers()

        def test_long(answers):
            answers()
            time.sleep(3600)
    """)
    result = suite.runpytest(
        "--virtual-time", "--chaos-matrix", "--chaos-profile=silent", "-p", "no:ordeal"
    )
    hang = "hang: *::test_{} under *"
    result.stdout.fnmatch_lines([
        "*: 2 survived, 6 hang",
        hang.format("socket"),
        "*MainThread (the test): waits in receive for ever, at *.py:* in test_socket",
        hang.format("asyncio"),
        "*MainThread (the test): waits in select for ever, *",
        hang.format("lock"),
        "*MainThread (the test): waits in lock for ever, at *.py:* in test_lock, for the lock *",
        hang.format("queue"),
        "*MainThread (the test): waits in lock for ever, at *.py:* in test_queue",
        hang.format("loop_without_an_end"),
        "*it was still running after * virtual seconds",
        hang.format("longer_than_it_may"),
        "*it was still running after 10 virtual seconds",
    ])  # fmt: skip


_ASKING = {  # by the place that asks: flags, ini, what stands above the tests
    "--virtual-time": (["--virtual-time"], "", ""),
    "the ini option virtual_time": ([], "virtual_time = true", ""),
    "test_it.py::test_one and 1 more": ([], "", "@pytest.mark.virtual_time"),
}


def _without_time_machine(asking: str, way: str) -> Any:
    flags, ini, above = _ASKING[asking]
    suite = runs(
        *ALONE_AND_XDIST[way],
        *flags,
        others={"pytest.ini": f"[pytest]\n{ini}\n"},
        conftest="import sys\nsys.modules['time_machine'] = None",
        test_it=f"""
            import pytest

            {above}
            def test_one():
                pass

            {above}
            def test_other():
                pass
        """,
    )
    return pytest.param(asking, way, marks=suite, id=f"{asking}-{way}")


@pytest.mark.parametrize(
    ("asking", "way"),
    [_without_time_machine(asking, way) for asking in _ASKING for way in ALONE_AND_XDIST],
)
def test_one_usage_error_where_time_machine_is_missing(
    asking: str, way: str, ran: pytest.RunResult
) -> None:
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    told = "virtual time needs time-machine; pip install 'pytest-resilience[[]clock[]]'"
    (ran.stdout if way == "xdist" else ran.stderr).fnmatch_lines([f"*{asking}: {told}"])
    assert "Traceback" not in ran.stdout.str() + ran.stderr.str()
