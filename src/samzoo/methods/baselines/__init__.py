"""What methods are measured against: SAM as it is, and an ellipse in the box."""

from samzoo.methods.baselines.ellipse import BoxEllipse
from samzoo.methods.baselines.sam import SAM

__all__ = ["SAM", "BoxEllipse"]
