"""The supervised network that every adaptation of SAM has to beat: a U-Net configured as nnU-Net does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from monai.losses import DiceLoss
from monai.networks.nets import DynUNet
from torch import Tensor

from samzoo.errors import ConfigError
from samzoo.geometry import resampled
from samzoo.methods.slab import Optimizer, SlabMethod
from samzoo.methods.volume import Measure, Spacing, measured
from samzoo.types import IGNORE, Batch, MethodSpec, Prompts, State

SMALLEST_MAP = 4
FEWEST_STAGES = 3
"""Of MONAI's DynUNet."""
WIDEST = 320
LARGEST_PATCH = 256**3
"""Voxels of the patch from which nnU-Net starts to shrink."""
PLAN_KEY = "samzoo_unet_plan"


class UNet(SlabMethod):
    """MONAI's DynUNet with nnU-Net's rules for spacing, patch, depth, strides and kernels (Isensee et al., Nat Methods
    2021).

    Loss is cross entropy plus Dice over the foreground classes, on three resolutions with weights 1, 1/2, 1/4.

    Args:
        patch: (D, H, W); None plans it from the data set's fingerprint, see `plan_patch`.
        spacing: of `SlabMethod`, or "fingerprint" for nnU-Net's target spacing.
        patch_voxels: what a planned patch may hold at most, in place of nnU-Net's estimate of the GPU's memory.
        in_channels, intensity, optimizer, lr, weight_decay, adam_eps: of `SlabMethod`.
        width: channels of the first stage; doubled at each further one up to 320.
        stages: resolutions at most; None: as many as leave maps of at least 4 voxels a side.
        deep_supervision: whether the two next coarser resolutions are trained, too.
        num_classes, class_names: of the data set.
        fingerprint: see `samzoo.methods.volume.Measure`.

    Raises:
        ConfigError: numbers out of range, or something is to be planned without a fingerprint.
        DataError: training cases that can't be measured.
    """

    spec = MethodSpec(
        name="UNet",
        dim=3,
        unit="slab",
        prompts=frozenset({"auto"}),
        multiclass=True,
        frozen="nothing",
    )
    memory_settings = ("model.init_args.patch_voxels", "data.batch_size", "trainer.precision")
    memory_settings_scoring = ("protocol.encode_chunk", "model.init_args.patch_voxels", "trainer.precision")

    def __init__(
        self,
        patch: tuple[int, int, int] | None = None,
        spacing: Spacing | Literal["fingerprint"] | None = "fingerprint",
        patch_voxels: int = 128**3,
        in_channels: int = 1,
        intensity: tuple[float, float] = (0.5, 0.25),
        width: int = 32,
        stages: int | None = None,
        deep_supervision: bool = True,
        optimizer: Optimizer = "sgd",
        lr: float = 1e-2,
        weight_decay: float = 3e-5,
        adam_eps: float = 1e-4,
        num_classes: int = 1,
        class_names: Sequence[str] = (),
        fingerprint: Measure | None = None,
    ) -> None:
        self_planned = {"patch": patch is None, "spacing": spacing == "fingerprint"}
        if any(self_planned.values()):
            patch, spacing = _plan(patch, spacing, patch_voxels, stages, fingerprint)
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
        self.planned = {name: self._grid()[name] for name, is_planned in self_planned.items() if is_planned}
        strides, kernels = nnunet_stages(self.patch, spacing_ratio(self.spacing), stages)
        if len(strides) < FEWEST_STAGES:
            raise ConfigError(
                f"UNet needs {FEWEST_STAGES} resolutions, but a patch of {self.patch} voxels has {len(strides)}: an "
                f"axis must have at least {SMALLEST_MAP * 2 ** (FEWEST_STAGES - 1)}. For small cases take a finer "
                "--model.init_args.spacing than theirs"
            )
        for size, axis in zip(self.patch, zip(*strides, strict=True), strict=True):
            if size % (factor := math.prod(axis)):
                raise ConfigError(
                    f"UNet: a patch of {size} voxels along an axis can't be halved to a {factor}th; take multiples of "
                    f"{factor}, or fewer stages"
                )
        self.network = DynUNet(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=num_classes + 1,
            kernel_size=kernels,
            strides=strides,
            upsample_kernel_size=strides[1:],
            filters=[min(width * 2**i, WIDEST) for i in range(len(strides))],
            deep_supervision=deep_supervision and len(strides) > 2,
            deep_supr_num=min(2, max(1, len(strides) - 2)),
            trans_bias=True,
        )
        self.dice = DiceLoss(include_background=False, batch=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """With patch and spacing."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[PLAN_KEY] = self._grid()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a plan of other training cases: its network might fit, but it would see voxels of another size.

        Raises:
            ConfigError: the checkpoint was trained with another patch or spacing than planned now.
        """
        super().on_load_checkpoint(checkpoint)
        trained, now = checkpoint.get(PLAN_KEY), self._grid()
        if trained is None or all(trained[name] == now[name] for name in self.planned):
            return
        given = " ".join(f"--model.init_args.{k}={str(v).replace('None', 'null')}" for k, v in trained.items())
        raise ConfigError(
            f"UNet: the checkpoint was trained with patch {trained['patch']} and spacing {trained['spacing']} mm, but "
            f"the training cases of this data set plan {now['patch']} and {now['spacing']} mm: its data set or split "
            f"is another one. To use it all the same, give: {given.replace(', ', ',')}"
        )

    def _grid(self) -> dict[str, list | None]:
        return {"patch": list(self.patch), "spacing": None if self.spacing is None else list(self.spacing)}

    def encode(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> probabilities (B, K + 1, T, H, W)"""
        logits = self.network(x)
        if self.training and logits.ndim == 6:  # deep supervision
            logits = logits[:, 0]
        return logits.float().softmax(1)

    def decode(self, embedding: Tensor, prompts: Prompts | None, state: State | None = None) -> tuple[Tensor, State]:
        """See `Method.decode`: how much more probable than background each class is, (B, K, T, H, W).

        Raises:
            ConfigError: there are prompts.
        """
        if prompts is not None:
            raise ConfigError("UNet takes no prompts; choose the regime auto")
        return embedding[:, 1:] - embedding[:, :1], {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross entropy plus Dice; ignored voxels count for nothing."""
        x, label = self.patches(batch)
        outputs = self.network(x)
        scales = outputs.unbind(1) if outputs.ndim == 6 else (outputs,)
        weights = [0.5**i for i in range(len(scales))]
        loss = sum(w * self._loss(scale.float(), label) for w, scale in zip(weights, scales, strict=True))
        loss = loss / sum(weights)
        self.log(
            "train/loss",
            loss.detach(),
            on_step=False,
            on_epoch=True,
            batch_size=len(batch),
            sync_dist=self.trainer.world_size > 1,
        )
        self.log("train/loss_now", loss.detach(), prog_bar=True, logger=False, batch_size=len(batch))
        return loss

    def _loss(self, logits: Tensor, label: Tensor) -> Tensor:
        valid = (label != IGNORE)[:, None]
        entropy = F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="sum") / valid.sum().clamp(min=1)
        truth = F.one_hot(torch.where(valid[:, 0], label, 0), logits.shape[1]).movedim(-1, 1) * valid
        return entropy + self.dice(logits.softmax(1) * valid, truth)


def _plan(
    patch: tuple[int, int, int] | None,
    spacing: Spacing | Literal["fingerprint"] | None,
    voxels: int,
    stages: int | None,
    fingerprint: Measure | None,
) -> tuple[tuple[int, int, int], Spacing | None]:
    """Patch and spacing, of which the one that is not given comes from the fingerprint. Says what was planned."""
    if voxels < 1:
        raise ConfigError(f"UNet: patch_voxels must be at least 1, got {voxels}")
    cases = measured(fingerprint, "UNet")
    if spacing == "fingerprint":
        spacing = cases.spacing
    if patch is None:
        shape = resampled(cases.shape, cases.spacing, spacing)
        patch = plan_patch(shape, spacing_ratio(spacing), voxels, stages)
    rank_zero_info(
        f"U-Net planned from {cases.cases} training cases: patch {patch}, spacing {spacing} mm, of a median shape "
        f"of {cases.shape} at {cases.spacing} mm"
    )
    return patch, spacing


def spacing_ratio(spacing: Spacing | None) -> tuple[float, float, float]:
    """Relative voxel size of each axis; axes that are left as they are count as isotropic."""
    given = [mm for mm in spacing or () if mm is not None]
    return tuple(mm if mm is not None else min(given) for mm in spacing) if given else (1.0, 1.0, 1.0)


def plan_patch(
    shape: Sequence[int], spacing: Sequence[float], voxels: int, stages: int | None = None
) -> tuple[int, int, int]:
    """nnU-Net's patch: of equal extents in mm and no larger than the median case, then shrunk where it covers most of
    it until it fits, and always such that all stages halve evenly.

    nnU-Net stops where its network fits the GPU's memory; here it is at a number of voxels.

    Args:
        shape: (D, H, W) median voxels.
        spacing: (D, H, W) mm, or relative.
        voxels: at most so many, unless no axis is left to be shrunk.
        stages: as in `nnunet_stages`.
    """
    axes = [i for i in range(3) if shape[i] > 1]
    extent = (LARGEST_PATCH * math.prod(spacing[i] for i in axes)) ** (1 / max(1, len(axes)))
    size = [min(n, max(1, round(extent / mm))) for n, mm in zip(shape, spacing, strict=True)]
    while math.prod(patch := _even(size, spacing, stages)) > voxels and max(size) > 1:
        shrunk = max((i for i in range(3) if size[i] > 1), key=lambda i: patch[i] / shape[i])
        size[shrunk] -= 1
    return patch


def _even(size: Sequence[int], spacing: Sequence[float], stages: int | None) -> tuple[int, int, int]:
    """The size, rounded up to what its stages can halve."""
    while True:
        strides, _ = nnunet_stages(size, spacing, stages)
        factors = [math.prod(axis) for axis in zip(*strides, strict=True)]
        even = tuple(math.ceil(n / factor) * factor for n, factor in zip(size, factors, strict=True))
        if even == tuple(size):
            return even
        size = even


def nnunet_stages(
    patch: Sequence[int], spacing: Sequence[float], most: int | None = None
) -> tuple[list[list[int]], list[list[int]]]:
    """nnU-Net's strides and kernels: an axis is halved while its map keeps at least 4 voxels and its voxels are less
    than twice as large as the smallest; its kernel is 3 as soon as that holds for the kernel, too.

    Args:
        patch: (D, H, W) voxels.
        spacing: (D, H, W) mm, or relative.
        most: stages at most.

    Returns:
        strides (the first is 1) and kernels of each stage.
    """
    sizes, mm = list(patch), list(spacing)
    strides, kernels = [[1, 1, 1]], []
    wide = [False] * 3
    while True:
        wide = [w or mm[i] < 2 * min(mm) for i, w in enumerate(wide)]
        kernels.append([3 if w and patch[i] > 1 else 1 for i, w in enumerate(wide)])
        able = [i for i in range(3) if sizes[i] >= 2 * SMALLEST_MAP]
        if not able or len(strides) == most:
            return strides, kernels
        finest = min(mm[i] for i in able)
        halved = [i for i in able if mm[i] < 2 * finest]
        strides.append([2 if i in halved else 1 for i in range(3)])
        for i in halved:
            sizes[i], mm[i] = sizes[i] // 2, mm[i] * 2
