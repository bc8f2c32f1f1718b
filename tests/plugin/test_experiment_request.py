"""What is asked for in a test happens every time; what is left to chance says what chance did."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience import ChaosType
from pytest_resilience.chaos.triggers import Always
from pytest_resilience.chaos.triggers import Rate
from pytest_resilience.chaos.types.catalog import SCHEMAS
from pytest_resilience.plugin.experiment_request import Defaults
from pytest_resilience.plugin.experiment_request import RequestedBy
from pytest_resilience.plugin.experiment_request import from_parameters
from pytest_resilience.proxy import ChaosProxy


REQUIRED: dict[ChaosType, dict[str, Any]] = {
    ChaosType.SERVICE_FAILURE: {"target_services": "bank"},
    ChaosType.DISK_FAILURE: {"path": "data/**"},
}
CHOSEN = [each for each in ChaosType if any(p.name == "rate" for p in SCHEMAS[each].parameters)]
FAILURES = [each for each in CHOSEN if each.value.endswith("_failure")]


def trigger(
    kind: Any, requested_by: RequestedBy, defaults: Defaults | None = None, **given: Any
) -> object:
    defaults = defaults or Defaults()
    return from_parameters(kind, given, defaults, requested_by=requested_by).experiment.trigger


@pytest.mark.parametrize("requested_by", ["marker", "fixture"])
@pytest.mark.parametrize("kind", CHOSEN)
def test_asked_for_in_a_test_it_happens_every_time(
    kind: ChaosType, requested_by: RequestedBy
) -> None:
    required = REQUIRED.get(kind, {})
    assert trigger(kind, requested_by, **required) == Always()
    assert trigger(ChaosExperiment("x", kind, **required), requested_by) == Always()


@pytest.mark.parametrize("requested_by", ["marker", "fixture"])
@pytest.mark.parametrize("kind", FAILURES)
def test_unless_it_is_said_how_often(kind: ChaosType, requested_by: RequestedBy) -> None:
    required = REQUIRED.get(kind, {})
    ways: list[dict[str, Any]] = [{"rate": 0.3}, {"intensity": 0.3}]
    for said in ways:
        assert trigger(kind, requested_by, **said, **required) == Rate(0.3)
        assert trigger(ChaosExperiment("x", kind, **said, **required), requested_by) == Rate(0.3)
    assert trigger(kind, requested_by, Defaults(intensity=0.2), **required) == Rate(0.2)
    assert trigger(kind, requested_by, Defaults(intensity=0.2), rate=0.3, **required) == Rate(0.3)


@pytest.mark.parametrize("requested_by", ["flag", "profile", "monkey"])
@pytest.mark.parametrize("kind", FAILURES)
def test_asked_for_all_tests_the_intensity_says_how_often(
    kind: ChaosType, requested_by: RequestedBy
) -> None:
    assert trigger(kind, requested_by, **REQUIRED.get(kind, {})) == Rate(0.5)


def test_through_a_proxy_it_happens_every_time_too() -> None:
    with ChaosProxy("127.0.0.1:1") as proxy:
        with proxy.inject("network_failure", mode="reset", must_fire=False) as reset:
            assert reset.experiment.trigger == Always()
        with proxy.inject("network_failure", mode="reset", rate=0.5, must_fire=False) as half:
            assert half.experiment.trigger == Rate(0.5)


@pytest.mark.parametrize("seed", range(8))
def test_a_failure_that_is_expected_fails_under_every_seed(
    suite: pytest.Pytester, seed: int
) -> None:
    suite.makepyfile("""
        import pytest
        import requests

        @pytest.mark.chaos("network_failure", mode="refuse")
        def test_marked(url):
            with pytest.raises(requests.ConnectionError):
                requests.get(url, timeout=5)

        def test_in_a_block(url, chaos):
            with chaos.network_failure(mode="reset"), pytest.raises(requests.ConnectionError):
                requests.get(url, timeout=5)
    """)
    suite.runpytest(f"--chaos-seed={seed}").assert_outcomes(passed=2)


def test_a_test_that_chance_has_spared_says_so_when_it_fails(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest
        import requests

        @pytest.mark.chaos("network_failure", mode="refuse", rate=0)
        def test_never_hit(url):
            with pytest.raises(requests.ConnectionError):
                requests.get(url, timeout=5)

        @pytest.mark.chaos("network_failure", mode="refuse", probability=0, name="outage")
        def test_never_begun(url):
            with pytest.raises(requests.ConnectionError):
                requests.get(url, timeout=5)

        @pytest.mark.chaos("network_failure", mode="refuse", nth=2)
        def test_not_by_chance(url):
            with pytest.raises(requests.ConnectionError):
                requests.get(url, timeout=5)

        @pytest.mark.chaos("network_failure", mode="refuse", rate=0)
        def test_that_passes(url):
            requests.get(url, timeout=5)
    """)
    result = suite.runpytest()
    result.assert_outcomes(failed=3, passed=1)
    result.stdout.fnmatch_lines(
        [
            "network_failure: by chance it spared 1 of 1 operations (rate 0); rate=1 hits them all",
            "outage: by chance it did not start (probability 0)",
        ]
    )
    assert result.stdout.str().count("by chance") == 2


def test_a_proxy_heeds_the_flag_and_says_what_chance_has_spared(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest
        import requests

        @pytest.mark.parametrize("given", [{}, {"intensity": 1}])
        def test_it(url, chaos_proxy, given):
            proxy = chaos_proxy(url.split("/")[2])
            with proxy.inject("network_failure", mode="reset", **given):
                with pytest.raises(requests.ConnectionError):
                    requests.get(f"http://{proxy.listen}/", timeout=5)
    """)
    result = suite.runpytest("--chaos-intensity=0")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        ["network_failure: by chance it spared 1 of 1 operations (rate 0); rate=1 hits them all"]
    )
