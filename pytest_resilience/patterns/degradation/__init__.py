"""Graceful degradation: service levels, fallbacks, health checks."""
