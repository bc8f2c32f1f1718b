"""How what users write is read: quantities, distributions, targets, globs, SQL patterns."""
