from __future__ import annotations

import re

import pytest


SUITE = """
    import pytest
    import requests

    @pytest.mark.parametrize("number", range(8))
    @pytest.mark.chaos("network_failure", rate=0.5)
    def test_request(url, number):
        requests.get(url, timeout=5)
"""


def test_workers_deal_the_same_faults_as_one_process(suite: pytest.Pytester) -> None:
    suite.makepyfile(SUITE)

    def outcome(*flags: str) -> tuple[set[str], list[str]]:
        result = suite.runpytest("-rf", "--chaos-seed=5", *flags)
        failed = set(re.findall(r"^FAILED (\S+)", result.stdout.str(), re.MULTILINE))
        return failed, sorted(
            line for line in result.outlines if line.startswith(("repeat:", "network_failure:"))
        )

    alone = outcome()
    assert alone[0]
    assert outcome("-p", "xdist", "-n", "2") == alone


def test_workers_share_a_seed_that_nobody_chose(suite: pytest.Pytester) -> None:
    suite.makepyfile(SUITE)
    result = suite.runpytest("-p", "xdist", "-n", "2")
    seeds = set(re.findall(r"seed[ =](\d+)", result.stdout.str()))
    assert len(seeds) == 1
