"""M-SAM's mask-enhanced adapter (MEA): image and coarse mask enhance each other before the decoder sees them.

What it computes and how its tensors are named follow the official code of M-SAM (arXiv 2403.05912, MICCAI 2024), which
its figures simplify. T tokens along each axis of the crop, C channels; everything inside is channels last.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from samzoo.sam.modeling import MLPBlock
from samzoo.sam.sam3d.attention import Attention3d

EPS = 1e-6
"""Of all its norms."""


class AttentionCell(Attention3d):
    """Self-attention with a norm before it, a residual and a norm after it, and an MLP without residual.

    Args:
        dim: C.
        num_heads: of the attention.
        grid: T.
        mlp_ratio: hidden width of the MLP / C.
        positions: which relative bias; see `Attention3d`.
    """

    def __init__(self, dim: int, num_heads: int, grid: int, mlp_ratio: float, positions: str) -> None:
        super().__init__(dim, num_heads, grid, positions=positions)
        self.norm1 = nn.LayerNorm(dim, EPS)
        self.norm2 = nn.LayerNorm(dim, EPS)
        self.mlp = MLPBlock(dim, int(mlp_ratio * dim))

    def forward(self, x: Tensor) -> Tensor:
        """(P, T, T, T, C) -> the same shape."""
        return self.mlp(self.norm2(super().forward(self.norm1(x)) + x))


class MFEB(nn.Module):
    """Mutual feature enhancement block: each branch is convolved, then attends with the other's input added to it.

    "prompt" in names means the branch of the mask; mlp1 is the image's, mlp2 the mask's. Args as of `AttentionCell`.
    """

    def __init__(self, dim: int, num_heads: int, grid: int, mlp_ratio: float, positions: str) -> None:
        super().__init__()
        for branch in ("image", "prompt"):
            self.add_module(f"{branch}_conv1", nn.Conv3d(dim, dim, 3, padding=1))
            self.add_module(f"{branch}_conv2", nn.Conv3d(dim, dim, 1))
            for norm in ("norm", "addnorm1", "addnorm2", "addnorm3"):
                self.add_module(f"{branch}_{norm}", nn.LayerNorm(dim, EPS))
            self.add_module(f"{branch}_multiheadattn", AttentionCell(dim, num_heads, grid, mlp_ratio, positions))
        self.mlp1 = MLPBlock(dim, int(mlp_ratio * dim))
        self.mlp2 = MLPBlock(dim, int(mlp_ratio * dim))

    def convolve_image(self, image: Tensor) -> Tensor:
        """The image's branch up to where the mask joins it: (B, T, T, T, C) -> the same shape."""
        convolved = _convolve(image, self.image_conv1, self.image_norm, self.image_conv2)
        return self.image_addnorm1(convolved + image)

    def forward(self, image: Tensor, mask: Tensor, convolved: Tensor) -> tuple[Tensor, Tensor]:
        """Enhanced image and mask, both (P, T, T, T, C).

        Args:
            image: (P, T, T, T, C).
            mask: the same, or a single row for all.
            convolved: `convolve_image` of the image.
        """
        image1 = convolved
        mask1 = self.prompt_addnorm1(_convolve(mask, self.prompt_conv1, self.prompt_norm, self.prompt_conv2) + mask)
        both = image + mask
        image2 = self.image_addnorm2(self.image_multiheadattn(image1 + both) + image1)
        mask2 = self.prompt_addnorm2(self.prompt_multiheadattn(mask1 + both) + mask1)
        return (
            self.image_addnorm3(self.mlp1(image2) + image2),
            self.prompt_addnorm3(self.mlp2(mask2) + mask2),
        )


class MaskEnhancedAdapter(nn.Module):
    """From image and mask embedding to what the decoder looks at, in place of their sum.

    Args:
        dim: C, width of the prompts.
        grid: T.
        num_blocks: MFEBs in a chain; 1 in the official training.
        num_heads: of all attentions; divides C. 6 there.
        mlp_ratio: hidden width of all MLPs / C.
        positions: which relative bias the attentions use; see `Attention3d`.
    """

    def __init__(
        self,
        dim: int,
        grid: int,
        num_blocks: int = 1,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        positions: str = "published",
    ) -> None:
        super().__init__()
        sizes = (dim, num_heads, grid, mlp_ratio, positions)
        self.bidirectional_attentions = nn.ModuleList(MFEB(*sizes) for _ in range(num_blocks))
        self.multi_head_self_attention = AttentionCell(*sizes)
        self.add_norm = nn.LayerNorm(dim, EPS)
        self.add_norm2 = nn.LayerNorm(dim, EPS)
        self.add_norm3 = nn.LayerNorm(dim, EPS)
        self.add_norm4 = nn.LayerNorm(dim, EPS)  # official checkpoints hold it, nothing uses it
        self.mlp = MLPBlock(dim, int(mlp_ratio * dim))

    def image_branch(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """What depends on the image alone, and serves all prompts and refinements of it: (B, C, T, T, T) -> two of
        (B, T, T, T, C)."""
        image0 = self.add_norm3(image.movedim(1, -1))
        return image0, self.bidirectional_attentions[0].convolve_image(image0)

    def forward(self, branch: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """What the decoder looks at, (P, C, T, T, T).

        Args:
            branch: `image_branch` of the image that each prompt looks at, (P, T, T, T, C) each.
            mask: (P, C, T, T, T), embedding of the mask prompts, or (1, C, T, T, T) or (1, C, 1, 1, 1) for all.
        """
        image0, convolved = branch
        mask0 = self.add_norm2(mask.expand(-1, -1, *image0.shape[1:4]).movedim(1, -1))
        image1, mask1 = image0, mask0
        for i, block in enumerate(self.bidirectional_attentions):
            image1, mask1 = block(image1, mask1, block.convolve_image(image1) if i else convolved)
        joined = image1 + image0 + mask1 + mask0
        joined = self.add_norm(self.multi_head_self_attention(joined) + joined)
        return (joined + self.mlp(joined)).movedim(-1, 1)


def _convolve(x: Tensor, first: nn.Conv3d, norm: nn.LayerNorm, second: nn.Conv3d) -> Tensor:
    """3 x 3 x 3 convolution, norm, GELU, 1 x 1 x 1 convolution: (P, T, T, T, C) -> the same shape."""
    x = F.gelu(norm(first(x.movedim(-1, 1)).movedim(1, -1)))
    return F.linear(x, second.weight.flatten(1), second.bias)
