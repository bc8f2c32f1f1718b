"""Django under pytest-django, whose database is open before a test begins."""

from __future__ import annotations

import pytest


@pytest.fixture
def django(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder for tests with a database in memory; run them in a process: settings are its own."""
    pytester.makeconftest("""
        from django.conf import settings

        def pytest_configure():
            settings.configure(
                DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
                INSTALLED_APPS=["django.contrib.contenttypes"],
            )
    """)
    return pytester


def run(django: pytest.Pytester) -> pytest.RunResult:
    return django.runpytest_subprocess("-p", "pytest_django.plugin", "-W", "ignore")


def test_a_database_that_django_db_setup_has_opened_is_said_to_be_open(
    django: pytest.Pytester,
) -> None:
    django.makepyfile("""
        import pytest

        from django.contrib.contenttypes.models import ContentType

        @pytest.mark.django_db
        @pytest.mark.chaos("database_failure")
        def test_it():
            ContentType.objects.count()
    """)
    result = run(django)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "  The code did:",
            "    database.execute *memory* SELECT COUNT*(on a connection opened before)",
            "*it was opened before the experiment began, by Django, as django_db_setup does*",
        ]
    )
    assert "nothing that a fault could hit" not in result.stdout.str()


def test_what_is_said_to_help_does(django: pytest.Pytester) -> None:
    django.makepyfile("""
        import django.db
        import pytest

        from django.contrib.contenttypes.models import ContentType

        @pytest.mark.django_db(transaction=True)
        @pytest.mark.chaos("database_failure", match="SELECT*django_content_type*")
        def test_it():
            django.db.connections["default"].connect()
            with pytest.raises(django.db.OperationalError):
                ContentType.objects.count()

        @pytest.mark.django_db(transaction=True)
        def test_later():
            ContentType.objects.count()
    """)
    run(django).assert_outcomes(passed=2)
