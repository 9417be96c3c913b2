"""Cases to look at, with the prompts that were given, and their replay step by step. Needs no torch.

Drawn from slices/ and prompts.json of the run folders; a run without slices has no pictures.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from samzoo.evaluation.records import file_name
from samzoo.leaderboard.board import Entry, Finding, Section, TestedRun
from samzoo.leaderboard.figures_style import heading, section_stem, stem
from samzoo.leaderboard.overlays_draw import Panel, draw_strip
from samzoo.reading import load_json
from samzoo.writing import write_atomically

MAX_FILES = 40
"""Of a section: all cases to look at come first, then replays as long as there is room."""
SHOWN_DISAGREEMENTS = 3
MAX_SLICE_BYTES = 2**28
"""Of a file in slices/, unpacked."""


@dataclass(frozen=True)
class Overlay:
    """A saved picture of cases, or their replay.

    Args:
        file: relative to the leaderboard's folder; of a replay, its last frame.
        frames: files of a replay, one for each step; empty if there is nothing to replay.
        alt: what is seen, in words and with the main numbers.
        steps: of a replay, (regime and step, what is seen) of each frame.
    """

    name: str
    file: str
    frames: tuple[str, ...]
    title: str
    alt: str
    caption: str
    steps: tuple[tuple[str, str], ...] = ()


def save_overlays(folder: Path, section: Section) -> tuple[list[Overlay], list[str]]:
    """Write each entry's worst cases, those on which entries disagree most, and replays of both under folder/figures.

    Returns:
        What was drawn, and which files of slices or prompts could not be used, and why: pictures do without them.

    Raises:
        DataError: a picture can't be written.
    """
    source, start = _Source(section), f"figures/{section_stem(section)}"
    saved: list[Overlay] = []
    worst: dict[str, list[Finding]] = {}
    apart: dict[str, list[Finding]] = {}
    for finding in section.findings:
        if finding.kind == "worst":
            worst.setdefault(finding.entries[0], []).append(finding)
        else:
            apart.setdefault(finding.regime, []).append(finding)
    for regime, findings in apart.items():
        for i, f in enumerate(findings[:SHOWN_DISAGREEMENTS], start=1):
            shots = [(section.entry(name), f.case_id, regime, f.step) for name in f.entries]
            name, title = f"disagreement_{stem(regime)}_{i}", f"Entries disagree on {f.case_id}"
            saved += source.still(folder, f"{start}_{name}.png", name, title, heading(regime, f.step), shots)
    for entry, findings in worst.items():
        shots = [(section.entry(entry), f.case_id, f.regime, f.step) for f in findings]
        name, title = f"worst_{stem(entry)}", f"Worst cases of {entry}"
        saved += source.still(folder, f"{start}_{name}.png", name, title, _heading(findings), shots)
    room = MAX_FILES - len(saved)
    for name, title, case_id, entries in _replays(section, worst, apart):
        overlay = source.replay(folder, f"{start}_{name}", name, title, case_id, entries, room)
        room -= sum(len(o.frames) for o in overlay)
        saved += overlay
    return saved, list(dict.fromkeys(source.damage))


def _heading(findings: Sequence[Finding]) -> str:
    return ", ".join(dict.fromkeys(heading(f.regime, f.step) for f in findings))


def _replays(
    section: Section, worst: Mapping[str, Sequence[Finding]], apart: Mapping[str, Sequence[Finding]]
) -> Iterable[tuple[str, str, str, list[Entry]]]:
    """Name, title, case and entries: the largest disagreement between prompted entries, then the worst of each."""
    efforts = {r.entry for r in section.rows if r.effort}
    between = [f for fs in apart.values() for f in fs if len(efforts.intersection(f.entries)) > 1]
    if between:
        f = max(between, key=lambda f: max(f.dice.values()) - min(f.dice.values()))
        entries = [section.entry(n) for n in f.entries if n in efforts]
        yield "replay", f"Prompts on {f.case_id}, where entries disagree most", f.case_id, entries
    for name, findings in worst.items():
        if name in efforts:
            case_id = findings[0].case_id
            yield f"replay_{stem(name)}", f"Prompts of {name} on its worst case", case_id, [section.entry(name)]


@dataclass
class _Source:
    """Reads slices and prompts of a section's runs, each file once.

    Args:
        damage: which files could not be used, and why.
    """

    section: Section
    damage: list[str] = field(default_factory=list)
    _slices: dict[tuple[Path, str], dict[str, np.ndarray]] = field(default_factory=dict)
    _prompts: dict[Path, Mapping[str, Any]] = field(default_factory=dict)

    def still(self, folder: Path, file: str, name: str, title: str, when: str, shots: Sequence[tuple]) -> list[Overlay]:
        """One picture, a panel for each (entry, case, regime, step) that has a slice; none if they don't suffice."""
        own = [shot for shot in shots if self._run(*shot)]
        if len({entry.name for entry, *_ in own}) < min(2, len({entry.name for entry, *_ in shots})):
            return []  # a single entry does not disagree
        words = self._draw(folder / file, own, when)
        return [Overlay(name, file, (), title, f"{title}, {when}. {words}", f"{when}. {words}")]

    def replay(
        self, folder: Path, start: str, name: str, title: str, case_id: str, entries: Sequence[Entry], room: int
    ) -> list[Overlay]:
        """A picture for each step of the regime that most of the entries share, of those with most steps."""
        steps: dict[str, dict[int, list[Entry]]] = {}
        for regime, step in sorted({(r.regime, r.step) for r in self.section.rows if not r.noisy}):
            if own := [e for e in entries if self._run(e, case_id, regime, step)]:
                steps.setdefault(regime, {})[step] = own
        steps = {regime: own for regime, own in steps.items() if len(own) > 1}
        if not steps:
            return []
        regime = max(steps, key=lambda r: (max(len(e) for e in steps[r].values()), len(steps[r])))
        if len(steps[regime]) > room:
            return []
        frames, words = [], []
        for step, own in steps[regime].items():
            frames.append(f"{start}_{step}.png")
            when = f"{regime}, step {step}"
            words.append((when, self._draw(folder / frames[-1], [(e, case_id, regime, step) for e in own], when)))
        caption = f"{case_id} in {regime}, a picture for each of {len(frames)} steps."
        alt = f"{title}: {case_id} in {regime}. At the last step: {words[-1][1]}"
        return [Overlay(name, frames[-1], tuple(frames), title, alt, caption, tuple(words))]

    def _run(self, entry: Entry, case_id: str, regime: str, step: int) -> TestedRun | None:
        """The first seed that has this answer."""
        return next((r for r in entry.runs if f"{regime}/{step}" in self._slice(r, case_id)), None)

    def _draw(self, path: Path, shots: Sequence[tuple[Entry, str, str, int]], when: str) -> str:
        """Draw panels; returns in words which slices, cases and Dice they show."""
        panels, words = [], []
        several = len({entry.name for entry, *_ in shots}) > 1
        for entry, case_id, regime, step in shots:
            run = self._run(entry, case_id, regime, step)
            arrays = self._slice(run, case_id)
            z, depth = int(arrays["z"]), int(arrays["shape"][0])
            boxes, clicks, elsewhere = self._marks(run, case_id, regime, step)
            _, height, width = arrays["spacing"].tolist()
            dice = _dice(run, case_id, regime, step)
            score = ("undefined" if dice is None else f"{dice:.3f}") + f" (seed {run.seed})" * (len(entry.runs) > 1)
            label = entry.name if several else case_id
            image, truth, answer = arrays["image"], arrays["truth"], arrays[f"{regime}/{step}"]
            panels.append(Panel(label, image, truth, answer, height / width, boxes, clicks, score))
            place = f"slice {z + 1} of {depth}" + f", {elsewhere} prompts on other slices" * bool(elsewhere)
            words.append(f"{label}: Dice of the case {score} ({place})")
        cases = ", ".join(dict.fromkeys(shot[1] for shot in shots))
        head = f"{cases if several else shots[0][0].name}: {when}; Dice of the case"
        picture = draw_strip(panels, self._classes(), head)
        write_atomically(path, lambda file: file.write(picture), "wb")
        return "; ".join(words) + "."

    def _classes(self) -> dict[int, str]:
        return {r.class_id: r.class_name for e in self.section.entries for r in e.runs[0].records[:500]}

    def _slice(self, run: TestedRun, case_id: str) -> dict[str, np.ndarray]:
        path = run.folder / "slices" / f"{file_name(case_id)}.npz"
        if (path, case_id) not in self._slices:
            try:
                found = _read_slice(path, case_id) if path.is_file() else {}
            except UNREADABLE as error:
                self._damaged(run, f"its slice of case {case_id} is not drawn", error)
                found = {}
            self._slices[path, case_id] = found
        return self._slices[path, case_id]

    def _damaged(self, run: TestedRun, what: str, error: Exception) -> None:
        seed = "" if run.seed is None else f", seed {run.seed}"
        why = str(error) if type(error) is ValueError else "damaged"  # others may hold a path of this machine
        self.damage.append(f"{run.entry}{seed}: {what}, its file can't be used: {why}.")

    def _marks(self, run: TestedRun, case_id: str, regime: str, step: int) -> tuple[tuple, tuple, int]:
        """Boxes and clicks up to a step on the slice that is shown, in its pixels, and the number of other prompts."""
        path = run.folder / "prompts.json"
        if path not in self._prompts:
            try:
                self._prompts[path] = _read_prompts(path) if path.is_file() else {}
            except UNREADABLE as error:
                self._damaged(run, "its prompts are not drawn", error)
                self._prompts[path] = {}
        arrays = self._slice(run, case_id)
        z, factor = int(arrays["z"]), int(arrays.get("factor", 1))
        first = min(r.step for r in run.records if r.regime == regime)
        ids = {r.class_name: r.class_id for r in run.records if r.case_id == case_id}
        boxes, clicks, elsewhere = [], [], 0
        try:
            for name, steps in self._prompts[path].get(case_id, {}).get(regime, {}).items():
                for i, given in enumerate(steps[: step - first + 1]):
                    for box in given.get("boxes", ()):
                        x0, y0, z0, x1, y1, z1 = _numbers(box if len(box) == 6 else (*box[:2], 0, *box[2:], 1))
                        here = z0 <= z < z1
                        elsewhere += not here
                        boxes += [(x0 / factor, y0 / factor, x1 / factor, y1 / factor, ids[name])] * here
                    for click in given.get("clicks", ()):
                        x, y, at, label = _numbers(click if len(click) == 4 else (*click[:2], 0, click[2]))
                        elsewhere += at != z
                        clicks += [(x / factor, y / factor, bool(label), ids[name], first + i)] * (at == z)
        except UNREADABLE as error:
            self._damaged(run, f"its prompts of case {case_id} in {regime} are not drawn", error)
            return (), (), 0
        return tuple(boxes), tuple(clicks), elsewhere


