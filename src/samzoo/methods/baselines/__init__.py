"""What methods are measured against: SAM as it is in 2D and 3D, an ellipse in the box, and a U-Net."""

from samzoo.methods.baselines.ellipse import BoxEllipse
from samzoo.methods.baselines.sam import SAM
from samzoo.methods.baselines.sam_med3d import SAMMed3D
from samzoo.methods.baselines.unet import UNet

__all__ = ["SAM", "BoxEllipse", "SAMMed3D", "UNet"]
