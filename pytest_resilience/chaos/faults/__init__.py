"""The faults that can happen to operations, as frozen data."""
