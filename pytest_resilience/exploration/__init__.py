"""The exploration: every operation of a test under every fault that it can have."""
