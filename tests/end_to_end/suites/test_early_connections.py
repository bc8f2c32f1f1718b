"""Connections of databases that were opened before the test, by fixtures or at import."""

from __future__ import annotations

import textwrap

import pytest


EARLY = """
import sqlite3

import pytest
import sqlalchemy

from sqlalchemy.pool import StaticPool

@pytest.fixture(scope="session")
def connection():
    opened = sqlite3.connect(":memory:", check_same_thread=False)
    opened.execute("CREATE TABLE tea (name)")
    yield opened
    opened.close()

@pytest.fixture(scope="session")
def pool():
    engine = sqlalchemy.create_engine("sqlite://", poolclass=StaticPool)
    with engine.begin() as warmed:
        warmed.execute(sqlalchemy.text("CREATE TABLE tea (name)"))
    yield engine
    engine.dispose()

def test_that_opens_them(connection, pool):
    assert connection.execute("SELECT count(*) FROM tea").fetchone() == (0,)

@pytest.mark.chaos("database_failure", mode="locked", first=1)
def test_connection(connection):
    with pytest.raises(sqlite3.OperationalError, match="database is locked"):
        connection.execute("SELECT * FROM tea")
    assert connection.execute("SELECT * FROM tea").fetchall() == []

def test_pool(pool, chaos):
    with chaos.database_failure(mode="locked", match="SELECT*", first=1) as locked:
        with pool.connect() as one, pytest.raises(sqlalchemy.exc.OperationalError, match="locked"):
            one.execute(sqlalchemy.text("SELECT * FROM tea"))
    assert locked.hits == 1
    with pool.connect() as one:
        assert one.execute(sqlalchemy.text("SELECT * FROM tea")).all() == []
"""


@pytest.mark.parametrize("flags", [(), ("-p", "xdist", "-n", "1")], ids=["alone", "xdist"])
def test_those_of_session_fixtures_are_reached(
    pytester: pytest.Pytester, flags: tuple[str, ...]
) -> None:
    pytester.makepyfile(EARLY)
    pytester.runpytest("-p", "no:randomly", *flags).assert_outcomes(passed=3)


