"""The words of the house as frozen dataclasses: shapes, units and validation, no logic.

Axis order is everywhere depth, height, width (a picture has depth 1); coordinates of prompts are x, y (, z), as in SAM.
Pixel `i` covers the interval [i, i + 1) of its axis; a click names a pixel by its index, a box is x0, y0, x1, y1 with
x1 and y1 one past the last pixel (SAM-Med2D's convention).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
from torch import Tensor

from samzoo.errors import DataError

BACKGROUND = 0
IGNORE = 255

Unit = Literal["slice", "slab", "crop"]
"""What a method trains on: one slice, a slab of neighbouring slices, a 3D crop."""

PROMPT_KINDS = ("auto", "click", "box", "mask")


@dataclass(frozen=True)
class MethodSpec:
    """What a method is, as far as its surroundings need to know."""

    name: str
    dim: Literal[2, 3]
    unit: Unit
    prompts: frozenset[str]
    """Subset of `PROMPT_KINDS`. "auto": answers without any prompt."""
    multiclass: bool
    """True: one forward answers for all classes. False: one binary foreground per prompt."""
    frozen: str
    """In words, what is not trained."""

    def __post_init__(self) -> None:
        unknown = self.prompts - set(PROMPT_KINDS)
        if unknown:
            raise ValueError(f"unknown prompt kinds {sorted(unknown)}; known are {PROMPT_KINDS}")

    @property
    def needs_prompts(self) -> bool:
        return "auto" not in self.prompts

    def without(self, kind: str) -> MethodSpec:
        """The same method, configured so that it does not understand a kind of prompt."""
        return replace(self, prompts=self.prompts - {kind})


@dataclass(frozen=True)
class Case:
    """One image (2D, depth 1) or volume (3D) on its native grid.

    Args:
        id: unique within the data set.
        patient: cases of one patient never cross a split.
        image: float32 (C, D, H, W) in [0, 1], after the data set's window.
        label: uint8 (D, H, W), 0 background, 255 ignored; None where there is no ground truth.
        spacing: (3,) mm between voxel centres along D, H, W.
        affine: float64 (4, 4), voxel index of the *source file's* array to mm; identity for pictures.
        source: path of the (first) image file, to write predictions back on its geometry.
        features: per slice, what `Method.features` gives: arrays (D, ...) from a cache; None without one.
    """

    id: str
    patient: str
    image: Tensor
    label: Tensor | None
    spacing: tuple[float, float, float]
    affine: np.ndarray
    source: str = ""
    features: tuple[np.ndarray, ...] | None = None

    def __post_init__(self) -> None:
        if self.image.ndim != 4 or min(self.image.shape) < 1:
            raise DataError(f"case {self.id}: image must be (C, D, H, W) and not empty, got {tuple(self.image.shape)}")
        if self.label is not None and tuple(self.label.shape) != tuple(self.image.shape[1:]):
            raise DataError(
                f"case {self.id}: label has shape {tuple(self.label.shape)}, image {tuple(self.image.shape[1:])}"
            )
        if len(self.spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in self.spacing):
            raise DataError(f"case {self.id}: spacing must be three positive mm values, got {self.spacing}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W)"""
        return tuple(self.image.shape[1:])

    def to(self, *_: Any, **__: Any) -> Case:
        """A whole case stays where it is: the evaluation session moves the chunks that it works on."""
        return self


