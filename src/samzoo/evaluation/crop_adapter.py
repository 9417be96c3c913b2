"""Volumes by cubic crops that follow from prompts: promptable 3D methods.

What is seen of a volume follows from what a human has said, never from the truth:

- The first crop of a class lies around its first click, its box, or the middle of an oracle's focus, as SAM-Med3D lays
  it: it may stick out of the volume. A box that is larger than a crop is tiled with crops that overlap by half, each of
  which gets its part of the box.
- A later click goes to the crop whose centre is nearest among those in which it does not lie near an inner border.
  Without one, a positive click opens a crop of its own: many lesions are covered click by click. A negative click goes
  to the nearest crop that holds it, and says nothing where no crop lies.
- Where the answer to clicks reaches the side of a crop, the crop's neighbour by half a side is answered, too, without
  human effort: from one positive click at the deepest point of what both share of the answer, and from that share of
  the logits (SAM-Med3D, arXiv 2310.15161, extends so; what it prompts the neighbour with is our choice). A box says
  itself where the structure ends, and an oracle's crop stands for the single crop of published figures: neither is
  extended, and all clicks that lie in an oracle's crop go there.
- Where crops of one box (or of no box) overlap, logits are averaged, the centre of a crop counting most; masks of
  several boxes are united.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from samzoo.errors import ConfigError
from samzoo.evaluation.adapter import Adapter, Cost, Inference
from samzoo.evaluation.crops import Crop, CropAnswer, GridBox, NativePart
from samzoo.evaluation.windows import Corner, importance_map, native_part, window_starts
from samzoo.geometry import VolumeGrid, corner_around, cut
from samzoo.methods.base import Method, concatenate, select_rows
from samzoo.prompts.simulate import deepest_point, tight_box
from samzoo.types import Box, Case, CasePrompt, Click, Embedding, Prompts


class CropAdapter(Adapter):
    """Answers prompts on crops of the case; see above. What was encoded at a place is kept for the whole session."""

    def __init__(self, method: Method, case: Case, cost: Cost, inference: Inference, keep_logits: bool = False) -> None:
        super().__init__(method, case, cost, inference, keep_logits)
        self.side = method.window[0]
        self._embeddings: dict[Corner, Embedding] = {}
        self._volume: tuple[Tensor, VolumeGrid] | None = None
        self._weights: Tensor | None = None

    # --- prompts -------------------------------------------------------------------------------------------------

    def segment(self, prompts: Sequence[CasePrompt], previous: Sequence[CropAnswer | None]) -> list[CropAnswer]:
        """Boxes first, then click by click, as if each had been given by itself; all classes of a round together."""
        crops: list[list[Crop]] = []
        clicks: list[tuple[Click, ...]] = []
        boxed: list[list[Crop]] = []
        for prompt, before in zip(prompts, previous, strict=True):
            self._check_automatic(prompt)
            if before is None or not _extends(prompt, before.prompt):
                before = CropAnswer(self.case.shape, CasePrompt(prompt.class_id))
            crops.append(list(before.crops))
            clicks.append(prompt.clicks[len(before.prompt.clicks) :])
            first = len(before.prompt.boxes)
            boxed.append([c for i, b in enumerate(prompt.boxes[first:], first) for c in self._tiles(prompt, b, i)])
        self._answer(crops, boxed, prompts)
        for clicked in itertools.zip_longest(*clicks):
            each = zip(prompts, clicked, crops, strict=True)
            told = [[] if click is None else self._clicked(prompt, click, own) for prompt, click, own in each]
            self._answer(crops, told, prompts)
        return [
            CropAnswer(self.case.shape, prompt, tuple(own), self._parts(own, before.parts if before else None))
            for prompt, own, before in zip(prompts, crops, previous, strict=True)
        ]

    def label_map(self, answers: Sequence[CropAnswer]) -> np.ndarray:
        """See `CaseSession.label_map`; logits of one group of crops at a time, a slice of them at a time."""
        best = np.zeros(self.case.shape, dtype=np.float32)
        label = np.zeros(self.case.shape, dtype=np.uint8)
        for answer in sorted(answers, key=lambda a: a.prompt.class_id):
            for group in self._groups(answer.crops):
                (z0, y0, x0), slices = self._native(group)
                for z, values in enumerate(slices, z0):
                    values = values.cpu().numpy()
                    where = z, slice(y0, y0 + values.shape[0]), slice(x0, x0 + values.shape[1])
                    wins = values > best[where]
                    best[where][wins] = values[wins]
                    label[where][wins] = answer.prompt.class_id
        return label

    def label_map_without_prompts(self, look: Callable[[int, Tensor], None] | None = None) -> np.ndarray:
        """Raises ConfigError: methods on crops know where to look by prompts only."""
        raise ConfigError(f"{self.method.spec.name} answers prompts only; give clicks or boxes")

    def encode_one(self) -> None:
        """The crop in the middle of the volume."""
        self._encode([self._around(self._middle)])

    def answer_one(self) -> None:
        """One class on that crop; a box covers its middle."""
        crop = Crop(1, self._around(self._middle))
        if "box" in self.method.spec.prompts:
            ends = [[m + sign * self.side // 4 for m in self._middle] for sign in (-1, 1)]
            crop = replace(crop, box=(tuple(ends[0]), tuple(ends[1])))
        else:
            crop = replace(crop, clicks=((self._middle, True),))
        for _ in self._decode([crop]):
            pass

    # --- where crops lie -----------------------------------------------------------------------------------------

    @property
    def _middle(self) -> Corner:
        return tuple(n // 2 for n in self._grid.size)

    @property
    def _ends(self) -> list[tuple[int, int]]:
        """First and one past the last voxel of the volume on the grid, along each axis."""
        return [(first, first + count) for first, count in zip(self._grid.offset, self._grid.content, strict=True)]

    def _around(self, voxel: Corner) -> Corner:
        """The crop in whose middle a voxel lies."""
        return tuple(i - self.side // 2 for i in voxel)

    def _voxel(self, click: Click) -> Corner:
        grid = self._grid
        rates = zip((click.z, click.y, click.x), grid.native, grid.content, grid.offset, strict=True)
        return tuple(int(self._places(native, content, offset)[i]) for i, native, content, offset in rates)

    @staticmethod
    def _places(native: int, content: int, offset: int) -> np.ndarray:
        """(native,) voxel of the grid that each voxel of the case lies in, along one axis."""
        return np.floor((np.arange(native) + 0.5) * content / native).astype(int) + offset

    def _on_grid(self, box: Box) -> GridBox:
        grid = self._grid
        ends = []
        for corner in ((box.z0, box.y0, box.x0), (box.z1, box.y1, box.x1)):
            rates = zip(corner, grid.native, grid.content, grid.offset, strict=True)
            ends.append(tuple(i * content / native + offset for i, native, content, offset in rates))
        return ends[0], ends[1]

    def _tiles(self, prompt: CasePrompt, box: Box, part: int) -> list[Crop]:
        """The crops over a box, half overlapping along the axes on which it is longer than they are."""
        near, far = self._on_grid(box)
        starts = []
        for a, b in zip(near, far, strict=True):
            if b - a <= self.side:
                starts.append([math.floor((a + b - self.side) / 2)])
            else:
                first = math.floor(a)
                starts.append([first + s for s in window_starts([math.ceil(b) - first], [self.side])[0]])
        return [
            Crop(prompt.class_id, corner, part, self._clipped(near, far, corner))
            for corner in itertools.product(*starts)
        ]

    def _clipped(self, near: Sequence[float], far: Sequence[float], corner: Corner) -> GridBox:
        low = tuple(max(a, c) for a, c in zip(near, corner, strict=True))
        return low, tuple(min(b, c + self.side) for b, c in zip(far, corner, strict=True))

    def seen(self, focus: Box) -> tuple[slice, ...]:
        """See `Adapter.seen`: voxels whose middle lies in the crop."""
        grid, parts = self._grid, []
        for corner, native, content, offset in zip(
            self._focused(focus), grid.native, grid.content, grid.offset, strict=True
        ):
            inside = np.flatnonzero(np.isin(self._places(native, content, offset), corner + np.arange(self.side)))
            parts.append(slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0))
        return tuple(parts)

    def _focused(self, focus: Box) -> Corner:
        near, far = self._on_grid(focus)
        return corner_around([math.floor(a) for a in near], [math.ceil(b) for b in far], self.method.window)

    def _clicked(self, prompt: CasePrompt, click: Click, crops: list[Crop]) -> list[Crop]:
        """The crop that a click goes to, with it; none where it says nothing."""
        at = self._voxel(click)
        known, margin = list(crops), self.side // 8 if click.positive else 0
        if prompt.focus is not None:
            margin = 0
            known = known or [Crop(prompt.class_id, self._focused(prompt.focus))]
        holding = [c for c in known if self._holds(c.corner, at, margin)]
        if holding:
            crop = min(holding, key=lambda c: math.dist(at, [n + self.side / 2 for n in c.corner]))
        elif click.positive and prompt.focus is None:
            crop = Crop(prompt.class_id, self._around(at))
        else:
            return []
        return [replace(crop, clicks=(*crop.clicks, (at, click.positive)), parent=None)]

    def _holds(self, corner: Corner, at: Corner, margin: int) -> bool:
        """A point lies in a crop, and so far from those of its sides beyond which the volume goes on."""
        return all(
            c + margin * (c > low) <= i < c + self.side - margin * (c + self.side < high)
            for c, i, (low, high) in zip(corner, at, self._ends, strict=True)
        )

    # --- answers -------------------------------------------------------------------------------------------------

    def _answer(self, crops: list[list[Crop]], told: list[list[Crop]], prompts: Sequence[CasePrompt]) -> None:
        """Answer crops of all classes, put them in the place of what was there before, and follow what leaves them."""
        while any(told):
            place = {id(crop): i for i, of_class in enumerate(told) for crop in of_class}
            fresh: list[list[Crop]] = [[] for _ in crops]
            for asked, answered in self._decode([crop for of_class in told for crop in of_class]):
                fresh[place[id(asked)]].append(answered)
            told = []
            for own, new, prompt in zip(crops, fresh, prompts, strict=True):
                for crop in new:
                    own[:] = _without_descendants(own, crop.corner)
                    _put(own, crop)
                told.append([] if prompt.focus else self._followed(own, new))

    def _followed(self, crops: Sequence[Crop], fresh: Sequence[Crop]) -> list[Crop]:
        """Neighbours of answered crops, where the structure goes on; none where a crop of the class lies already."""
        left = self.inference.extensions - sum(crop.parent is not None for crop in crops)
        found: list[Crop] = []
        for crop in fresh:
            if crop.box is not None:
                continue
            answer = self._in_volume(crop)
            for axis, sign in itertools.product(range(3), (-1, 1)):
                corner = self._moved(crop.corner, axis, sign)
                if len(found) >= left or corner is None or not answer.take(-(sign > 0), axis).any():
                    continue
                if not any(self._stands_in(c.corner, corner) for c in (*crops, *found) if c.part == crop.part):
                    found.append(self._neighbour(crop, answer, corner))
        return found

    def _in_volume(self, crop: Crop) -> np.ndarray:
        """bool (l, l, l), the mask of a crop without what of it lies outside of the volume."""
        answer = (crop.logits[0, 0] > 0).cpu().numpy()
        middles = (np.arange(len(answer)) + 0.5) * self.side / len(answer)
        inside = [
            (low <= c + middles) & (c + middles < high) for c, (low, high) in zip(crop.corner, self._ends, strict=True)
        ]
        return answer & inside[0][:, None, None] & inside[1][:, None] & inside[2]

    def _moved(self, corner: Corner, axis: int, sign: int) -> Corner | None:
        """The crop half a side further along an axis, but not out of the volume; None where the volume ends before."""
        low, high = self._ends[axis]
        first = corner[axis]
        if first <= low if sign < 0 else first + self.side >= high:
            return None
        half = self.side // 2
        first = max(first - half, low) if sign < 0 else min(first + half, high - self.side)
        return (*corner[:axis], first, *corner[axis + 1 :])

    def _stands_in(self, corner: Corner, wanted: Corner) -> bool:
        """A crop lies nearly where one is wanted, and reaches the volume's ends that it would reach."""
        return all(
            abs(c - w) <= self.side // 4 and (c <= low or w > low) and (c + self.side >= high or w + self.side < high)
            for c, w, (low, high) in zip(corner, wanted, self._ends, strict=True)
        )

    def _neighbour(self, crop: Crop, answer: np.ndarray, corner: Corner) -> Crop:
        """A crop that goes on with another's answer (l, l, l)."""
        scale = self.side / len(answer)
        shift = [round((new - old) / scale) for new, old in zip(corner, crop.corner, strict=True)]
        here = tuple(slice(max(0, s), len(answer) + min(0, s)) for s in shift)
        there = tuple(slice(max(0, -s), len(answer) - max(0, s)) for s in shift)
        deepest = deepest_point(answer[here], (1.0, 1.0, 1.0))
        at = tuple(
            int(c + (d + part.start + 0.5) * scale) for c, d, part in zip(crop.corner, deepest, here, strict=True)
        )
        start = torch.zeros_like(crop.logits)
        start[0, 0][there] = crop.logits[0, 0][here]
        return Crop(crop.class_id, corner, crop.part, None, ((at, True),), crop.corner, None, {"low_res": start})

    def _decode(self, crops: Sequence[Crop]) -> Iterator[tuple[Crop, Crop]]:
        """Each crop as it was asked, and answered; many to a call."""
        self._encode([crop.corner for crop in crops])
        by_form: dict[tuple, list[Crop]] = {}
        for crop in crops:
            by_form.setdefault(crop.form, []).append(crop)
        for same in by_form.values():
            for start in range(0, len(same), self.inference.decode_chunk):
                chunk = same[start : start + self.inference.decode_chunk]
                corners = sorted({crop.corner for crop in chunk})
                embedding = concatenate([self._embeddings[corner] for corner in corners])
                state = None
                if chunk[0].state:
                    state = {name: torch.cat([crop.state[name] for crop in chunk]) for name in chunk[0].state}
                logits, state = self._timed_decode(embedding, self._prompts(chunk, corners), state)
                for i, crop in enumerate(chunk):
                    own = {name: tensor[i : i + 1] for name, tensor in state.items()}
                    yield crop, replace(crop, logits=logits[i : i + 1], state=own)

    def _prompts(self, crops: list[Crop], corners: list[Corner]) -> Prompts:
        """Crops of one form as tensors, in voxels of each crop."""
        tensor = lambda rows, dtype: torch.tensor(rows, dtype=dtype, device=self.device)  # noqa: E731
        points = labels = boxes = None
        if crops[0].clicks:
            xyz = [[_from_corner(at, crop) for at, _ in crop.clicks] for crop in crops]
            points = tensor(xyz, torch.float32)
            labels = tensor([[int(positive) for _, positive in crop.clicks] for crop in crops], torch.int64)
        if crops[0].box is not None:
            boxes = tensor([[v for end in crop.box for v in _from_corner(end, crop)] for crop in crops], torch.float32)
        index = tensor([corners.index(crop.corner) for crop in crops], torch.int64)
        return Prompts(index, tensor([crop.class_id for crop in crops], torch.int64), points, labels, boxes)

    # --- encoding ------------------------------------------------------------------------------------------------

    @property
    def _grid(self) -> VolumeGrid:
        return self._prepared()[1]

    def _prepared(self) -> tuple[Tensor, VolumeGrid]:
        """The whole case as (1, C, D, H, W) on the method's grid, in main memory."""
        if self._volume is None:
            size, spacing = torch.tensor([self.case.shape]), torch.tensor([self.case.spacing])
            x, (grid,) = self.method.prepare(self.case.image[None].float(), size, spacing)
            self._volume = x, grid
        return self._volume

    def _encode(self, corners: Sequence[Corner]) -> None:
        """Encode the crops at those places that have not been yet."""
        x, _ = self._prepared()
        missing = sorted(set(corners) - self._embeddings.keys())
        count = max(1, self.inference.encode_chunk // self.side)
        for start in range(0, len(missing), count):
            chunk = missing[start : start + count]
            crops = [cut(x, corner, self.method.window, self.method.fill) for corner in chunk]
            embedding = self._timed_encode(self.method.encode, torch.cat(crops).to(self.device), len(chunk))
            for i, corner in enumerate(chunk):
                self._embeddings[corner] = select_rows(embedding, slice(i, i + 1))

    # --- back to the case ----------------------------------------------------------------------------------------

    def _groups(self, crops: Sequence[Crop]) -> list[frozenset[Crop]]:
        """Crops of one part that overlap or touch, directly or by others between them."""
        groups: list[set[Crop]] = []
        for crop in crops:
            near = [g for g in groups if any(self._meet(crop, other) for other in g)]
            groups = [g for g in groups if g not in near] + [{crop}.union(*near)]
        return [frozenset(g) for g in groups]

    def _meet(self, a: Crop, b: Crop) -> bool:
        return a.part == b.part and max(abs(i - j) for i, j in zip(a.corner, b.corner, strict=True)) <= self.side

    def _native(self, group: frozenset[Crop]) -> tuple[Corner, Iterator[Tensor]]:
        if self._weights is None:
            self._weights = importance_map((self.side,) * 3).to(self.device)
        crops = sorted(group, key=lambda crop: crop.corner)  # sums do not depend on the order of a set
        return native_part([(crop.corner, crop.logits) for crop in crops], self._grid, self._weights)

    def _parts(
        self, crops: Sequence[Crop], known: dict[frozenset[Crop], NativePart | None] | None
    ) -> dict[frozenset[Crop], NativePart | None]:
        """Masks of all groups; only those that have changed are computed."""
        return {g: known[g] if known and g in known else self._masked(g) for g in self._groups(crops)}

    def _masked(self, group: frozenset[Crop]) -> NativePart | None:
        near, slices = self._native(group)
        mask = np.stack([(values > 0).cpu().numpy() for values in slices])
        corners = tight_box(mask)
        if corners is None:
            return None
        start, end = corners[2::-1], corners[:2:-1]
        kept = mask[tuple(slice(a, b) for a, b in zip(start, end, strict=True))].copy()
        return NativePart(tuple(n + s for n, s in zip(near, start, strict=True)), kept)


def _extends(prompt: CasePrompt, before: CasePrompt) -> bool:
    """What was known before is the beginning of what is known now."""
    return (
        prompt.focus == before.focus
        and prompt.boxes[: len(before.boxes)] == before.boxes
        and prompt.clicks[: len(before.clicks)] == before.clicks
    )


def _from_corner(at: Sequence[float], crop: Crop) -> list[float]:
    """x, y, z in voxels of the crop, of a point on the method's grid."""
    return [i - c for i, c in zip(at, crop.corner, strict=True)][::-1]


def _put(crops: list[Crop], crop: Crop) -> None:
    """In the place of the crop's earlier answer, or at the end."""
    for i, other in enumerate(crops):
        if (other.corner, other.part, other.box) == (crop.corner, crop.part, crop.box):
            crops[i] = crop
            return
    crops.append(crop)


def _without_descendants(crops: Sequence[Crop], corner: Corner) -> list[Crop]:
    """Without those that followed from the answer at a place, or from one of them."""
    gone, kept = {corner}, list(crops)
    while followed := [c for c in kept if c.parent in gone]:
        gone = {c.corner for c in followed}
        kept = [c for c in kept if c not in followed]
    return kept
