"""The zoo: importing this package makes every method known by its class name. One line per method."""

from samzoo.methods.base import Method
from samzoo.methods.baselines import SAM, BoxEllipse, SAMMed3D, UNet
from samzoo.methods.m_sam import MSAM
from samzoo.methods.masksam import MaskSAM
from samzoo.methods.promise import ProMISe
from samzoo.methods.sam_med2d import SAMMed2D

METHODS: tuple[type[Method], ...] = (SAM, BoxEllipse, UNet, SAMMed3D, SAMMed2D, ProMISe, MaskSAM, MSAM)

__all__ = ["METHODS", "MSAM", "SAM", "BoxEllipse", "MaskSAM", "Method", "ProMISe", "SAMMed2D", "SAMMed3D", "UNet"]
