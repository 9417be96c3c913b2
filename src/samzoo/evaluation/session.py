"""One case under one method: encode once, answer as many prompts as asked.

`CaseSession` holds the embeddings of a case. `segment` turns prompts in case coordinates into masks on the case's own
grid; given the answers to an earlier step, only what has changed is decoded. How a case is cut into what the method
sees is the business of an adapter, chosen by the method's spec.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from samzoo.evaluation.adapter import DEFAULT_INFERENCE, Answer, Cost, Inference
from samzoo.evaluation.crop_adapter import CropAdapter
from samzoo.evaluation.slab_adapter import SlabAdapter
from samzoo.evaluation.slice_adapter import SliceAdapter
from samzoo.geometry import Grid
from samzoo.methods.base import Method
from samzoo.types import Box, Case, CasePrompt

ADAPTERS = {"slice": SliceAdapter, "slab": SlabAdapter, "crop": CropAdapter}
"""By `MethodSpec.unit`."""


class CaseSession:
    """Answers prompts for one case.

    What the case brings of the method's features is taken instead of encoding its image.

    Args:
        method: in eval mode, on its device; moved nowhere.
        case: one case; of slices and crops, only those being encoded go to the device.
        inference: how the method is run over it.
        keep_logits: keep the method's (coarse) logits, which `label_map` needs.

    Raises:
        ConfigError: the method needs prompts that its adapter can't give.
    """

    def __init__(
        self, method: Method, case: Case, inference: Inference = DEFAULT_INFERENCE, keep_logits: bool = False
    ) -> None:
        self.case = case
        self.method_name = method.spec.name
        self.cost = Cost(slices=case.shape[0])
        self._adapter = ADAPTERS[method.spec.unit](method, case, self.cost, inference, keep_logits)

    @torch.no_grad()
    def segment(self, prompts: Sequence[CasePrompt], previous: Sequence[Answer | None] | None = None) -> list[Answer]:
        """Answer one prompt per class.

        Args:
            prompts: what is known of each class so far, in case coordinates.
            previous: the answers to the prompts' predecessors, in the same order. Where the prompt on a slice or crop
                has not changed, the answer stays and nothing is decoded.

        Raises:
            ConfigError: a prompt asks for an automatic answer, which the method can't give.
        """
        return self._adapter.segment(prompts, previous or [None] * len(prompts))

    @property
    def grid(self) -> Grid | None:
        """See `Adapter.grid`."""
        return self._adapter.grid

    def seen(self, focus: Box) -> tuple[slice, ...]:
        """See `Adapter.seen`."""
        return self._adapter.seen(focus)

    @torch.no_grad()
    def own_points(self) -> dict[int, np.ndarray]:
        """Points that the method prompted itself with: slice -> (num_classes, N, 3) x, y in pixels and 1 or 0."""
        return self._adapter.own_points()

    @torch.no_grad()
    def label_map(
        self, answers: Sequence[Answer] | None, look: Callable[[int, Tensor], None] | None = None
    ) -> np.ndarray:
        """One class per voxel: the class of the highest logit among those above 0, else 0; of equals, the lower id.

        Args:
            answers: one per class, of a session that keeps logits; None asks an automatic method for all classes.
            look: is shown each slice's index and class logits (K, l, l) on the method's grid; without prompts only,
                and of methods on slices only.

        Returns:
            uint8 (D, H, W).
        """
        if answers is None:
            return self._adapter.label_map_without_prompts(look)
        return self._adapter.label_map(answers)
