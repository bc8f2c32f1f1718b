"""See `command`."""

from __future__ import annotations

import sys

from pytest_resilience.proxy.cli import main


if __name__ == "__main__":
    # What the terminal cannot show is escaped, as on stderr.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(main())
