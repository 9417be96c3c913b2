"""How a case is cut into what a method sees: the interface between a session and the kinds of methods."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from samzoo.errors import ConfigError
from samzoo.geometry import Grid
from samzoo.methods.base import Method
from samzoo.types import Box, Case, CasePrompt, Embedding, Prompts, State


@dataclass
class Cost:
    """What a session has spent. An image is what `encode` takes one of: a slice, or a window of a volume."""

    slices: int = 0
    images_encoded: int = 0
    prompts_decoded: int = 0
    decode_calls: int = 0
    encode_seconds: float = 0.0
    decode_seconds: float = 0.0


@dataclass(frozen=True)
class Inference:
    """How a method is run over a case.

    Args:
        encode_chunk: slices per call of `encode`; windows of several slices go together as long as they hold no more.
        decode_chunk: prompts per call of `decode`.
        window_step: share of a window's side by which it moves from one position to the next, in (0, 1]; of methods on
            slabs.
        mirror_axes: of methods on slabs: every window is also answered mirrored along each set of these axes (0 depth,
            1 height, 2 width), and the mean counts. Three axes take 8 passes.
        extensions: of methods on crops: so many neighbouring crops at most, for each class, follow a structure that
            reaches the side of a crop.

    Raises:
        ConfigError: a number out of range.
    """

    encode_chunk: int = 8
    decode_chunk: int = 64
    window_step: float = 0.5
    mirror_axes: tuple[int, ...] = ()
    extensions: int = 26

    def __post_init__(self) -> None:
        for name in ("encode_chunk", "decode_chunk"):
            if getattr(self, name) < 1:
                raise ConfigError(f"protocol.{name} must be at least 1, got {getattr(self, name)}")
        if self.extensions < 0:
            raise ConfigError(f"protocol.extensions must be at least 0, got {self.extensions}")
        if not 0 < self.window_step <= 1:
            raise ConfigError(f"protocol.window_step must be above 0 and at most 1, got {self.window_step}")
        axes = self.mirror_axes
        if len(set(axes)) < len(axes) or not set(axes) <= {0, 1, 2}:
            raise ConfigError(
                f"protocol.mirror_axes names each of 0 (depth), 1 (height), 2 (width) at most once, got {list(axes)}"
            )


DEFAULT_INFERENCE = Inference()


class Answer(ABC):
    """What was answered for one class so far; what else an answer holds is its adapter's business."""

    @property
    @abstractmethod
    def mask(self) -> np.ndarray:
        """bool (D, H, W) on the case's grid, put together anew at each call."""


class Adapter(ABC):
    """Cuts one case for one kind of method, and counts what that costs.

    Args:
        method: in eval mode, on its device.
        cost: of the session, added to.
        keep_logits: keep the method's (coarse) logits, which `label_map` needs.
    """

    grid: Grid | None = None
    """Of the slices of the case, once something was asked; None for methods on volumes."""

    def __init__(self, method: Method, case: Case, cost: Cost, inference: Inference, keep_logits: bool = False) -> None:
        self.method, self.case, self.cost, self.inference = method, case, cost, inference
        self.keep_logits = keep_logits
        self.device = next((p.device for p in method.parameters()), method.device)

    def segment(self, prompts: Sequence[CasePrompt], previous: Sequence[Any]) -> list[Any]:
        """See `CaseSession.segment`; `previous` holds an answer of this adapter or None for each prompt.

        Raises:
            ConfigError: the method can't answer these prompts.
        """
        if prompts:
            raise self._no_prompts()
        return []

    def label_map(self, answers: Sequence[Any]) -> np.ndarray:
        """uint8 (D, H, W) from answers to prompts; see `CaseSession.label_map`."""
        raise self._no_prompts()

    @abstractmethod
    def label_map_without_prompts(self, look: Callable[[int, Tensor], None] | None = None) -> np.ndarray:
        """uint8 (D, H, W) from class logits; see `CaseSession.label_map`."""

    def seen(self, focus: Box) -> tuple[slice, ...]:
        """What of the case's voxels an oracle's crop around the middle of `focus` shows; everything, without crops."""
        return (slice(None),) * 3

    def own_points(self) -> dict[int, np.ndarray]:
        """See `CaseSession.own_points`."""
        return {}

    @abstractmethod
    def encode_one(self) -> None:
        """Encode one image, in the middle of the case: what its operations are counted of."""

    @abstractmethod
    def answer_one(self) -> None:
        """Answer one prompt on that image: a box if the method understands boxes, else a click, else none."""

    def _check_automatic(self, prompt: CasePrompt) -> None:
        """Refuse an automatic prompt that the method can't answer."""
        if prompt.automatic and self.method.spec.needs_prompts:
            raise ConfigError(
                f"{self.method.spec.name} gives no automatic answer; it takes "
                f"{', '.join(sorted(self.method.spec.prompts))}"
            )

    def _no_prompts(self) -> ConfigError:
        spec = self.method.spec
        return ConfigError(
            f"{spec.name} works on {spec.unit}s, for which prompts can't be evaluated yet; use regime auto"
        )

    def _timed_encode(self, encode: Callable[..., Embedding], x: Tensor | tuple[Tensor, ...], images: int) -> Embedding:
        begin = self._now()
        embedding = encode(x)
        self.cost.encode_seconds += self._now() - begin
        self.cost.images_encoded += images
        return embedding

    def _timed_decode(self, embedding: Embedding, prompts: Prompts | None, state: State | None) -> tuple[Tensor, State]:
        begin = self._now()
        logits, state = self.method.decode(embedding, prompts, state)
        self.cost.decode_seconds += self._now() - begin
        self.cost.decode_calls += 1
        self.cost.prompts_decoded += len(logits)
        return logits, state

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
