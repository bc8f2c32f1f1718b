"""Another plugin has --chaos and --chaos-seed, and skips tests marked `chaos` without them."""

from __future__ import annotations

import importlib.metadata

import pytest


@pytest.fixture
def with_ordeal(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    found = {each.name for each in importlib.metadata.entry_points(group="pytest11")}
    assert "ordeal" in found  # in the `test` extra, so it must be here
    # By entry points, in whatever order those come: theirs may be loaded after ours.
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    others = [*(found - {"ordeal", "resilience"}), "cacheprovider"]
    monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(f"-p no:{name}" for name in others))
    return suite


def test_we_make_way_and_say_so(with_ordeal: pytest.Pytester) -> None:
    with_ordeal.makepyfile("""
        import requests

        def test_request(url):
            requests.get(url, timeout=5)
    """)
    result = with_ordeal.runpytest_subprocess(
        "--resilience-chaos", "network_failure:rate=1", "--resilience-chaos-seed=3"
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "resilience: another plugin has taken our options; type * --chaos-seed",
            "chaos: seed 3",
            "repeat: pytest * --resilience-chaos-seed=3 --resilience-chaos=network_failure:rate=1",
        ]
    )


def test_their_flag_lets_our_markers_run(with_ordeal: pytest.Pytester) -> None:
    with_ordeal.makepyfile("""
        import pytest
        import requests

        @pytest.mark.chaos("network_failure", rate=1)
        def test_request(url):
            with pytest.raises(requests.ConnectionError):
                requests.get(url, timeout=5)
    """)
    result = with_ordeal.runpytest_subprocess("--chaos", "--chaos-intensity=1")
    result.assert_outcomes(passed=1)
