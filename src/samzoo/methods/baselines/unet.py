"""The supervised network that every adaptation of SAM has to beat: a U-Net configured as nnU-Net does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss
from monai.networks.nets import DynUNet
from torch import Tensor

from samzoo.errors import ConfigError
from samzoo.methods.slab import Optimizer, SlabMethod
from samzoo.methods.volume import Spacing
from samzoo.types import IGNORE, Batch, MethodSpec, Prompts, State

SMALLEST_MAP = 4
WIDEST = 320


class UNet(SlabMethod):
    """MONAI's DynUNet with nnU-Net's rules for depth, strides and kernels (Isensee et al., Nat Methods 2021).

    Loss is cross entropy plus Dice over the foreground classes, on three resolutions with weights 1, 1/2, 1/4.

    Args:
        patch, spacing, in_channels, intensity, optimizer, lr, weight_decay, adam_eps: of `SlabMethod`.
        width: channels of the first stage; doubled at each further one up to 320.
        stages: resolutions at most; None: as many as leave maps of at least 4 voxels a side.
        deep_supervision: whether the two next coarser resolutions are trained, too.
        num_classes, class_names: of the data set.
    """

    spec = MethodSpec(
        name="UNet",
        dim=3,
        unit="slab",
        prompts=frozenset({"auto"}),
        multiclass=True,
        frozen="nothing",
    )

    def __init__(
        self,
        patch: tuple[int, int, int] = (32, 128, 128),
        spacing: Spacing | None = None,
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
    ) -> None:
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
        strides, kernels = nnunet_stages(self.patch, self._spacing_ratio(), stages)
        for size, axis in zip(self.patch, zip(*strides, strict=True), strict=True):
            if size % (factor := int(torch.tensor(axis).prod())):
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

    def _spacing_ratio(self) -> tuple[float, float, float]:
        """Relative voxel size of each axis; axes that are left as they are count as isotropic."""
        if self.spacing is None:
            return (1.0, 1.0, 1.0)
        given = [mm for mm in self.spacing if mm is not None]
        return tuple(mm if mm is not None else min(given) for mm in self.spacing) if given else (1.0, 1.0, 1.0)

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
