"""MaskSAM as a method of the zoo: what is trained, by which loss, and how a slab is answered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from samzoo.errors import ConfigError
from samzoo.methods.masksam.loss import TERMS, Criterion, LossSettings, LossTerms
from samzoo.methods.masksam.network import MaskSAMNetwork, semantic_scores
from samzoo.methods.masksam.settings import FIXED, Corrections, Design, Kernel, MaskSAMSettings, Tokens
from samzoo.methods.masksam.targets import slice_targets
from samzoo.methods.masksam.weights import load_args
from samzoo.methods.randomness import seeded_generator
from samzoo.methods.slab import Optimizer, SlabMethod
from samzoo.methods.volume import Measure, Spacing, measured
from samzoo.sam import LoadReport, SamConfig, load_weights
from samzoo.sam.config import resolve_config
from samzoo.types import Batch, MethodSpec, Prompts, State


class MaskSAM(SlabMethod):
    """MaskSAM (arXiv 2403.14103); the method card beside this file states each deviation from the original.

    SAM is frozen; a stem, a prompt generator, depth adapters in encoder and decoder, and a class head are trained.

    Args:
        architecture: vit_tiny, vit_b, vit_l, vit_h, or the numbers of one.
        image_size: side of SAM's canvas in pixels; None takes the architecture's own (1024). Position tables keep this
            size, whatever the patch.
        weights: of plain SAM or of MaskSAM: a name of `samzoo zoo`, a path or a url; None starts from random.
        freeze: whether SAM's own weights stay as they are; False is for small experiments from random weights.
        patch: (T, H, W) voxels, H = W.
        spacing, in_channels, intensity, optimizer, lr, weight_decay, adam_eps: of `SlabMethod`. With spacing
            "fingerprint" it is nnU-Net's target spacing of the training cases, and patches are no deeper than their
            median.
        queries: N, at least as many as classes (and background) are seen on a slice. None: 3/2 of the classes and the
            background, at least 8: the 24 and 8 that were published for 15 and 3 classes.
        design: "direct" or "upsampled"; see `samzoo.methods.masksam.settings`, as for the further switches.
        widths, kernels, skip_levels: of the prompt generator.
        conv_adapters, mlp_adapters: whether there are depth-convolution and depth-MLP adapters.
        classifier_tokens: "sum" of the global and the auxiliary token, or one of them alone.
        zero_init_adapters: start with adapters that add nothing.
        head_width: channels of the final head (direct).
        query_chunk: queries decoded at a time; bounds the memory of the decoder. None: all.
        checkpointing: compute blocks anew in the backward pass instead of keeping them.
        corrections: of the original's faults; none by default. All of them are the method `MaskSAM-fixed`.
        loss: weights and points of matching and loss.
        num_classes, class_names: of the data set, without background.
        fingerprint: see `samzoo.methods.volume.Measure`.

    Raises:
        ConfigError: numbers that do not fit together.
        WeightsError: weights that do not fit.
    """

    spec = MethodSpec(
        name="MaskSAM",
        dim=3,
        unit="slab",
        prompts=frozenset({"auto"}),
        multiclass=True,
        frozen="SAM's own weights (all but adapters and depth embeddings)",
    )
    memory_settings = (
        "model.init_args.patch",
        "data.batch_size",
        "model.init_args.checkpointing",
        "model.init_args.query_chunk",
        "trainer.precision",
    )
    memory_settings_scoring = (
        "protocol.encode_chunk",
        "model.init_args.patch",
        "model.init_args.query_chunk",
        "trainer.precision",
    )

    def __init__(
        self,
        architecture: str | SamConfig = "vit_b",
        image_size: int | None = None,
        weights: str | None = None,
        freeze: bool = True,
        patch: tuple[int, int, int] = (9, 512, 512),
        spacing: Spacing | Literal["fingerprint"] | None = None,
        in_channels: int = 1,
        intensity: tuple[float, float] = (0.5, 0.25),
        queries: int | None = 24,
        design: Design = "direct",
        widths: tuple[int, ...] = (256, 128, 128, 64, 64),
        kernels: tuple[Kernel, ...] | None = None,
        skip_levels: int | None = None,
        conv_adapters: bool = True,
        mlp_adapters: bool = True,
        classifier_tokens: Tokens = "sum",
        zero_init_adapters: bool = False,
        head_width: int = 64,
        query_chunk: int | None = None,
        checkpointing: bool = False,
        corrections: Corrections = Corrections(),  # noqa: B008 frozen
        loss: LossSettings = LossSettings(),  # noqa: B008 frozen
        optimizer: Optimizer = "adamw",
        lr: float = 1e-3,
        weight_decay: float = 3e-5,
        adam_eps: float = 1e-4,
        num_classes: int = 1,
        class_names: Sequence[str] = (),
        fingerprint: Measure | None = None,
    ) -> None:
        planned = {}
        if spacing == "fingerprint":
            cases = measured(fingerprint, "MaskSAM")
            spacing, patch = cases.spacing, (min(patch[0], cases.shape[0]), *patch[1:])
            planned = {"spacing": list(spacing), "patch": list(patch)}
        if queries is None:
            queries = max(8, math.ceil(1.5 * (num_classes + 1)))
        super().__init__(
            patch,
            spacing,
            in_channels,
            intensity,
            optimizer,
            lr,
            weight_decay,
            adam_eps,
            num_classes=num_classes,
            class_names=class_names,
        )
        self.planned = planned
        settings = MaskSAMSettings(
            patch=self.patch,
            num_classes=num_classes + 1,
            in_channels=in_channels,
            queries=queries,
            design=design,
            widths=tuple(widths),
            kernels=None if kernels is None else tuple(map(tuple, kernels)),
            skip_levels=skip_levels,
            conv_adapters=conv_adapters,
            mlp_adapters=mlp_adapters,
            classifier_tokens=classifier_tokens,
            zero_init_adapters=zero_init_adapters,
            head_width=head_width,
            query_chunk=query_chunk,
            checkpointing=checkpointing,
            corrections=corrections,
        )
        self.sam = MaskSAMNetwork(resolve_config(architecture, image_size), settings)
        self.load_report: LoadReport | None = None
        if weights is not None:
            self.load_report = report = load_weights(self.sam, weights, **load_args(self.sam))
            self.base_sha256 = report.sha256
            self.not_in_base = frozenset(f"sam.{key}" for key in report.new)
        elif freeze:
            rank_zero_warn(
                "MaskSAM: SAM is frozen and random; give model.init_args.weights, or set model.init_args.freeze to "
                "false for a small experiment"
            )
        self.freeze, self.corrections = freeze, corrections
        if made := corrections.named():
            name = "MaskSAM-fixed" if corrections == FIXED else f"MaskSAM-{'-'.join(made)}"
            self.spec = replace(self.spec, name=name)
        for parameter in self.sam.sam_parameters():
            parameter.requires_grad_(not freeze)
        for parameter in self.sam.unused_parameters():
            parameter.requires_grad_(False)
        self.criterion = Criterion(loss)

    # --- answering -----------------------------------------------------------------------------------------------

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, C, T, H, W) -> the encoder levels that the generator reads (B, T, E, h, w), then the neck's output
        (B, T, P, h, w).
        """
        levels, neck = self.sam.encode(x)
        return tuple(t.unflatten(0, (len(x), -1)) for t in (*levels, neck))

    def decode(
        self, embedding: tuple[Tensor, ...], prompts: Prompts | None, state: State | None = None
    ) -> tuple[Tensor, State]:
        """See `Method.decode`: the score of each class less that of the background, (B, K, T, H, W).

        Raises:
            ConfigError: there are prompts.
        """
        if prompts is not None:
            raise ConfigError(f"{self.spec.name} takes no prompts; choose the regime auto")
        *levels, neck = (t.flatten(0, 1) for t in embedding)
        class_logits, mask_logits = self.sam.decode(neck, self.sam.generate(levels, neck))
        scores = semantic_scores(class_logits, mask_logits, self.patch[0])
        return scores[:, 1:] - scores[:, :1], {}

    # --- what is trained -----------------------------------------------------------------------------------------

    def frozen_modules(self) -> Sequence[nn.Module]:
        """None: no module of SAM behaves differently in training; what is frozen has no gradient."""
        return ()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Match queries to the classes of each slice, and the loss of the matched ones."""
        x, label = self.patches(batch)
        output = self.sam(x)
        targets = slice_targets(
            label.flatten(0, 1),
            self.sam.settings.num_classes,
            self.sam.settings.queries,
            self.corrections.box_extent,
        )
        generator = seeded_generator(self.current_epoch, batch_idx, self.global_rank, device=x.device)
        terms = self.criterion(
            output.class_logits, output.mask_logits, output.aux_masks, output.aux_boxes, targets, generator
        )
        self._log(terms, len(batch))
        return terms.total

    def _log(self, terms: LossTerms, size: int) -> None:
        values = {"train/loss": terms.total.detach()}
        values |= {f"train/{name}": getattr(terms, name).detach() for name in TERMS}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=size, sync_dist=self.trainer.world_size > 1)
        self.log("train/loss_now", values["train/loss"], prog_bar=True, logger=False, batch_size=size)
