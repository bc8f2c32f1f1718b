"""How many functions and modules of the package one delayed response runs through.

`python benchmarks/response_path.py`, with the `test` extra installed; `-v` lists them in the order
in which they are entered, each below the one that has called it first. Counted are functions and
modules that are entered between the call that receives and its return, once each: what a reader
has to read to follow one response. A comprehension and a generator expression are parts of their
function.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import sys
import threading

from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from types import FrameType

import requests
import responses

from figures import Figure
from figures import show

import pytest_resilience

from pytest_resilience import ChaosExperiment
from pytest_resilience.runtime import default_runtime


PACKAGE = str(Path(pytest_resilience.__file__).parent)
DELAY = 0.03  # seconds: long enough to be slept on a busy machine, and no longer than one look
MOST = {"blocking recv": (30, 12), "asyncio read": (45, 14), "mocked get": (45, 12)}


class Trace:
    """The functions of the package that this thread enters while it is on.

    Attributes:
        entered: in order, each with the one that has called it first; None for who is not ours.
    """

    def __init__(self) -> None:
        self.entered: dict[CodeType, CodeType | None] = {}
        self._stack: list[CodeType] = []

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        sys.setprofile(self._note)
        try:
            yield
        finally:
            sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        # From Python 3.12 on a comprehension is no call; a generator expression still is one.
        is_part = code.co_name.endswith(("comp>", "genexpr>"))
        if is_part or not code.co_filename.startswith(PACKAGE):
            return
        if event == "call":
            self.entered.setdefault(code, self._stack[-1] if self._stack else None)
            self._stack.append(code)
        elif event == "return":
            self._stack.pop()

    @property
    def modules(self) -> set[str]:
        return set(map(_module_of, self.entered))

    def show(self, above: CodeType | None = None, indent: str = "    ") -> None:
        for code, caller in self.entered.items():
            if caller is above:
                print(f"{indent}{code.co_qualname}  {_module_of(code)}")
                self.show(code, indent + "  ")


def _module_of(code: CodeType) -> str:
    return code.co_filename.removeprefix(PACKAGE + "/")


def echo(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            client = server.accept()[0]
            threading.Thread(target=_echo, args=(client,), daemon=True).start()


def _echo(client: socket.socket) -> None:
    with client, contextlib.suppress(OSError):
        while data := client.recv(4096):
            client.sendall(data)


def blocking(port: int, trace: Trace) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"hello")
        with trace.on():
            assert client.recv(100) == b"hello"


def in_asyncio(port: int, trace: Trace) -> None:
    async def story() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello")
        with trace.on():
            assert await reader.read(100) == b"hello"
        writer.close()
        await writer.wait_closed()

    asyncio.run(story())


def mocked(_: int, trace: Trace) -> None:
    with responses.RequestsMock() as mock:
        mock.get("http://shop.example/", body="hello")
        with trace.on():
            assert requests.get("http://shop.example/", timeout=5).text == "hello"


def main() -> int:
    stories: dict[str, Callable[[int, Trace], None]] = {
        "blocking recv": blocking,
        "asyncio read": in_asyncio,
        "mocked get": mocked,
    }
    figures = []
    gc.disable()  # whatever is told of what it finds is no part of the way
    latency = ChaosExperiment("slow", "network_latency", delay=DELAY)
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=echo, args=(server,), daemon=True).start()
        for what, story in stories.items():
            story(server.getsockname()[1], Trace())  # what is loaded is loaded now
            trace = Trace()
            running = default_runtime().start(latency, seed=1)
            try:
                story(server.getsockname()[1], Trace())
                story(server.getsockname()[1], trace)
            finally:
                running.stop()
            most_functions, most_modules = MOST[what]
            counts = [("functions", trace.entered, most_functions)]
            figures += [
                Figure(what=f"{what}: {unit}", value=len(found), target=most, unit=unit)
                for unit, found, most in [*counts, ("modules", trace.modules, most_modules)]
            ]
            if "-v" in sys.argv:
                print(what)
                trace.show()
    return show(figures)


if __name__ == "__main__":
    sys.exit(main())
