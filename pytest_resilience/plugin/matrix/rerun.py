"""One test several times in one session, with fresh function fixtures each time.

Fixtures of classes, modules and the session are kept from run to run, as between tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pytest_resilience.plugin import pytest_internals


__all__ = ["finish", "run_once"]


def run_once(item: pytest.Item, *, brief: bool) -> list[pytest.TestReport]:
    """Set up, call, tear down: the reports, which nobody else has seen.

    `brief`: whether tracebacks are left out, which cost more than most tests.
    """
    with _as_new(item), _brief(item.config, brief):
        return pytest_internals.run_protocol(item, item.parent)


def finish(item: pytest.Item, nextitem: pytest.Item | None) -> pytest.TestReport | None:
    """Tear down what the next test does not need; a report if that failed."""
    call = pytest.CallInfo.from_call(
        lambda: pytest_internals.tear_down_until(item, nextitem), when="teardown"
    )
    if call.excinfo is None:
        return None
    report: pytest.TestReport = item.ihook.pytest_runtest_makereport(item=item, call=call)
    return report


@contextmanager
def _as_new(item: pytest.Item) -> Iterator[None]:
    """Without what an earlier run has left on it."""
    pytest_internals.forget_run(item)
    properties = list(item.user_properties)
    try:
        yield
    finally:
        item.user_properties[:] = properties


@contextmanager
def _brief(config: pytest.Config, brief: bool) -> Iterator[None]:
    if not brief:
        yield
        return
    usual, config.option.tbstyle = config.option.tbstyle, "no"
    try:
        with pytest_internals.subtests_forgotten(config):
            yield
    finally:
        config.option.tbstyle = usual
