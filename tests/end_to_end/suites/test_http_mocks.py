"""Suites whose HTTP is mocked: the same markers, fixtures and flags hit what is mocked."""

from __future__ import annotations

import re

from pathlib import Path

import pytest

from tests.ahead import runs
from tests.suites import WITH_FREE_LOOPS


INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
"""
CLIENTS = ("asyncio", "http.server", "httpx", "requests")  # which the mocks load in any case
PLUGINS = ("asyncio", "pytest_httpx", "requests_mock.contrib._pytest_plugin", "respx.plugin")


def mocking(test_it: str, *args: str, plugins: tuple[str, ...] = PLUGINS) -> pytest.MarkDecorator:
    """In a process of its own: which mocks have been loaded is a part of what is tested."""
    loaded = [each for plugin in plugins for each in ("-p", plugin)]
    others = {"pytest.ini": INI}
    return runs(
        *loaded, *args, loaded=CLIENTS, conftest=WITH_FREE_LOOPS, test_it=test_it, others=others
    )


@mocking("""
        import pytest
        import requests
        import responses

        URL = "http://api.example.com/orders"

        refused = pytest.mark.chaos("network_failure", mode="refuse", rate=1)

        def meet_it():
            with pytest.raises(requests.ConnectionError, match="Connection refused"):
                requests.get(URL)
            assert len(responses.calls) == 0

        @refused
        @responses.activate
        def test_decorator_inside():
            responses.get(URL, json=[])
            meet_it()

        @responses.activate
        @refused
        def test_decorator_outside():
            responses.get(URL, json=[])
            meet_it()

        @refused
        def test_context():
            with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
                mock.get(URL, json=[])
                meet_it()

        @pytest.fixture
        def started():
            responses.start()
            responses.get(URL, json=[])
            yield
            responses.stop()
            responses.reset()

        @refused
        def test_fixture(started):
            meet_it()

        @responses.activate
        def test_calm_again():
            responses.get(URL, json=[])
            assert requests.get(URL).json() == []

        @refused
        @responses.activate
        async def test_async():
            responses.get(URL, json=[])
            meet_it()

        @refused
        class TestAll:
            @responses.activate
            def test_method(self):
                responses.get(URL, json=[])
                meet_it()
    """)
def test_a_marker_over_responses_however_it_is_started(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=7)


@mocking("""
        import httpx
        import pytest
        import requests
        import respx

        URL = "http://api.example.com/orders"

        lost = pytest.mark.chaos("network_failure", mode="lose_answer", rate=1)

        @lost
        def test_requests_mock(requests_mock):
            requests_mock.post(URL, json=[])
            with pytest.raises(requests.ConnectionError, match="Connection reset by peer"):
                requests.post(URL)
            assert requests_mock.call_count == 1

        @lost
        def test_respx_fixture(respx_mock):
            order = respx_mock.post(URL).respond(json=[])
            with pytest.raises(httpx.ReadError):
                httpx.post(URL)
            assert order.call_count == 1

        @lost
        @respx.mock
        def test_respx_decorator():
            order = respx.post(URL).respond(json=[])
            with pytest.raises(httpx.ReadError):
                httpx.post(URL)
            assert order.call_count == 1

        @lost
        @respx.mock
        async def test_respx_decorator_async():
            order = respx.post(URL).respond(json=[])
            async with httpx.AsyncClient() as client:
                with pytest.raises(httpx.ReadError):
                    await client.post(URL)
            assert order.call_count == 1

        @lost
        async def test_respx_fixture_async(respx_mock):
            order = respx_mock.post(URL).respond(json=[])
            async with httpx.AsyncClient() as client:
                with pytest.raises(httpx.ReadError):
                    await client.post(URL)
            assert order.call_count == 1

        @lost
        def test_pytest_httpx(httpx_mock):
            httpx_mock.add_response(json=[])
            with pytest.raises(httpx.ReadError):
                httpx.post(URL)
            assert len(httpx_mock.get_requests()) == 1

        @lost
        async def test_pytest_httpx_async(httpx_mock):
            httpx_mock.add_response(json=[])
            async with httpx.AsyncClient() as client:
                with pytest.raises(httpx.ReadError):
                    await client.post(URL)
            assert len(httpx_mock.get_requests()) == 1
    """)
def test_the_fixtures_and_decorators_of_the_others(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=7)


@mocking("""
        import asyncio
        import contextlib
        import time

        import httpx
        import pytest

        URL = "https://api.example.com/"

        @pytest.mark.chaos("network_latency", delay="100ms")
        async def test_late(respx_mock):
            respx_mock.get(URL).respond(json=[])
            async with httpx.AsyncClient() as client:
                began = time.monotonic()
                assert (await client.get(URL)).json() == []
                assert time.monotonic() - began >= 0.2

        async def test_beside(respx_mock, chaos):
            respx_mock.get(URL).respond(json=[])

            async def end():
                while not latency.hits:
                    await asyncio.sleep(0.001)
                ending.close()

            with contextlib.ExitStack() as ending:
                latency = ending.enter_context(chaos.network_latency(delay="1m"))
                other = asyncio.create_task(end())
                async with httpx.AsyncClient(timeout=90) as client:
                    assert (await client.get(URL)).json() == []
                assert other.done()  # it would have waited, too
    """)
def test_latency_of_a_mocked_async_client_does_not_stop_the_loop(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=2)


SUITE = """
    import httpx
    import pytest
    import requests
    import responses

    URL = "http://api.example.com/orders"

    @responses.activate
    def test_responses():
        responses.get(URL, json=[])
        assert requests.get(URL).json() == []

    def test_requests_mock(requests_mock):
        requests_mock.get(URL, json=[])
        assert requests.get(URL).json() == []

    def test_respx(respx_mock):
        respx_mock.get(URL).respond(json=[])
        assert httpx.get(URL).json() == []

    async def test_pytest_httpx(httpx_mock):
        httpx_mock.add_response(url=URL, json=[], is_optional=True)
        async with httpx.AsyncClient() as client:
            assert (await client.get(URL)).json() == []

    def test_chaos_responses(chaos_responses):
        chaos_responses.get(URL, json=[])
        assert requests.get(URL).json() == []
