"""Prompts as JSON: what a test saves to be replayed, and what a user hands to `samzoo predict`. One form for both.

    {"format": "samzoo-prompts", "version": 1,
     "cases": {"case_07": {"box_clicks_3d": {"liver": [
        {"boxes": [[12, 30, 4, 90, 77, 19]], "clicks": [], "effort": 2},
        {"clicks": [[40, 52, 11, 1]]}]}}}}

case -> regime (any name in a user's file) -> class name -> steps. A step holds what it *adds*:

- `boxes`: x0, y0, z0, x1, y1, z1 in voxels of the case, the far corner one past the last voxel; several slices make a
  3D box. Pictures: x0, y0, x1, y1 will do.
- `clicks`: x, y, z, label with label 1 for the structure and 0 for what it is not. Pictures: x, y, label.
- `auto`: true asks the method for an answer of its own on every slice without box and clicks, from this step on. A
  class that is to be found without corrections takes `[{"auto": true}]`; classes that the file leaves out are empty.
- `focus`: a box like the others, an oracle's word on where the structure lies: methods on crops lay their first crop
  around its middle. In the first step only.
- `effort`: human actions that it cost; by default 2 for each box and 1 for each click.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samzoo.errors import DataError
from samzoo.prompts.regimes import BOX_EFFORT, CLICK_EFFORT
from samzoo.reading import load_json
from samzoo.types import Box, CasePrompt, Click

FORMAT = "samzoo-prompts"
VERSION = 1

CasePrompts = Mapping[str, Mapping[int, Sequence[CasePrompt]]]
"""regime -> class id -> the prompt after each step."""


@dataclass(frozen=True)
class PromptBook:
    """The content of a prompts file, its form checked; what depends on a case is checked when the case is asked for.

    Args:
        path: for messages.
        cases: case id -> regime -> class name -> steps as in the file.
    """

    path: Path
    cases: Mapping[str, Mapping[str, Mapping[str, list[dict[str, Any]]]]]

    def check_cases(self, known: Iterable[str]) -> None:
        """Raises DataError if the file speaks of a case that is not among `known`."""
        known = list(known)
        for case_id in self.cases:
            if case_id not in known:
                raise DataError(f"{self.path}: cases: unknown case {_near(case_id, known)}")

    def regime_of(self, case_id: str, regime: str | None = None) -> str:
        """The regime to use for a case: the given one, or the only one there is.

        Raises:
            DataError: the case is missing, or its regime is, or there are several to choose from.
        """
        if case_id not in self.cases:
            raise DataError(f"{self.path}: holds no prompts for case {_near(case_id, self.cases)}")
        regimes = self.cases[case_id]
        place = f"{self.path}: cases.{case_id}"
        if regime is None:
            if len(regimes) != 1:
                raise DataError(f"{place}: holds {len(regimes)} regimes ({', '.join(regimes)}); say which one to use")
            return next(iter(regimes))
        if regime not in regimes:
            raise DataError(f"{place}: holds no prompts of regime {_near(regime, regimes)}")
        return regime

    def steps(
        self, case_id: str, regime: str, class_names: Sequence[str], shape: tuple[int, int, int]
    ) -> dict[int, list[CasePrompt]]:
        """The prompts of one case and regime, by class id: what is known after each step.

        Args:
            class_names: in the order of class ids, from 1.
            shape: (D, H, W) of the case.

        Raises:
            DataError: unknown class; a box or click outside the image or without z in a volume.
        """
        regime = self.regime_of(case_id, regime)
        found: dict[int, list[CasePrompt]] = {}
        for name, steps in self.cases[case_id][regime].items():
            place = f"{self.path}: cases.{case_id}.{regime}"
            if name not in class_names:
                raise DataError(f"{place}: unknown class {_near(name, class_names)}")
            class_id = list(class_names).index(name) + 1
            known = CasePrompt(class_id)
            found[class_id] = []
            for i, step in enumerate(steps):
                here = f"{place}.{name}[{i}]"
                boxes = [_box(f"{here}.boxes[{j}]", v, shape) for j, v in enumerate(step.get("boxes", []))]
                clicks = [_click(f"{here}.clicks[{j}]", v, shape) for j, v in enumerate(step.get("clicks", []))]
                focus = known.focus
                if "focus" in step:
                    if i:
                        raise DataError(f"{here}.focus: belongs into the first step of a class")
                    focus = _box(f"{here}.focus", step["focus"], shape)
                effort = step.get("effort", BOX_EFFORT * len(boxes) + CLICK_EFFORT * len(clicks))
                known = CasePrompt(
                    class_id,
                    known.boxes + tuple(boxes),
                    known.clicks + tuple(clicks),
                    known.effort + effort,
                    known.automatic or step.get("auto", False),
                    focus,
                )
                found[class_id].append(known)
            if not (known.boxes or known.clicks or known.automatic or known.focus):
                raise DataError(f'{place}.{name}: holds neither a box nor a click, nor "auto": true')
        return dict(sorted(found.items()))


def load_prompts(path: str | Path) -> PromptBook:
    """Read a prompts file and check its form.

    Raises:
        DataError: missing or unreadable file, bad JSON, another format or version, a value of the wrong type; names
            the file and the place in it.
    """
    path = Path(path)
    try:
        content = load_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: prompts can't be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: is not valid JSON: {error}") from None
    place = str(path)
    _expect(place, content, dict, "an object")
    if content.get("format") != FORMAT:
        raise DataError(f'{path}: is not a prompts file: it must say "format": "{FORMAT}"')
    if content.get("version") != VERSION:
        raise DataError(
            f"{path}: has version {content.get('version')!r} of the prompts format; this samzoo reads {VERSION}"
        )
    _only(place, content, ("format", "version", "cases"))
    cases = _expect(f"{path}: cases", content.get("cases"), dict, "an object: case -> regime -> class -> steps")
    for case_id, regimes in cases.items():
        _expect(place := f"{path}: cases.{case_id}", regimes, dict, "an object: regime -> class -> steps")
        for regime, classes in regimes.items():
            _expect(f"{place}.{regime}", classes, dict, "an object: class -> steps")
            for name, steps in classes.items():
                _expect(here := f"{place}.{regime}.{name}", steps, list, "a list of steps")
                for i, step in enumerate(steps):
                    _check_step(f"{here}[{i}]", step)
    return PromptBook(path, cases)


def dump_prompts(cases: Mapping[str, CasePrompts], class_names: Sequence[str]) -> str:
    """The text of a prompts file, a line for each class.

    Args:
        cases: case id -> regime -> class id -> the prompt after each step; each prompt extends the one before it.
        class_names: in the order of class ids, from 1.
    """
    blocks = []
    for case_id in sorted(cases):
        regimes = []
        for regime, classes in sorted(cases[case_id].items()):
            lines = [
                f"    {json.dumps(class_names[k - 1])}: {json.dumps(_differences(prompts))}"
                for k, prompts in sorted(classes.items())
            ]
            regimes.append(f"   {json.dumps(regime)}: {{\n" + ",\n".join(lines) + "\n   }")
        blocks.append(f"  {json.dumps(case_id)}: {{\n" + ",\n".join(regimes) + "\n  }")
    body = ",\n".join(blocks)
    return f'{{\n "format": "{FORMAT}",\n "version": {VERSION},\n "cases": {{\n{body}\n }}\n}}\n'


def _differences(prompts: Sequence[CasePrompt]) -> list[dict[str, Any]]:
    steps, known = [], CasePrompt(0)
    for prompt in prompts:
        boxes, clicks = prompt.boxes[len(known.boxes) :], prompt.clicks[len(known.clicks) :]
        if (
            known.boxes + boxes != prompt.boxes
            or known.clicks + clicks != prompt.clicks
            or known.automatic > prompt.automatic
            or (steps and known.focus != prompt.focus)
        ):
            raise ValueError("each prompt must extend the one before it")
        step: dict[str, Any] = {"effort": prompt.effort - known.effort}
        if prompt.automatic and not known.automatic:
            step["auto"] = True
        if prompt.focus and not steps:
            step["focus"] = _corners(prompt.focus)
        if boxes:
            step["boxes"] = [_corners(b) for b in boxes]
        if clicks:
            step["clicks"] = [[c.x, c.y, c.z, int(c.positive)] for c in clicks]
        steps.append(step)
        known = prompt
    return steps


def _corners(b: Box) -> list[int]:
    return [b.x0, b.y0, b.z0, b.x1, b.y1, b.z1]


def _expect(place: str, value: Any, kind: type, words: str) -> Any:
    if not isinstance(value, kind):
        raise DataError(f"{place}: must be {words}, got {json.dumps(value)[:60]}")
    return value


def _only(place: str, value: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in value:
        if name not in names:
            raise DataError(f"{place}: unknown entry {_near(name, names)}")


def _check_step(place: str, step: Any) -> None:
    _expect(place, step, dict, "an object with boxes and clicks")
    _only(place, step, ("boxes", "clicks", "auto", "focus", "effort"))
    _expect(f"{place}.auto", step.get("auto", False), bool, "true or false")
    for key, lengths, words in (
        ("boxes", (4, 6), "whole numbers x0, y0, z0, x1, y1, z1"),
        ("clicks", (3, 4), "whole numbers x, y, z, label"),
    ):
        for i, entry in enumerate(_expect(f"{place}.{key}", step.get(key, []), list, "a list")):
            _check_numbers(f"{place}.{key}[{i}]", entry, lengths, words)
            if key == "clicks" and entry[-1] not in (0, 1):
                raise DataError(f"{place}.{key}[{i}]: label must be 1 (the structure) or 0 (not), got {entry[-1]}")
    if "focus" in step:
        _check_numbers(f"{place}.focus", step["focus"], (4, 6), "whole numbers x0, y0, z0, x1, y1, z1")
    effort = step.get("effort", 0)
    if not isinstance(effort, int) or isinstance(effort, bool) or effort < 0:
        raise DataError(f"{place}.effort: must be a whole number from 0, got {json.dumps(effort)[:60]}")


def _check_numbers(place: str, entry: Any, lengths: tuple[int, ...], words: str) -> None:
    numbers = isinstance(entry, list) and all(isinstance(v, int) and not isinstance(v, bool) for v in entry)
    if not numbers or len(entry) not in lengths:
        raise DataError(f"{place}: must be {words}, got {json.dumps(entry)[:60]}")


def _box(place: str, v: list[int], shape: tuple[int, int, int]) -> Box:
    depth, height, width = shape
    if len(v) == 4:
        _need_picture(place, depth, "x0, y0, z0, x1, y1, z1")
        v = [v[0], v[1], 0, v[2], v[3], 1]
    x0, y0, z0, x1, y1, z1 = v
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height and 0 <= z0 < z1 <= depth):
        raise DataError(
            f"{place}: box {v} (x0, y0, z0, x1, y1, z1) is empty or leaves the image of {width} x {height} x {depth}"
        )
    return Box(z0, y0, x0, z1, y1, x1)


def _click(place: str, v: list[int], shape: tuple[int, int, int]) -> Click:
    depth, height, width = shape
    if len(v) == 3:
        _need_picture(place, depth, "x, y, z, label")
        v = [v[0], v[1], 0, v[2]]
    x, y, z, label = v
    if not (0 <= x < width and 0 <= y < height and 0 <= z < depth):
        raise DataError(
            f"{place}: click {v[:3]} (x, y, z) lies outside the image of {width} x {height} x {depth} voxels"
        )
    return Click(z, y, x, label == 1)


def _need_picture(place: str, depth: int, words: str) -> None:
    if depth > 1:
        raise DataError(f"{place}: the case has {depth} slices, so all of {words} are needed")


def _near(name: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    listed = near or known[:8]
    return f"{name!r}; {'did you mean' if near else 'known are'} {', '.join(listed) or '(none)'}{'?' if near else ''}"
