"""See `command`."""

from __future__ import annotations

import sys

from pytest_resilience.proxy.command import main


if __name__ == "__main__":
    sys.exit(main())