@dataclass(frozen=True)
class Batch:
    """Training units, stacked. S = (H, W) for slices, (D, H, W) for slabs and crops.

    Args:
        image: float32 (B, C, *S) in [0, 1]; smaller units are padded at the far end with 0 to the largest of the batch.
            None where `features` stand for it.
        label: int64 (B, *S) or None; the padding is 255 (ignored).
        size: int64 (B, len(S)), the true extents before padding.
        spacing: float32 (B, len(S)) mm in the axis order of S.
        case_id, patient: B strings each.
        slice_index: int64 (B,), the (first) slice of the unit in its case.
        features: what `Method.features` gives for the image, from a cache; None without one.
    """

    image: Tensor | None
    label: Tensor | None
    size: Tensor
    spacing: Tensor
    case_id: tuple[str, ...]
    patient: tuple[str, ...]
    slice_index: Tensor
    features: tuple[Tensor, ...] | None = None

    def __len__(self) -> int:
        return len(self.size)

    def _map(self, move) -> Batch:
        moved = {f.name: move(v) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        if self.features is not None:
            moved["features"] = tuple(move(t) for t in self.features)
        return replace(self, **moved)

    def to(self, *args: Any, **kwargs: Any) -> Batch:
        return self._map(lambda t: t.to(*args, **kwargs))

    def pin_memory(self) -> Batch:
        return self._map(lambda t: t.pin_memory())


@dataclass(frozen=True)
class Prompts:
    """P prompts on the method's own grid, each asking for one binary mask.

    All prompts of one call are of the same form (same number of points, boxes for all or none), so that shapes are
    fixed and nothing is padded by accident; the evaluation session groups them so.

    Args:
        image_index: int64 (P,), the row of the embedding batch that each prompt looks at.
        class_id: int64 (P,), the label value that each prompt asks for (class-agnostic methods ignore it).
        points: float32 (P, N, dim) in x, y (, z), or None.
        point_labels: int64 (P, N): 1 foreground, 0 background, -1 no point; None exactly if `points` is.
        boxes: float32 (P, 2 * dim), near corner then far corner (one past the last pixel), or None.
    """

    image_index: Tensor
    class_id: Tensor
    points: Tensor | None = None
    point_labels: Tensor | None = None
    boxes: Tensor | None = None

    def __post_init__(self) -> None:
        count = self.image_index.shape[0]
        if (self.points is None) != (self.point_labels is None):
            raise ValueError("points and point_labels go together")
        if self.points is not None and self.points.shape[:2] != self.point_labels.shape:
            raise ValueError(f"points {tuple(self.points.shape)} and labels {tuple(self.point_labels.shape)} disagree")
        for name in ("class_id", "points", "boxes"):
            value = getattr(self, name)
            if value is not None and value.shape[0] != count:
                raise ValueError(f"{name} holds {value.shape[0]} prompts, image_index {count}")

    def __len__(self) -> int:
        return self.image_index.shape[0]

    def to(self, *args: Any, **kwargs: Any) -> Prompts:
        moved = {f.name: v.to(*args, **kwargs) for f in fields(self) if (v := getattr(self, f.name)) is not None}
        return replace(self, **moved)


State = dict[str, Tensor]
"""What a method hands from one decoding step to the next: tensors whose first axis is the prompt (P, ...)."""

Embedding = Tensor | tuple[Tensor, ...]
"""What `encode` returns: tensors whose first axis is the image of the batch (B, ...)."""


@dataclass(frozen=True)
class Click:
    """One human click in case coordinates (voxel indices)."""

    z: int
    y: int
    x: int
    positive: bool


@dataclass(frozen=True)
class Box:
    """One box in case coordinates: near corner inside, far corner one past the last voxel; z1 = z0 + 1 on one slice."""

    z0: int
    y0: int
    x0: int
    z1: int
    y1: int
    x1: int

    def __post_init__(self) -> None:
        if not (self.z0 < self.z1 and self.y0 < self.y1 and self.x0 < self.x1):
            raise DataError(f"a box must have its far corner behind its near corner, got {self}")


@dataclass(frozen=True)
class CasePrompt:
    """What a human (or a regime) has given for one class of one case so far.

    Args:
        boxes: a box over several slices is one 3D box; a 2D method projects it to each slice that it covers.
        clicks: in the order in which they were made.
        effort: human actions spent on it: a click is 1, a box is 2 (boxes interpolated between others are free).
        automatic: slices without box and clicks are answered too, by the method alone; needs a method that can.
        focus: an oracle's word on where the structure lies: methods on crops lay their first crop around its middle
            instead of around the first click. Other methods do not look at it.
    """

    class_id: int
    boxes: tuple[Box, ...] = ()
    clicks: tuple[Click, ...] = ()
    effort: int = 0
    automatic: bool = False
    focus: Box | None = None
    meta: dict[str, Any] = field(default_factory=dict)
