"""The seam: what every method of the zoo offers to training and evaluation.

A method is a LightningModule that knows its network and its own training step, and nothing of data sets, regimes or
scores. The evaluation session calls `prepare`, `encode` once per image, then `decode` as often as a regime asks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from samzoo.errors import ConfigError, WeightsError
from samzoo.geometry import Grid, VolumeGrid
from samzoo.sam.checkpoint import BASE_HASH_KEY
from samzoo.types import Batch, Embedding, MethodSpec, Prompts, State


class Method(LightningModule):
    """Base of all methods.

    Args:
        num_classes: number of foreground classes; linked from the data set by the command line.
        class_names: their names, in the order of their label values; linked likewise.
    """

    spec: MethodSpec
    """Of the class; an instance whose settings take a prompt kind away has its own."""
    memory_settings: tuple[str, ...] = ("model.init_args.image_size", "data.batch_size", "trainer.precision")
    """Of a training out of memory: what helps, in the order of its effect (`benchmarks/memory_settings.py`)."""
    memory_settings_scoring: tuple[str, ...] = (
        "data.max_side",
        "model.init_args.image_size",
        "protocol.encode_chunk",
        "protocol.decode_chunk",
        "trainer.precision",
    )
    """Of a test or a prediction."""
    lr: float
    fill: float = 0.0
    """What lies around a volume that is smaller than a slab or crop, on the scale of images in [0, 1]."""
    planned: Mapping[str, Any] = MappingProxyType({})
    """Arguments that were planned from the training cases, by name; a run's config keeps them as numbers."""
    lr_halve_at: tuple[int, ...] = ()
    """Epochs from which on the learning rate is halved (once more)."""

    def __init__(self, num_classes: int = 1, class_names: Sequence[str] = ()) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.class_names = tuple(class_names)
        self.base_sha256: str | None = None
        """Hash of the pretrained file that the frozen part came from; None if there was none."""
        self.not_in_base: frozenset[str] = frozenset()
        """Parameters that this file does not hold, so that it can't restore them."""

    # --- what evaluation calls ---------------------------------------------------------------------------------

    @abstractmethod
    def prepare(
        self, image: Tensor, size: Tensor, spacing: Tensor
    ) -> tuple[Tensor, list[Grid]] | tuple[Tensor, list[VolumeGrid]]:
        """Lay native units on the method's own grid: resize, channels, pixel statistics.

        Methods on slabs and crops take whole volumes here; what lies on the grid may be larger than their `window`,
        which is then moved over it.

        Args:
            image: (B, C, *S) in [0, 1], padded at the far end.
            size: int64 (B, len(S)), true extents.
            spacing: (B, len(S)) mm.

        Returns:
            network input x, its first axis B, and one grid per unit to take logits back: a `Grid` for slices, a
            `VolumeGrid` for volumes.
        """

    @abstractmethod
    def encode(self, x: Tensor) -> Embedding:
        """Network input -> embedding, without any prompt; computed once per image for all classes and regimes."""

    @abstractmethod
    def decode(self, embedding: Embedding, prompts: Prompts | None, state: State | None = None) -> tuple[Tensor, State]:
        """Answer prompts on embeddings, never seeing labels.

        Args:
            embedding: of a batch of images, as `encode` returned it.
            prompts: on the method's grid; None only for methods whose spec has "auto".
            state: what the previous call for the *same* prompts returned (rows belong to prompts), or None at first.

        Returns:
            logits (P, 1, l, l) on the method's (possibly coarser) grid, one row per prompt; and the new state, whose
            tensors have P rows. Without prompts: class logits (B, num_classes, ...), the highest of which above 0 wins;
            on slabs and crops (B, num_classes, *window). Of methods on crops, logits and the state's "low_res" are
            (P, 1, l, l, l) along depth, height, width of the window, to which they are resized trilinearly.
        """

    def own_points(self, embedding: Embedding) -> Tensor | None:
        """Points that the method prompts itself with, to be looked at.

        Returns:
            (B, num_classes, N, 3): x, y on the method's grid, and 1 for foreground or 0; None: it has none.
        """
        return None

    # --- slabs and crops ---------------------------------------------------------------------------------------

    @property
    def window(self) -> tuple[int, int, int]:
        """(D, H, W) voxels of the method's grid that `encode` takes at a time, for methods on slabs and crops.

        Raises:
            ConfigError: a method on slices.
        """
        raise ConfigError(f"{self.spec.name} works on slices and has no window")

    def unit_shape(self, spacing: Sequence[float]) -> tuple[int, int, int]:
        """(d, h, w) native voxels of one training unit in a case of this spacing (3,) mm: what one window covers.

        Raises:
            ConfigError: a method on slices.
        """
        raise ConfigError(f"{self.spec.name} is trained on slices")

    # --- what a cache may keep: the part of `encode` that training leaves as it is ---------------------------------

    def features_signature(self) -> str | None:
        """Hash of all that `features` depend on besides the image: weights and settings. None: they can't be cached."""
        return None

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        """Network input -> tensors (B, ...) that no training step changes, so that they may be computed once.

        Raises:
            ConfigError: there are none.
        """
        raise ConfigError(f"{self.spec.name} trains its encoder, so that nothing of it can be cached")

    def embed(self, features: tuple[Tensor, ...]) -> Embedding:
        """The rest of `encode`: `encode(x)` equals `embed(features(x))` for methods whose features can be cached.

        Raises:
            ConfigError: as above.
        """
        raise ConfigError(f"{self.spec.name} can't start from cached features; set data.features to null")

    # --- the original's own way of scoring, beside the shared one --------------------------------------

    def published_scores(self, logits: Tensor, truth: Tensor, grid: Grid) -> dict[str, Tensor] | None:
        """Scores as the method's own paper or code takes them, to be set beside published figures; they rank nothing.

        Args:
            logits: (P, 1, l, l) of one slice each, on the method's grid.
            truth: bool (P, H, W) on the case's grid.
            grid: of all these slices.

        Returns:
            name -> float64 (P,), NaN where undefined; None: there is no such way.
        """
        return None

    # --- what is trained -----------------------------------------------------------------------------------------

    def frozen_modules(self) -> Sequence[nn.Module]:
        """Modules that stay in eval mode whatever `train()` says."""
        return ()

    def train(self, mode: bool = True) -> Method:
        super().train(mode)
        for module in self.frozen_modules():
            module.eval()
        return self

    def trainable_parameters(self) -> list[nn.Parameter]:
        return [p for p in self.parameters() if p.requires_grad]

    def on_train_epoch_start(self) -> None:
        """The rate as a function of the epoch alone: a resumed run needs no scheduler state."""
        if not self.lr_halve_at:
            return
        rate = self.lr * 0.5 ** sum(epoch <= self.current_epoch for epoch in self.lr_halve_at)
        for group in self.optimizers().param_groups:
            group["lr"] = rate

    # --- hooks: the protocol callback scores whole cases, so these only satisfy Lightning -----------------------------

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        return None

    def test_step(self, batch: Any, batch_idx: int) -> None:
        return None

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        return None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        raise ConfigError(f"{self.spec.name} is not trained; score it with `samzoo test --zero-shot`")

    def configure_optimizers(self) -> Any:
        raise ConfigError(f"{self.spec.name} is not trained; score it with `samzoo test --zero-shot`")

    # --- checkpoints hold only what was trained -----------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Drop what the base file can restore, and note that file's hash. Without a base file everything is kept."""
        checkpoint[BASE_HASH_KEY] = self.base_sha256
        if self.base_sha256 is not None:
            base = self._restored_by_base()
            checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k not in base}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the base hash and put the frozen part, which the file leaves out, back in.

        Raises:
            WeightsError: the checkpoint was trained on other base weights than those loaded now.
        """
        expected = checkpoint.get(BASE_HASH_KEY)
        if expected != self.base_sha256:
            raise WeightsError(
                f"the checkpoint was trained on base weights with sha256 {expected or '(none: random)'}, "
                f"but {self.base_sha256 or '(none: random)'} are loaded; set model.weights to the file of the training"
            )
        if expected is not None:
            checkpoint["state_dict"] = self._restored_by_base() | checkpoint["state_dict"]

    def _restored_by_base(self) -> dict[str, Tensor]:
        """What is frozen and came from the base file."""
        frozen = {name: p.detach() for name, p in self.named_parameters() if not p.requires_grad}
        return {name: p for name, p in frozen.items() if name not in self.not_in_base}

    def count_parameters(self) -> tuple[int, int]:
        """(total, trained)"""
        return sum(p.numel() for p in self.parameters()), sum(p.numel() for p in self.trainable_parameters())


def select_rows(embedding: Embedding, rows: Tensor) -> Embedding:
    """The given rows of every tensor of an embedding."""
    if isinstance(embedding, Tensor):
        return embedding[rows]
    return tuple(t[rows] for t in embedding)


def concatenate(parts: Sequence[Embedding]) -> Embedding:
    """Embeddings of several batches as one."""
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))
