"""Readers of the breakers and retries of each library, ours among them."""
