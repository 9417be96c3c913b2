"""Weights into the network: SAM-Med3D's files, official ones of M-SAM, and samzoo's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from samzoo.errors import WeightsError
from samzoo.methods.m_sam.network import MSamNetwork, part_of

OFFICIAL = "lora_sam.sam."
"""Before the names of encoder, prompt encoder and decoder in official files."""

_PATCH = "image_encoder.patch_embed.proj.weight"
_LENGTHS = (
    # what, the tensor and the axis that tell, the setting
    ("encoder width", _PATCH, 0, "architecture"),
    ("prompt width", "prompt_encoder.no_mask_embed.weight", 1, "architecture"),
    ("LoRA rank", "image_encoder.blocks.0.attn.qkv.linear_a_q.weight", 0, "lora_rank"),
    ("adapter's head width", "bidatt.multi_head_self_attention.rel_pos_d", 1, "mea_heads"),
)
_MFEB = re.compile(r"bidatt\.bidirectional_attentions\.(\d+)\.")


def load_args(network: MSamNetwork) -> dict[str, Callable[..., Any]]:
    """Arguments of `samzoo.sam.load_weights`.

    A file may lack LoRA or the adapter, each as a whole only, which then stay as they are.
    """
    own = network.state_dict()

    def renamed(key: str) -> str:
        key = key.removeprefix(OFFICIAL)
        wrapped = key.replace(".attn.qkv.", ".attn.qkv.qkv.")  # SAM-Med3D's projection, which LoRA wraps
        return wrapped if key not in own and wrapped in own else key

    def check(path: Path, state: Mapping[str, Tensor]) -> None:
        patch = state.get(_PATCH)
        if patch is None or patch.ndim != 5:
            return  # no 3D SAM at all, which the loader says better
        here = {what: number for what, number, _ in _numbers(own)}
        for what, number, setting in _numbers(state):
            if number and number != here[what]:
                setting = "adapter" if network.bidatt is None and setting.startswith("mea_") else setting
                raise WeightsError(
                    f"{path} does not fit: its {what} is {number}, the model's is {here[what]}; change "
                    f"model.init_args.{setting} or take other weights"
                )

    return {
        "new": lambda key: part_of(key) is not None,
        "whole": part_of,
        "rename": renamed,
        "check": check,
    }


def _numbers(state: Mapping[str, Tensor]) -> list[tuple[str, int, str]]:
    """Numbers that training builds into the weights, with the setting of each; 0 where the part is missing."""
    blocks = {match[1] for key in state if (match := _MFEB.match(key))}
    lengths = [
        (what, state[key].shape[axis] if key in state and state[key].ndim > axis else 0, setting)
        for what, key, axis, setting in _LENGTHS
    ]
    return [("number of MFEBs", len(blocks), "mea_blocks"), *lengths]
