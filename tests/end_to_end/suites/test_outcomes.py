"""Whatever becomes of a test, what was patched for it is as it was found."""

from __future__ import annotations

import contextlib
import signal
import socket
import ssl

from typing import Any

import pytest


def touched() -> list[dict[str, Any]]:
    return [dict(vars(owner)) for owner in (socket.socket, ssl.SSLSocket, socket)]


HEADER = """
    import os
    import signal
    import socket

    import pytest
    import requests

    pytestmark = pytest.mark.chaos("network_latency", delay=0.001, include_setup=True)

    @pytest.fixture
    def broken_setup(url):
        requests.get(url, timeout=5)
        raise RuntimeError("set-up")

    @pytest.fixture
    def broken_teardown():
        yield
        raise RuntimeError("teardown")

    @pytest.fixture
    def patcher(monkeypatch):
        def patch():
            original = socket.socket.connect
            monkeypatch.setattr(
                socket.socket, "connect", lambda *args: original(*args), raising=True
            )
        return patch
"""

BODIES = {
    "pass": "",
    "fail": "assert False",
    "skip": "pytest.skip('no')",
    "xfail": "pytest.xfail('no')",
    "exit": "pytest.exit('enough')",
    "keyboard interrupt": "raise KeyboardInterrupt",
    "system exit": "raise SystemExit(3)",
    "a patch on top of ours": "patcher()",
}


@pytest.mark.parametrize("what", BODIES)
def test_after_every_outcome_of_the_call(suite: pytest.Pytester, what: str) -> None:
    suite.makepyfile(f"""{HEADER}
    def test_it(url, patcher):
        requests.get(url, timeout=5)
        {BODIES[what] or "pass"}
    """)
    before = touched()
    with contextlib.suppress(KeyboardInterrupt):
        suite.runpytest("--chaos", "network_latency:delay=1ms")
    assert touched() == before


@pytest.mark.parametrize("fixture", ["broken_setup", "broken_teardown"])
def test_after_errors_in_setup_and_teardown(suite: pytest.Pytester, fixture: str) -> None:
    suite.makepyfile(f"""{HEADER}
    def test_it(url, {fixture}):
        requests.get(url, timeout=5)

    def test_the_next(url):
        assert "connect" in vars(socket.socket)
        requests.get(url, timeout=5)
    """)
    before = touched()
    result = suite.runpytest()
    assert touched() == before
    assert result.parseoutcomes()["errors"] == 1


def test_after_a_timeout_by_signal(suite: pytest.Pytester) -> None:
    suite.makepyfile(f"""{HEADER}
    @pytest.mark.timeout(60, method="signal")
    @pytest.mark.chaos("network_failure", mode="timeout", rate=1)
    def test_hangs(url):
        host, port = url.removeprefix("http://").strip("/").split(":")
        with socket.socket() as client:  # urllib3 would not close it after such an exception
            signal.setitimer(signal.ITIMER_REAL, 0.1)  # the minute is over now, and not before
            client.connect((host, int(port)))

    @pytest.mark.no_chaos
    def test_the_next(url):
        assert "recv" not in vars(socket.socket)
        requests.get(url, timeout=5)
    """)
    before = touched()
    result = suite.runpytest("-p", "timeout")
    result.assert_outcomes(passed=1, failed=1)
    assert touched() == before
    assert signal.getsignal(signal.SIGALRM) in {signal.SIG_DFL, signal.SIG_IGN, None}


def test_between_tests_nothing_is_patched(suite: pytest.Pytester) -> None:
    suite.makeconftest("""
        import socket

        import pytest

        found = dict(vars(socket.socket))

        @pytest.hookimpl(trylast=True)
        def pytest_runtest_logfinish():
            assert dict(vars(socket.socket)) == found
    """)
    suite.makepyfile("""
        import pytest

        @pytest.mark.chaos("network_latency", must_fire=False, include_setup=True)
        @pytest.mark.parametrize("number", range(3))
        def test_it(number):
            pass
    """)
    suite.runpytest().assert_outcomes(passed=3)
