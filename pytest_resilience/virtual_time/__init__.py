"""Time that passes only while everybody waits: `bubble.py` first, then `clock.py`."""
