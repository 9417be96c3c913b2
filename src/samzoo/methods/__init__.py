"""The zoo: importing this package makes every method known by its class name. One line per method."""

from samzoo.methods.base import Method
from samzoo.methods.baselines import SAM, BoxEllipse, UNet
from samzoo.methods.masksam import MaskSAM
from samzoo.methods.promise import ProMISe
from samzoo.methods.sam_med2d import SAMMed2D

METHODS: tuple[type[Method], ...] = (SAM, BoxEllipse, UNet, SAMMed2D, ProMISe, MaskSAM)

__all__ = ["METHODS", "SAM", "BoxEllipse", "MaskSAM", "Method", "ProMISe", "SAMMed2D", "UNet"]
