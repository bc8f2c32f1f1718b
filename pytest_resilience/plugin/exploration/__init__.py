"""The exploration of tests: runs, verdicts, cells, replays."""
