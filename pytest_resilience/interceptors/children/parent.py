"""The parent's side: how this process starts others, what it tells its children, and what it hears.

Each Python that it starts gets a number, and a way to ask. What stands in the folder that it has
with those is said in `folder.py`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import json
import marshal
import os
import posix
import select
import shutil
import sys
import tempfile
import threading

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from typing import Final

from pytest_resilience import proc
from pytest_resilience.chaos.call_site import caller
from pytest_resilience.chaos.forked_children import Pages
from pytest_resilience.chaos.operation import PROCESS_START
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.interceptors.children.folder import VARIABLE
from pytest_resilience.interceptors.children.folder import add_hook
from pytest_resilience.locks import fork_safe
from pytest_resilience.patching import ImportHook
from pytest_resilience.patching import Patches


__all__ = ["Host", "Start", "Starts"]

_MEMORY = "/dev/shm"  # noqa: S108  # where there is one: quick, and no disk can be full
_STEP: Final = 0.1  # seconds, after which a child that was waited for may be dead
_TAKES_ONE = "WX"  # options of Python that are followed by something
_ENDS = "cm"  # and after which they are the program's
_LED = (
    "lead it through a proxy with the fixture chaos_proxy: proxy = chaos_proxy('host:port'); then "
    "proxy.inject(...) what is injected here. Have it connect to proxy.listen or proxy.dsn(...), "
    "or give it env={**os.environ, **proxy.environment()}."
)
_OLDER_FORK_SERVER = (
    "The fork server of multiprocessing was started before any test had chaos, so that nothing "
    "reaches its children: start it in a test that has, or use the start method spawn."
)


class Host:
    """Tells the children of this process what is active, and hears what they met.

    Attributes:
        folder: its path; only the user can look into it.
        pages: in which experiments count.
        patience: seconds that it waits for all children together when an experiment begins.
    """

    def __init__(self, place: str, *, native: bool) -> None:
        """`place` and `native`: as in `Member`. Raises OSError where there can be no folder."""
        memory = _MEMORY if os.access(_MEMORY, os.W_OK) else None
        self.folder = tempfile.mkdtemp(prefix="chaos-", dir=memory)
        os.mkdir(f"{self.folder}/members")
        os.mkdir(f"{self.folder}/programs")
        os.mkfifo(f"{self.folder}/answers", 0o600)
        self.pages = Pages.make(f"{self.folder}/counts")
        self.patience = 10.0
        self._settings = place, native
        self._number = 0
        self._silent: set[str] = set()  # members that are hung, as far as it is known
        # Read and written: it never ends while this process lives.
        self._answers = posix.open(f"{self.folder}/answers", os.O_RDWR | os.O_NONBLOCK)
        self._told = posix.open(f"{self.folder}/told", os.O_RDWR | os.O_CREAT, 0o600)
        self._rest = b""
        self.publish([])

    def publish(self, experiments: Sequence[tuple[int, bytes]], *, wait: bool = False) -> None:
        """Have children run these, by key; `wait` until they do, or hang."""
        self._number += 1
        content = marshal.dumps((self._number, self._settings, list(experiments)), 2)
        new = f"{self.folder}/new"
        fd = posix.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            posix.write(fd, content)
        finally:
            posix.close(fd)
        posix.rename(new, f"{self.folder}/experiments")
        alive = {name for name in self.members() if self._wake(name)}
        if wait:
            self._wait(alive)

    def members(self) -> list[str]:
        """The names of all children that have been reached since the last `forget`."""
        return posix.listdir(f"{self.folder}/members")

    def _wake(self, name: str, data: bytes = b".") -> bool:
        """Whether a child lives, which is told that there is news if there is `data`."""
        try:
            fd = posix.open(f"{self.folder}/members/{name}", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads it: it is dead, or has closed all, and opens it again
            return self._runs(name)
        try:
            posix.write(fd, data)
        except OSError as error:  # it is full of what a hung child has not read
            return error.errno == errno.EAGAIN or self._runs(name)
        finally:
            posix.close(fd)
        return True

    def _runs(self, name: str) -> bool:
        """Whether the process of a child still runs the program that made it one."""
        try:
            process, _, program = posix.readlink(f"{self.folder}/programs/{name}").partition(":")
        except OSError:  # it has left
            return False
        return bool(program) and program == proc.program_of(int(process))

    def _wait(self, names: set[str]) -> None:
        """Until each of these has seen the latest news; a bounded time."""
        answered = self._answered()  # some were quicker than this, and say nothing more
        missing = names - answered - self._silent
        deadline = MACHINE_CLOCK.monotonic() + self.patience
        ready = select.poll()
        ready.register(self._answers, select.POLLIN)
        while missing:
            left = deadline - MACHINE_CLOCK.monotonic()
            if left <= 0:
                self._silent |= missing
                return
            ready.poll(min(left, _STEP) * 1000)
            missing -= self._answered()
            missing = {name for name in missing if self._wake(name, b"")}

    def _answered(self) -> set[str]:
        """The children that have seen the latest news, of those that have said something now."""
        text = b""
        with contextlib.suppress(BlockingIOError):
            while part := posix.read(self._answers, 1 << 16):
                text += part
        found = set()
        for line in text.decode().splitlines():
            name, _, number = line.partition(" ")
            self._silent.discard(name)
            if int(number) >= self._number:
                found.add(name)
        return found

    def told(self) -> Iterator[list[Any]]:
        """What children have told since the last time."""
        text = self._rest
        while part := posix.read(self._told, 1 << 20):
            text += part
        *lines, self._rest = text.split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError):  # of one that was killed in the middle
                yield json.loads(line)

    def forget(self) -> None:
        """Forget the children that have ended, and all that was told."""
        for name in self.members():
            if not self._wake(name, b""):
                self._silent.discard(name)
                for kind in ("members", "programs"):
                    with contextlib.suppress(FileNotFoundError):
                        posix.unlink(f"{self.folder}/{kind}/{name}")
        self._rest = b""
        if posix.lseek(self._told, 0, os.SEEK_CUR):
            posix.ftruncate(self._told, 0)
            posix.lseek(self._told, 0, os.SEEK_SET)

    def close(self) -> None:
        """Let all children go on without."""
        self.leave()
        shutil.rmtree(self.folder, ignore_errors=True)

    def leave(self) -> None:
        """Have no part in it any more: in a forked child it is not this process's."""
        posix.close(self._answers)
        posix.close(self._told)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A process that was started.

    Attributes:
        program: its file's name.
        number: what a Python there calls itself; "" if it cannot know.
        is_python: whether it is one, as far as that can be told.
        advice: what to do where it is out of reach for sure.
        is_of_test: whether code of the user's has started it.
    """

    program: str
    number: str
    is_python: bool
    advice: str
    is_of_test: bool

    def operation(self) -> Operation:
        """What to note where it has not been reached."""
        return Operation(
            kind=PROCESS_START,
            target=self.program,
            names=(),
            remark="a process that was not reached",
            advice=self.advice or self._usual_advice(),
        )

    def spared(self) -> Operation:
        """What to note where the experiment is not for children."""
        return Operation(
            kind=PROCESS_START,
            target=self.program,
            names=(),
            remark="a process of its own",
            advice=f"{self.program} is a process of its own: children=False leaves those alone.",
        )

    def _usual_advice(self) -> str:
        if not self.is_python:
            return f"{self.program} is a process of its own, and no Python: {_LED}"
        return (
            f"{self.program} is a process of its own, which has not been heard of. It may have had "
            "no time to begin, or be no Python 3.11 or later, or have been started by something "
            f"that gives it another environment. Else {_LED}"
        )


class Starts:
    """Sees processes being started.

    Attributes:
        seen: those that were started since `install`.
        folder: where they are to ask.
    """

    def __init__(
        self,
        next_number: Callable[[], str],
        starting: Callable[[], object] = lambda: None,
        notify: Callable[[Start], object] = lambda _: None,
    ) -> None:
        """`starting`: called before one that gets no number; `notify`: called with each."""
        self.seen: list[Start] = []
        self.folder = ""
        self._next_number = next_number
        self._starting = starting
        self._notify = notify
        self._fork_server = ""  # the number of that of `multiprocessing`
        self._patches = Patches()
        self._lock = fork_safe(self, "_lock", threading.RLock)
        self._hook = ImportHook(
            {
                "os": self._replace_starts,
                "uvloop": self._replace_uvloop,
                "subprocess": self._replace_popen,
                "multiprocessing.util": self._replace_spawn,
                "multiprocessing.popen_forkserver": self._replace_launch,
            },
            self._patches,
        )

    def install(self, folder: str) -> None:
        """Lead what is started from now on to `folder`; harmless when repeated."""
        if not self.folder:
            self.folder = folder
            self._hook.install()

    def of_child(self, next_number: Callable[[], str]) -> None:
        """This process is a forked child: it gives numbers of its own, and tells nobody."""
        self._next_number, self._notify = next_number, lambda _: None
        self._starting = lambda: None

    def remove(self) -> None:
        """Harmless when nothing is installed."""
        if self.folder:
            self.folder = ""
            self._hook.remove()
        self._patches.restore()
        self.seen.clear()

    def _replace_starts(self) -> None:
        for name in ("system", "posix_spawn", "posix_spawnp"):
            if hasattr(os, name):
                self._patches.replace(os, name, self._unnumbered)

    def _replace_uvloop(self) -> None:
        for name in ("subprocess_exec", "subprocess_shell"):
            self._patches.replace(sys.modules["uvloop"].Loop, name, self._unnumbered)

    def _unnumbered(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A way to start a process whose environment is none of ours."""

        @functools.wraps(original)
        def start(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            self._starting()
            return original(*args, **kwargs)

        return start

    def _replace_popen(self) -> None:
        self._patches.replace(sys.modules["subprocess"].Popen, "__init__", self._popen)

    def _replace_spawn(self) -> None:
        self._patches.replace(sys.modules["multiprocessing.util"], "spawnv_passfds", self._spawn)

    def _replace_launch(self) -> None:
        popen = sys.modules["multiprocessing.popen_forkserver"].Popen
        self._patches.replace(popen, "_launch", self._launch)

    def _launch(self, original: Callable[..., None]) -> Callable[..., None]:
        """Of children of the fork server, which serves all tests, and may be older than any."""

        @functools.wraps(original)
        def launch(*args: Any, **kwargs: Any) -> None:
            __tracebackhide__ = True
            original(*args, **kwargs)
            start = Start(
                program="forkserver",
                number=self._fork_server,
                is_python=True,
                advice=_OLDER_FORK_SERVER,
                is_of_test=bool(caller()),
            )
            self.seen.append(start)

        return launch

    def _popen(self, original: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(original)

        @functools.wraps(original)
        def start(*args: Any, **kwargs: Any) -> None:
            __tracebackhide__ = True
            with contextlib.suppress(Exception):  # what is wrong is for the real one to say
                bound = signature.bind(*args, **kwargs)
                self._lead(bound.arguments)
                args, kwargs = bound.args, bound.kwargs
            original(*args, **kwargs)

        return start

    def _lead(self, arguments: dict[str, Any]) -> None:
        """Give a process that is about to be started its number."""
        command = arguments["args"]
        words = [command] if isinstance(command, (str, bytes, os.PathLike)) else list(command)
        texts = [os.fsdecode(each) for each in words]
        if isinstance(command, (str, bytes)):
            texts = texts[0].split()
        given = arguments.get("env")
        environment = os.environ if given is None else given
        number = ""
        # Else nobody is led here, or to another: to a pytest that is a child itself.
        if environment.get(VARIABLE, "").startswith(f"{self.folder}:"):
            number = self._next_number()
            # What gives it another PYTHONPATH does not mean to do without this.
            arguments["env"] = dict(environment)
            add_hook(arguments["env"], f"{self.folder}:{number}")
        self._note(texts, number, given=given is not None)

    def _note(self, words: Sequence[str], number: str, *, given: bool) -> None:
        program = os.path.basename(words[0])
        python = _is_python(words[0])
        options = _isolating(words[1:]) if python else ""
        advice = ""
        if options:
            advice = (
                f"{program} was started with {options}, so that it asks nobody what to do: start "
                f"it without, or {_LED}"
            )
        elif not number and given:
            advice = (
                f"{program} was started with an environment of its own, without {VARIABLE} and "
                "PYTHONPATH, by which a child finds its experiments: give it "
                f"env={{**os.environ, ...}}, or {_LED}"
            )
        start = Start(
            program=program,
            number="" if options else number,
            is_python=python,
            advice=advice if python else "",
            is_of_test=bool(caller()),
        )
        self.seen.append(start)
        self._notify(start)

    def _spawn(self, original: Callable[..., int]) -> Callable[..., int]:
        """Of `multiprocessing`: for spawned children, the fork server and the resource tracker."""

        @functools.wraps(original)
        def start(path: Any, args: Iterable[Any], passfds: Any) -> int:
            __tracebackhide__ = True
            words = [*args]
            texts = [os.fsdecode(each) for each in words]
            tracker = any("resource_tracker" in each for each in texts)
            with self._lock:  # the environment is that of all threads
                place = os.environ.get(VARIABLE)
                if place is None or not place.startswith(f"{self.folder}:"):
                    return original(path, words, passfds)
                number = "" if tracker else self._next_number()
                try:
                    if tracker:  # which serves the whole run, and does nothing that matters
                        del os.environ[VARIABLE]
                    else:
                        os.environ[VARIABLE] = f"{self.folder}:{number}"
                        self._note(texts, number, given=False)
                        if any("forkserver" in each for each in texts):
                            self._fork_server = number
                    return original(path, words, passfds)
                finally:
                    os.environ[VARIABLE] = place

        return start


def _is_python(program: str) -> bool:
    """Whether the program is Python, or a script of it."""
    name = os.path.basename(program)
    if name.startswith(("python", "pypy")) or program == sys.executable:
        return True
    found = shutil.which(program)
    if found is None:
        return False
    try:
        fd = posix.open(found, os.O_RDONLY)  # which no experiment hits
    except OSError:
        return False
    try:
        first = posix.read(fd, 200).splitlines()[:3]
    finally:
        posix.close(fd)
    return bool(first) and first[0].startswith(b"#!") and any(b"python" in each for each in first)


def _isolating(words: Iterable[str]) -> str:
    """The options of Python, before the program, that leave the environment or `site` out."""
    words = iter(words)
    for word in words:
        if not word.startswith("-") or word.startswith("--") or word == "-":
            return ""
        for place, letter in enumerate(word[1:], 1):
            if letter in "EIS":
                return f"-{letter}"
            if letter in _ENDS:
                return ""
            if letter in _TAKES_ONE:
                if place == len(word) - 1:
                    next(words, None)
                break
    return ""
