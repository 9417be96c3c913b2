"""SAM's shared parts in plain torch: builders, weights, fused attention, batched decoding."""

from samzoo.sam.config import ARCHITECTURES, SamConfig
from samzoo.sam.loader import LoadReport, load_weights
from samzoo.sam.model import PIXEL_MEAN, PIXEL_STD, Sam, build_sam
from samzoo.sam.preprocess import Padding, prepare_pictures
from samzoo.sam.weights import WEIGHTS, WeightsEntry, weights_folder

__all__ = [
    "ARCHITECTURES",
    "PIXEL_MEAN",
    "PIXEL_STD",
    "WEIGHTS",
    "LoadReport",
    "Padding",
    "Sam",
    "SamConfig",
    "WeightsEntry",
    "build_sam",
    "load_weights",
    "prepare_pictures",
    "weights_folder",
]
