"""Another plugin has --chaos and --chaos-seed, and skips tests marked `chaos` without them."""

from __future__ import annotations

import importlib.metadata

import pytest

from tests.ahead import runs
from tests.suites import SERVER


FOUND = {each.name for each in importlib.metadata.entry_points(group="pytest11")}
# By entry points, in whatever order those come: theirs may be loaded after ours.
OTHERS = [*(FOUND - {"ordeal", "resilience"}), "cacheprovider"]
LOADED = {
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": None,
    "PYTEST_ADDOPTS": " ".join(f"-p no:{name}" for name in OTHERS),
}


def test_it_is_here() -> None:
    """By the `test` extra."""
    assert "ordeal" in FOUND


@runs(
    "--resilience-chaos",
    "network_failure:rate=1",
    "--resilience-chaos-seed=3",
    variables=LOADED,
    conftest=SERVER,
    test_it="""
        import requests

        def test_request(url):
            requests.get(url, timeout=5)
    """,
)
def test_we_make_way_and_say_so(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines(
        [
            "resilience: another plugin has taken our options; type * --chaos-seed",
            "chaos: seed 3",
            "repeat: pytest * --resilience-chaos-seed=3 --resilience-chaos=network_failure:rate=1",
        ]
    )


@runs(
    "--chaos",
    "--chaos-intensity=1",
    variables=LOADED,
    conftest=SERVER,
    test_it="""
        import pytest
        import requests

        @pytest.mark.chaos("network_failure", rate=1)
        def test_request(url):
            with pytest.raises(requests.ConnectionError):
                requests.get(url, timeout=5)
    """,
)
def test_their_flag_lets_our_markers_run(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=1)
