"""Experiments over time: when they start and stop, what stops them, what must hold meanwhile."""
