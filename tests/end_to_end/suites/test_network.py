"""Every fault of the network, asked for in each of the ways there are."""

from __future__ import annotations

import pytest


# What is asked for, as a flag says it, and what the client makes of it.
FAULTS = {
    "network_latency:delay=1ms": "ok",
    "network_latency:delay=2ms,jitter=1ms": "ok",
    "network_latency:delay=2ms,jitter=1ms,distribution=normal": "ok",
    "network_latency:delay=1ms,p99=3ms,distribution=lognormal": "ok",
    "network_latency:delay=1ms,p99=3ms,distribution=pareto": "ok",
    "network_latency:mode=bandwidth,bandwidth=50kB": "ok",
    "network_latency:mode=dribble,piece=1,delay=1ms": "ok",
    "network_latency:mode=slow_close,delay=1ms": "ok",
    "network_latency:mode=slow_dns,delay=1ms": "ok",
    "network_failure:mode=refuse,rate=1": "ConnectionError: Connection refused",
    "network_failure:mode=reset,rate=1": "ConnectionError: Connection reset by peer",
    "network_failure:mode=timeout,rate=1,from_nth=2": "ReadTimeout: Read timed out",
    "network_failure:mode=dns,rate=1": "ConnectionError: Temporary failure in name resolution",
    "network_failure:mode=dns_not_found,rate=1": "ConnectionError: Name or service not known",
    "network_failure:mode=partition,duration=400ms": "ok",
    "network_failure:mode=lose_answer,rate=1": "ConnectionError: Connection reset by peer",
    "network_failure:mode=truncate,rate=1": "ChunkedEncodingError: IncompleteRead",
    "network_failure:mode=corrupt,rate=1,share=100%": "another",
    "network_failure:mode=status,rate=1,status=429,retry_after=3,body=busy": "429 after 3: busy",
    "network_failure:mode=malformed_json,rate=1": "JSONDecodeError: Expecting value",
}

# Half the answers name their length, half end with the connection, which has to be seen too.
SERVER = """
import http.server
import threading

import pytest
import requests


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        if "ended" not in self.path:
            self.send_header("Content-Length", "15")
        self.end_headers()
        self.wfile.write(b'{"word": "ok" }')

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        pass


@pytest.fixture(scope="session")
def url():
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def word(url):
    def ask(path=""):
        try:
            answer = requests.get(url + path, timeout=5 if "ended" in path else (5, 0.2))
            if not answer.ok:
                return f"{answer.status_code} after {answer.headers['Retry-After']}: {answer.text}"
            if len(answer.content) == 15 and answer.content != b'{"word": "ok" }':
                return "another"
            return answer.json()["word"]
        except (requests.RequestException, ValueError) as error:
            return f"{type(error).__name__}: {error}"

    return ask
"""


def path_of(spec: str) -> str:
    return "ended" if "slow_close" in spec else ""


def agrees(said: str) -> str:
    """An expression of a test: whether `told` is what was `said`."""
    kind, _, text = said.partition(": ")
    return f"told.startswith({kind!r}) and {text!r} in told"


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(SERVER)
    return pytester


def arguments(spec: str) -> str:
    """The spec as a marker or a method is told it, without the type."""
    pairs = [each.partition("=") for each in spec.partition(":")[2].split(",")]
    return ", ".join(
        f"{name}={value if name in _NUMBERS else repr(value)}" for name, _, value in pairs
    )


_NUMBERS = {"rate", "from_nth", "piece", "status", "retry_after"}


def test_by_marker(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        "import pytest\n"
        + "\n".join(
            f"""
@pytest.mark.chaos({spec.partition(":")[0]!r}, {arguments(spec)})
def test_{number}(word):
    told = word({path_of(spec)!r})
    assert {agrees(said)}, told
"""
            for number, (spec, said) in enumerate(FAULTS.items())
        )
    )
    suite.runpytest().assert_outcomes(passed=len(FAULTS))


def test_by_fixture(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        "\n".join(
            f"""
def test_{number}(word, chaos):
    with chaos.{spec.partition(":")[0]}({arguments(spec)}) as fault:
        told = word({path_of(spec)!r})
    assert {agrees(said)}, told
    assert fault.hits
    assert word() == "ok"
"""
            for number, (spec, said) in enumerate(FAULTS.items())
        )
    )
    suite.runpytest().assert_outcomes(passed=len(FAULTS))


