"""Decides which operation meets which fault, and touches nothing outside itself."""

from __future__ import annotations
