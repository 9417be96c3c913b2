"""The floor that every box-prompted method has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from samzoo.errors import ConfigError
from samzoo.geometry import Grid
from samzoo.methods.base import Method
from samzoo.types import MethodSpec, Prompts, State


class BoxEllipse(Method):
    """Fills each box with the ellipse inscribed in it, whatever the picture shows; clicks beside a box are ignored.

    Args:
        num_classes, class_names: of the data set; not looked at.
    """

    spec = MethodSpec(
        name="BoxEllipse",
        dim=2,
        unit="slice",
        prompts=frozenset({"box"}),
        multiclass=False,
        frozen="everything (nothing to train)",
    )

    def prepare(self, image: Tensor, size: Tensor, spacing: Tensor) -> tuple[Tensor, list[Grid]]:
        """One channel on a square of the batch's longest side, unscaled: nothing is lost by resizing."""
        side = max(image.shape[-2:])
        square = image.new_zeros(len(image), 1, side, side)
        return square, [Grid((h, w), side, (h, w)) for h, w in size.tolist()]

    def encode(self, x: Tensor) -> Tensor:
        """The empty square itself (B, 1, S, S): decoding needs its size and device only."""
        return x

    def decode(self, embedding: Tensor, prompts: Prompts | None, state: State | None = None) -> tuple[Tensor, State]:
        """Logits (P, 1, S, S): 1 in the middle of the ellipse, 0 on its edge, negative outside; no state.

        Raises:
            ConfigError: prompts without a box.
        """
        if prompts is None or prompts.boxes is None:
            raise ConfigError("BoxEllipse fills boxes and can't answer clicks alone; choose a regime with boxes")
        near, far = prompts.boxes.float().unflatten(-1, (2, 2)).unbind(1)
        centre, radius = (near + far) / 2, ((far - near) / 2).clamp(min=0.5)
        pixels = torch.arange(embedding.shape[-1], device=embedding.device) + 0.5
        x, y = ((pixels - centre[..., None]) / radius[..., None]).unbind(1)  # (P, S) each
        return 1 - (x[:, None, None, :] ** 2 + y[:, None, :, None] ** 2), {}
