"""The matrix: each test once without chaos and once under each experiment."""
