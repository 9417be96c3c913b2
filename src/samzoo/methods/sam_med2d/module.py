"""SAM-Med2D as a method of the zoo: what is trained, with which prompts, in which steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from samzoo.errors import ConfigError
from samzoo.geometry import Interpolation, Policy
from samzoo.methods.mask_loss import LossTerms, Objective
from samzoo.methods.objects import Objects, draw_masks, object_map
from samzoo.methods.promptable import Multimask, PromptableSam2d
from samzoo.methods.randomness import seeded_generator
from samzoo.methods.sam_med2d.episode import Episode, Part
from samzoo.methods.sam_med2d.network import build_sam_med2d
from samzoo.prompts.batched import jitter_boxes, mask_boxes, random_error_clicks, random_foreground_click
from samzoo.sam import SamConfig
from samzoo.types import IGNORE, Batch, MethodSpec


class SAMMed2D(PromptableSam2d):
    """SAM-Med2D (arXiv 2308.16184); the method card beside this file states each deviation from the reference.

    Args:
        architecture: vit_tiny, vit_b, vit_l, vit_h, or the numbers of one.
        image_size: S; None takes the architecture's own.
        weights: of SAM-Med2D or of plain SAM: a name of `samzoo zoo`, a path or a url; None starts from random.
        adapters: put adapters into the encoder.
        use_adapters: False leaves them out of the computation (the "drop adapter" evaluation of the same weights).
        policy, interpolation: how a slice is laid on the grid; the defaults are the reference's.
        multimask: see `samzoo.methods.promptable`; training always uses the multimask outputs.
        freeze_encoder: train only its adapters. False makes sense for a small model from random weights alone.
        refinement_passes: R; each batch makes R + 1 optimiser steps.
        clicks_per_pass: the number of correction clicks of a pass is drawn from these.
        masks_per_picture: K masks are drawn with replacement from each slice.
        objects: a mask is a whole "class" of the slice or one connected "component" of it.
        lr: of Adam.
        lr_halve_at: epochs from which on the rate is halved (once more).
        clip_norm: largest norm of the gradient of a step; None: not clipped.
        accumulate: micro-batches that a batch is cut into for each step; less memory, same result.
        focal_weight, dice_weight, quality_weight: of the loss terms.
        loss: "per_mask", or "pooled" over the batch as in the reference.
        selection: train the mask of the best predicted quality (reference), or the one with the least loss.
        train_prompt_encoder: also in refinements (reference: False, so that the mask prompt's layers never learn).
        train_point_embeddings: False freezes the three embeddings that the reference never trains.
        keep_box: keep the box beside later clicks, in training and when answering (reference: False).
        num_classes, class_names: of the data set; each mask is asked for by its prompt alone.

    Raises:
        ConfigError: a setting out of range.
        WeightsError: weights that do not fit.
    """

    spec = MethodSpec(
        name="SAM-Med2D",
        dim=2,
        unit="slice",
        prompts=frozenset({"click", "box", "mask"}),
        multiclass=False,
        frozen="image encoder but its adapters",
    )
    memory_settings = (
        "model.init_args.image_size",
        "data.batch_size",
        "model.init_args.accumulate",
        "trainer.precision",
        "model.init_args.masks_per_picture",
    )

    def __init__(
        self,
        architecture: str | SamConfig = "vit_b",
        image_size: int | None = 256,
        weights: str | None = None,
        adapters: bool = True,
        use_adapters: bool = True,
        policy: Policy = "pad_or_stretch",
        interpolation: Interpolation = "nearest",
        multimask: Multimask = "always",
        freeze_encoder: bool = True,
        refinement_passes: int = 8,
        clicks_per_pass: tuple[int, ...] = (1, 3, 5, 9),
        masks_per_picture: int = 5,
        objects: Objects = "class",
        lr: float = 1e-4,
        lr_halve_at: tuple[int, ...] = (),
        clip_norm: float | None = None,
        accumulate: int = 1,
        focal_weight: float = 20.0,
        dice_weight: float = 1.0,
        quality_weight: float = 1.0,
        loss: Literal["per_mask", "pooled"] = "per_mask",
        selection: Literal["best_quality", "min_loss"] = "best_quality",
        train_prompt_encoder: bool = True,
        train_point_embeddings: bool = True,
        keep_box: bool = False,
        num_classes: int = 1,
        class_names: Sequence[str] = (),
    ) -> None:
        for name, value, least in (
            ("refinement_passes", refinement_passes, 0),
            ("masks_per_picture", masks_per_picture, 1),
            ("accumulate", accumulate, 1),
            ("clicks_per_pass", min(clicks_per_pass, default=0), 1),
        ):
            if value < least:
                raise ConfigError(f"SAMMed2D: {name} must be at least {least}, got {value}")
        if loss == "pooled" and selection == "min_loss":
            raise ConfigError("SAMMed2D: selection min_loss compares masks one by one; it needs loss per_mask")
        super().__init__(
            build_sam_med2d(architecture, image_size, adapters),
            weights,
            policy=policy,
            interpolation=interpolation,
            multimask=multimask,
            mask_prompt="probabilities",
            keep_box=keep_box,
            load_args={
                "new": _is_adapter,
                "ignore": (lambda key: False) if adapters else _is_adapter,
                "encoder_only": True,
            },
            num_classes=num_classes,
            class_names=class_names,
        )
        self.automatic_optimization = False  # several optimiser steps per batch
        self.sam.image_encoder.use_adapters = use_adapters
        self.clicks_per_pass = tuple(clicks_per_pass)
        self.masks_per_picture, self.objects = masks_per_picture, objects
        self.lr, self.lr_halve_at, self.clip_norm, self.accumulate = lr, tuple(lr_halve_at), clip_norm, accumulate
        self.freeze_encoder = freeze_encoder
        self.episode = Episode(
            Objective(focal_weight, dice_weight, quality_weight, pooled=loss == "pooled"),
            refinement_passes,
            min_loss=selection == "min_loss",
            train_prompts=train_prompt_encoder,
            keep_box=keep_box,
        )
        self._freeze(train_point_embeddings)
        if weights is None and freeze_encoder:
            rank_zero_warn("SAMMed2D: the frozen image encoder is random; give `weights`, or set freeze_encoder: false")

    # --- what is trained -----------------------------------------------------------------------------------------

    def _freeze(self, train_point_embeddings: bool) -> None:
        encoder, prompts = self.sam.image_encoder, self.sam.prompt_encoder
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(encoder.use_adapters if _is_adapter(name) else not self.freeze_encoder)
        # The reference re-creates these three on each call with clicks, behind its optimiser's back.
        if not train_point_embeddings:
            for module in (prompts.not_a_point_embed, *prompts.point_embeddings[:2]):
                module.requires_grad_(False)

    def frozen_modules(self) -> Sequence[nn.Module]:
        if not self.freeze_encoder:
            return ()
        encoder = self.sam.image_encoder
        blocks = [getattr(block, name) for block in encoder.blocks for name in ("norm1", "attn", "norm2", "mlp")]
        return (encoder.patch_embed, encoder.neck, *blocks)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.trainable_parameters(), lr=self.lr)

    # --- one batch -----------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """R + 1 passes and optimiser steps over one batch of slices.

        What must agree between processes (kind of the first prompt, passes without clicks) is drawn from (seed, epoch,
        batch), the rest from (seed, epoch, batch, rank).
        """
        common = seeded_generator(self.current_epoch, batch_idx)
        own = seeded_generator(self.current_epoch, batch_idx, 1 + self.global_rank)
        with_boxes = bool(torch.rand((), generator=common) < 0.5)
        parts = self.draw_parts(batch, with_boxes, own)
        if not any(part.share for part in parts) and self.trainer.world_size == 1:
            return  # no object in the whole batch: nothing to learn, and stale momentum must not move anything
        optimizer = self.optimizers()

        def step() -> None:
            if self.clip_norm is not None:
                self.clip_gradients(optimizer, self.clip_norm, "norm")
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        plan = self.draw_clicks_plan(common)

        def corrections(number: int, part: Part) -> tuple[Tensor, Tensor] | None:
            if not plan[number]:
                return None
            return random_error_clicks(part.prediction, part.target, plan[number], own, part.valid)

        losses = self.episode.run(self.sam, parts, corrections, self.manual_backward, step)
        self._log(losses, len(batch))

    def draw_clicks_plan(self, generator: torch.Generator) -> list[int]:
        """Number of clicks of each refinement; 0 (mask prompt alone) for the last and one drawn from the others."""
        total = self.episode.refinements
        choice = torch.randint(len(self.clicks_per_pass), (total,), generator=generator).tolist()
        counts = [self.clicks_per_pass[i] for i in choice]
        if total >= 3:
            counts[int(torch.randint(1, total - 1, (), generator=generator))] = 0
        if total:
            counts[-1] = 0
        return counts

    def draw_parts(self, batch: Batch, with_boxes: bool, generator: torch.Generator) -> list[Part]:
        """Masks and first prompts of a batch, as exactly `accumulate` micro-batches.

        Slices without any object are left out. A micro-batch that is left without slices gets one without object and
        with no share in the loss, because all processes have to make the same number of backward passes.
        """
        x, _ = self.prepare(batch.image, batch.size, batch.spacing)
        label = self.labels_on_grid(batch)
        ignored = label == IGNORE
        valid = ~ignored[:, None] if bool(ignored.any()) else None
        image_index, target = draw_masks(object_map(label, self.objects), self.masks_per_picture, generator)

        count = self.masks_per_picture
        pictures = image_index[::count]
        groups = torch.tensor_split(pictures, self.accumulate)
        return [
            self._part(x, group, masks, valid, len(group) / max(1, len(pictures)), with_boxes, generator)
            for group, masks in zip(groups, target.split([count * len(g) for g in groups]), strict=True)
        ]

    def _part(
        self,
        x: Tensor,
        group: Tensor,
        masks: Tensor,
        valid: Tensor | None,
        share: float,
        with_boxes: bool,
        generator: torch.Generator,
    ) -> Part:
        """The pictures `group` (indices into x) with their masks (P, 1, S, S), as many for each, and first prompts."""
        if not len(group):
            group, masks = group.new_zeros(1), torch.zeros_like(x[:1, :1], dtype=torch.bool)
        index = torch.arange(len(group), device=x.device).repeat_interleave(len(masks) // len(group))
        part = Part(x[group], index, masks, None if valid is None else valid[group][index], share=share)
        if with_boxes:
            boxes = jitter_boxes(mask_boxes(masks), generator)
            part.boxes = boxes.clamp(0, self.sam.config.image_size)
        else:
            part.points, part.labels = random_foreground_click(masks, generator)
        return part

    def _log(self, losses: Sequence[LossTerms], size: int) -> None:
        passes = len(losses)
        values = {
            "train/loss": sum(loss.total for loss in losses) / passes,
            "train/loss_first": losses[0].total,
            "train/loss_last": losses[-1].total,
            "train/focal": sum(loss.focal for loss in losses) / passes,
            "train/dice_loss": sum(loss.dice for loss in losses) / passes,
            "train/quality": sum(loss.quality for loss in losses) / passes,
        }
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=size, sync_dist=self.trainer.world_size > 1)
        self.log("train/loss_now", values["train/loss"], prog_bar=True, logger=False, batch_size=size)


def _is_adapter(key: str) -> bool:
    return ".Adapter." in key
