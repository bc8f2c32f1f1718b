"""Tests that fork: what happens in a child counts for the test."""

from __future__ import annotations

import pytest


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
