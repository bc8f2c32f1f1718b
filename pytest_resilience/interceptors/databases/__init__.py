"""Database drivers: connects, statements, commits, fetches."""
