"""Children of every kind meet the experiments of their parent, and what they meet counts there."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.recorder import Recorder
from pytest_resilience.chaos.types.service import Service
from pytest_resilience.diagnosis import never_fired
from pytest_resilience.interceptors.children.folder import STARTUP
from pytest_resilience.interceptors.children.folder import VARIABLE
from pytest_resilience.native.loader_tables import unsupported
from tests.forks import in_fork
from tests.interceptors.children.family import DO
from tests.interceptors.children.family import FAILED
from tests.interceptors.children.family import NAME
from tests.interceptors.children.family import Child
from tests.interceptors.children.family import Family


def run(*options: str, code: str = DO, **given: Any) -> str:
    command = [sys.executable, *options, "-c", code]
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, timeout=120, **given
    )
    return done.stdout


def ask() -> int:
    try:
        socket.getaddrinfo(NAME, 80)
    except OSError as error:
        return -(error.errno or 0)
    return 0


# --- a life beside the experiments ---


def test_what_begins_and_ends_in_the_parent_does_so_in_a_child(family: Family) -> None:
    with family.child() as child:
        assert not child.fails
        with family.failing() as first:
            assert child.fails
            with family.failing() as second:
                assert child.fails
            assert (second.matched, second.hits) == (1, 1)
            assert child.fails
            family.children.gather()
            assert len(family.events) == 4
        assert not child.fails
        assert (first.matched, first.hits) == (3, 3)
        one = family.events[0]
    assert (one.kind, one.target, one.number) == ("network.resolve", f"{NAME}:80", 1)
    assert one.fault == "name resolution failure"


def test_one_that_is_paused_pauses_in_a_child(family: Family) -> None:
    with family.failing() as running, family.child() as child:
        running.paused = True
        assert not child.fails
        running.paused = False
        assert child.fails


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    """A service that is a function, of a module that children find too."""
    (tmp_path / "shop_of_a_child.py").write_text("def stock():\n    return 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Service.at("stock", ["shop_of_a_child:stock"])


def test_files_databases_and_services_are_reached_as_well(
    family: Family, shop: Service, tmp_path: Path
) -> None:
    path = str(tmp_path / "there")
    family.start("disk_failure", mode="disk_full", at="write", path=path, rate=1)
    family.start("database_failure", mode="deadlock", rate=1)
    family.engine.services.add(shop)
    family.start("service_failure", target_services=["stock"], rate=1)
    code = f"""
import sqlite3, sys
assert "shop_of_a_child" not in sys.modules
import shop_of_a_child
for do in (
    lambda: open({path!r}, "w", buffering=1).write("x\\n"),
    lambda: sqlite3.connect(":memory:").execute("SELECT 1"),
    shop_of_a_child.stock,
):
    try:
        do()
    except Exception as error:
        print(type(error).__name__)
