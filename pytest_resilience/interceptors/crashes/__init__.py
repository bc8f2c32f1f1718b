"""Crashes: what was written and synced, and what a disk may hold of it afterwards."""