def test_in_the_matrix_they_are_reached_too(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(f"""{EARLY}
def test_it(connection):
    connection.execute("SELECT * FROM tea")
""")
    pytester.makepyprojecttoml(
        "[[tool.pytest_resilience.profiles.ci.experiments]]\n"
        'name = "locked"\nchaos_type = "database_failure"\nmode = "locked"\nrate = 1'
    )
    result = pytester.runpytest(
        "-p", "no:randomly", "-k", "test_it", "--chaos-profile=ci", "--chaos-matrix"
    )
    assert result.ret == 10
    result.stdout.fnmatch_lines(["*OperationalError: database is locked*"])


@pytest.mark.parametrize("flag", ["--chaos=database_failure:rate=1", "--chaos-seed=1"])
def test_those_made_at_import_are_reached_where_a_flag_asks_for_chaos(
    pytester: pytest.Pytester, flag: str
) -> None:
    pytester.makepyfile("""
        import sqlite3

        import pytest

        connection = sqlite3.connect(":memory:")

        @pytest.mark.chaos("database_failure")
        def test_it():
            with pytest.raises(sqlite3.OperationalError):
                connection.execute("SELECT 1")
            connection.close()
    """)
    pytester.runpytest(flag).assert_outcomes(passed=1)


SHOP = """
    import atexit
    import sqlite3

    connection = sqlite3.connect(":memory:")
    atexit.register(connection.close)
"""
# By what their text is known to have chaos, and what they ask it for.
ASKING = {
    "marker": """
        import pytest
        import shop

        @pytest.mark.chaos("database_failure", mode="locked")
        def test_it():
            with pytest.raises(Exception, match="locked"):
                shop.connection.execute("SELECT 1")
    """,
    "fixture": """
        import pytest
        import shop

        def test_it(chaos):
            with chaos.database_failure(mode="locked"), pytest.raises(Exception, match="locked"):
                shop.connection.execute("SELECT 1")
    """,
    "exploration": """
        import pytest
        import shop

        @pytest.mark.chaos_explore(faults=["locked"], allowed=[Exception], depth=1)
        def test_it():
            shop.connection.execute("SELECT 1")
    """,
    "fixture by name": """
        import pytest
        import shop

        @pytest.mark.usefixtures("chaos")
        def test_it(request):
            chaos = request.getfixturevalue("chaos")
            with chaos.database_failure(mode="locked"), pytest.raises(Exception, match="locked"):
                shop.connection.execute("SELECT 1")
    """,
}


@pytest.mark.parametrize("flags", [(), ("-p", "xdist", "-n", "1")], ids=["alone", "xdist"])
@pytest.mark.parametrize("text", ASKING.values(), ids=ASKING)
def test_those_made_at_import_are_reached_where_the_text_of_a_module_asks_for_chaos(
    pytester: pytest.Pytester, text: str, flags: tuple[str, ...]
) -> None:
    """Though another module, which does not, is imported before."""
    pytester.makepyfile(shop=SHOP, test_a="import shop\n\ndef test_a(): pass", test_it=text)
    pytester.runpytest(*flags).assert_outcomes(passed=2)


HAS_CHAOS = """
    import pytest

    def pytest_collection_modifyitems(items):
        for each in items:
            each.add_marker(pytest.mark.chaos("database_failure", mode="locked"))
"""
LOCKED = """
    import pytest
    import shop

    def test_it():
        with pytest.raises(Exception, match="locked"):
            shop.connection.execute("SELECT 1")
"""


@pytest.mark.parametrize("folder", ["", "tests", "tests/database", "shop_tests"])
def test_or_that_of_a_conftest_file(pytester: pytest.Pytester, folder: str) -> None:
    pytester.makepyfile(shop=SHOP)
    place = pytester.path / folder
    place.mkdir(parents=True, exist_ok=True)
    for name, text in (("conftest", f"    import shop\n{HAS_CHAOS}"), ("test_it", LOCKED)):
        (place / f"{name}.py").write_text(textwrap.dedent(text))
    pytester.syspathinsert()
    pytester.runpytest().assert_outcomes(passed=1)


@pytest.mark.parametrize("setting", ["chaos_services = shop = shop.example", "chaos_max_disk = 5%"])
def test_or_a_setting_does(pytester: pytest.Pytester, setting: str) -> None:
    pytester.makeini(f"[pytest]\n{setting}")
    pytester.makepyfile(shop=SHOP, test_it=ASKING["marker"])
    pytester.makeconftest("import shop")
    pytester.runpytest().assert_outcomes(passed=1)


def test_they_are_plain_from_then_on_where_no_test_is_left_that_asks(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile("""
        import contextlib
        import sqlite3

        import pytest

        @pytest.mark.chaos("database_failure")
        def test_it(): pass

        def test_without():
            with contextlib.closing(sqlite3.connect(":memory:")) as connection:
                assert type(connection) is sqlite3.Connection
    """)
    result = pytester.runpytest("-k", "without")
    result.assert_outcomes(passed=1, deselected=1)
    result.stdout.no_fnmatch_line("*seed*")
    assert not hasattr(__import__("sqlite3").connect, "__wrapped__")


def test_a_run_without_chaos_and_one_with_none_make_plain_ones(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import sqlite3

        import pytest

        @pytest.fixture(scope="session")
        def connection():
            opened = sqlite3.connect(":memory:")
            yield opened
            opened.close()

        @pytest.mark.chaos("database_failure")
        def test_it(connection):
            assert type(connection) is sqlite3.Connection
    """)
    pytester.runpytest("--no-chaos").assert_outcomes(passed=1)
    assert not hasattr(__import__("sqlite3").connect, "__wrapped__")
