"""Scores of binary masks per case and class, on the native grid; undefined is None, never a number."""

from samzoo.metrics.overlap import Overlap, overlap
from samzoo.metrics.surface import Surface, surface

__all__ = ["Overlap", "Surface", "overlap", "surface"]
