"""SAM-Med3D's network: SAM with every part in three dimensions."""

from samzoo.sam.sam3d.attention import Attention3d
from samzoo.sam.sam3d.config import ARCHITECTURES_3D, Positions, Sam3dConfig
from samzoo.sam.sam3d.image_encoder import ChannelNorm
from samzoo.sam.sam3d.model import Sam3d, build_sam3d

__all__ = ["ARCHITECTURES_3D", "Attention3d", "ChannelNorm", "Positions", "Sam3d", "Sam3dConfig", "build_sam3d"]
