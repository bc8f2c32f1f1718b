"""Who overrules whom: a test for each row of `docs/settings.md`."""

from __future__ import annotations

import pytest


PROFILES = """
[tool.pytest.ini_options]
chaos_services = ["stock = shop:stock"]
chaos_max_memory = "1MiB"

[tool.pytest_resilience.profiles.one]
seed = 11
intensity = 0.001
probability = 1
gate = 50

[tool.pytest_resilience.profiles.one.services]
price = "shop:price"

[[tool.pytest_resilience.profiles.one.experiments]]
name = "lag"
chaos_type = "network_latency"

[tool.pytest_resilience.profiles.two]
seed = 12
intensity = 0.002
gate = 70
"""


@pytest.fixture
def shop(suite: pytest.Pytester) -> pytest.Pytester:
    suite.makepyprojecttoml(PROFILES)
    suite.makepyfile(shop="def stock(): return 3\ndef price(): return 4")
    suite.syspathinsert()
    suite.makepyfile("""
        import pytest
        import requests
        import shop

        def test_it(url):
            requests.get(url, timeout=5)

        @pytest.mark.chaos("network_latency", intensity=0.004, name="marked")
        def test_marked(url):
            requests.get(url, timeout=5)

        def test_services(chaos):
            chaos.service("tea", "shop:stock")
            for name in ("tea", "price", "stock"):
                chaos.service_failure(name, must_fire=False)  # it is known, or this raises

        @pytest.mark.no_chaos
        def test_calm(url):
            requests.get(url, timeout=5)
    """)
    return suite


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--chaos-profile=one", "-k", "test_it"], "lag: latency 2ms, *"),
        (["--chaos-profile=one", "--chaos-profile=two", "-k", "test_it"], "lag: latency 4ms, *"),
        (["--chaos-profile=one", "--chaos-intensity=0.003", "-k", "it"], "lag: latency 6ms, *"),
        (["--chaos-intensity=0.003", "-k", "marked"], "marked: latency 8ms, *"),
        (["--chaos-profile=one", "-k", "test_it"], "*chaos (seed 11)*"),
        (["--chaos-profile=one", "--chaos-profile=two", "-k", "test_it"], "*chaos (seed 12)*"),
        (["--chaos-profile=one", "--chaos-seed=13", "-k", "test_it"], "*chaos (seed 13)*"),
        (["--chaos-profile=one", "--chaos-matrix", "-k", "it"], "*passed: 100 %, 50 asked*"),
        (
            ["--chaos-profile=one", "--chaos-profile=two", "--chaos-matrix", "-k", "it"],
            "*70 asked*",
        ),
        (["--chaos-profile=one", "--chaos-matrix", "--resilience-gate=5", "-k", "it"], "*5 asked*"),
        (["--chaos-profile=one", "-k", "services", "-p", "no:randomly"], "* 1 passed*"),
        (
            ["--chaos=network_latency:delay=1ms", "--no-chaos", "-k", "marked"],
            "chaos: none (--no-chaos)",
        ),
        (["--chaos=network_latency:delay=1ms", "-k", "calm"], "*1 passed*"),
    ],
)
def test_row(shop: pytest.Pytester, arguments: list[str], line: str) -> None:
    result = shop.runpytest(*arguments)
    result.stdout.fnmatch_lines([line])
    assert result.ret == 0


def test_probability(shop: pytest.Pytester) -> None:
    profile = shop.runpytest("--chaos-profile=one", "-k", "test_it")
    profile.stdout.fnmatch_lines(["lag: * - 1 test, *"])
    never = shop.runpytest("--chaos-profile=one", "--chaos-probability=0", "-k", "test_it")
    never.stdout.fnmatch_lines(["lag: *not started in 1 (chance)*"])
    marked = shop.runpytest("--chaos-probability=0", "-k", "marked")
    marked.stdout.fnmatch_lines(["marked: *not started in 1 (chance)*"])  # it names none
    flag = shop.runpytest("--chaos=network_latency", "--chaos-probability=0", "-k", "test_it")
    flag.stdout.fnmatch_lines(["network_latency: *not started in 1 (chance)*"])


def test_caps(shop: pytest.Pytester) -> None:
    result = shop.runpytest("--chaos=memory_stress:size=2MiB")
    result.stderr.fnmatch_lines(["ERROR: *over the cap of 1 MiB (chaos_max_memory = 1 MiB)*"])
