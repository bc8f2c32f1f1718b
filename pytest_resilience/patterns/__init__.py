"""Patterns that protect code from what fails around it. Usable in production.

Nothing in here, nor below it, imports pytest, requests, responses or psutil.
"""

from __future__ import annotations
