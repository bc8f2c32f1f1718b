"""Bulkheads: by thread pool, by semaphore, by rate."""
