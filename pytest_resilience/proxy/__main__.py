"""`python -m pytest_resilience.proxy`: a proxy of its own process, until it is interrupted."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading

from collections.abc import Iterator
from collections.abc import Sequence
from types import FrameType

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.parsing import quantities
from pytest_resilience.chaos.parsing.experiment_specs import format_spec
from pytest_resilience.chaos.parsing.experiment_specs import parse_spec
from pytest_resilience.chaos.parsing.messages import printable
from pytest_resilience.errors import ResilienceError
from pytest_resilience.errors import with_page
from pytest_resilience.proxy.proxy import ChaosProxy
from pytest_resilience.proxy.toxic_types import KINDS
from pytest_resilience.proxy.toxic_types import parse_toxic
from pytest_resilience.proxy.toxiproxy_api.server import PORT
from pytest_resilience.proxy.toxiproxy_api.server import ControlServer


__all__ = ["main"]

_FOR_EVER = "1000000h"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pytest_resilience.proxy",
        description="Lead clients to a server, and delay, damage or cut what passes on the way.",
        epilog=_toxic_types(),
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
    parser.add_argument(
        "--experiment",
        action="append",
        default=[],
        metavar="TYPE:NAME=VALUE,...",
        help="a fault of the network, as pytest's --chaos takes it, e.g. "
        "network_failure:mode=reset,rate=0.1; also stream=upstream; may be repeated",
    )
    parser.add_argument(
        "--protocol", choices=("tcp", "udp"), default="tcp", help="what they speak (%(default)s)"
    )
    parser.add_argument("--seed", help="repeat the chance of another run")
    parser.add_argument(
        "--control",
        nargs="?",
        const=f"127.0.0.1:{PORT}",
        metavar="HOST:PORT",
        help="serve Toxiproxy's HTTP API there, on loopback (%(const)s); off unless given",
    )
    return parser


def _toxic_types() -> str:
    lines = ["types of toxic, with their attributes (unit, default):"]
    for kind, attributes in KINDS.items():
        shown = (f"{name} ({each.unit}, {each.default})" for name, each in attributes.items())
        lines.append(f"  {kind:<12} {', '.join(shown)}".rstrip())
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
            active_experiments = running.enter_context(_running(options))
            stopped.wait()
        for each in active_experiments:
            _print(f"{each.experiment}: matched {each.matched}, hit {each.hits}")
    except ResilienceError as error:
        print(printable(f"error: {with_page(error)}"), file=sys.stderr)  # noqa: T201
        return 2
    return 0


@contextlib.contextmanager
def _running(options: argparse.Namespace) -> Iterator[list[ActiveExperiment]]:
    """Start what the options ask for, and print it; gives its experiments."""
    toxics = [parse_toxic(text) for text in options.toxic]
    seed = None if options.seed is None else quantities.seed("--seed", options.seed)
    with contextlib.ExitStack() as running:
        proxy = running.enter_context(
            ChaosProxy(options.upstream, options.listen, protocol=options.protocol, seed=seed)
        )
        for toxic in toxics:
            proxy.apply(toxic)
        active_experiments = [
            running.enter_context(proxy.inject(_endless(text), must_fire=False))
            for text in options.experiment
        ]
        _print(f"{proxy.listen} -> {proxy.upstream} (seed {proxy.seed})")
        for each in (*proxy.toxics, *(each.experiment for each in active_experiments)):
            _print(f"  {each}")
        if options.control is not None:
            control = running.enter_context(ControlServer([proxy], options.control))
            _print(f"control: {control.url}")
        yield active_experiments


def _endless(text: str) -> str:
    """An experiment that names no duration lasts as long as the command."""
    kind, given = parse_spec(text)
    return format_spec(kind, {"duration": _FOR_EVER, **given})


def _print(line: str) -> None:
    print(printable(line), flush=True)  # noqa: T201  # it is what the command is for


if __name__ == "__main__":
    # What the terminal cannot show is escaped, as on stderr.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(main())
