"""What a fault has left in fixtures of wider scopes: told, where it is wrong, and made anew."""

from __future__ import annotations

import pytest

from pytest_resilience.clock import ManualClock


pytestmark = pytest.mark.usefixtures("recovery_clock")

SERVED = """
    import socket
    import socketserver
    import threading

    import pytest

    class Echo(socketserver.BaseRequestHandler):
        def handle(self):
            try:
                while data := self.request.recv(1):
                    self.request.sendall(data)
            except ConnectionError:
                pass

    @pytest.fixture(scope="session")
    def port():
        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            yield server.server_address[1]
            server.shutdown()
            thread.join()

    @pytest.fixture(scope="{scope}")
    def client(port):
        client = Client(port)
        yield client
        client.connection.close()
"""
# It goes on with a connection whose answer it has not taken.
DESYNCHRONISED = """
    class Client:
        def __init__(self, port):
            self.connection = socket.create_connection(("127.0.0.1", port), timeout=5)

        def ask(self, text):
            self.connection.sendall(text)
            return self.connection.recv(1)

    @pytest.mark.chaos_explore(faults=["memory"], depth=1)
    def test_asks(client):
        assert client.ask(b"a") == b"a"
        assert client.ask(b"b") == b"b"
"""
# It does not ask any more, and gives what it has had before.
WITH_A_BREAKER = """
    class Client:
        def __init__(self, port):
            self.connection = socket.create_connection(("127.0.0.1", port), timeout=5)
            self.is_open = False

        def ask(self, text):
            if self.is_open:
                return b"?"
            try:
                self.connection.sendall(text)
                return self.connection.recv(1)
            except BaseException:
                self.is_open = True
                raise

    @pytest.mark.chaos_explore(faults=["memory"], depth=1)
    def test_asks(client):
        assert client.ask(b"a") == b"a"
"""


def suite(pytester: pytest.Pytester, code: str, *, scope: str = "module") -> None:
    pytester.makepyfile(test_client=SERVED.format(scope=scope) + code)


@pytest.mark.parametrize("scope", ["module", "session"])
def test_a_client_that_takes_the_answer_to_another_question(
    pytester: pytest.Pytester, scope: str
) -> None:
    """It fails for ever without faults, and the rest is explored with a client made anew."""
    suite(pytester, DESYNCHRONISED, scope=scope)
    result = pytester.runpytest("test_client.py", "-v")
    told = "probe: from then on it fails without faults: AssertionError: *"
    result.stdout.fnmatch_lines(
        [f"*{told}", "*#1=memory'", "*::test_asks: 4 operations, 4 runs, 1 way to fail"]
    )
    result.stdout.no_fnmatch_line("*outlives*")
    replay = "--chaos-replay=receive(localhost:port1)@test_client.ask#2=memory"
    result = pytester.runpytest(replay, "test_client.py")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*{told}"])


def test_one_that_does_not_ask_any_more_is_made_anew(pytester: pytest.Pytester) -> None:
    suite(pytester, WITH_A_BREAKER)
    result = pytester.runpytest("test_client.py")
    result.stdout.fnmatch_lines(["*::test_asks: 2 operations, 3 runs, 0 ways to fail"])


def test_it_is_waited_for_once_and_made_anew_at_once_then(
    pytester: pytest.Pytester, recovery_clock: ManualClock
) -> None:
    suite(pytester, WITH_A_BREAKER.replace('faults=["memory"]', 'faults=["memory", "reset"]'))
    result = pytester.runpytest("test_client.py")
    result.stdout.fnmatch_lines(["*::test_asks: 2 operations, * 0 ways to fail"])
    assert [each for each in recovery_clock.sleeps if each] == [0.1, 0.5, 2.0]
