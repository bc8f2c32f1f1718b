"""Where operations are intercepted: a module or a folder for each family of operations."""

from __future__ import annotations
