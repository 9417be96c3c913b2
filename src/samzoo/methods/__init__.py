"""The zoo: importing this package makes every method known by its class name. One line per method."""

from samzoo.methods.base import Method
from samzoo.methods.baselines import SAM, BoxEllipse

METHODS: tuple[type[Method], ...] = (SAM, BoxEllipse)

__all__ = [*(method.__name__ for method in METHODS), "METHODS", "Method"]
