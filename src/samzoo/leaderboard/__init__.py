"""The leaderboard: reads records only, and needs no torch."""

from samzoo.leaderboard.suite import Cell, Suite, read_suite
from samzoo.leaderboard.table import Row, entry_rows, write_leaderboard

__all__ = ["Cell", "Row", "Suite", "entry_rows", "read_suite", "write_leaderboard"]
