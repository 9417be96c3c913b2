"""ProMISe as a method of the zoo: what is trained, from which features, with which prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn import functional as F

from samzoo.errors import ConfigError
from samzoo.geometry import Grid, Interpolation, Policy, to_grid
from samzoo.methods.promise.loss import LossTerms, Objective, soft_targets
from samzoo.methods.promise.network import Apm, Embedded, Ips, ProMISeNetwork, load_args, warn_of_ignored
from samzoo.methods.promise.published import scores
from samzoo.methods.promptable import Sam2d
from samzoo.methods.randomness import seeded_generator
from samzoo.prompts.batched import random_error_clicks, random_points
from samzoo.sam import Padding, SamConfig
from samzoo.sam.config import resolve_config
from samzoo.types import Batch, MethodSpec, Prompts, State

PUBLISHED_SIDE = 256


class ProMISe(Sam2d):
    """ProMISe (arXiv 2403.04164); the method card beside this file states each deviation from the reference.

    All of SAM is frozen. The auto-prompting module (APM) regresses points from encoder blocks, incremental pattern
    shifting (IPS) adds a vector per picture to each of the decoder's mask tokens; either may be left out.

    Args:
        architecture: vit_tiny, vit_b, vit_l, vit_h, or the numbers of one.
        image_size: S; None takes the architecture's own (1024).
        weights: of plain SAM or of ProMISe: a name of `samzoo zoo`, a path or a url; None starts from random, which
            only a small experiment would: what is frozen then knows nothing.
        apm: head of the auto-prompting module, "resnet" or "cross" attention; None: points come from the user, in
            training from the ground truth.
        ips: "mlp" shifts by the pooled embedding, "table" by a learned constant, None not at all.
        num_points: N, regressed points per class, or drawn from the ground truth in training without APM.
        positive_points: how many of the regressed ones are labelled foreground; None: half.
        fusion_width: channels after the fusion of the blocks; None: C.
        stage_widths: of the residual head.
        cross_heads: attention heads of the cross-attention head; None: the encoder's.
        ips_zero_init: start exactly at SAM.
        user_prompts: a user's clicks and box stand "beside" the regressed points, or "instead" of them.
        training_clicks: up to so many simulated corrective clicks in a second pass of each training step (samzoo's; 0
            is the paper).
        double_sigmoid: the reference code's objective, which takes the sigmoid twice.
        policy, interpolation, padding: how a slice is laid on the S x S square; the reference pads with black.
        lr: of Adam.
        lr_halve_at: epochs from which on the rate is halved (once more).
        decode_chunk: prompts per call of the decoder; while training the calls are computed anew in the backward pass,
            which bounds the memory by one of them. None: all in one.
        num_classes, class_names: of the data set. Every class has points and a shift of its own; one is the original.

    Raises:
        ConfigError: a setting out of range, or neither APM nor IPS.
        WeightsError: weights that do not fit.
    """

    spec = MethodSpec(
        name="ProMISe",
        dim=2,
        unit="slice",
        prompts=frozenset({"auto", "click", "box"}),
        multiclass=True,
        frozen="all of SAM",
    )
    memory_settings = (
        "model.init_args.decode_chunk",
        "model.init_args.image_size",
        "data.batch_size",
        "data.features",
        "trainer.precision",
    )
    memory_settings_scoring = (
        "data.max_side",
        "model.init_args.image_size",
        "model.init_args.decode_chunk",
        "protocol.decode_chunk",
        "trainer.precision",
    )

    def __init__(
        self,
        architecture: str | SamConfig = "vit_b",
        image_size: int | None = None,
        weights: str | None = None,
        apm: Apm | None = "resnet",
        ips: Ips | None = "mlp",
        num_points: int = 16,
        positive_points: int | None = None,
        fusion_width: int | None = None,
        stage_widths: tuple[int, int, int, int] = (64, 128, 256, 512),
        cross_heads: int | None = None,
        ips_zero_init: bool = False,
        user_prompts: Literal["beside", "instead"] = "beside",
        training_clicks: int = 0,
        double_sigmoid: bool = False,
        policy: Policy = "longest_side",
        interpolation: Interpolation = "bilinear",
        padding: Padding = "black",
        lr: float = 1e-5,
        lr_halve_at: tuple[int, ...] = (),
        decode_chunk: int | None = None,
        num_classes: int = 1,
        class_names: Sequence[str] = (),
    ) -> None:
        for name, value, least in (
            ("num_points", num_points, 1),
            ("training_clicks", training_clicks, 0),
            ("decode_chunk", decode_chunk, 1),
        ):
            if value is not None and value < least:
                raise ConfigError(f"ProMISe: {name} must be at least {least}, got {value}")
        network = ProMISeNetwork(
            resolve_config(architecture, image_size),
            num_classes,
            apm=apm,
            ips=ips,
            num_points=num_points,
            positive_points=num_points // 2 if positive_points is None else positive_points,
            fusion_width=fusion_width,
            stage_widths=stage_widths,
            cross_heads=cross_heads,
            ips_zero_init=ips_zero_init,
        )
        super().__init__(
            network,
            weights,
            policy=policy,
            interpolation=interpolation,
            padding=padding,
            load_args=load_args(network),
            num_classes=num_classes,
            class_names=class_names,
        )
        self.sam: ProMISeNetwork
        if self.load_report is not None:
            warn_of_ignored(self.load_report)
        self.apm, self.num_points = apm, num_points
        self.user_prompts, self.training_clicks, self.decode_chunk = user_prompts, training_clicks, decode_chunk
        self.objective = Objective(double_sigmoid)
        self.lr, self.lr_halve_at = lr, tuple(lr_halve_at)
        if apm is None:  # it can't answer by itself
            self.spec = self.spec.without("auto")
        if weights is None:
            rank_zero_warn("ProMISe: SAM is frozen and random; give `weights` for anything but a test of the machinery")

    # --- answering -----------------------------------------------------------------------------------------------

    def features_signature(self) -> str:
        """Of SAM's encoder, of the blocks that are read, and of how pictures are laid before it."""
        settings = (self.sam.config, self.sam.taps, self.policy, self.interpolation, self.padding)
        signature = hashlib.sha256(repr(settings).encode())
        for name, tensor in self.sam.image_encoder.state_dict().items():
            signature.update(name.encode())
            signature.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return signature.hexdigest()

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, S, S) -> image embedding (B, C, g, g) and, with an APM, the streams (B, D, g, g) that it reads."""
        return self.sam.features(x)

    def embed(self, features: tuple[Tensor, ...]) -> Embedded:
        """-> image embedding (B, C, g, g), regressed points (B, K, N, 2), shifts (B, K, mask tokens, C)."""
        return self.sam.embed(features)

    def encode(self, x: Tensor) -> Embedded:
        """See `embed`."""
        return self.embed(self.features(x))

    def decode(self, embedding: Embedded, prompts: Prompts | None, state: State | None = None) -> tuple[Tensor, State]:
        """See `Method.decode`: (P, 1, 4g, 4g) for prompts, (B, K, 4g, 4g) without any. Nothing is carried on.

        A prompt without clicks and box asks for the automatic answer for its class.

        Raises:
            ConfigError: an automatic answer is asked for, and there is no APM.
        """
        pictures, device = len(embedding[0]), embedding[0].device
        if prompts is None:
            index = torch.arange(pictures, device=device).repeat_interleave(self.num_classes)
            classes = torch.arange(self.num_classes, device=device).repeat(pictures)
            return self._answer(embedding, index, classes).unflatten(0, (pictures, -1))[:, :, 0], {}
        clicks = prompts.points, prompts.point_labels
        return self._answer(embedding, prompts.image_index, prompts.class_id - 1, *clicks, prompts.boxes), {}

    def _answer(
        self,
        embedding: Embedded,
        image_index: Tensor,
        class_index: Tensor,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
    ) -> Tensor:
        """float32 (P, 1, 4g, 4g)"""
        asked = points is not None or boxes is not None
        regressed = self.apm is not None and (self.user_prompts == "beside" or not asked)
        if not (asked or regressed):
            raise ConfigError(
                "ProMISe without apm needs a click or a box for each mask; choose a regime that gives them"
            )
        logits, _ = self.sam.answer(
            embedding, image_index, class_index, points, labels, boxes, regressed=regressed, chunk=self.decode_chunk
        )
        return logits.float()

    def own_points(self, embedding: Embedded) -> Tensor | None:
        """The regressed points (B, K, N, 3) with their labels; None without APM."""
        if self.apm is None:
            return None
        points = embedding[1]
        return torch.cat([points, self.sam.point_labels.to(points)[:, None].expand(*points.shape[:3], 1)], dim=3)

    def published_scores(self, logits: Tensor, truth: Tensor, grid: Grid) -> dict[str, Tensor]:
        """The reference's scores at its mask size of 256 x 256: threshold 0.5, opening 5 x 5, then Dice, IoU
        and six more. Masks of another size are brought there, the truth through the method's square as in training.
        """

        def resize(maps: Tensor) -> Tensor:
            return F.interpolate(maps, (PUBLISHED_SIDE, PUBLISHED_SIDE), mode="bilinear", align_corners=False)[:, 0]

        return scores(resize(logits.float()).sigmoid(), resize(to_grid(truth[:, None].float(), grid, "nearest")))

    # --- what is trained -----------------------------------------------------------------------------------------

    def frozen_modules(self) -> Sequence[nn.Module]:
        return self.sam.sam_modules()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.trainable_parameters(), lr=self.lr)

    def on_train_start(self) -> None:
        """Raises ConfigError: a batch of one slice that batch normalisation can't take, before an epoch is spent."""
        loader = self.trainer.train_dataloader
        if self.apm != "resnet" or self.sam.config.grid > 16 or loader.batch_size is None:
            return
        if 1 in (loader.batch_size, len(loader.sampler) % loader.batch_size):
            raise ConfigError(
                "ProMISe's residual head ends in one token a picture at this image size, and batch normalisation needs "
                f"two: {len(loader.sampler)} training units in batches of {loader.batch_size} leave a batch of one; "
                "change data.batch_size or data.units_per_epoch"
            )

    # --- one batch -----------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of all classes of all slices; without APM, of the classes that a slice holds (points lie on them)."""
        features = batch.features
        if features is None:
            features = self.features(self.prepare(batch.image, batch.size, batch.spacing)[0])
        embedding = self.embed(features)
        label = self.labels_on_grid(batch)
        target, valid = soft_targets(label, self.num_classes, 4 * self.sam.config.grid)
        generator = seeded_generator(self.current_epoch, batch_idx, self.global_rank)
        share = 1.0
        if self.apm is not None:
            image_index, class_index = _all_pairs(target)
            points = labels = None
        else:
            image_index, class_index, share = _present_pairs(label, self.num_classes)
            masks = label[image_index, None] == class_index[:, None, None, None] + 1
            points, labels = random_points(masks, self.num_points, generator)
        target, valid = target[image_index, class_index, None], None if valid is None else valid[image_index]

        logits = self._answer(embedding, image_index, class_index, points, labels)
        losses = [self.objective(logits, target, valid)]
        if self.training_clicks:
            count = int(torch.randint(1, self.training_clicks + 1, (), generator=generator))
            clicks, click_labels = random_error_clicks(logits.detach() > 0, target > 0.5, count, generator, valid)
            clicks = (clicks + 0.5) * (self.sam.config.image_size / logits.shape[-1]) - 0.5
            if points is not None:
                clicks, click_labels = torch.cat([points, clicks], 1), torch.cat([labels, click_labels], 1)
            logits = self._answer(embedding, image_index, class_index, clicks, click_labels)
            losses.append(self.objective(logits, target, valid))
        self._log(losses, len(batch))
        return share * sum(loss.total for loss in losses) / len(losses)

    def _log(self, losses: Sequence[LossTerms], size: int) -> None:
        terms = {
            name: sum(getattr(t, name).detach() for t in losses) / len(losses) for name in ("total", "bce", "dice")
        }
        values = {"train/loss": terms["total"], "train/bce": terms["bce"], "train/dice_loss": terms["dice"]}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=size, sync_dist=self.trainer.world_size > 1)
        self.log("train/loss_now", values["train/loss"], prog_bar=True, logger=False, batch_size=size)


def _all_pairs(target: Tensor) -> tuple[Tensor, Tensor]:
    """(B, K, ...) -> picture and class of each of the B x K masks."""
    pictures, classes = torch.meshgrid(
        *(torch.arange(n, device=target.device) for n in target.shape[:2]), indexing="ij"
    )
    return pictures.flatten(), classes.flatten()


def _present_pairs(label: Tensor, num_classes: int) -> tuple[Tensor, Tensor, float]:
    """Picture and class of each mask that is not empty, and its share in the loss.

    A batch without any gets one mask that counts for nothing: all processes have to make the same backward pass.
    """
    present = torch.stack([(label == k).flatten(1).any(1) for k in range(1, num_classes + 1)], dim=1)
    pictures, classes = present.nonzero(as_tuple=True)
    if len(pictures):
        return pictures, classes, 1.0
    return *torch.zeros(2, 1, dtype=torch.long, device=label.device), 0.0
