"""Tests that fork: what happens in a child counts for the test."""

from __future__ import annotations

# Once for all: each run in this process would load its own, and pickle no other's.
import concurrent.futures.process  # noqa: F401

from pathlib import Path

import pytest

from tests.ahead import runs


def test_children_of_every_kind_are_counted(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import concurrent.futures
        import multiprocessing
        import os

        import pytest
        import requests

        FORK = multiprocessing.get_context("fork")

        def ask(url):
            try:
                requests.get(url, timeout=5)
            except requests.ConnectionError:
                return "refused"

        refused = pytest.mark.chaos("network_failure", mode="refuse")

        @refused
        def test_process(url):
            process = FORK.Process(target=ask, args=(url,))
            process.start()
            process.join()
            assert process.exitcode == 0

        @refused
        def test_pool(url):
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=FORK) as pool:
                assert pool.submit(ask, url).result() == "refused"

        @refused
        def test_fork(url):
            child = os.fork()
            if child == 0:
                os._exit(0 if ask(url) == "refused" else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

        def test_counts(url, chaos):
            with chaos.network_failure(mode="refuse") as refusal:
                process = FORK.Process(target=ask, args=(url,))
                process.start()
                process.join()
            assert (refusal.matched, refusal.hits) == (1, 1)

        @refused
        def test_that_meets_nothing(url):
            process = FORK.Process(target=os.getpid)
            process.start()
            process.join()
    """)
    result = suite.runpytest("-p", "no:warnings")
    result.assert_outcomes(passed=5, errors=1)
    result.stdout.fnmatch_lines(["*ERROR*test_that_meets_nothing*"])


def test_a_worker_that_outlives_its_test_is_hit_no_more(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import concurrent.futures
        import multiprocessing

        import pytest
        import requests

        def ask(url):
            try:
                return requests.get(url, timeout=5).status_code
            except requests.ConnectionError:
                return "refused"

        @pytest.fixture(scope="module")
        def pool():
            fork = multiprocessing.get_context("fork")
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=fork) as pool:
                yield pool

        @pytest.mark.chaos("network_failure", mode="refuse")
        def test_1(pool, url):
            assert pool.submit(ask, url).result() == "refused"  # begins the worker

        def test_2(pool, url):
            assert pool.submit(ask, url).result() == 200
    """)
    suite.runpytest("-p", "no:warnings").assert_outcomes(passed=2)


@runs(
    *("--chaos-profile=chaos.toml:ci", "--chaos-matrix", "--resilience-report=chaos.json"),
    test_it="""
        import os
        import pathlib

        import pytest

        @pytest.mark.chaos("network_failure", mode="refuse", must_fire=False)
        def test_a(chaos_proxy):
            proxy = chaos_proxy("127.0.0.1:9")
            child = os.fork()
            if child == 0:
                raise RuntimeError("the child")
            os.waitpid(child, 0)
            assert not pathlib.Path("chaos.json").exists()
            proxy.add("latency", latency=1)
    """,
    others={
        "chaos.toml": """
        [profiles.ci]
        [[profiles.ci.experiments]]
        name = "x"
        chaos_type = "network_latency"
        """
    },
)
def test_a_child_that_goes_on_as_if_it_were_the_run_reports_nothing(
    ran: pytest.RunResult, ran_in: Path
) -> None:
    text = ran.stdout.str()
    assert "RuntimeError: the child" in text  # pytest itself cannot know
    assert text.count("= chaos (seed") == 1
    assert (ran_in / "chaos.json").exists()
    ran.assert_outcomes(passed=1)  # of the parent, which ends last
