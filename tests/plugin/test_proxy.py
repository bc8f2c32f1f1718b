"""The fixture `chaos_proxy` in a suite."""

from __future__ import annotations

import pytest


def test_a_proxy_for_a_test(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import threading

        import pytest
        import requests

        def get(proxy):
            return requests.get(f"http://{proxy.host}:{proxy.port}/", timeout=5).text

        def test_faults_on_the_way(chaos_proxy, chaos, url):
            proxy = chaos_proxy(url.removeprefix("http://").rstrip("/"))
            assert get(proxy) == "ok"
            with proxy.inject("network_failure", mode="reset", rate=1) as lost:
                with pytest.raises(requests.ConnectionError):
                    get(proxy)
            assert lost.hits >= 1
            assert [event.source for event in chaos.events]
            assert get(proxy) == "ok"

        def test_all_are_closed():
            assert not any("proxy" in thread.name for thread in threading.enumerate())
    """)
    result = suite.runpytest("-p", "no:randomly")
    result.assert_outcomes(passed=2)
