"""SAM's shared parts in plain torch: builders, weights, fused attention, batched decoding."""

from samzoo.sam.config import ARCHITECTURES, SamConfig
from samzoo.sam.loader import LoadReport, load_weights
from samzoo.sam.matched_start import start_matched
from samzoo.sam.model import PIXEL_MEAN, PIXEL_STD, Sam, build_sam
from samzoo.sam.preprocess import Padding, prepare_pictures
from samzoo.sam.sam3d import ARCHITECTURES_3D, Sam3d, Sam3dConfig, build_sam3d
from samzoo.sam.weights import WEIGHTS, WeightsEntry, weights_folder

__all__ = [
    "ARCHITECTURES",
    "ARCHITECTURES_3D",
    "PIXEL_MEAN",
    "PIXEL_STD",
    "WEIGHTS",
    "LoadReport",
    "Padding",
    "Sam",
    "Sam3d",
    "Sam3dConfig",
    "SamConfig",
    "WeightsEntry",
    "build_sam",
    "build_sam3d",
    "load_weights",
    "prepare_pictures",
    "start_matched",
    "weights_folder",
]
