"""Files: open, io, os and pathlib."""
