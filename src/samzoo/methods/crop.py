"""What methods on cubic crops have in common: a 3D SAM that answers clicks and boxes and refines its own mask."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_warn
from monai.losses import DiceLoss
from torch import Tensor, nn

from samzoo.errors import ConfigError
from samzoo.methods.crop_inputs import draw_objects, error_or_foreground_click, normalised, reversed_axes
from samzoo.methods.randomness import seeded_generator
from samzoo.methods.volume import Measure, VolumeMethod, measured
from samzoo.prompts.batched import mask_boxes
from samzoo.sam import WEIGHTS, LoadReport, Sam3d, load_weights, start_matched
from samzoo.types import Batch, Embedding, Prompts, State

Clicks = Literal["newest", "all"]
"""What of a crop's clicks an answer is told; the earlier ones have left their mark in the mask that is fed back."""

Boxes = Literal["centre", "corners"]
"""A box is a click in its middle, or two corner tokens of their own, which no public weights but those of a challenge
branch of SAM-Med3D hold."""

CropSpacing = float | Literal["fingerprint"] | None

CORNER_VECTORS = ("prompt_encoder.point_embeddings.2", "prompt_encoder.point_embeddings.3")


@dataclass(frozen=True)
class Refinement:
    """How a mask is refined, in training and when answering.

    Args:
        clicks: see above.
        feedback: the previous mask is fed back; False asks for each mask anew, from all clicks.
        steps: prompts per object and training step, each followed by a term of the loss.
        objects: drawn from each crop in a training step (published: 1); a crop is encoded once for all of them.
        steps_without_click: SAM-Med3D's training: one step of those between the first and the last but one, and the
            last, refine the mask without a new click.
        click_threshold: logit above which training takes a voxel for predicted when it looks for errors to click at.
        detach: no gradient flows from one step into the one before: other training than published, and hardly less
            memory (1 %, measured), for all steps wait for one backward pass.
        box_fraction: share of the training steps that begin with a box instead of a click.
        loss: "dice", or "dice_ce", which adds binary cross entropy.

    Raises:
        ConfigError: numbers out of range, or settings that contradict each other.
    """

    clicks: Clicks = "newest"
    feedback: bool = True
    steps: int = 11
    objects: int = 1
    steps_without_click: bool = False
    click_threshold: float = 0.5
    detach: bool = False
    box_fraction: float = 0.0
    loss: Literal["dice", "dice_ce"] = "dice"

    def __post_init__(self) -> None:
        if min(self.steps, self.objects) < 1:
            raise ConfigError(f"refinement.steps and .objects must be at least 1, got {self.steps} and {self.objects}")
        if not 0 <= self.box_fraction <= 1:
            raise ConfigError(f"refinement.box_fraction must be between 0 and 1, got {self.box_fraction}")
        if not self.feedback and (self.clicks == "newest" or self.steps_without_click):
            raise ConfigError(
                "without refinement.feedback nothing remembers earlier clicks: set refinement.clicks to all and "
                "refinement.steps_without_click to false"
            )