"""
    assert run(code=code).split() == ["OSError", "OperationalError", "ServiceFailureError"]
    assert all(each.hits for each in family.engine.active)


def test_pressure_is_put_on_the_parent_alone(family: Family) -> None:
    pressed = family.start("fd_exhaustion", leave=50)
    with family.child() as child, family.failing():
        assert child.fails
        assert child("sorted(n for n in sys.modules if 'stress' in n)") == []
    assert pressed.hits == 1


def test_children_can_be_left_alone(family: Family) -> None:
    with family.failing(children=False) as running, family.child() as child:
        assert not child.fails
        assert in_fork(ask) == 0
        assert ask() == 3
        family.expect(False)
        assert VARIABLE not in os.environ
    assert running.matched == 1


@pytest.fixture(params=[True, False], ids=["native", "chaos_native=false"])
def family_with(request: pytest.FixtureRequest) -> Iterator[tuple[Family, bool]]:
    made = Family(native=request.param)
    yield made, request.param
    made.close()


@pytest.mark.skipif(bool(unsupported()), reason=unsupported())
@pytest.mark.parametrize("forked", [True, False], ids=["forked", "started"])
def test_clients_in_c_are_reached_unless_they_are_not_wanted(
    forked: bool, family_with: tuple[Family, bool]
) -> None:
    psycopg2 = pytest.importorskip("psycopg2")
    family, native = family_with
    where = "host=127.0.0.1 port=9 dbname=shop"  # where nobody listens in any case

    def ask_in_c() -> int:
        with contextlib.suppress(psycopg2.OperationalError):
            psycopg2.connect(where)
        return 0

    with contextlib.closing(family):
        running = family.start("network_failure", mode="refuse", target="127.0.0.1:9", rate=1)
        if forked:
            assert in_fork(ask_in_c) == 0
        else:
            code = f"import psycopg2\ntry: psycopg2.connect('{where}')\nexcept Exception: pass"
            run(code=code)
        assert (running.matched, running.hits) == ((1, 1) if native else (0, 0))
    assert native or "chaos_native is false" in str(never_fired(running))


@pytest.mark.parametrize("forked", [True, False], ids=["forked", "started"])
def test_seconds_of_waiting_come_back(forked: bool, family: Family) -> None:
    late = family.start("network_latency", delay="10ms")
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = server.getsockname()

        def connect() -> int:
            socket.create_connection(here).close()
            return 0

        connect()
        alone = late.delay
        if forked:
            assert in_fork(connect) == 0
        else:
            run(code=f"import socket; socket.create_connection({here!r}).close()")
    assert late.hits == 2
    assert alone >= 0.01
    assert late.delay - alone >= 0.01
    late.stop()
    family.children.gather()
    assert [event.delay for event in family.events] == [0.01, 0.01]


def test_numbers_count_through_all_processes(family: Family) -> None:
    """Of children that are there and of those that start now, of forks and of this process."""
    triggers = [({"nth": 3}, "001000"), ({"first": 2}, "110000"), ({"from_nth": 5}, "000011"),
                ({"every": 2}, "010101")]  # fmt: skip

    def asked() -> int:
        return int(ask() == -FAILED)

    with contextlib.ExitStack() as started:
        children = [started.enter_context(family.child())]
        for trigger, expected in triggers:
            family.events.clear()
            with family.failing(**trigger) as running:
                if len(children) == 1:
                    children.append(started.enter_context(family.child()))
                seen = [asked(), *(child.fails for child in children)]
                seen += [in_fork(asked), in_fork(asked)]
                seen.append(asked())
                assert "".join(str(int(each)) for each in seen) == expected
            family.children.gather()
            assert sorted(event.number for event in family.events) == [
                number for number, hit in enumerate(expected, 1) if hit == "1"
            ]
            assert running.matched == 6


def test_no_number_is_given_twice_to_processes_that_ask_at_once(family: Family) -> None:
    do = "\n".join(f"    {line}" for line in DO.splitlines())
    code = f"import os\nfor _ in range(3): os.fork()\nfor _ in range(25):\n{do}"
    with family.failing(first=100) as running:
        run(code=f"{code}\nwhile True:\n  try: os.wait()\n  except OSError: break")
        assert (running.matched, running.hits) == (200, 100)
        family.children.gather()
        assert sorted(event.number for event in family.events) == [*range(1, 101)]


@pytest.mark.parametrize("forked", [True, False], ids=["forked", "started"])
def test_each_process_numbers_its_own_connections(forked: bool, family: Family) -> None:
    """The parent has had one when it forks, or starts another."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = server.getsockname()
        code = f"""
import socket
refused = []
for number in (1, 2, 3):
    try:
        socket.create_connection({here!r}).close()
    except ConnectionRefusedError:
        refused.append(number)
"""

        def refused() -> list[int]:
            names: dict[str, Any] = {}
            exec(code, names)
            return list(names["refused"])

        target = f"127.0.0.1:{here[1]}#2"
        running = family.start("network_failure", mode="refuse", target=target, rate=1)
        socket.create_connection(here).close()
        if forked:
            assert in_fork(lambda: int(refused() == [2])) == 1
        else:
            assert run(code=f"{code}\nprint(refused)") == "[2]\n"
        assert refused() == [1]
        assert running.hits == 2


# --- ends ---


def test_a_child_that_is_killed_has_counted_and_is_waited_for_no_more(family: Family) -> None:
    family.expect(True)
    family.children._host.patience = 3600  # type: ignore[union-attr]
    with family.failing() as running, family.child() as child:
        assert child.fails
        child.process.kill()  # and stays a zombie
        with family.failing():
            pass
    assert (running.matched, running.hits) == (1, 1)
    assert len(family.events) == 1


