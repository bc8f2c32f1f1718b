"""Parsers for what users write: quantities, distributions, targets, globs, SQL patterns."""