class CropMethod(VolumeMethod):
    """A promptable 3D SAM on crops of S x S x S voxels (SAM-Med3D, arXiv 2310.15161, and what builds on it).

    Volumes are cropped by whoever calls it; each crop is z-scored by itself when it is encoded. The network sees the
    axes of the file, x, y, z: the reverse of a case's.

    Args:
        sam: the network.
        weights: pretrained weights for it: a name of `samzoo zoo`, a path or a url; None starts it at random, as
            `samzoo.sam.matched_start` says.
        load_args: of `load_weights`.
        spacing: mm of the method's isotropic grid; None takes volumes as they are, "fingerprint" takes a voxel of the
            volume that voxels have at nnU-Net's target spacing of the training cases.
        fingerprint: see `samzoo.methods.volume.Measure`.
        zero: where the file's 0 lies in [0, 1]: 0.5 for CT with a window of -1000 to 1000 HU, 0 for MR. Only voxels
            above it count for mean and deviation of a crop, and what lies around a volume is filled with it. None:
            `file_zero`.
        file_zero: what the data set says of it; linked by the command line.
        boxes, refinement: see above.
        lr, lr_decoder: of what works on the image, and of prompt encoder and mask decoder.
        lr_drop_at: epochs from which on both rates are a tenth (once more).
        weight_decay: of AdamW.
        freeze_encoder: the image encoder keeps its weights (but what a method adds to it).
        method_args: of `VolumeMethod`.

    Raises:
        ConfigError: numbers out of range, or settings that contradict each other.
        WeightsError: weights that do not fit.
    """

    def __init__(
        self,
        sam: Sam3d,
        weights: str | None,
        *,
        load_args: Mapping[str, Any],
        spacing: CropSpacing,
        fingerprint: Measure | None,
        zero: float | None,
        file_zero: float,
        boxes: Boxes,
        refinement: Refinement,
        lr: float,
        lr_decoder: float,
        lr_drop_at: tuple[int, ...],
        weight_decay: float,
        freeze_encoder: bool,
        **method_args,
    ) -> None:
        side = sam.config.image_size
        if spacing == "fingerprint":
            spacing = _isotropic(measured(fingerprint, self.spec.name))
            planned = {"spacing": spacing}
        else:
            planned = {}
        grid = None if spacing is None else (spacing,) * 3
        super().__init__((side,) * 3, grid, sam.config.in_channels, **method_args)
        self.planned = planned
        zero = file_zero if zero is None else zero
        if not 0 <= zero <= 1:
            raise ConfigError(f"{self.spec.name}: zero must be between 0 and 1, got {zero}")
        self.sam = sam
        self.fill = zero
        self.boxes, self.refinement = boxes, refinement
        self.dice = DiceLoss(squared_pred=True, reduction="none")
        self.lr, self.lr_decoder, self.weight_decay = lr, lr_decoder, weight_decay
        self.lr_drop_at = tuple(lr_drop_at)
        self.load_report: LoadReport | None = None
        if weights is not None:
            self.load_report = report = load_weights(sam, weights, **load_args)
            self.base_sha256 = report.sha256
            self.not_in_base = frozenset(f"sam.{key}" for key in report.new)
        else:
            start_matched(sam)
        self._check_weights(weights)
        for module in self.without_gradient():
            module.requires_grad_(False)
        self.freeze_encoder = freeze_encoder
        if freeze_encoder:
            for parameter in self.encoder_parameters():
                parameter.requires_grad_(False)
            if weights is None:
                name = self.spec.name
                rank_zero_warn(f"{name}: the frozen image encoder is random; give `weights`, or freeze_encoder: false")
        else:
            self.spec = replace(self.spec, frozen="nothing")

    def _check_weights(self, weights: str | None) -> None:
        """Raises ConfigError: box prompts that nothing has taught. Warns of public weights that do not suit."""
        name, report = self.spec.name, self.load_report
        untaught = report is None or any(key.startswith(CORNER_VECTORS) for key in report.new)
        if self.boxes == "corners" and self.refinement.box_fraction == 0 and untaught:
            raise ConfigError(
                f"{name}: with boxes corners, box prompts have vectors of their own, which these weights do not hold "
                "and training without boxes does not teach: set refinement.box_fraction above 0, or boxes to centre"
            )
        if weights in WEIGHTS and self.sam.config.positions == "intended":
            rank_zero_warn(f"{name}: {weights} were trained with positions: published, and answer wrongly without")

    def encoder_parameters(self) -> list[nn.Parameter]:
        """What `freeze_encoder` freezes."""
        return list(self.sam.image_encoder.parameters())

    def frozen_modules(self) -> Sequence[nn.Module]:
        return (self.sam.image_encoder,) if self.freeze_encoder else ()

    def without_gradient(self) -> list[nn.Module]:
        """Modules that no training step uses: one mask is asked for, whose quality nobody looks at, and there always
        is a previous mask. The originals list them for training; with plain DDP they would stop it."""
        decoder = self.sam.mask_decoder
        corners = self._corners() if self.refinement.box_fraction == 0 else []
        return [
            decoder.iou_prediction_head,
            *decoder.output_hypernetworks_mlps[1:],
            self.sam.prompt_encoder.no_mask_embed,
            *corners,
        ]

    def _corners(self) -> list[nn.Module]:
        """The two vectors of box prompts."""
        return list(self.sam.prompt_encoder.point_embeddings[2:])

    # --- answering -----------------------------------------------------------------------------------------------

    def encode(self, x: Tensor) -> Tensor:
        """Crops (B, C, S, S, S) of a volume on the method's grid -> (B, P, t, t, t)."""
        return self.sam.encode(reversed_axes(normalised(x, self.fill)))

    def decode(self, embedding: Embedding, prompts: Prompts | None, state: State | None = None) -> tuple[Tensor, State]:
        """See `Method.decode`: logits (P, 1, l, l, l), which the state holds, too.

        `prompts` hold all clicks on the crop so far. Without clicks and box the mask is refined by itself.

        Raises:
            ConfigError: no prompts.
        """
        if prompts is None:
            raise ConfigError(f"{self.spec.name} answers prompts only; choose a regime with boxes or clicks")
        low_res = None if state is None else state["low_res"]
        if low_res is None and prompts.points is None and prompts.boxes is None:
            raise ConfigError(f"{self.spec.name} needs a click, a box or a previous mask for each mask")
        points, labels, boxes = self._told(prompts, first=low_res is None)
        logits = self.answer(embedding, prompts.image_index, points, labels, boxes, low_res).float()
        return logits, {"low_res": logits}

    def _told(self, prompts: Prompts, first: bool) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Points, their labels and boxes that the network is told."""
        points, labels, boxes = prompts.points, prompts.point_labels, prompts.boxes
        newest = self.refinement.clicks == "newest" and not first
        if newest:
            boxes = None
            if points is not None:
                points, labels = points[:, -1:], labels[:, -1:]
        if boxes is not None and self.boxes == "centre":
            centre = boxes.unflatten(-1, (2, 3)).mean(1)[:, None].floor()
            ones = torch.ones(len(centre), 1, dtype=torch.long, device=centre.device)
            points = centre if points is None else torch.cat([centre, points], dim=1)
            labels = ones if labels is None else torch.cat([ones, labels], dim=1)
            boxes = None
        return points, labels, boxes

    def answer(
        self,
        embedding: Embedding,
        image_index: Tensor,
        points: Tensor | None,
        labels: Tensor | None,
        boxes: Tensor | None,
        low_res: Tensor | None,
    ) -> Tensor:
        """Logits (P, 1, l, l, l); without `low_res` from a mask of zeros, as both originals begin."""
        if low_res is None or not self.refinement.feedback:
            side = 4 * self.sam.config.grid
            low_res = torch.zeros(len(image_index), 1, side, side, side, device=image_index.device)
        sparse, dense = self.sam.encode_prompts(points, labels, boxes, reversed_axes(low_res))
        logits, _ = self.sam.decode(embedding, image_index, sparse, dense, False)
        return reversed_axes(logits)

    # --- training ------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum over `steps` prompts of the loss of the objects drawn from each crop, which is encoded once.

        What must agree between processes is drawn from (seed, epoch, batch), the rest from (seed, epoch, batch, rank).
        """
        common = seeded_generator(self.current_epoch, batch_idx)
        own = seeded_generator(self.current_epoch, batch_idx, 1 + self.global_rank)
        x, label = self.patches(batch)
        target, valid = draw_objects(label, own, self.refinement.objects)
        losses = self.refine(self.encode(x), target, valid, common, own)
        total = losses.sum()
        size, several = len(batch), self.trainer.world_size > 1
        values = {"train/loss": losses.mean(), "train/loss_first": losses[0], "train/loss_last": losses[-1]}
        values = {name: value.detach() for name, value in values.items()}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=size, sync_dist=several)
        self.log("train/loss_now", values["train/loss"], prog_bar=True, logger=False, batch_size=size)
        return total

    def refine(
        self, embedding: Embedding, target: Tensor, valid: Tensor, common: torch.Generator, own: torch.Generator
    ) -> Tensor:
        """The loss (steps,) after each prompt.

        Args:
            embedding: of B crops.
            target: bool (K * B, 1, S, S, S), objects as `draw_objects` gives them; those that are empty teach nothing.
            valid: bool of that shape, voxels that are not ignored.
            common, own: generators, see `training_step`.
        """
        index = torch.arange(len(target) // self.refinement.objects, device=target.device)
        index = index.repeat(self.refinement.objects)
        weights = self._weights(target)
        with_box = bool(torch.rand((), generator=common) < self.refinement.box_fraction)
        silent = self._steps_without_click(common)
        prediction, low_res = torch.zeros_like(target), None
        points = labels = boxes = None
        losses = []
        for step in range(self.refinement.steps):
            if step == 0 and with_box:
                boxes = mask_boxes(target)
            elif step not in silent:
                point, kind = error_or_foreground_click(prediction, target, valid, own)
                points = point if points is None else torch.cat([points, point], dim=1)
                labels = kind if labels is None else torch.cat([labels, kind], dim=1)
            if step in silent:
                told = (None, None, None)
            else:
                told = self._told(Prompts(index, index, points, labels, boxes), first=low_res is None)
            logits = self.answer(embedding, index, *told, low_res)
            full = F.interpolate(logits.float(), target.shape[2:], mode="trilinear", align_corners=False)
            losses.append(self.loss(full, target, valid, weights))
            prediction = full.detach() > self.refinement.click_threshold
            low_res = logits.detach() if self.refinement.detach else logits
        absent = [] if with_box else [p for module in self._corners() for p in module.parameters()]
        return torch.stack(losses) + 0 * sum(p.sum() for p in absent)  # all processes send the same gradients

    def _steps_without_click(self, generator: torch.Generator) -> set[int]:
        steps = self.refinement.steps
        if not self.refinement.steps_without_click or steps < 3:
            return set()
        drawn = int(torch.randint(2, max(3, steps - 2), (), generator=generator))  # of 11 steps: 2 to 8
        return {drawn, steps - 1}

    def _weights(self, target: Tensor) -> Tensor:
        """(B,) what each crop counts: crops with an object share 1 evenly over all processes, others count nothing."""
        held = target.flatten(1).any(1).float()
        count = held.sum()
        if self._trainer is not None and self._trainer.world_size > 1:
            count = self._trainer.strategy.reduce(count, reduce_op="mean")  # gradients are averaged over processes
        return held / count.clamp(min=1 / 1024)

    def loss(self, logits: Tensor, target: Tensor, valid: Tensor, weights: Tensor) -> Tensor:
        """Dice with squared terms, for each crop by itself, with cross entropy if asked for; their weighted sum.

        Args:
            logits: float32 (B, 1, S, S, S).
            target, valid: bool of that shape.
            weights: (B,), see `_weights`.
        """
        mask, truth = valid.to(logits.dtype), (target & valid).to(logits.dtype)
        loss = self.dice(logits.sigmoid() * mask, truth).flatten()
        if self.refinement.loss == "dice_ce":
            entropy = F.binary_cross_entropy_with_logits(logits, truth, mask, reduction="none")
            loss = loss + entropy.flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1)
        return (loss * weights).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        decoding = [*self.sam.prompt_encoder.parameters(), *self.sam.mask_decoder.parameters()]
        slow = {id(p) for p in decoding}
        trained = self.trainable_parameters()
        groups = [
            {"params": [p for p in trained if id(p) not in slow], "lr": self.lr, "initial_lr": self.lr},
            {"params": [p for p in trained if id(p) in slow], "lr": self.lr_decoder, "initial_lr": self.lr_decoder},
        ]
        return torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=self.weight_decay)

    def on_train_epoch_start(self) -> None:
        """The rates as a function of the epoch alone: a resumed run needs no scheduler state."""
        factor = 0.1 ** sum(epoch <= self.current_epoch for epoch in self.lr_drop_at)
        for group in self.optimizers().param_groups:
            group["lr"] = group["initial_lr"] * factor


def _isotropic(cases: Any) -> float:
    """mm: the geometric mean of a fingerprint's spacing over the axes with more than one voxel."""
    sides = [mm for mm, n in zip(cases.spacing, cases.shape, strict=True) if n > 1]
    return round(math.prod(sides) ** (1 / len(sides)), 3) if sides else 1.0
