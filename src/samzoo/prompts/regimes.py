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
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from samzoo.errors import ConfigError
from samzoo.prompts.boxes import Draw, box_3d, boxes_per_slice, foreground_slices, interpolated_boxes
from samzoo.prompts.simulate import (
    corrective_click,
    jitter_box,
    prompt_rng,
    random_foreground_click,
    random_points,
    shift_point,
    tight_box,
)
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
        first_boxes: box prompts of the first step, from the truth and how boxes are drawn, and how many are drawn;
            None if it starts with clicks.
        per_slice: clicks are made on each slice with foreground; otherwise one click in the whole case.
        automatic: it starts from the method's own answer for the class, for nothing; per slice, corrections are then
            also made where the method has found something on a slice without foreground.
        points: so many random points at once on each slice with foreground, half of them on the background.
        dim: it is for methods on slices (2) or for those that see depth (3) only; None: for both.
        oracle_crop: methods on crops lay their first crop around the middle of the structure, as `CasePrompt.focus`.
        random_errors: later clicks lie anywhere in what is wrong, instead of at the centre of its largest part.
        jitter: noise of the boxes drawn: standard deviation of their corners, in percent of the side along each axis.
        shift: noise of clicks: standard deviation along each axis, in mm; in the plane if it is for slices. A click
            keeps its label, whatever lies where it came to lie.
    """

    name: str
    kinds: frozenset[str]
    effort_rule: str
    oracle_classes: bool = True
    oracle_slices: str = "each"
    scored: tuple[int, ...] = (0,)
    start: int = 0
    first_boxes: Callable[[np.ndarray, Draw], tuple[tuple[Box, ...], int]] | None = None
    per_slice: bool = False
    automatic: bool = False
    points: int = 0
    dim: Literal[2, 3] | None = None
    oracle_crop: bool = False
    random_errors: bool = False
    jitter: float = 0.0
    shift: float = 0.0

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
            boxes, drawn = self.first_boxes(truth, self._draw(prompt_rng(case_id, class_id, seed, use="jitter")))
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
        prompt = CasePrompt(class_id, focus=focus)
        return self._clicked(prompt, clicks, truth.shape, spacing, seed, case_id)

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
            seed, case_id: as in `first`; of random clicks and of noise.
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
        return self._clicked(prompt, clicks, truth.shape, spacing, seed, case_id) if clicks else prompt

    def _draw(self, rng: np.random.Generator) -> Draw:
        if not self.jitter:
            return tight_box
        return lambda mask: jitter_box(tight_box(mask), rng, self.jitter / 100, mask.shape)

    def _clicked(
        self,
        prompt: CasePrompt,
        clicks: Sequence[Click],
        shape: tuple[int, ...],
        spacing: Sequence[float],
        seed: int,
        case_id: str,
    ) -> CasePrompt:
        """The prompt with more clicks, which the regime's noise displaces.

        The n-th click on a slice (or in a volume) is displaced alike, wherever a method's errors have put it.
        """
        dim, moved = 2 if self.dim == 2 else 3, list(clicks)
        place = lambda click: click.z if dim == 2 else 0  # noqa: E731
        made = Counter(place(c) for c in prompt.clicks)
        for i, c in enumerate(clicks if self.shift else ()):
            rng = prompt_rng(case_id, prompt.class_id, seed, made[place(c)], f"shift {place(c)}")
            made[place(c)] += 1
            at = shift_point((c.x, c.y, c.z)[:dim], rng, self.shift, tuple(spacing[-dim:]), shape[-dim:])
            moved[i] = replace(c, **dict(zip("xyz", at, strict=False)))
        return replace(prompt, clicks=prompt.clicks + tuple(moved), effort=prompt.effort + CLICK_EFFORT * len(moved))


def within(mask: np.ndarray, part: tuple[slice, ...]) -> np.ndarray:
    """A mask without what lies outside of a part of it."""
    kept = np.zeros_like(mask)
    kept[part] = mask[part]
    return kept


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
"""Factories by name; the argument is the number of click steps.

Noise is written behind a name, see `make_regime`: `box_3d_jitter10`, `clicks_3d_shift4mm`.
"""

_NOISE = re.compile(r"(.*?)(?:_jitter([0-9]+(?:\.[0-9]+)?))?(?:_shift([0-9]+(?:\.[0-9]+)?)mm)?", re.DOTALL)


def make_regime(name: str, click_steps: int = 5) -> Regime:
    """A regime by its name.

    Args:
        name: a key of `REGIMES`. With `_jitter10` behind it, each corner of the boxes drawn is moved by a normal draw
            along each axis, its standard deviation 10 % of the box's side; with `_shift4mm`, each click by one of 4 mm.
            Draws are the same for every method, and so are effort and oracle as without noise.
        click_steps: clicks (or rounds of clicks) in the regimes that have any; the others ignore it.

    Raises:
        ConfigError: unknown name (with the nearest right ones), noise of what the regime hasn't, or no step.
    """
    base, jitter, shift = _NOISE.fullmatch(name).groups()
    if base not in REGIMES:
        near = difflib.get_close_matches(base, REGIMES, n=3, cutoff=0.4) or sorted(REGIMES)
        noise = "; noise is written as in box_3d_jitter10 or clicks_3d_shift4mm" if re.search("jit|shift", name) else ""
        raise ConfigError(f"unknown regime {name!r}; did you mean {', '.join(near)}?{noise}")
    if click_steps < 1:
        raise ConfigError(f"regime {name}: click_steps must be at least 1, got {click_steps}")
    regime = REGIMES[base](click_steps)
    if jitter and regime.first_boxes is None:
        raise ConfigError(f"regime {name}: nobody draws a box in {base}, so there is none to jitter")
    if shift and "click" not in regime.kinds:
        raise ConfigError(f"regime {name}: nobody clicks in {base}, so there is nothing to shift")
    if any(amount and not 0 < float(amount) <= 100 for amount in (jitter, shift)):
        raise ConfigError(f"regime {name}: noise must be above 0 and at most 100 (percent of a side, or mm)")
    return replace(regime, name=name, jitter=float(jitter or 0), shift=float(shift or 0))
