"""Weights into the network: plain SAM files, and MaskSAM's own, published (nnU-Net's checkpoints) or of samzoo."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from samzoo.errors import WeightsError
from samzoo.methods.masksam.network import MaskSAMNetwork

ALIAS = re.compile(r"\.all_modules\.\d+\.|\.image_decoder_skips_(first|second)\.")
"""What published files hold twice: each convolution block, and of `upsampled` the shared skip path."""

_FIXED = (
    # tensor, its axis, what that is, where it is set
    ("image_encoder.temporal_embedding", 1, "slabs of {} slices", "model.init_args.patch"),
    ("prompt_encoder.temporal_embedding", 2, "patches of {} tokens a side", "model.init_args.patch"),
    ("generator.image_decoder_seg_layers.0.weight", 0, "{} queries", "model.init_args.queries"),
    ("mask_decoder.classifier_embed_Adapter.bias", 0, "{} classes with background and no object", "data"),
    ("first_conv.0.convs.0.conv.weight", 1, "{} channels", "model.init_args.in_channels"),
)
"""Numbers that training builds into the weights, and from which tensors they are read."""


def load_args(network: MaskSAMNetwork) -> dict[str, Callable[..., Any]]:
    """Arguments of `samzoo.sam.load_weights`.

    A plain SAM file leaves MaskSAM's modules as they are, all of them: a file that holds some must hold all.
    """
    own = network.state_dict()

    def part(key: str) -> str | None:
        return None if key in network.sam_keys else "MaskSAM's modules"

    def check(path: Path, state: Mapping[str, Tensor]) -> None:
        for key, axis, what, setting in _FIXED:
            if key in state and state[key].ndim == own[key].ndim and state[key].shape[axis] != own[key].shape[axis]:
                there, here = (what.format(tensors[key].shape[axis]) for tensors in (state, own))
                raise WeightsError(
                    f"{path} does not fit: it was trained for {there}, the model is built for {here}; change {setting} "
                    "or take other weights"
                )

    return {
        "new": lambda key: part(key) is not None,
        "whole": part,
        "rename": renamed,
        "ignore": lambda key: key not in own and ALIAS.search(key) is not None,
        "check": check,
    }


def renamed(key: str) -> str:
    """From the published names: SAM's parts lie under sam_model, the generator's beside it."""
    key = key.removeprefix("sam_model.")
    generator = key.startswith(("image_decoder_", "bbox_conv.", "residual_classifier."))
    return f"generator.{key}" if generator else key
