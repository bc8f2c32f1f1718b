"""Time that passes only while everybody waits: `scheduler.py` first, then `clock.py`."""
