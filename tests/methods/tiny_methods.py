"""A laptop-size architecture and a batch of slices for it."""

from __future__ import annotations

import torch

from samzoo.sam import SamConfig
from samzoo.types import Batch

TINY = SamConfig(
    image_size=32,
    patch_size=8,
    embed_dim=16,
    depth=2,
    num_heads=2,
    global_attn_indexes=(1,),
    window_size=3,
    prompt_embed_dim=16,
    decoder_mlp_dim=32,
    decoder_num_heads=2,
    iou_head_hidden_dim=16,
)


def make_batch(seed: int = 0, pictures: int = 4, objects: bool = True) -> Batch:
    """Slices of 20 x 28 with two bright classes; the last slice is narrower (padded), the first has ignored pixels."""
    label = torch.zeros(pictures, 20, 28, dtype=torch.long)
    if objects:
        label[:, 3:12, 4:14] = 1
        label[:, 13:18, 2:20] = 2
        label[0, 5:8, 6:9] = 255
    image = label[:, None].clamp(max=2) / 3 + 0.2 * torch.rand(
        pictures, 1, 20, 28, generator=torch.Generator().manual_seed(seed)
    )
    size = torch.tensor([[20, 28]] * pictures)
    size[-1, 1] = 22
    image[-1, :, :, 22:], label[-1, :, 22:] = 0, 255
    names = tuple(f"c{i}" for i in range(pictures))
    return Batch(image, label, size, torch.ones(pictures, 2), names, names, torch.arange(pictures))
