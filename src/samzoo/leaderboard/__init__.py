"""The leaderboard: reads records only, and needs no torch."""

from samzoo.leaderboard.suite import Cell, Suite, read_suite

__all__ = ["Cell", "Suite", "read_suite"]
