"""A start for SAMs that are trained from random weights: every prompt looks at its own place.

SAM's decoder finds a prompt's place in the picture by comparing position codes. From random projections it takes
thousands of steps until it does; with equal projections of both sides' codes it does so at once, and a small SAM begins
to learn within a hundred steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samzoo.sam.model import Sam
from samzoo.sam.sam3d.model import Sam3d

GAIN = 1.5
"""Of the orthogonal projections: attention is some ten times as strong at the prompt's own place as elsewhere."""


@torch.no_grad()
def start_matched(sam: Sam | Sam3d) -> None:
    """Give the decoder's attention between prompts and picture equal projections of queries and keys, in place."""
    if isinstance(sam, Sam3d) and sam.config.positions == "published":
        order = _exchangeable_axes(sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix)
    else:
        order = torch.arange(sam.config.prompt_embed_dim)
    transformer = sam.mask_decoder.transformer
    for layer in transformer.layers:
        _match(layer.cross_attn_token_to_image.q_proj, layer.cross_attn_token_to_image.k_proj, order)
        _match(layer.cross_attn_image_to_token.k_proj, layer.cross_attn_image_to_token.q_proj, order)
    final = transformer.final_attn_token_to_image
    _match(final.q_proj, final.k_proj, order)


def _match(of_prompts: nn.Linear, of_image: nn.Linear, order: Tensor) -> None:
    """Channel c of a place's code stands in channel order[c] of the picture's."""
    nn.init.orthogonal_(of_prompts.weight, GAIN)
    of_image.weight[:, order] = of_prompts.weight
    for projection in (of_prompts, of_image):
        nn.init.zeros_(projection.bias)


def _exchangeable_axes(frequencies: Tensor) -> Tensor:
    """SAM-Med3D's grid has its first two axes exchanged: make every second frequency the one before, so
    exchanged.

    The exchange is then a permutation of channels, which projections can undo.

    Args:
        frequencies: (3, C / 3), changed in place.

    Returns:
        (C,) the channel of the grid's code where each channel of a click's code stands.
    """
    count = frequencies.shape[1]
    pairs = count // 2
    frequencies[:, 1 : 2 * pairs : 2] = frequencies[:, 0 : 2 * pairs : 2][[1, 0, 2]]
    partner = torch.arange(count)
    partner[: 2 * pairs] ^= 1
    return torch.cat([partner + part * count for part in range(3)])
