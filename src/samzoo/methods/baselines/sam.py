"""SAM as it is."""

from __future__ import annotations

from collections.abc import Sequence

from samzoo.geometry import Interpolation, Policy
from samzoo.methods.promptable import Multimask, PromptableSam2d
from samzoo.sam import SamConfig, build_sam
from samzoo.types import MethodSpec


class SAM(PromptableSam2d):
    """Segment Anything without any training (arXiv 2304.02643): slices, boxes and clicks, raw logits fed back.

    Args:
        architecture: vit_tiny, vit_b, vit_l, vit_h, or the numbers of one.
        image_size: S if another than the architecture's own (1024); the position tables are resized to it.
        weights: a name of `samzoo zoo`, a path or a url; None keeps random weights (only of use to test the machinery).
        policy, interpolation: how a slice is laid on the grid; SAM's own are the default.
        multimask: "one_click" is the authors' recommendation.
        num_classes, class_names: of the data set; SAM does not look at them.
    """

    spec = MethodSpec(
        name="SAM",
        dim=2,
        unit="slice",
        prompts=frozenset({"click", "box", "mask"}),
        multiclass=False,
        frozen="everything",
    )

    def __init__(
        self,
        architecture: str | SamConfig = "vit_b",
        image_size: int | None = None,
        weights: str | None = None,
        policy: Policy = "longest_side",
        interpolation: Interpolation = "bilinear",
        multimask: Multimask = "one_click",
        num_classes: int = 1,
        class_names: Sequence[str] = (),
    ) -> None:
        super().__init__(
            build_sam(architecture, image_size),
            weights,
            policy=policy,
            interpolation=interpolation,
            multimask=multimask,
            mask_prompt="logits",
            num_classes=num_classes,
            class_names=class_names,
        )
        self.requires_grad_(False)
