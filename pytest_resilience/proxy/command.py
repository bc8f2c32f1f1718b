"""`python -m pytest_resilience.proxy`: a proxy of its own process, until it is interrupted."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading

from collections.abc import Sequence
from types import FrameType

from pytest_resilience.errors import ResilienceError
from pytest_resilience.proxy.control import PORT
from pytest_resilience.proxy.control import ControlServer
from pytest_resilience.proxy.proxy import ChaosProxy
from pytest_resilience.proxy.toxics import KINDS
from pytest_resilience.proxy.toxics import parse_toxic


__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pytest_resilience.proxy",
        description="Lead TCP connections to a server, and harm them on the way.",
        epilog=_types(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("listen", metavar="LISTEN", help="host:port on loopback; port 0: any")
    parser.add_argument("upstream", metavar="UPSTREAM", help="host:port of the server")
    parser.add_argument(
        "--toxic",
        action="append",
        default=[],
        metavar="TYPE:NAME=VALUE,...",
        help="what is wrong; also stream=upstream, toxicity=0.5, name=...; may be repeated",
    )
    parser.add_argument("--seed", type=int, help="repeat the chance of another run")
    parser.add_argument(
        "--control",
        nargs="?",
        const=f"127.0.0.1:{PORT}",
        metavar="HOST:PORT",
        help="serve Toxiproxy's HTTP API there, on loopback (%(const)s); off unless given",
    )
    return parser


def _types() -> str:
    lines = ["types of toxic, with what they can be told (unit, default):"]
    for kind, attributes in KINDS.items():
        told = ", ".join(
            f"{name} ({each.unit}, {each.default})" for name, each in attributes.items()
        )
        lines.append(f"  {kind:<12} {told}".rstrip())
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM. The exit status: 2 for what makes no sense."""
    options = _parser().parse_args(arguments)
    stopped = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopped.set()

    try:
        with contextlib.ExitStack() as running:
            for number in (signal.SIGINT, signal.SIGTERM):
                running.callback(signal.signal, number, signal.signal(number, stop))
            for line in _start(options, running):
                print(line, flush=True)  # noqa: T201  # it is what the command is for
            stopped.wait()
    except ResilienceError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def _start(options: argparse.Namespace, running: contextlib.ExitStack) -> list[str]:
    """Start what was asked for; what there is to say about it."""
    toxics = [parse_toxic(text) for text in options.toxic]
    proxy = running.enter_context(ChaosProxy(options.upstream, options.listen, seed=options.seed))
    for toxic in toxics:
        proxy.apply(toxic)
    lines = [f"{proxy.listen} -> {proxy.upstream} (seed {proxy.seed})"]
    lines += [f"  {toxic}" for toxic in proxy.toxics]
    if options.control is not None:
        control = running.enter_context(ControlServer([proxy], options.control))
        lines.append(f"control: {control.url}")
    return lines
