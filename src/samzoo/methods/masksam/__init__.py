"""MaskSAM: prompt-free segmentation of slabs by mask classification; see README.md."""

from samzoo.methods.masksam.module import MaskSAM

__all__ = ["MaskSAM"]
