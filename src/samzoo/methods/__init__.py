"""The zoo: importing this package makes every method known by its class name. One line per method."""

from samzoo.methods.base import Method
from samzoo.methods.baselines import SAM, BoxEllipse
from samzoo.methods.promise import ProMISe
from samzoo.methods.sam_med2d import SAMMed2D

METHODS: tuple[type[Method], ...] = (SAM, BoxEllipse, SAMMed2D, ProMISe)

__all__ = ["METHODS", "SAM", "BoxEllipse", "Method", "ProMISe", "SAMMed2D"]
