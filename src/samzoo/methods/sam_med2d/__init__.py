"""SAM-Med2D (Cheng et al. 2023, arXiv 2308.16184)."""

from samzoo.methods.sam_med2d.module import SAMMed2D

__all__ = ["SAMMed2D"]
