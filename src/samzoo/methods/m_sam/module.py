"""M-SAM as a method of the zoo: what is trained, how it prompts itself in training, how it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from samzoo.methods.crop import Boxes, CropMethod, CropSpacing, Refinement
from samzoo.methods.m_sam.network import MSamNetwork
from samzoo.methods.m_sam.weights import load_args
from samzoo.methods.volume import Measure
from samzoo.sam import ARCHITECTURES_3D, Sam3dConfig
from samzoo.sam.config import resolve_config
from samzoo.sam.sam3d import Positions
from samzoo.types import Embedding, MethodSpec

REFINEMENT = Refinement(clicks="newest", loss="dice")
"""Of M-SAM's training code. Its "Dice + CE" is Dice alone: the cross entropy of the MONAI that it pins is 0 on one
channel."""


class MSAM(CropMethod):
    """Mask-enhanced SAM (arXiv 2403.05912): SAM-Med3D with LoRA, an adapter that mixes the image with the previous
    mask, and refinement of that mask click by click.

    Args:
        architecture, image_size, in_channels, weights: as of `SAMMed3D`; weights of SAM-Med3D or of M-SAM.
        positions: "published" is what public weights of SAM-Med3D were trained with, "intended" what was meant; see
            the method card. Such a method is called M-SAM-fixed.
        lora_rank: of the updates of q and v in each block of the image encoder; 0: none.
        adapter: False leaves out the mask-enhanced adapter: the decoder sees the sum of image and mask embedding.
        mea_blocks, mea_heads: mutual feature enhancement blocks of the adapter, and its attention heads.
        spacing, fingerprint, zero, file_zero, boxes, lr_drop_at, weight_decay: of `CropMethod`.
        refinement: see `Refinement`.
        lr, lr_decoder: of LoRA and adapter (and of the image encoder, if it is trained), and of prompt encoder and
            mask decoder.
        freeze_encoder: False trains the whole image encoder, as random weights need it.
        num_classes, class_names: of the data set; each mask is asked for by its prompt alone.
    """

    spec = MethodSpec(
        name="M-SAM",
        dim=3,
        unit="crop",
        prompts=frozenset({"click", "box", "mask"}),
        multiclass=False,
        frozen="image encoder but its LoRA",
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
        lora_rank: int = 4,
        adapter: bool = True,
        mea_blocks: int = 1,
        mea_heads: int = 6,
        spacing: CropSpacing = 1.5,
        zero: float | None = None,
        file_zero: float = 0.0,
        boxes: Boxes = "centre",
        refinement: Refinement = REFINEMENT,
        lr: float = 8e-4,
        lr_decoder: float = 8e-5,
        lr_drop_at: tuple[int, ...] = (120, 180),
        weight_decay: float = 0.1,
        freeze_encoder: bool = True,
        num_classes: int = 1,
        class_names: Sequence[str] = (),
        fingerprint: Measure | None = None,
    ) -> None:
        changes = ["fixed"] * (positions == "intended") + ["no-MEA"] * (not adapter)
        changes += ["no-refinement"] * (not refinement.feedback)
        self.spec = replace(self.spec, name="-".join([self.spec.name, *changes]))
        config = resolve_config(architecture, image_size, ARCHITECTURES_3D)
        network = MSamNetwork(
            replace(config, in_channels=in_channels, positions=positions),
            boxes == "corners",
            lora_rank=lora_rank,
            adapter=adapter,
            mea_blocks=mea_blocks,
            mea_heads=mea_heads,
        )
        super().__init__(
            network,
            weights,
            load_args=load_args(network),
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

    def encode(self, x: Tensor) -> Embedding:
        """See `CropMethod.encode`; with what the adapter makes of the image alone."""
        return self.sam.image_branch(super().encode(x))

    def without_gradient(self) -> list[nn.Module]:
        """See `CropMethod`; and a norm of the adapter that only checkpoints know."""
        adapter = self.sam.bidatt
        return [*super().without_gradient(), *([] if adapter is None else [adapter.add_norm4])]

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Without LoRA."""
        return self.sam.encoder_parameters()
