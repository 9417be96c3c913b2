"""SAM as it is, and SAM trained by its own recipe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from samzoo.errors import ConfigError
from samzoo.geometry import Interpolation, Policy
from samzoo.methods.mask_loss import LossTerms, Objective
from samzoo.methods.objects import Objects, draw_masks, object_map
from samzoo.methods.promptable import Multimask, PromptableSam2d, best_mask
from samzoo.methods.randomness import seeded_generator
from samzoo.prompts.batched import mask_boxes, random_error_clicks, random_foreground_click, random_points
from samzoo.sam import SamConfig, build_sam, start_matched
from samzoo.types import IGNORE, Batch, MethodSpec


@dataclass(frozen=True)
class PromptTraining:
    """How SAM is trained (arXiv 2304.02643, appendix A): a first prompt, then clicks where the answer is wrong.

    The loss is Dice with cross entropy instead of the paper's focal loss, which from random weights learns nothing for
    long, and the squared error of the predicted quality. From random weights it starts as `samzoo.sam.matched_start`
    says.

    Args:
        masks_per_picture: K masks are drawn with replacement from each picture.
        objects: a mask is a whole "class" of the picture or one connected "component" of it.
        box, points: share of the batches that begin with a box, and with several points on both sides of the border (2
            to 16, as ProMISe asks); the others begin with one click.
        box_noise: standard deviation of each corner's coordinates, as a share of the box's side (the paper: 0.1).
        corrections: clicks after the first prompt (the paper: 8, and 2 rounds without a click, which are left out).
        lr: of AdamW, after a warm-up over the first twentieth of the steps and falling along half a cosine.
        weight_decay: of AdamW.

    Raises:
        ConfigError: numbers out of range.
    """

    masks_per_picture: int = 4
    objects: Objects = "class"
    box: float = 0.4
    points: float = 0.1
    box_noise: float = 0.05
    corrections: int = 2
    lr: float = 8e-4
    weight_decay: float = 0.05

    def __post_init__(self) -> None:
        if self.masks_per_picture < 1 or self.corrections < 0:
            raise ConfigError("SAM: training needs masks_per_picture >= 1 and corrections >= 0")
        if not (self.box >= 0 and self.points >= 0 and self.box + self.points <= 1):
            raise ConfigError(f"SAM: training.box and training.points are shares, not {self.box} and {self.points}")


class SAM(PromptableSam2d):
    """Segment Anything (arXiv 2304.02643): slices, boxes and clicks, raw logits fed back; as it is, or trained.

    Args:
        architecture: vit_tiny, vit_b, vit_l, vit_h, or the numbers of one.
        image_size: S if another than the architecture's own (1024); the position tables are resized to it.
        weights: a name of `samzoo zoo`, a path or a url; None keeps random weights.
        policy, interpolation: how a slice is laid on the grid; SAM's own are the default.
        multimask: "one_click" is the authors' recommendation.
        training: None leaves SAM as it is; else all of it is trained so, and it is called SAM-finetuned.
        num_classes, class_names: of the data set; SAM does not look at them.

    Raises:
        ConfigError: a setting out of range.
        WeightsError: weights that do not fit.
    """

    spec = MethodSpec(
        name="SAM",
        dim=2,
        unit="slice",
        prompts=frozenset({"click", "box", "mask"}),
        multiclass=False,
        frozen="everything, without `training`",
    )
    memory_settings = (
        "model.init_args.image_size",
        "data.batch_size",
        "model.init_args.training.masks_per_picture",
        "trainer.precision",
    )

    def __init__(
        self,
        architecture: str | SamConfig = "vit_b",
        image_size: int | None = None,
        weights: str | None = None,
        policy: Policy = "longest_side",
        interpolation: Interpolation = "bilinear",
        multimask: Multimask = "one_click",
        training: PromptTraining | None = None,
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
        self.recipe = training
        self.objective = Objective(focal=1, entropy=True)
        self.requires_grad_(training is not None)
        if training is None:
            return
        self.spec = replace(self.spec, name=f"{self.spec.name}-finetuned", frozen="nothing")
        if weights is None:
            start_matched(self.sam)
        if multimask != "one_click":
            raise ConfigError("SAM is trained with multimask one_click: one click may mean several masks, a box one")

    def configure_optimizers(self) -> Any:
        if self.recipe is None:
            return super().configure_optimizers()
        parameters = self.trainable_parameters()
        optimizer = torch.optim.AdamW(parameters, lr=self.recipe.lr, weight_decay=self.recipe.weight_decay)
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        warm = max(1, steps // 20)

        def rate(step: int) -> float:
            return min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Mean loss over the first prompt and the corrections of K masks of each picture, which is encoded once.

        The kind of the first prompt, which must agree between processes, is drawn from (seed, epoch, batch), the rest
        from (seed, epoch, batch, rank).
        """
        if self.recipe is None:
            return super().training_step(batch, batch_idx)
        common = seeded_generator(self.current_epoch, batch_idx)
        own = seeded_generator(self.current_epoch, batch_idx, 1 + self.global_rank)
        x, _ = self.prepare(batch.image, batch.size, batch.spacing)
        label = self.labels_on_grid(batch)
        index, target = draw_masks(object_map(label, self.recipe.objects), self.recipe.masks_per_picture, own)
        valid = (label != IGNORE)[index, None]
        if not len(index):  # no object in the whole batch; the other processes wait for its gradients
            index, target, valid = index.new_zeros(1), torch.zeros_like(x[:1, :1]).bool(), torch.zeros_like(x[:1, :1])
        losses = self._answers(self.encode(x), index, target, valid, common, own)
        loss = sum(terms.total for terms in losses) / len(losses)
        several = self.trainer.world_size > 1
        values = {"train/loss": loss, "train/loss_first": losses[0].total, "train/loss_last": losses[-1].total}
        values |= {"train/dice_loss": losses[0].dice, "train/quality": losses[0].quality}
        values = {name: value.detach() for name, value in values.items()}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(batch), sync_dist=several)
        self.log("train/loss_now", values["train/loss"], prog_bar=True, logger=False, batch_size=len(batch))
        unused = sum(
            p.sum() for module in (self.sam.prompt_encoder, self.sam.mask_decoder) for p in module.parameters()
        )
        return loss + 0 * unused  # all processes send the same gradients, whatever the prompts were

    def _answers(
        self,
        embedding: Tensor,
        index: Tensor,
        target: Tensor,
        valid: Tensor,
        common: torch.Generator,
        own: torch.Generator,
    ) -> list[LossTerms]:
        """The loss of each answer; `target` and `valid` are (P, 1, S, S), `index` (P,) the picture of each."""
        recipe, side = self.recipe, self.sam.config.image_size
        points = labels = boxes = masks = None
        kind = float(torch.rand((), generator=common))
        one_click = kind >= recipe.box + recipe.points
        if kind < recipe.box:
            boxes = mask_boxes(target)
            sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
            noise = torch.randn(boxes.shape, generator=own).to(boxes)
            boxes = (boxes + recipe.box_noise * sides * noise).clamp(0, side)
        elif one_click:
            points, labels = random_foreground_click(target, own)
        else:
            count = int(torch.randint(2, 17, (), generator=common))
            points, labels = random_points(target, count, own, valid.bool())
        losses, prediction = [], torch.zeros_like(target)
        for number in range(recipe.corrections + 1):
            if number:
                clicks, kinds = random_error_clicks(prediction, target, 1, own, valid.bool())
                points = clicks if points is None else torch.cat([points, clicks], dim=1)
                labels = kinds if labels is None else torch.cat([labels, kinds], dim=1)
            sparse, dense = self.sam.encode_prompts(points, labels, boxes, masks)
            logits, quality = self.sam.decode(embedding, index, sparse, dense, one_click and number == 0)
            full = F.interpolate(logits.float(), target.shape[-2:], mode="bilinear", align_corners=False)
            losses.append(self.objective(full, quality, target, valid))
            masks, _ = best_mask(logits.detach().float(), quality.detach().float())
            prediction = F.interpolate(masks, target.shape[-2:], mode="bilinear", align_corners=False) > 0
        return losses