def test_a_child_that_hangs_is_waited_for_once_and_then_does_what_it_missed(family: Family) -> None:
    with family.child() as child:
        host: Any = family.children._host
        host.patience = 0.01
        os.kill(child.process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, child.process.pid, os.WSTOPPED)
        with family.failing() as over:
            host.patience = 3600
            with family.failing() as running:  # nobody waits for it any more
                os.kill(child.process.pid, signal.SIGCONT)
                while host._silent:
                    host._answered()
                assert child.fails
    assert (over.hits, running.hits) == (1, 1)


def test_a_child_that_outlives_the_run_goes_on_without(family: Family) -> None:
    with family.failing() as running, family.child() as child:
        assert child.fails
        folder = family.children._host.folder  # type: ignore[union-attr]
        running.stop()
        family.close()
        assert not child.fails
        while child(f"os.environ.get({VARIABLE!r})") is not None:
            pass  # its thread is on its way
        assert STARTUP not in child("os.environ.get('PYTHONPATH', '')")
        assert child("os.waitstatus_to_exitcode(os.waitpid(os.fork() or os._exit(7), 0)[1])") == 7
    assert not Path(folder).exists()
    assert running.hits == 1


def test_a_child_whose_parent_is_killed_goes_on_without() -> None:
    parent = """
import subprocess, sys
from tests.interceptors.children.family import Family
family = Family()
family.fail()
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
child.wait()
"""
    child = """
import os, signal, socket
def ask():
    try:
        socket.getaddrinfo("localhost", 80)
    except OSError as error:
        return error.errno
print(ask(), flush=True)
os.kill(os.getppid(), signal.SIGKILL)
while ask() == -3:
    pass
print(ask(), flush=True)
"""
    done = subprocess.Popen(
        [sys.executable, "-c", parent, child], stdout=subprocess.PIPE, text=True
    )
    assert done.stdout is not None
    first, last = done.stdout.read().split()
    done.stdout.close()
    assert done.wait() == -signal.SIGKILL
    assert (int(first), last) == (FAILED, "None")