def _dice(run: TestedRun, case_id: str, regime: str, step: int) -> float | None:
    own = [r.dice for r in run.records if (r.case_id, r.regime, r.step) == (case_id, regime, step)]
    return fmean(v) if (v := [d for d in own if d is not None]) else None


def _numbers(given: Sequence[float]) -> Sequence[float]:
    if not all(abs(v) < 1e6 for v in given):
        raise ValueError("its places must be numbers within the image")
    return given


UNREADABLE = (
    *(OSError, EOFError, MemoryError, RecursionError, ArithmeticError, NotImplementedError),
    *(AttributeError, IndexError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error),
)
"""What reading a file of somebody else can raise."""


def _read_slice(path: Path, case_id: str) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as file:
        if sum(member.file_size for member in file.infolist()) > MAX_SLICE_BYTES:
            raise ValueError("it is too large")
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    if str(arrays.get("case_id", case_id)) != case_id:
        raise ValueError(f"it is of case {arrays['case_id']}")
    shape = arrays["truth"].shape
    planes = [a for name, a in arrays.items() if name in ("image", "truth") or "/" in name]
    if len(shape) != 2 or 0 in shape or any(a.shape[:2] != shape or a.dtype != np.uint8 for a in planes):
        raise ValueError("image, truth and answers must be uint8 and of one size")
    if arrays["image"].shape not in (shape, (*shape, 3)) or any(a.ndim != 2 for n, a in arrays.items() if "/" in n):
        raise ValueError("the image must be grey or RGB, answers of class ids")
    spacing = arrays["spacing"]
    if arrays["shape"].shape != (3,) or spacing.shape != (3,) or not ((spacing > 0) & (spacing < 1e6)).all():
        raise ValueError("shape and spacing must be three numbers each, in mm more than 0")
    numbers = arrays["z"], arrays["shape"], arrays.get("factor", np.array(1))
    if any(n.dtype.kind not in "ui" for n in numbers):
        raise ValueError("z, shape and factor must be whole numbers")
    if not 0 <= int(arrays["z"]) < arrays["shape"][0] or int(numbers[2]) < 1:
        raise ValueError("z must be a slice of the case, factor at least 1")
    if any(-(-int(side) // int(numbers[2])) != n for side, n in zip(arrays["shape"][1:], shape, strict=True)):
        raise ValueError("its size is not that of the case")
    return arrays


def _read_prompts(path: Path) -> Mapping[str, Any]:
    """case -> regime -> class name -> steps, in the form that `samzoo.prompts.io` describes."""
    content = load_json(path.read_text(encoding="utf-8"), constants=True)
    if (content.get("format"), content.get("version")) != ("samzoo-prompts", 1):
        raise ValueError("it is not a prompts file of version 1")
    return {case: dict(regimes) for case, regimes in content["cases"].items()}