"""


BUSY = ("--chaos=network_failure:mode=status,rate=1,body=busy", "--tb=no")


@mocking(SUITE, *BUSY)
def test_a_flag_for_all_tests(ran: pytest.RunResult) -> None:
    assert_all_were_busy(ran)


@mocking(SUITE, *BUSY, "-p", "xdist", "-n2")
def test_a_flag_for_all_tests_of_all_workers(ran: pytest.RunResult) -> None:
    assert_all_were_busy(ran)


def assert_all_were_busy(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(failed=5)
    ran.stdout.fnmatch_lines("network_failure: *matched 5, hit 5*")


@mocking(SUITE, "--chaos=network_latency:delay=1ms")
def test_a_flag_that_does_no_harm(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=5)


@mocking(SUITE, "--chaos=network_failure", "--no-chaos")
def test_a_flag_that_is_switched_off(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=5)


@mocking("""
        import httpx
        import pytest
        import requests
        import responses

        @pytest.mark.chaos("network_failure", target="payments.example.com")
        @responses.activate
        def test_responses():
            responses.get("http://orders.example.com/", json=[])
            assert requests.get("http://orders.example.com/").json() == []

        @pytest.mark.chaos("network_failure", target="payments.example.com")
        async def test_respx(respx_mock):
            respx_mock.get("https://stock.example.com/").respond(json=[])
            async with httpx.AsyncClient() as client:
                await client.get("https://stock.example.com/")
    """)
def test_a_mocked_call_that_was_not_meant_is_named(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=2, errors=2)
    ran.stdout.fnmatch_lines("*network.connect orders.example.com:80*")
    ran.stdout.fnmatch_lines("*network.connect stock.example.com:443*")


@mocking("""
        import pytest
        import requests
        import responses

        URL = "http://api.example.com/orders"

        def test_alone(chaos_responses):
            assert isinstance(chaos_responses, responses.RequestsMock)
            reply = chaos_responses.get(URL, json={"paid": True})
            chaos_responses.get("http://never.example.com/")
            assert requests.get(URL).json() == {"paid": True}
            assert reply.call_count == 1
            assert chaos_responses.assert_call_count(URL, 1)

        def test_strict(chaos_responses):
            chaos_responses.assert_all_requests_are_fired = True
            chaos_responses.get(URL)

        def test_unknown(chaos_responses):
            with pytest.raises(requests.ConnectionError, match="refused by Responses"):
                requests.get(URL)

        @pytest.mark.chaos("network_failure", mode="truncate", rate=1)
        def test_marker(chaos_responses):
            chaos_responses.get(URL, json={"paid": True})
            with pytest.raises(requests.exceptions.ChunkedEncodingError):
                requests.get(URL)

        def test_fixture(chaos_responses, chaos):
            chaos_responses.get(URL, json={"paid": True})
            with chaos.network_failure(mode="status", status=429, rate=1, first=1):
                assert requests.get(URL).status_code == 429
                assert requests.get(URL).json() == {"paid": True}
            assert (chaos.matched, chaos.hits) == (2, 1)

        def test_it_is_stopped():
            import requests.adapters
            assert requests.adapters.HTTPAdapter.send.__module__ == "requests.adapters"
    """)
def test_chaos_responses_is_a_mock_as_every_other(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=6, errors=1)
    ran.stdout.fnmatch_lines("*AssertionError: Not all requests have been executed*")


REPLIES = """
        import pytest
        import requests

        from pytest_resilience import ChaosExperiment
        from requests.adapters import HTTPAdapter
        from urllib3 import Retry

        URL = "http://api.example.com/orders"

        def test_that_reply_only(chaos_responses, chaos):
            chaos_responses.get(URL, json=1, chaos="network_failure:mode=reset,first=1")
            chaos_responses.post(URL, json=2)
            chaos_responses.get(URL + "/2", json=3)
            assert requests.post(URL).json() == 2
            assert requests.get(URL + "/2").json() == 3
            with pytest.raises(requests.ConnectionError, match="Connection reset by peer"):
                requests.get(URL)
            assert requests.get(URL).json() == 1
            assert (chaos.matched, chaos.hits) == (2, 1)
            [event] = chaos.events
            assert (event.kind, event.target) == ("network.receive", "api.example.com:80")

        def test_one_reply_after_the_other(chaos_responses):
            chaos_responses.get(URL, json=1, chaos="network_failure:mode=lose_answer")
            chaos_responses.get(URL, json=2, chaos="network_failure:mode=status,status=502,first=1")
            chaos_responses.get(URL, json=3)
            with requests.Session() as session:
                session.mount("http://", HTTPAdapter(max_retries=Retry(1)))
                assert session.get(URL).status_code == 502
            assert requests.get(URL).json() == 2
            assert requests.get(URL).json() == 3

        @pytest.mark.parametrize("method", ["delete", "options", "patch", "put", "head"])
        def test_every_method(chaos_responses, method):
            getattr(chaos_responses, method)(URL, chaos="network_failure")
            with pytest.raises(requests.ConnectionError):
                requests.request(method, URL)

        def test_callbacks_and_replacements(chaos_responses):
            experiment = ChaosExperiment("none", "network_failure", mode="dns", rate=1)
            chaos_responses.add_callback(
                "GET", URL, callback=lambda request: (200, {}, "called"), chaos=experiment
            )
            with pytest.raises(requests.ConnectionError, match="name resolution"):
                requests.get(URL)
            chaos_responses.replace("GET", URL, json=1, chaos="network_failure:mode=truncate")
            with pytest.raises(requests.exceptions.ChunkedEncodingError):
                requests.get(URL)
            chaos_responses.upsert("GET", URL, json=2)
            chaos_responses.upsert("PUT", URL, json=2, chaos="network_failure")
            assert requests.get(URL).json() == 2
            with pytest.raises(requests.ConnectionError):
                requests.put(URL)

        @pytest.mark.chaos("network_latency", delay="5ms")
        def test_beside_a_marker(chaos_responses, chaos):
            chaos_responses.get(URL, chaos="network_latency:delay=5ms,rate=1")
            assert requests.get(URL).ok
            assert (chaos.matched, chaos.hits) == (4, 4)

        def test_never_asked(chaos_responses):
            chaos_responses.get(URL, chaos="network_failure")
            chaos_responses.get(URL + "/2", chaos="network_failure", must_fire=False)
    """


@mocking(REPLIES)
def test_a_reply_with_a_fault_of_its_own(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=10, errors=1)
    ran.stdout.fnmatch_lines("*(*, target GET http://api.example.com/orders) never fired*")


@mocking(REPLIES, "--no-chaos", "-k", "never_asked")
def test_a_reply_whose_fault_is_switched_off_need_not_be_asked_for(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=1, deselected=9)


SENSELESS = {
    "'network_failure:mode=rset'": "*mode='rset' (did you mean 'reset'?)*",
    "'network_failur'": "*did you mean 'network_failure'?*",
    "'network_latency:mode=slow_close'": "*slow_close' happens to no response; give *",
    "'cpu_stress'": "*chaos='cpu_stress' happens to no response; give network_latency *",
    "503": "*chaos=503: give a text such as 'network_failure:mode=reset'*",
}


@mocking(
    "\n".join(
        f"""
def test_reply_{number}(chaos_responses):
    try:
        chaos_responses.get("http://api.example.com/", chaos={chaos})
    finally:
        assert chaos_responses.registered() == []
"""
        for number, chaos in enumerate(SENSELESS)
    ),
    plugins=("asyncio",),
)
def test_what_makes_no_sense_fails_at_its_line(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(failed=len(SENSELESS))
    for chaos, why in SENSELESS.items():
        ran.stdout.fnmatch_lines([f">*chaos={chaos})", f"E*ConfigurationError: {why}"])


def example_of_the_docs() -> str:
    page = (Path(__file__).parents[3] / "docs/how-to/mocks.md").read_text(encoding="utf-8")
    section = page.partition("## chaos_responses")[2]
    example = re.search(r"^```python [^\n]*\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert example is not None
    return example[1]


@mocking(example_of_the_docs())
def test_the_example_of_the_docs(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=1)


@mocking(example_of_the_docs(), "--no-chaos")
def test_the_fault_is_what_the_example_of_the_docs_passes_by(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(failed=1)
