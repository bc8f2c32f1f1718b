"""Pressure on the machine and on this process: put on, measured, taken off."""

from __future__ import annotations
