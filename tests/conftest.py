"""What every test can use."""

from __future__ import annotations

import pytest


pytest_plugins = ["pytester"]


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Suites of their own, in which no plugin is loaded but ours and those asked for by -p.

    Set here and not outside: pytester clears the environment when it begins.
    """
    for name in ("CI", "BUILD_NUMBER"):  # there, pytest cuts no line short
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p resilience -p no:cacheprovider")
    return pytester