@pytest.mark.parametrize("spec", FAULTS)
def test_by_flag(spec: str, suite: pytest.Pytester) -> None:
    suite.makepyfile(f"""
        def test_it(word):
            told = word({path_of(spec)!r})
            assert {agrees(FAULTS[spec])}, told
    """)
    result = suite.runpytest("--chaos", spec)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [f"{spec.partition(':')[0]}: * [[]flag] - 1 test, matched *, hit *"]
    )


def test_triggers_choose_and_combine(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest

        def outcomes(word, n):
            return "".join("." if word() == "ok" else "F" for _ in range(n))

        def refusals(**when):
            # by address, so that each request is one connect
            return pytest.mark.chaos("network_failure", rate=1, **when)

        @pytest.fixture
        def url(url):
            return url.replace("localhost", "127.0.0.1")

        @refusals(nth=2)
        def test_nth(word):
            assert outcomes(word, 4) == ".F.."

        @refusals(first=2)
        def test_transient(word):
            assert outcomes(word, 4) == "FF.."

        @refusals(from_nth=3)
        def test_persistent(word):
            assert outcomes(word, 4) == "..FF"

        @refusals(every=2)
        def test_every(word):
            assert outcomes(word, 4) == ".F.F"

        @refusals(every=2, from_nth=3, first=5)
        def test_together(word):
            assert outcomes(word, 6) == "...F.."

        @refusals(between=(0, 3600), first=1)
        def test_between(word):
            assert outcomes(word, 2) == "F."

        @refusals(between=(3600, 7200), duration="2h", must_fire=False)
        def test_later(word):
            assert outcomes(word, 2) == ".."

        @pytest.mark.chaos("network_failure", rate=0.5)
        def test_rate(word, chaos):
            assert outcomes(word, 20).count("F") == chaos.hits
            assert 0 < chaos.hits < 20

        @refusals(target="127.0.0.1:*|nobody")
        def test_target(word):
            assert outcomes(word, 1) == "F"

        @refusals(target="127.0.0.1:1", must_fire=False)
        def test_another_target(word):
            assert outcomes(word, 1) == "."
    """)
    suite.runpytest("--chaos-seed=7").assert_outcomes(passed=10)


def test_a_target_names_a_connection_wherever_it_is_written(suite: pytest.Pytester) -> None:
    suite.makepyprojecttoml(
        "[[tool.pytest_resilience.profiles.ci.experiments]]\n"
        'chaos_type = "network_failure"\nrate = 1\ntarget = ["127.0.0.1:1-65535#2", "!elsewhere"]'
    )
    suite.makepyfile("""
        import pytest

        @pytest.fixture
        def url(url):
            return url.replace("localhost", "127.0.0.1")

        def outcomes(word):
            return "".join("." if word() == "ok" else "F" for _ in range(4))

        @pytest.mark.chaos("network_failure", target="!127.0.0.1:*#1-3")
        def test_marker(word):
            assert outcomes(word) == "...F"

        @pytest.mark.no_chaos
        def test_exempt(word):
            assert outcomes(word) == "...."

        def test_fixture(word, chaos):
            with chaos.network_failure(target=["127.0.0.1#2-3", "!127.0.0.1#3"]):
                assert outcomes(word) == ".F.."

        def test_flag(word):
            assert outcomes(word) == ".F.."
    """)
    flags = ("--chaos=network_failure:rate=1,target=127.0.0.1:*#2|!elsewhere", "--chaos-profile=ci")
    for given in ("test_marker", "test_fixture", "test_exempt"):
        suite.runpytest("-k", given).assert_outcomes(passed=1)
    for flag in flags:
        suite.runpytest("-k", "test_flag or test_exempt", flag).assert_outcomes(passed=2)
    refused = suite.runpytest("--chaos=network_failure:target=127.0.0.1:90-80")
    refused.stderr.fnmatch_lines(["*target '127.0.0.1:90-80' cannot match anything: *"])
