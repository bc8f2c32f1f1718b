from __future__ import annotations

import re

import pytest

from tests.ahead import runs
from tests.suites import SERVER


WORKERS = ("-p", "xdist", "-n2")

SUITE = """
    import pytest
    import requests

    @pytest.mark.parametrize("number", range(8))
    @pytest.mark.chaos("network_failure", rate=0.5)
    def test_request(url, number):
        requests.get(url, timeout=5)
"""


@runs(*WORKERS, "-rf", "--chaos-seed=5", conftest=SERVER, test_it=SUITE)
def test_workers_deal_the_same_faults_as_one_process(
    suite: pytest.Pytester, ran: pytest.RunResult
) -> None:
    suite.makepyfile(test_it=SUITE)

    def outcome(result: pytest.RunResult) -> tuple[set[str], list[str]]:
        failed = set(re.findall(r"^FAILED (\S+)", result.stdout.str(), re.MULTILINE))
        return failed, sorted(
            line for line in result.outlines if line.startswith(("repeat:", "network_failure:"))
        )

    alone = outcome(suite.runpytest("-rf", "--chaos-seed=5"))
    assert alone[0]
    assert outcome(ran) == alone


@runs(*WORKERS, conftest=SERVER, test_it=SUITE)
def test_workers_share_a_seed_that_nobody_chose(ran: pytest.RunResult) -> None:
    seeds = set(re.findall(r"seed[ =](\d+)", ran.stdout.str()))
    assert len(seeds) == 1
