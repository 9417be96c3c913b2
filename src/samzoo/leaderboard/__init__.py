"""The leaderboard: reads records only, and needs no torch."""

from samzoo.leaderboard.old_table import Row, entry_rows, write_leaderboard
from samzoo.leaderboard.suite import Cell, Suite, read_suite

__all__ = ["Cell", "Row", "Suite", "entry_rows", "read_suite", "write_leaderboard"]
