"""SAM-Med3D, the 3D SAM that M-SAM is built on: zero-shot with its public weights, or trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from samzoo.methods.crop import Boxes, CropMethod, CropSpacing, Refinement
from samzoo.methods.volume import Measure
from samzoo.sam import Sam3dConfig, build_sam3d
from samzoo.sam.sam3d import Positions
from samzoo.types import MethodSpec

REFINEMENT = Refinement(clicks="all", steps_without_click=True, loss="dice_ce")
"""Of SAM-Med3D's code: steps and loss of its training, clicks as in its answers."""


class SAMMed3D(CropMethod):
    """SAM-Med3D (arXiv 2310.15161): a SAM of 3D parts throughout, asked by clicks on cubic crops.

    Args:
        architecture: vit_b_ori (the one with public weights), vit_b, vit_l, vit_h, vit_tiny_3d, or the numbers of one.
        image_size: S if another than the architecture's own; the position tables are resized to it.
        in_channels: C of the images; public weights have one, which is shared among several.
        weights: a name of `samzoo zoo`, a path or a url; None keeps random weights.
        positions: "published" is what public weights were trained with; "intended" puts the axes of the relative
            positions and of the dense position code where they were meant to be. Such a method is called
            SAM-Med3D-fixed.
        spacing, fingerprint, zero, file_zero, boxes, lr_drop_at, weight_decay: of `CropMethod`.
        refinement: see `Refinement`; all clicks are given, as by the authors' script for answers (their training gives
            the newest alone, unless told otherwise).
        lr, lr_decoder: of the image encoder, and of prompt encoder and mask decoder.
        freeze_encoder: train prompt encoder and mask decoder only.
        num_classes, class_names: of the data set; each mask is asked for by its prompt alone.
    """

    spec = MethodSpec(
        name="SAM-Med3D",
        dim=3,
        unit="crop",
        prompts=frozenset({"click", "box", "mask"}),
        multiclass=False,
        frozen="image encoder, with freeze_encoder",
    )
    memory_settings = (
        "model.init_args.image_size",
        "data.batch_size",
        "model.init_args.refinement.steps",
        "trainer.precision",
    )
    memory_settings_scoring = ("model.init_args.image_size", "trainer.precision", "protocol.decode_chunk")

    def __init__(
        self,
        architecture: str | Sam3dConfig = "vit_b_ori",
        image_size: int | None = None,
        in_channels: int = 1,
        weights: str | None = None,
        positions: Positions = "published",
        spacing: CropSpacing = 1.5,
        zero: float | None = None,
        file_zero: float = 0.0,
        boxes: Boxes = "centre",
        refinement: Refinement = REFINEMENT,
        lr: float = 8e-4,
        lr_decoder: float = 8e-5,
        lr_drop_at: tuple[int, ...] = (120, 180),
        weight_decay: float = 0.1,
        freeze_encoder: bool = False,
        num_classes: int = 1,
        class_names: Sequence[str] = (),
        fingerprint: Measure | None = None,
    ) -> None:
        if positions == "intended":
            self.spec = replace(self.spec, name=f"{self.spec.name}-fixed")
        super().__init__(
            build_sam3d(architecture, image_size, in_channels, positions, boxes == "corners"),
            weights,
            load_args={},
            spacing=spacing,
            fingerprint=fingerprint,
            zero=zero,
            file_zero=file_zero,
            boxes=boxes,
            refinement=refinement,
            lr=lr,
            lr_decoder=lr_decoder,
            lr_drop_at=lr_drop_at,
            weight_decay=weight_decay,
            freeze_encoder=freeze_encoder,
            num_classes=num_classes,
            class_names=class_names,
        )