def test_nothing_is_left_of_it_and_what_others_put_back_goes_as_well(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    before, popen = dict(os.environ), subprocess.Popen.__init__
    with family.failing():
        during = dict(os.environ)
        assert during["PYTHONPATH"] == STARTUP
        assert subprocess.Popen.__init__ is not popen
    assert dict(os.environ) == before
    assert subprocess.Popen.__init__ is popen
    os.environ.update(during)  # as `mock.patch.dict` does that was begun meanwhile
    family.engine.refresh(family.children)
    assert dict(os.environ) == before
    os.environ["PYTHONPATH"] = during["PYTHONPATH"]  # as `monkeypatch` does, which set it there
    family.engine.refresh(family.children)
    assert dict(os.environ) == before
    monkeypatch.setenv("PYTHONPATH", "/mine")
    with family.failing():
        assert os.environ["PYTHONPATH"] == f"{STARTUP}{os.pathsep}/mine"
    assert os.environ["PYTHONPATH"] == "/mine"


# --- how children are made ---


def test_forked_children_are_told_of_what_begins_later(family: Family) -> None:
    family.expect(True)
    here, there = socket.socketpair()

    def answer() -> int:
        here.close()
        while there.recv(1):
            there.sendall(bytes([ask()]))
        return 0

    child = os.fork()
    if child == 0:
        os._exit(answer())
    with here, there:
        there.close()
        with family.failing() as running:
            here.sendall(b"?")
            assert here.recv(1) == b"\3"
        here.sendall(b"?")
        assert here.recv(1) == b"\0"
    os.waitpid(child, 0)
    assert running.hits == 1
    [event] = family.events
    assert event.place.endswith("in ask")


def test_children_of_children_count(family: Family) -> None:
    with family.failing() as running:
        code = f"""
import os, subprocess, sys
print(subprocess.run([sys.executable, "-c", {DO!r}]).returncode)
child = os.fork()
if not child:
    exec({DO!r})
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
"""
        assert run(code=code, env={**os.environ}).split().count(str(FAILED)) == 2
    assert (running.matched, running.hits) == (2, 2)
    assert len(family.events) == 2


def test_a_fork_of_a_child_has_one_thread_and_leaves_one(family: Family) -> None:
    """Python warns of forks of processes with several, from 3.12 on."""
    tasks = "len(os.listdir('/proc/self/task'))"
    with family.failing(), family.child("-W", "error") as child:
        assert child.fails
        assert child("__import__('threading').active_count()") == 1
        fork = f"os.waitpid(os.fork() or os._exit({tasks} - 1), 0)[1]"
        for _ in range(20):
            os_threads = child(f"({fork}, {tasks})")
            assert os.waitstatus_to_exitcode(os_threads[0]) in {0, 1}
        with family.failing() as later:
            assert child.fails
    assert later.hits == 1


def test_a_child_that_closes_all_it_has_open_is_told_all_the_same(family: Family) -> None:
    with family.child() as child:
        child("os.closerange(3, 1000)")
        child("[os.open(os.devnull, os.O_RDONLY) for _ in range(20)][0]")
        with family.failing():
            pass
        with family.failing() as running:
            assert child.fails
    assert running.hits == 1


class Closing:
    """A child that closes all it has open, and holds before it opens its pipe again."""

    CODE = """
folder = sys.modules["pytest_resilience.interceptors.children.folder"]
reopened = folder._Pipe.reopened
def hold(pipe):
    if not pipe.is_ours:
        folder._Pipe.reopened = reopened
        open({held!r}, "w").close()
        open({released!r}).close()
    return reopened(pipe)
folder._Pipe.reopened = hold
os.closerange(3, 1000)
"""

    def __init__(self, child: Child, folder: Path) -> None:
        self._held, self._released = folder / "held", folder / "released"
        os.mkfifo(self._held)
        os.mkfifo(self._released)
        code = self.CODE.format(held=str(self._held), released=str(self._released))
        assert child(f"exec({code!r}, globals())") is None

    def await_hold(self) -> None:
        """The next news brings it there."""
        self._held.read_bytes()

    def release(self) -> None:
        self._released.write_bytes(b"")


def test_a_child_that_has_closed_all_and_not_opened_it_again_is_awaited(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with family.child() as child:
        closing = Closing(child, tmp_path)
        host: Any = family.children._host
        wake, steps = host._wake, iter([closing.await_hold, closing.release])

        def look(name: str, data: bytes = b".") -> bool:
            if not data:  # while it is awaited
                next(steps, lambda: None)()
            lives: bool = wake(name, data)
            return lives

        monkeypatch.setattr(host, "_wake", look)
        with family.failing() as running:
            assert child.fails
    assert running.hits == 1


def test_a_child_that_has_closed_all_and_not_opened_it_again_is_not_forgotten(
    family: Family, tmp_path: Path
) -> None:
    with family.child() as child:
        closing = Closing(child, tmp_path)
        host: Any = family.children._host
        host.publish([])
        closing.await_hold()
        host.forget()
        closing.release()
        with family.failing() as running:
            assert child.fails
    assert running.hits == 1


def test_a_child_that_becomes_another_program_is_awaited_no_more(family: Family) -> None:
    with family.child() as child:
        assert child("os.execvp('sh', ['sh', '-c', 'echo 1; exec cat'])") == 1
        family.children._host.patience = 3600  # type: ignore[union-attr]
        with family.failing():
            assert child("2") == 2  # of `cat`, which lives


def test_a_child_that_cannot_open_its_pipe_again_leaves(family: Family) -> None:
    with family.child() as child:
        host: Any = family.children._host
        host.patience = 3600
        child("__import__('resource').setrlimit(7, (3, 3))")  # of descriptors
        child("os.closerange(3, 1000)")
        with family.failing() as running:
            assert not child.fails
        assert host.members() == []
    assert running.hits == 0


def test_the_tracker_of_multiprocessing_is_no_child(family: Family) -> None:
    family.expect(True)
    process = multiprocessing.get_context("spawn").Process(target=os.getpid)
    process.start()
    process.join()
    assert process.exitcode == 0
    host: Any = family.children._host
    assert host.members() == ["1"]
    gc.collect()


# --- chance ---


def draws(family: Family, children: int, **given: Any) -> list[str]:
    code = f"for _ in range(12):\n    {DO.replace(chr(10), chr(10) + '    ')}"
    with family.failing(rate=0.5, **given):
        return [run(code=code).replace("\n", "") for _ in range(children)]


def test_each_child_draws_for_itself_and_the_same_again(family: Family) -> None:
    first, second = draws(family, 2)
    assert first != second
    assert draws(family, 1) == [first]
    assert draws(family, 1, seed=2) != [first]


# --- what they do first ---


def test_the_sitecustomize_of_the_user_is_run(family: Family, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.mine = __file__\n")
    with family.failing():
        variables = {**os.environ, "PYTHONPATH": str(tmp_path)}  # which does not lead here alone
        code = f"{DO}\nimport sys, sitecustomize\nprint(sys.mine, sitecustomize.__file__, sys.path)"
        number, mine, loaded, *path = run(code=code, env=variables).split()
    assert int(number) == FAILED
    assert mine == loaded == str(tmp_path / "sitecustomize.py")
    assert not any(STARTUP in each for each in path)


def test_a_child_for_which_there_is_nothing_loads_next_to_nothing(family: Family) -> None:
    with family.child() as child:
        own = child("sorted(n for n in sys.modules if n.startswith('pytest_resilience'))")
        assert own == [
            "pytest_resilience",
            "pytest_resilience.interceptors",
            "pytest_resilience.interceptors.children",
            "pytest_resilience.interceptors.children.folder",
            "pytest_resilience.proc",
        ]
        with family.start("disk_failure", mode="disk_full", path="/nowhere/**").counts._lock:
            pass
        assert child("any('sockets' in n for n in sys.modules)") is False


def test_a_child_of_a_parent_that_is_gone_is_as_ever(tmp_path: Path) -> None:
    variables = {**os.environ, VARIABLE: f"{tmp_path / 'gone'}:1", "PYTHONPATH": STARTUP}
    code = "import sys; print(sorted(n for n in sys.modules if 'resilience' in n))"
    assert run(code=code, env=variables) == "[]\n"
    (tmp_path / "members").mkdir()  # a folder without anybody
    assert run(code=code, env=variables | {VARIABLE: f"{tmp_path}:1"}) == "[]\n"


def test_a_child_under_gevent_is_reached(family: Family) -> None:
    pytest.importorskip("gevent")
    with family.failing():
        patch = "from gevent import monkey; monkey.patch_all()"
        assert run(code=f"{patch}\n{DO}\n{DO}").split() == [str(FAILED)] * 2


def test_a_fork_under_gevent_that_is_dead_at_once_is_heard_of(family: Family) -> None:
    """gevent itself listens from the end of the first fork on."""
    pytest.importorskip("gevent")
    code = f"""
from gevent import monkey; monkey.patch_all()
import os, posix
dead = lambda: posix.waitid(posix.P_ALL, 0, posix.WEXITED | posix.WNOWAIT)
os.register_at_fork(after_in_parent=dead)
for _ in range(2):
    os.waitpid(os.fork() or os._exit(0), 0)
{DO}
"""
    with family.failing():
        assert run(code=code).split() == [str(FAILED)]


# --- what is out of reach ---


@pytest.mark.parametrize(
    ("options", "given", "expected"),
    [
        ((), {"env": {}}, "with an environment of its own"),
        (("-I",), {}, "python was started with -I"),
        (("-BE",), {}, "python was started with -E"),
        (("-S",), {}, "python was started with -S"),
    ],
    ids=["env", "-I", "-BE", "-S"],
)
def test_what_is_out_of_reach_is_told(
    family: Family, options: tuple[str, ...], given: Any, expected: str
) -> None:
    with family.failing() as running:
        run(*options, **given)
    text = str(never_fired(running))
    assert expected.replace("python", os.path.basename(sys.executable)) in text
    assert "process.start" in text


@pytest.mark.parametrize("before", [True, False])
def test_a_fork_server_that_was_there_before_is_told(before: bool, tmp_path: Path) -> None:
    (tmp_path / "test_story.py").write_text("""
import multiprocessing, sys
from pytest_resilience.diagnosis import never_fired
from tests.interceptors.children.family import Family
family = Family()
def run():
    process = multiprocessing.get_context("forkserver").Process(target=print)
    process.start()
    process.join()
if __name__ == "__main__":
    if sys.argv[1:] == ["True"]:
        run()
    for _ in range(2):
        with family.failing() as running:
            run()
        print("was started before" in str(never_fired(running)))
    family.close()
""")
    told = subprocess.check_output(
        [sys.executable, tmp_path / "test_story.py", str(before)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        text=True,
    )
    assert told.split() == [str(before)] * 2


def test_other_programs_are_told(family: Family) -> None:
    with family.failing() as running:
        subprocess.run(["true"], check=True)
    text = str(never_fired(running))
    assert "true is a process of its own" in text
    assert "env={**os.environ, **proxy.environment()}" in text


def test_what_was_meant_for_sure_comes_before_a_process_that_may_be(family: Family) -> None:
    with family.failing(mode="refuse") as running:
        subprocess.run(["true"], check=True)
        names = (f"{NAME}:80",)
        family.engine.note_unmatched(
            Operation(kind="network.connect", target=names[0], names=names, advice="By a proxy.")
        )
    assert str(never_fired(running)).endswith("By a proxy.")


def test_what_a_child_did_instead_is_told(family: Family) -> None:
    with family.failing(target="elsewhere.example") as running:
        run()
    error = never_fired(running)
    assert error.seen == (f"network.resolve {NAME}:80",)


def test_what_makes_no_sense_is_for_the_real_one_to_say(family: Family) -> None:
    with family.failing():
        with pytest.raises(TypeError):
            subprocess.Popen()  # type: ignore[call-overload]
        with pytest.raises(FileNotFoundError):
            subprocess.run(["/no/such/program"], check=False)


def test_what_children_are_spared_is_told(family: Family) -> None:
    family.expect(True)
    with family.failing(children=False) as running:
        run()
    assert "children=False leaves those alone" in str(never_fired(running))


def test_an_experiment_that_cannot_leave_this_process_is_told(
    family: Family, shop: Service
) -> None:
    class DeclinedError(Exception):
        pass

    family.engine.services.add(shop)
    running = family.start(
        "service_failure", target_services="stock", exception=DeclinedError, rate=1
    )
    run(code="import shop_of_a_child; shop_of_a_child.stock()")
    running.stop()
    told = str(never_fired(running))
    assert "Only child processes that are forked can meet service_failure: " in told
    assert "DeclinedError" in told


def test_an_experiment_that_a_child_cannot_know_is_told(
    family: Family, shop: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DeclinedError(Exception):
        pass

    monkeypatch.setattr(sys.modules[__name__], "DeclinedError", DeclinedError, raising=False)
    DeclinedError.__qualname__ = "DeclinedError"
    monkeypatch.setattr(DeclinedError, "__module__", __name__)
    family.engine.services.add(shop)
    running = family.start(
        "service_failure", target_services="stock", exception=DeclinedError, rate=1
    )
    run(code="import shop_of_a_child; shop_of_a_child.stock()")
    running.stop()
    assert "A child process could not begin service_failure" in str(never_fired(running))


# --- others who look on ---


def test_a_recording_knows_that_it_does_not_see_children(family: Family) -> None:
    running = family.fail()
    running.stop()
    recorder = Recorder([running.experiment])
    with family.engine.recording(recorder), family.engine.recording_test():
        subprocess.run(["true"], check=True)
        assert not recorder.could_hit(running.experiment)
        assert any("process.start true" in line for line in recorder.lines)
        run()
    assert recorder.could_hit(running.experiment)


def test_experiments_begin_and_end_in_many_threads_while_children_start(family: Family) -> None:
    def come_and_go() -> None:
        for _ in range(30):
            with family.failing():
                pass

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    with family.failing() as running:
        for each in threads:
            each.start()
        assert [int(run()) for _ in range(3)] == [FAILED] * 3
        for each in threads:
            each.join()
    assert running.matched == 3
