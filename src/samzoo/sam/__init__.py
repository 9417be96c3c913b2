"""SAM's shared parts in plain torch: builders, weights, fused attention, batched decoding."""

from samzoo.sam.config import ARCHITECTURES, SamConfig
from samzoo.sam.model import PIXEL_MEAN, PIXEL_STD, Sam, build_sam
from samzoo.sam.preprocess import prepare_pictures

__all__ = ["ARCHITECTURES", "PIXEL_MEAN", "PIXEL_STD", "Sam", "SamConfig", "build_sam", "prepare_pictures"]
