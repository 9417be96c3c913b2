"""M-SAM: SAM-Med3D with LoRA, a mask-enhanced adapter and iterative refinement (arXiv 2403.05912)."""
