"""One case under one method: encode once, answer as many prompts as asked.

`CaseSession` holds the embeddings of a case. `segment` turns prompts in case coordinates into masks on the case's own
grid and remembers what each class and slice was told, so that the next step only decodes what has changed. How a case
is cut into what the method sees is the business of an adapter, chosen by the method's spec.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from samzoo.errors import ConfigError
from samzoo.evaluation.adapter import DEFAULT_INFERENCE, Cost, Inference, Row
from samzoo.evaluation.slab_adapter import SlabAdapter
from samzoo.evaluation.slice_adapter import SliceAdapter
from samzoo.geometry import Grid
from samzoo.methods.base import Method
from samzoo.types import Case, CasePrompt, State

ADAPTERS = {"slice": SliceAdapter, "slab": SlabAdapter}
"""By `MethodSpec.unit`."""


@dataclass(frozen=True, eq=False)
class RowAnswer:
    """Args:
    row: what was asked.
    mask: bool (H, W) on the case's grid.
    state: what the method handed on, tensors of one row.
    logits: (1, 1, l, l) on the method's grid, if the session keeps them.
    """

    row: Row
    mask: np.ndarray
    state: State
    logits: Tensor | None


@dataclass(frozen=True, eq=False)
class Answer:
    """What was answered for one class so far, by (slice, part)."""

    shape: tuple[int, int, int]
    rows: dict[tuple[int, int], RowAnswer]

    @property
    def mask(self) -> np.ndarray:
        """bool (D, H, W) on the case's grid; slices without any prompt are empty."""
        mask = np.zeros(self.shape, dtype=bool)
        for (z, _), answer in self.rows.items():
            mask[z] |= answer.mask
        return mask


class CaseSession:
    """Answers prompts for one case.

    What the case brings of the method's features is taken instead of encoding its image.

    Args:
        method: in eval mode, on its device; moved nowhere.
        case: one case; of slices, only those being encoded go to the device.
        inference: how the method is run over it.
        keep_logits: keep the method's (coarse) logits, which `label_map` needs.

    Raises:
        ConfigError: the method can't be evaluated: its training unit has no adapter, or it needs prompts that the
            adapter can't give.
    """

    def __init__(
        self, method: Method, case: Case, inference: Inference = DEFAULT_INFERENCE, keep_logits: bool = False
    ) -> None:
        if method.spec.unit not in ADAPTERS:
            raise ConfigError(f"{method.spec.name} works on a {method.spec.unit}, which can't be evaluated yet")
        self.case = case
        self.method_name = method.spec.name
        self.cost = Cost(slices=case.shape[0])
        self.keep_logits = keep_logits
        self._adapter = ADAPTERS[method.spec.unit](method, case, self.cost, inference)

    @torch.no_grad()
    def segment(self, prompts: Sequence[CasePrompt], previous: Sequence[Answer | None] | None = None) -> list[Answer]:
        """Answer one prompt per class.

        Args:
            prompts: what is known of each class so far, in case coordinates.
            previous: the answers to the prompts' predecessors, in the same order. Where the prompt on a slice has not
                changed, the answer stays and nothing is decoded.

        Raises:
            ConfigError: a prompt asks for an automatic answer, which the method can't give.
        """
        answers: list[Answer] = []
        work: list[tuple[Row, dict]] = []
        for prompt, before in zip(prompts, previous or [None] * len(prompts), strict=True):
            rows: dict[tuple[int, int], RowAnswer] = {}
            for row in self._adapter.rows(prompt):
                known = before.rows.get((row.z, row.part)) if before else None
                if known and row.asks_the_same(known.row):
                    rows[row.z, row.part] = known
                else:
                    work.append((replace(row, previous=known.state if known else None), rows))
            answers.append(Answer(self.case.shape, rows))
        where = {id(row): rows for row, rows in work}
        for chunk, low, state in self._adapter.decode([row for row, _ in work]):
            masks = (self._adapter.to_case(low) > 0).cpu().numpy()
            for i, row in enumerate(chunk):
                own = {name: tensor[i : i + 1] for name, tensor in state.items()}
                logits = low[i : i + 1] if self.keep_logits else None
                where[id(row)][row.z, row.part] = RowAnswer(replace(row, previous=None), masks[i], own, logits)
        return answers

    @property
    def grid(self) -> Grid | None:
        """See `Adapter.grid`."""
        return self._adapter.grid

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
        best = torch.zeros(self.case.shape)
        label = torch.zeros(self.case.shape, dtype=torch.uint8)
        for answered in sorted((r for a in answers for r in a.rows.values()), key=lambda r: r.row.class_id):
            values = self._adapter.to_case(answered.logits)[0].cpu()
            z = answered.row.z
            wins = values > best[z]
            best[z][wins] = values[wins]
            label[z][wins] = answered.row.class_id
        return label.numpy()
