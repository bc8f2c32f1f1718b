"""Which tests are run once more after a fault, as a probe of their clients."""

from __future__ import annotations

import textwrap

import pytest

from pytest_resilience.clock import ManualClock


pytestmark = pytest.mark.usefixtures("recovery_clock")

# It never recovers from an error.
SHOP = """
import sqlite3

class Shop:
    error = None

    def __init__(self):
        self.database = sqlite3.connect(":memory:")

    def price(self):
        if self.error is not None:
            raise RuntimeError("it is over") from self.error
        try:
            return self.database.execute("SELECT 5").fetchone()[0]
        except sqlite3.Error as error:
            self.error = error
            raise

shop = Shop()

def price():
    return shop.price()
"""
WAYS = {
    "in a module": """
        def test_price():
            assert shop.price() == 5
    """,
    "of a module": """
        def setup_module(module):
            module.client = shop.Shop()
        def test_price():
            assert client.price() == 5
    """,
    "of a class": """
        class TestIt:
            @classmethod
            def setup_class(cls):
                cls.shop = shop.Shop()
            def test_price(self):
                assert self.shop.price() == 5
    """,
    "of a method": """
        class TestIt:
            def setup_method(self):
                self.shop = shop.Shop()
            def test_price(self):
                assert self.shop.price() == 5
    """,
}
EXPLORED = ("-p", "no:ordeal", "-p", "no:randomly", "--chaos-explore=1")


def explored(pytester: pytest.Pytester, test: str, code: str = SHOP) -> pytest.RunResult:
    pytester.makepyfile(shop=code, test_shop="import shop\n" + textwrap.dedent(test))
    pytester.syspathinsert()
    return pytester.runpytest(*EXPLORED)


@pytest.mark.parametrize("way", WAYS)
def test_a_client_that_is_no_fixture_is_probed(pytester: pytest.Pytester, way: str) -> None:
    result = explored(pytester, WAYS[way])
    result.stdout.fnmatch_lines(["  probe: RuntimeError: it is over*", "*#1=lost'"])


def test_a_client_that_the_test_makes_itself_is_not(pytester: pytest.Pytester) -> None:
    result = explored(
        pytester,
        """
        def test_price():
            assert shop.Shop().price() == 5
        """,
    )
    result.stdout.fnmatch_lines(["*::test_price: * 0 ways to fail"])
    assert "probe" not in result.stdout.str()


def test_a_connection_of_the_test_itself_is_opened_anew(pytester: pytest.Pytester) -> None:
    result = explored(
        pytester,
        """
        import sqlite3
        class Connection(sqlite3.Connection):
            error = None
            def price(self):
                return shop.Shop.price(self)
            @property
            def database(self):
                return self
        class TestIt:
            def setup_method(self):
                self.connection = sqlite3.connect(":memory:", factory=Connection)
            def test_price(self):
                assert self.connection.price() == 5
        """,
    )
    result.stdout.fnmatch_lines(["*::test_price: * 0 ways to fail"])


def test_a_client_that_recovers_is_no_failure(
    pytester: pytest.Pytester, recovery_clock: ManualClock
) -> None:
    result = explored(pytester, WAYS["in a module"], SHOP.replace("self.error = error", "..."))
    result.stdout.fnmatch_lines(["*::test_price: * 0 ways to fail"])
    assert not any(recovery_clock.sleeps)
