"""M-SAM: SAM-Med3D with LoRA, a mask-enhanced adapter and iterative refinement (arXiv 2403.05912)."""

from samzoo.methods.m_sam.module import MSAM

__all__ = ["MSAM"]
