"""Retries with backoff, Retry-After and a shared budget."""
