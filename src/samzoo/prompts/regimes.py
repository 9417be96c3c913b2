"""Regimes: how the prompts of a case come about, and what they cost a human.

A regime is asked for the first prompt of a class, then for the next one given what the method has answered. It is pure:
the same truth, predictions and seed give the same prompts. Effort is counted in human actions: a click is 1, a box
(2D or 3D) is 2, boxes interpolated between others are free. A picture is a case of depth 1, for which the regimes per
slice and those in 3D coincide.

Classes that the case does not hold are prompted for in no regime, also where it is an automatic answer that is
corrected; only regime "auto" asks for them.

"clicks_3d_published" is how SAM-Med3D and M-SAM were evaluated: the truth says where the crop lies, and every click is
drawn at random from what is wrong. It stands beside "clicks_3d", where the first click alone says where to look.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal

import numpy as np

from samzoo.errors import ConfigError
from samzoo.prompts.simulate import corrective_click, prompt_rng, random_foreground_click, random_points, tight_box
from samzoo.types import Box, CasePrompt, Click

CLICK_EFFORT = 1
BOX_EFFORT = 2
PUBLISHED_POINTS = 16
"""Points on each picture with which ProMISe was published."""


@dataclass(frozen=True)
class Regime:
    """A way to prompt.

    Args:
        name: as it stands in records.
        kinds: prompt kinds that a method must understand; {"auto"} alone is the regime without prompts.
        effort_rule: in words.
        oracle_classes: it was told which classes are present.
        oracle_slices: what it was told about where they are, at its last step: "none", "range" (first and last
            slice), "each" slice, "crop" (where the middle of the structure lies). One click in a volume tells no more
            than itself.
        scored: the steps whose result is recorded. Steps count the clicks (or rounds of clicks) made so far.
        start: step of the first prompt.
        first_boxes: box prompts of the first step, from the truth; None if it starts with clicks.
        per_slice: clicks are made on each slice with foreground; otherwise one click in the whole case.
        automatic: it starts from the method's own answer for the class, for nothing; per slice, corrections are then
            also made where the method has found something on a slice without foreground.
        points: so many random points at once on each slice with foreground, half of them on the background.
        dim: it is for methods on slices (2) or for those that see depth (3) only; None: for both.
        oracle_crop: methods on crops lay their first crop around the middle of the structure, as `CasePrompt.focus`.
        random_errors: later clicks lie anywhere in what is wrong, instead of at the centre of its largest part.
    """

    name: str
    kinds: frozenset[str]
    effort_rule: str
    oracle_classes: bool = True
    oracle_slices: str = "each"
    scored: tuple[int, ...] = (0,)
    start: int = 0
    first_boxes: Callable[[np.ndarray], tuple[tuple[Box, ...], int]] | None = None
    per_slice: bool = False
    automatic: bool = False
    points: int = 0
    dim: Literal[2, 3] | None = None
    oracle_crop: bool = False
    random_errors: bool = False

    @property
    def auto(self) -> bool:
        """It has no prompts at all."""
        return self.kinds == {"auto"}

    @property
    def last(self) -> int:
        return max(self.scored)

    def first(
        self,
        truth: np.ndarray,
        class_id: int,
        spacing: Sequence[float],
        seed: int,
        case_id: str,
        valid: np.ndarray | None = None,
        seen: Callable[[Box], tuple[slice, ...]] | None = None,
    ) -> CasePrompt | None:
        """The prompt of step `start`.

        Args:
            truth: bool (D, H, W), the class's ground truth.
            spacing: (3,) mm.
            valid: bool (D, H, W), where the truth is known; None: everywhere.
            seen: what of the case an oracle's crop shows, given its focus; clicks lie in it, and there is none if the
                class does not. None: everything.

        Returns:
            None if the class is not in the case: nobody would prompt for it.
        """
        if self.auto:
            raise ValueError("regime auto has no prompts")
        if not truth.any():
            return None
        if self.automatic:
            return CasePrompt(class_id, automatic=True)
        if self.first_boxes is not None:
            boxes, drawn = self.first_boxes(truth)
            return CasePrompt(class_id, boxes=boxes, effort=BOX_EFFORT * drawn)
        rng, focus = prompt_rng(case_id, class_id, seed), None
        if self.points:
            clicks = tuple(
                Click(z, y, x, positive)
                for z in foreground_slices(truth)
                for (x, y), positive in random_points(truth[z], self.points, rng, None if valid is None else valid[z])
            )
        elif self.per_slice:
            clicks = tuple(
                Click(z, y, x, True)
                for z in foreground_slices(truth)
                for x, y in [random_foreground_click(truth[z], rng)]
            )
        else:
            focus = box_3d(truth)[0][0] if self.oracle_crop else None
            if focus is not None and seen is not None:
                truth = within(truth, seen(focus))
            found = random_foreground_click(truth, rng)
            clicks = (Click(*found[::-1], True),) if found else ()
        return CasePrompt(class_id, clicks=clicks, effort=CLICK_EFFORT * len(clicks), focus=focus)

    def next(
        self,
        prompt: CasePrompt,
        truth: np.ndarray,
        prediction: np.ndarray,
        spacing: Sequence[float],
        seed: int = 0,
        case_id: str = "",
    ) -> CasePrompt:
        """The prompt after one more click (or one more on each slice); the same prompt where there is no error.

        Args:
            truth, prediction: bool (D, H, W), the latter the method's answer to `prompt`. Voxels to be ignored, or
                outside of an oracle's crop, must be False in both.
            seed, case_id: as in `first`; of random clicks.
        """
        clicks = []
        if self.per_slice:
            for z in foreground_slices(truth | prediction if self.automatic else truth):
                if found := corrective_click(truth[z], prediction[z], tuple(spacing[1:])):
                    (x, y), positive = found
                    clicks.append(Click(z, y, x, positive))
        elif self.random_errors:
            rng = prompt_rng(case_id, prompt.class_id, seed, len(prompt.clicks))
            if found := random_foreground_click(truth != prediction, rng):
                x, y, z = found
                clicks.append(Click(z, y, x, bool(truth[z, y, x])))
        elif found := corrective_click(truth, prediction, tuple(spacing)):
            (x, y, z), positive = found
            clicks.append(Click(z, y, x, positive))
        if not clicks:
            return prompt
        return replace(prompt, clicks=prompt.clicks + tuple(clicks), effort=prompt.effort + CLICK_EFFORT * len(clicks))


def within(mask: np.ndarray, part: tuple[slice, ...]) -> np.ndarray:
    """A mask without what lies outside of a part of it."""
    kept = np.zeros_like(mask)
    kept[part] = mask[part]
    return kept


def foreground_slices(truth: np.ndarray) -> list[int]:
    """Indices of the slices (axis 0) that hold foreground."""
    return np.flatnonzero(truth.any(axis=(1, 2))).tolist()


def boxes_per_slice(truth: np.ndarray) -> tuple[tuple[Box, ...], int]:
    """A tight box on each slice with foreground; boxes and how many of them a human draws."""
    boxes = tuple(_slice_box(truth, z) for z in foreground_slices(truth))
    return boxes, len(boxes)


def box_3d(truth: np.ndarray) -> tuple[tuple[Box, ...], int]:
    """One tight box around the whole structure."""
    x0, y0, z0, x1, y1, z1 = tight_box(truth)
    return (Box(z0, y0, x0, z1, y1, x1),), 1


def interpolated_boxes(truth: np.ndarray, drawn: int) -> tuple[tuple[Box, ...], int]:
    """Tight boxes on `drawn` foreground slices, evenly spread from first to last, linearly interpolated between."""
    slices = foreground_slices(truth)
    keys = sorted({slices[round(i)] for i in np.linspace(0, len(slices) - 1, drawn)})
    corners = {z: np.array(tight_box(truth[z]), dtype=float) for z in keys}
    boxes = [_as_box(keys[0], corners[keys[0]])]
    for a, b in pairwise(keys):
        for z in range(a + 1, b + 1):
            t = (z - a) / (b - a)
            boxes.append(_as_box(z, (1 - t) * corners[a] + t * corners[b]))
    return tuple(boxes), len(keys)


def _slice_box(truth: np.ndarray, z: int) -> Box:
    return _as_box(z, np.array(tight_box(truth[z]), dtype=float))


def _as_box(z: int, corners: np.ndarray) -> Box:
    x0, y0, x1, y1 = (int(v) for v in np.floor(corners + 0.5))
    return Box(z, y0, x0, z + 1, max(y1, y0 + 1), max(x1, x0 + 1))


def _auto(_: int) -> Regime:
    return Regime("auto", frozenset({"auto"}), "0", oracle_classes=False, oracle_slices="none")


def _auto_clicks_3d(steps: int) -> Regime:
    return Regime(
        "auto_clicks_3d",
        frozenset({"auto", "click"}),
        "0 for the automatic answer, 1 for each corrective click in the volume",
        oracle_slices="none",
        scored=tuple(range(steps + 1)),
        automatic=True,
    )


def _auto_clicks_per_slice(steps: int) -> Regime:
    return Regime(
        "auto_clicks_per_slice",
        frozenset({"auto", "click"}),
        "0 for the automatic answer, 1 for each corrective click on each slice with an error",
        scored=tuple(range(steps + 1)),
        automatic=True,
        per_slice=True,
        dim=2,
    )


def _points_per_slice(_: int) -> Regime:
    rule = f"{PUBLISHED_POINTS} for the random points on each slice with foreground, made at once"
    return Regime("points_per_slice", frozenset({"click"}), rule, points=PUBLISHED_POINTS, dim=2)


def _box_per_slice(_: int) -> Regime:
    rule = "2 for each slice with foreground"
    return Regime("box_per_slice", frozenset({"box"}), rule, first_boxes=boxes_per_slice, dim=2)


def _clicks_per_slice(steps: int) -> Regime:
    rule = "1 for each click on each slice with foreground (none where there is no error)"
    return Regime(
        "clicks_per_slice", frozenset({"click"}), rule, scored=_odd_and_last(steps), start=1, per_slice=True, dim=2
    )


def _clicks_3d(name: str, **how: bool) -> Callable[[int], Regime]:
    def make(steps: int) -> Regime:
        return Regime(
            name,
            frozenset({"click"}),
            "1 for each click in the volume (none where there is no error)",
            oracle_slices="crop" if how.get("oracle_crop") else "none",
            scored=_odd_and_last(steps),
            start=1,
            dim=3,
            **how,
        )

    return make


def _odd_and_last(steps: int) -> tuple[int, ...]:
    """Which of the numbers of clicks are scored: 1, 3, 5 and so on, and the last."""
    return tuple(sorted({*range(1, steps + 1, 2), steps}))


def _box_3d(_: int) -> Regime:
    return Regime("box_3d", frozenset({"box"}), "2 for the 3D box", oracle_slices="range", first_boxes=box_3d)


def _box_slices(count: int) -> Regime:
    return Regime(
        f"box_{count}_slices",
        frozenset({"box"}),
        f"2 for each of the {count} boxes drawn (fewer on structures of fewer slices); interpolated boxes are free",
        oracle_slices="range",
        first_boxes=partial(interpolated_boxes, drawn=count),
        dim=2,
    )


def _box_clicks_3d(steps: int) -> Regime:
    return Regime(
        "box_clicks_3d",
        frozenset({"box", "click"}),
        "2 for the 3D box, 1 for each corrective click in the volume",
        oracle_slices="range",
        scored=tuple(range(steps + 1)),
        first_boxes=box_3d,
    )


def _box_clicks_per_slice(steps: int) -> Regime:
    return Regime(
        "box_clicks_per_slice",
        frozenset({"box", "click"}),
        "2 for the box and 1 for each corrective click on each slice with foreground",
        scored=tuple(range(steps + 1)),
        first_boxes=boxes_per_slice,
        per_slice=True,
        dim=2,
    )


REGIMES: dict[str, Callable[[int], Regime]] = {
    "auto": _auto,
    "auto_clicks_3d": _auto_clicks_3d,
    "auto_clicks_per_slice": _auto_clicks_per_slice,
    "box_per_slice": _box_per_slice,
    "clicks_per_slice": _clicks_per_slice,
    "clicks_3d": _clicks_3d("clicks_3d"),
    "clicks_3d_oracle_crop": _clicks_3d("clicks_3d_oracle_crop", oracle_crop=True),
    "clicks_3d_published": _clicks_3d("clicks_3d_published", oracle_crop=True, random_errors=True),
    "points_per_slice": _points_per_slice,
    "box_3d": _box_3d,
    "box_3_slices": lambda _: _box_slices(3),
    "box_5_slices": lambda _: _box_slices(5),
    "box_clicks_3d": _box_clicks_3d,
    "box_clicks_per_slice": _box_clicks_per_slice,
}
"""Factories by name; the argument is the number of click steps."""


def make_regime(name: str, click_steps: int = 5) -> Regime:
    """A regime by its name.

    Args:
        click_steps: clicks (or rounds of clicks) in the regimes that have any; the others ignore it.

    Raises:
        ConfigError: unknown name (with the nearest right ones), or no step.
    """
    if name not in REGIMES:
        near = difflib.get_close_matches(name, REGIMES, n=3, cutoff=0.4) or sorted(REGIMES)
        raise ConfigError(f"unknown regime {name!r}; did you mean {', '.join(near)}?")
    if click_steps < 1:
        raise ConfigError(f"regime {name}: click_steps must be at least 1, got {click_steps}")
    return REGIMES[name](click_steps)
