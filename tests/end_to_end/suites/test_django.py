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
        import django.db
        import pytest

        from django.contrib.contenttypes.models import ContentType

        @pytest.mark.django_db
        @pytest.mark.chaos("database_failure", first=1)
        def test_lost():
            with pytest.raises(django.db.OperationalError, match="disk I/O error"):
                ContentType.objects.count()

        @pytest.mark.django_db
        @pytest.mark.chaos("database_failure", mode="locked", match="INSERT*", first=1)
        def test_locked():
            assert ContentType.objects.count() == 1
            with pytest.raises(django.db.OperationalError, match="database is locked"):
                with django.db.transaction.atomic():
                    ContentType.objects.create(app_label="shop", model="tea")
            with django.db.transaction.atomic():
                ContentType.objects.create(app_label="shop", model="tea")
            assert ContentType.objects.count() == 2

        @pytest.mark.django_db
        def test_slow(chaos):
            with chaos.database_slowdown(delay="5ms") as slow:
                assert ContentType.objects.count() == 1
            assert (slow.hits, slow.delay >= 0.005) == (1, True)

        @pytest.mark.django_db
        def test_later():
            assert ContentType.objects.count() == 1
    """)
def test_a_database_that_django_db_setup_has_opened_is_reached(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=4)


@on_django("""
        import pytest

        from django.contrib.contenttypes.models import ContentType

        @pytest.mark.django_db
        def test_count():
            ContentType.objects.count()
    """)
def test_a_run_without_chaos_leaves_it_alone(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=1)


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


@on_django("""
        import pytest

        from django.contrib.contenttypes.models import ContentType
        from django.db import OperationalError, transaction
        from django.test import TestCase, TransactionTestCase

        class TestRolledBack(TestCase):
            @pytest.mark.chaos("database_failure")
            def test_it(self):
                with self.assertRaises(OperationalError), transaction.atomic():
                    ContentType.objects.count()

            def test_later(self):
                self.assertEqual(ContentType.objects.count(), 1)

        class TestFlushed(TransactionTestCase):
            @pytest.mark.chaos("database_failure", mode="locked")
            def test_it(self):
                with self.assertRaises(OperationalError):
                    ContentType.objects.count()

            @pytest.mark.chaos("database_failure", mode="deadlock", nth=9)
            def test_never(self):
                ContentType.objects.count()
    """)
def test_cases_of_django_clean_up_without_chaos(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=4, errors=1)
    ran.stdout.fnmatch_lines(["*never fired*(number 9)*"])
