"""Slice by slice: 2D methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from samzoo.evaluation.adapter import Adapter, Answer, Cost, Inference
from samzoo.geometry import from_grid
from samzoo.methods.base import Method, concatenate, select_rows
from samzoo.types import Box, Case, CasePrompt, Click, Embedding, Prompts, State


@dataclass(frozen=True, eq=False)
class Row:
    """One prompt on one slice: a box (or none) with the clicks that go with it.

    Args:
        part: boxes of one class on one slice are answered one by one, and their masks united.
        previous: what the method handed on after the last answer, tensors of one row; None at first.
    """

    class_id: int
    z: int
    part: int
    box: Box | None
    clicks: tuple[Click, ...]
    previous: State | None = None

    @property
    def form(self) -> tuple[bool, int, bool]:
        """Rows of one form fit in one call."""
        return self.box is not None, len(self.clicks), self.previous is not None

    def asks_the_same(self, other: Row) -> bool:
        return self.box == other.box and self.clicks == other.clicks


@dataclass(frozen=True, eq=False)
class RowAnswer:
    """What a method answered to a row.

    Args:
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
class SliceAnswer(Answer):
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


class SliceAdapter(Adapter):
    """Cuts a case into slices for 2D methods.

    A box in 3D is projected to each slice that it covers; a click acts on its own slice. Embeddings are kept for the
    life of the session, one entry per slice that was ever asked for.
    """

    def __init__(self, method: Method, case: Case, cost: Cost, inference: Inference, keep_logits: bool = False) -> None:
        super().__init__(method, case, cost, inference, keep_logits)
        self._embeddings: dict[int, Embedding] = {}
        self._features = case.features

    def segment(self, prompts: Sequence[CasePrompt], previous: Sequence[SliceAnswer | None]) -> list[SliceAnswer]:
        """See `CaseSession.segment`."""
        answers: list[SliceAnswer] = []
        work: list[tuple[Row, dict]] = []
        for prompt, before in zip(prompts, previous, strict=True):
            rows: dict[tuple[int, int], RowAnswer] = {}
            for row in self.rows(prompt):
                known = before.rows.get((row.z, row.part)) if before else None
                if known and row.asks_the_same(known.row):
                    rows[row.z, row.part] = known
                else:
                    work.append((replace(row, previous=known.state if known else None), rows))
            answers.append(SliceAnswer(self.case.shape, rows))
        where = {id(row): rows for row, rows in work}
        for chunk, low, state in self.decode([row for row, _ in work]):
            masks = (self.to_case(low) > 0).cpu().numpy()
            for i, row in enumerate(chunk):
                own = {name: tensor[i : i + 1] for name, tensor in state.items()}
                logits = low[i : i + 1] if self.keep_logits else None
                where[id(row)][row.z, row.part] = RowAnswer(replace(row, previous=None), masks[i], own, logits)
        return answers

    def label_map(self, answers: Sequence[SliceAnswer]) -> np.ndarray:
        """See `CaseSession.label_map`."""
        best = torch.zeros(self.case.shape)
        label = torch.zeros(self.case.shape, dtype=torch.uint8)
        for answered in sorted((r for a in answers for r in a.rows.values()), key=lambda r: r.row.class_id):
            values = self.to_case(answered.logits)[0].cpu()
            z = answered.row.z
            wins = values > best[z]
            best[z][wins] = values[wins]
            label[z][wins] = answered.row.class_id
        return label.numpy()

    def rows(self, prompt: CasePrompt) -> list[Row]:
        """The prompts of each slice, in the order of slices; an automatic prompt asks about every slice."""
        self._check_automatic(prompt)
        boxes: dict[int, list[Box]] = {}
        clicks: dict[int, list[Click]] = {}
        for box in prompt.boxes:
            for z in range(box.z0, box.z1):
                boxes.setdefault(z, []).append(box)
        for click in prompt.clicks:
            clicks.setdefault(click.z, []).append(click)
        rows = []
        asked = range(self.case.shape[0]) if prompt.automatic else sorted(boxes.keys() | clicks.keys())
        for z in asked:
            on_slice = boxes.get(z, [None])
            share = [_nearest(on_slice, click) for click in clicks.get(z, [])]
            for part, box in enumerate(on_slice):
                own = tuple(c for c, p in zip(clicks.get(z, []), share, strict=True) if p == part)
                rows.append(Row(prompt.class_id, z, part, box, own))
        return rows

    def decode(self, rows: Sequence[Row]) -> Iterator[tuple[list[Row], Tensor, State]]:
        """Answer rows, many slices and classes to a call.

        Yields:
            rows, their logits (P, 1, l, l) on the method's grid, the method's state for them.
        """
        self.encode({row.z for row in rows})
        by_form: dict[tuple[bool, int, bool], list[Row]] = {}
        for row in rows:
            by_form.setdefault(row.form, []).append(row)
        for same in by_form.values():
            same.sort(key=lambda row: (row.z, row.class_id, row.part))  # few images to a call
            for start in range(0, len(same), self.inference.decode_chunk):
                chunk = same[start : start + self.inference.decode_chunk]
                slices = sorted({row.z for row in chunk})
                prompts, state = self._to_grid(chunk, slices)
                embedding = concatenate([self._embeddings[z] for z in slices])
                logits, state = self._timed_decode(embedding, prompts, state)
                yield chunk, logits, state

    def to_case(self, logits: Tensor) -> Tensor:
        """(P, 1, l, l) on the method's grid -> float32 (P, H, W) on the case's."""
        return from_grid(logits, self.grid)[:, 0]

    def label_map_without_prompts(self, look: Callable[[int, Tensor], None] | None = None) -> np.ndarray:
        """uint8 (D, H, W) from class logits, a chunk of slices at a time; see `CaseSession.label_map`."""
        depth = self.case.shape[0]
        label = np.zeros(self.case.shape, dtype=np.uint8)
        for start in range(0, depth, self.inference.encode_chunk):
            slices = range(start, min(depth, start + self.inference.encode_chunk))
            for z, of_slice in zip(slices, self.decode_without_prompts(slices), strict=True):
                top, winner = from_grid(of_slice[None], self.grid)[0].max(dim=0)
                label[z] = torch.where(top > 0, winner + 1, 0).byte().cpu().numpy()
                if look is not None:
                    look(z, of_slice)
        return label

    def own_points(self) -> dict[int, np.ndarray]:
        """On the slices that were encoded; see `CaseSession.own_points`."""
        found = {z: self.method.own_points(embedding) for z, embedding in self._embeddings.items()}
        return {
            z: torch.cat([self.grid.points_from_grid(p[0, ..., :2]), p[0, ..., 2:]], dim=-1).float().cpu().numpy()
            for z, p in found.items()
            if p is not None
        }

    def encode_one(self) -> None:
        """The middle slice."""
        self.encode([self.case.shape[0] // 2])

    def answer_one(self) -> None:
        """See `Adapter.answer_one`; a box covers the middle of the slice."""
        depth, height, width = self.case.shape
        z = depth // 2
        if not self.method.spec.prompts & {"box", "click"}:
            self.decode_without_prompts([z])
            return
        prompt = CasePrompt(1, clicks=(Click(z, height // 2, width // 2, True),))
        if "box" in self.method.spec.prompts:
            prompt = CasePrompt(
                1, boxes=(Box(z, height // 4, width // 4, z + 1, height // 4 * 3 + 1, width // 4 * 3 + 1),)
            )
        for _ in self.decode(self.rows(prompt)):
            pass

    def decode_without_prompts(self, slices: Sequence[int]) -> Tensor:
        """Class logits (B, num_classes, l, l) of some slices, on the method's grid."""
        self.encode(slices)
        return self._timed_decode(concatenate([self._embeddings[z] for z in slices]), None, None)[0]

    def encode(self, slices: Iterable[int]) -> None:
        """Encode those of the slices that have not been yet, from the case's features if it has any."""
        missing = sorted(z for z in slices if z not in self._embeddings)
        for start in range(0, len(missing), self.inference.encode_chunk):
            chunk = missing[start : start + self.inference.encode_chunk]
            if self._features is None:
                x = self._prepare(chunk)
                embedding = self._timed_encode(self.method.encode, x, len(chunk))
            else:
                if self.grid is None:
                    self._prepare(chunk[:1])
                stored = [torch.from_numpy(np.asarray(f[chunk])).float().to(self.device) for f in self._features]
                embedding = self._timed_encode(self.method.embed, tuple(stored), len(chunk))
            for i, z in enumerate(chunk):
                self._embeddings[z] = select_rows(embedding, slice(i, i + 1))

    def _prepare(self, slices: list[int]) -> Tensor:
        """The network's input for some slices; notes the grid, which slices of one size share."""
        image = self.case.image[:, slices].transpose(0, 1).float().to(self.device)
        size = torch.tensor([self.case.shape[1:]] * len(slices), device=self.device)
        spacing = torch.tensor([self.case.spacing[1:]] * len(slices), device=self.device)
        x, grids = self.method.prepare(image, size, spacing)
        self.grid = grids[0]
        return x

    def _to_grid(self, rows: list[Row], slices: list[int]) -> tuple[Prompts, State | None]:
        """Rows of one form as tensors on the method's grid."""
        place = {z: i for i, z in enumerate(slices)}
        points = labels = boxes = None
        if rows[0].clicks:
            xy = [[(c.x, c.y) for c in row.clicks] for row in rows]
            points = self.grid.points_to_grid(torch.tensor(xy, dtype=torch.float32, device=self.device))
            labels = torch.tensor([[int(c.positive) for c in row.clicks] for row in rows], device=self.device)
        if rows[0].box is not None:
            corners = [(row.box.x0, row.box.y0, row.box.x1, row.box.y1) for row in rows]
            boxes = self.grid.boxes_to_grid(torch.tensor(corners, dtype=torch.float32, device=self.device))
        prompts = Prompts(
            image_index=torch.tensor([place[row.z] for row in rows], device=self.device),
            class_id=torch.tensor([row.class_id for row in rows], device=self.device),
            points=points,
            point_labels=labels,
            boxes=boxes,
        )
        if rows[0].previous is None:
            return prompts, None
        return prompts, {name: torch.cat([row.previous[name] for row in rows]) for name in rows[0].previous}


def _nearest(boxes: Sequence[Box | None], click: Click) -> int:
    """Which of the boxes on its slice a click belongs to: the one that holds it, else the nearest."""

    def distance(box: Box | None) -> float:
        if box is None:
            return 0.0
        dx = max(box.x0 - click.x, 0, click.x - box.x1 + 1)
        dy = max(box.y0 - click.y, 0, click.y - box.y1 + 1)
        return dx * dx + dy * dy

    return min(range(len(boxes)), key=lambda i: distance(boxes[i]))
