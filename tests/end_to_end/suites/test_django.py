"""Django under pytest-django, whose database is open before a test begins."""

from __future__ import annotations

import pytest

from tests.ahead import runs


CONFTEST = """
        from django.conf import settings

        def pytest_configure():
            settings.configure(
                DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
                INSTALLED_APPS=["django.contrib.contenttypes"],
            )
    """


def on_django(test_it: str) -> pytest.MarkDecorator:
    """A database in memory, in a process: settings are its own."""
    flags = ("-p", "pytest_django.plugin", "-W", "ignore")
    return runs(*flags, conftest=CONFTEST, test_it=test_it)


@on_django("""
        import pytest

        from django.contrib.contenttypes.models import ContentType

        @pytest.mark.django_db
        @pytest.mark.chaos("database_failure")
        def test_it():
            ContentType.objects.count()
    """)
def test_a_database_that_django_db_setup_has_opened_is_said_to_be_open(
    ran: pytest.RunResult,
) -> None:
    ran.assert_outcomes(passed=1, errors=1)
    ran.stdout.fnmatch_lines(
        [
            "  The code did:",
            "    database.execute *memory* SELECT COUNT*(on a connection opened before)",
            "*it was opened before the experiment began, by Django, as django_db_setup does*",
        ]
    )
    assert "nothing that a fault could hit" not in ran.stdout.str()


@on_django("""
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
def test_what_is_said_to_help_does(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=2)
