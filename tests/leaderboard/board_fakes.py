"""A made-up board: ten entries, four regimes and their noisy variants, thirty patients; numbers follow simple rules.

With a folder, run folders with records.csv, run.json, prompts.json and slices/ of the findings' cases are written.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from statistics import fmean

import numpy as np

from samzoo.evaluation.records import Record, write_records
from samzoo.leaderboard.board import (
    Board,
    BreakEven,
    Comparison,
    Cost,
    Entry,
    Estimate,
    Finding,
    Missing,
    Ranking,
    Robustness,
    Row,
    Section,
    Stratum,
    TestedRun,
)

CLASSES = ("liver", "spleen", "kidney")
STEPS = {"auto": (0,), "box_3d": (0,), "clicks_3d": (1, 2, 3, 4, 5), "box_clicks_3d": (0, 1, 2, 3, 4, 5)}
NOISY = {"box_3d_jitter10": 0.95, "box_3d_jitter20": 0.85, "clicks_3d_shift4mm": 0.9}
PROMPTED = ("box_3d", "clicks_3d", "box_clicks_3d")
# name: method, skill, regimes, trained parameters, parameters, GFLOP of an encoding, ms per case, seeds
ENTRIES = {
    "box_ellipse": ("BoxEllipse", 0.72, ("box_3d",), 0, 0, None, 4.0, 1),
    "sam": ("SAM", 0.60, PROMPTED, 0, 93_735_472, 371.0, 5200.0, 1),
    "sam_med2d": ("SAM-Med2D", 0.80, PROMPTED, 18_300_000, 271_000_000, 97.0, 2100.0, 1),
    "promise": ("ProMISe", 0.70, ("auto", *PROMPTED), 4_100_000, 97_800_000, 380.0, 5600.0, 1),
    "unet": ("UNet", 0.83, ("auto",), 31_200_000, 31_200_000, 410.0, 900.0, 3),
    "masksam": ("MaskSAM", 0.78, ("auto",), 29_000_000, 122_000_000, 455.0, 6400.0, 1),
    "masksam_fixed": ("MaskSAM", 0.81, ("auto",), 29_000_000, 122_000_000, 455.0, 6450.0, 1),
    "sam_med3d": ("SAM-Med3D", 0.76, PROMPTED, 100_500_000, 100_500_000, 88.0, 700.0, 1),
    "m_sam": ("M-SAM", 0.84, PROMPTED, 7_600_000, 108_000_000, 95.0, 1200.0, 1),
    "m_sam_fixed": ("M-SAM", 0.87, PROMPTED, 7_600_000, 108_000_000, 95.0, 1250.0, 2),
}
COMPARED = ("auto", "box_3d")
SHAPE, SPACING = (12, 72, 96), (5.0, 1.2, 0.9)


def fake_section(folder: Path | None = None, dataset: str = "phantom", patients: int = 30) -> Section:
    """A section; with a folder also its run folders, `<folder>/<dataset>/<entry>-seed<N>`."""
    few = patients < 6
    entries = tuple(_entry(name, folder, dataset, patients) for name in ENTRIES)
    rows = tuple(sorted((r for e in entries for r in _rows(e, few)), key=lambda r: (r.regime, r.step, -r.dice.mean)))
    rankings = tuple(_ranking(regime, entries, few) for regime in STEPS)
    section = Section(
        title=dataset,
        dataset=dataset,
        signature="0123456789abcdef",
        cases=patients,
        patients=patients,
        classes=CLASSES,
        entries=entries,
        rows=tuple(r for r in rows if r.regime in STEPS),
        rankings=rankings,
        break_even=_break_even(rows),
        strata=_strata(entries),
        robustness=_robustness(rows),
        findings=_findings(entries),
        notes=("4 patients are too few for intervals and tests.",) if few else (),
        main_regimes={e.name: e.cost.regime for e in entries},
        best_automatic=next(r.entries[0] for r in rankings if r.regime == "auto"),
        automatic_regimes=("auto",),
        compared=COMPARED,
    )
    if folder is not None:
        for entry in entries:
            for run in entry.runs:
                _write_run(run, section.findings)
    return section


def fake_board(folder: Path | None = None) -> Board:
    """A data set with thirty patients, one with four (neither intervals nor tests), and two cells without result."""
    missing = (Missing("sam_huge", "CUDA out of memory"), Missing("masksam_3d", "not run yet"))
    return Board((fake_section(folder), fake_section(folder, "tiny", 4)), missing)


def _case(i: int) -> str:
    return f"case_{i:02d}"


def _rng(*words) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32("/".join(map(str, words)).encode()))


@cache
def _draw(*words) -> float:
    return float(_rng(*words).random())


def _record(name: str, dataset: str, i: int, k: int, regime: str, step: int, seed: int) -> Record:
    method, skill, _, _, _, _, ms, _ = ENTRIES[name]
    base = next(r for r in sorted(STEPS, key=len, reverse=True) if regime.startswith(r))
    volume = int(2000 * (1 + 3 * _draw("volume", i, k)) / k)
    hard = 0.4 + 1.2 * _draw("hard", i, k) + 3 * (i == 3) + 0.3 * k
    wrong = (1 - skill) * hard * 0.87**step * (1.25 if base == "clicks_3d" else 1)
    wrong += 0.14 * (_draw(name, i, k, seed) - 0.5) + 0.35 * (_draw(name, i) > 0.95)
    dice = float(np.clip((1 - wrong) * NOISY.get(regime, 1), 0, 0.99))
    held = not (k == 3 and i % 7 == 0)
    tp = round(volume * dice) if held else 0
    effort = {"auto": 0, "box_3d": 2, "clicks_3d": step, "box_clicks_3d": 2 + step}[base] if held else 0
    false = 0 if held or base != "auto" or i else 40
    return Record(
        dataset=dataset,
        method=method,
        case_id=_case(i),
        patient=f"p{i:02d}",
        class_id=k,
        class_name=CLASSES[k - 1],
        regime=regime,
        step=step,
        effort=effort,
        oracle_classes=base != "auto",
        oracle_slices={"auto": "none", "clicks_3d": "none"}.get(base, "range"),
        tp=tp,
        fp=volume - tp if held else false,
        fn=volume - tp if held else 0,
        dice=dice if held else 0.0 if false else None,
        iou=dice / (2 - dice) if held else None,
        nsd_1mm=dice**1.6 if held else None,
        nsd_2mm=dice**1.2 if held else None,
        hd95_mm=40 * (1 - dice) if held and dice > 0 else None,
        encode_seconds=ms / 2000,
        decode_seconds=ms / 4000,
        voxel_mm3=float(np.prod(SPACING)),
    )


def _entry(name: str, folder: Path | None, dataset: str, patients: int) -> Entry:
    method, _, regimes, trained, parameters, gflop, ms, seeds = ENTRIES[name]
    noisy = [n for n in NOISY if any(n.startswith(r) and n.split("_")[0] == r.split("_")[0] for r in regimes)]
    todo = [(r, s) for r in regimes for s in STEPS[r]] + [
        (n, s) for n in noisy for s in STEPS[n.rsplit("_", 1)[0]][-1:]
    ]
    runs = []
    for seed in range(seeds):
        records = tuple(
            sorted(
                (
                    _record(name, dataset, i, k, regime, step, seed)
                    for i in range(patients)
                    for k in range(1, len(CLASSES) + 1)
                    for regime, step in todo
                ),
                key=lambda r: r.sort_key,
            )
        )
        info = {
            "samzoo": "0.1.0",
            "dataset_signature": "0123456789abcdef",
            "test_signature": "fedcba9876543210",
            "parameters_total": parameters,
            "parameters_trained": trained,
            "training": {"training_seconds": 3600.0 + 60 * seed} if trained else None,
            "seed_everything": seed if trained else None,
        }
        place = (folder or Path("runs")) / dataset / f"{name}-seed{seed}"
        runs.append(TestedRun(name, seed if trained else None, place, records, info))
    cost = Cost(
        parameters=parameters,
        trained=trained,
        gflop_encode=gflop,
        gflop_prompt=None if gflop is None or regimes == ("auto",) else 3.1,
        training_seconds=trained / 1e4 if trained else 0.0,
        ms_per_encode=ms / 12,
        ms_per_prompt=None if regimes == ("auto",) else ms / 60,
        ms_per_case=ms,
        peak_memory_bytes=None if gflop is None else int(gflop * 1e7),
        training_memory_bytes=int(gflop * 6e7) if trained and gflop else None,
        device="cuda" if gflop else "cpu",
        regime="auto" if "auto" in regimes else "box_3d",
        encodings_per_case=SHAPE[0] if gflop else None,
        gflop_per_case=gflop and SHAPE[0] * gflop,
    )
    costs = {r: replace(cost, regime=r, ms_per_case=ms * (1 if r == "auto" else 1.5)) for r in COMPARED if r in regimes}
    base = "" if gflop is None else "random" if name == "unet" else "sam_vit_b"
    seen, automatic = name == "sam_med3d", "auto" in regimes
    return Entry(name, method, "vit_b" if base else "", base, seen, automatic, cost, tuple(runs), costs)


def _case_means(records, metric: str) -> dict[str, float]:
    cases: dict[str, list[float]] = {}
    for r in records:
        if (value := getattr(r, metric)) is not None:
            cases.setdefault(r.case_id, []).append(value)
    return {case: fmean(values) for case, values in cases.items()}


def _own(entry: Entry, regime: str, step: int) -> list[Record]:
    return [r for run in entry.runs for r in run.records if (r.regime, r.step) == (regime, step)]


def _estimate(values, few: bool) -> Estimate:
    mean, half = fmean(values), 1.96 * float(np.std(values)) / len(values) ** 0.5
    return Estimate(mean, None if few else mean - half, None if few else mean + half)


def _rows(entry: Entry, few: bool) -> list[Row]:
    rows = []
    pairs = sorted({(r.regime, r.step) for r in entry.runs[0].records})
    for regime, step in pairs:
        own = _own(entry, regime, step)
        estimates = {
            m: _estimate(list(_case_means(own, m).values()), few) for m in ("dice", "iou", "nsd_1mm", "nsd_2mm")
        }
        cases = len({r.case_id for r in own})
        by_seed = [fmean([r.dice for r in run.records if r.dice is not None]) for run in entry.runs]
        rows.append(
            Row(
                entry=entry.name,
                method=entry.method,
                regime=regime,
                step=step,
                last=step == max(s for r, s in pairs if r == regime),
                effort=sum(r.effort for r in own) / cases / len(entry.runs),
                oracle="" if regime == "auto" else "classes" + ", range" * ("box" in regime),
                hd95_mm=_estimate(list(_case_means(own, "hd95_mm").values()), few),
                false_positives=sum(r.false_positive for r in own) // len(entry.runs),
                cases=cases,
                patients=cases,
                seeds=len(entry.runs),
                seed_sd=float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else None,
                by_class={
                    name: fmean([r.dice for r in own if r.class_name == name and r.dice is not None])
                    for name in CLASSES
                },
                dice_published=0.81 if entry.name == "sam_med2d" and regime == "box_3d" else None,
                **estimates,
            )
        )
    return rows


def _ranking(regime: str, entries: tuple[Entry, ...], few: bool) -> Ranking:
    step = STEPS[regime][-1]
    scores = {e.name: _case_means(own, "dice") for e in entries if (own := _own(e, regime, step))}
    names = sorted(scores, key=lambda n: -fmean(scores[n].values()))
    if few:
        return Ranking(regime, step, tuple(names), {}, (), "4 patients: neither intervals nor tests below 6.")
    matrix = np.array([list(scores[n].values()) for n in names])
    drawn = _rng(regime).integers(matrix.shape[1], size=(500, matrix.shape[1]))
    order = np.argsort(np.argsort(-matrix[:, drawn].mean(2), axis=0), axis=0)
    shares = {n: tuple(float((order[i] == k).mean()) for k in range(len(names))) for i, n in enumerate(names)}
    comparisons = []
    for first, second in combinations(names, 2):
        difference = _estimate([scores[first][c] - scores[second][c] for c in scores[first]], False)
        p = float(np.exp(-60 * abs(difference.mean)))
        comparisons.append(Comparison(first, second, difference, p, min(1.0, 3 * p), matrix.shape[1]))
    return Ranking(regime, step, tuple(names), shares, tuple(comparisons))


def _break_even(rows: tuple[Row, ...]) -> tuple[BreakEven, ...]:
    found = []
    for metric in ("dice", "nsd_2mm"):
        best = max((r for r in rows if r.regime == "auto"), key=lambda r: getattr(r, metric).mean)
        value = getattr(best, metric).mean
        for name, regime in sorted({(r.entry, r.regime) for r in rows if r.regime in PROMPTED}):
            curve = sorted((r.effort, getattr(r, metric).mean) for r in rows if (r.entry, r.regime) == (name, regime))
            effort = curve[0][0] if curve[0][1] >= value else None
            for (a, u), (b, v) in pairwise(curve):
                if effort is None and v >= value:
                    effort = a + (b - a) * (value - u) / (v - u)
            found.append(BreakEven(name, regime, metric, best.entry, value, effort))
    return tuple(found)


def _strata(entries: tuple[Entry, ...]) -> tuple[Stratum, ...]:
    limits = (0.0, 8.5, 17.0, 44.0)
    strata = []
    for entry in entries:
        regime = "auto" if entry.automatic else "box_3d"
        objects = [(r.tp + r.fn, r.dice) for r in _own(entry, regime, 0) if r.tp + r.fn]
        for low, high in pairwise(limits):
            own = [dice for voxels, dice in objects if low <= voxels * 0.0054 < high]
            strata.append(Stratum(entry.name, regime, low, high, fmean(own) if own else None, len(own)))
    return tuple(strata)


def _robustness(rows: tuple[Row, ...]) -> tuple[Robustness, ...]:
    dice = {(r.entry, r.regime): r.dice.mean for r in rows if r.last}
    found = []
    for name in ENTRIES:
        if (name, "box_3d_jitter10") in dice:
            regimes = {0.0: "box_3d", 10.0: "box_3d_jitter10", 20.0: "box_3d_jitter20"}
            points = tuple((amount, dice[name, regime]) for amount, regime in regimes.items())
            found.append(Robustness(name, "box_3d", "jitter", points))
        if (name, "clicks_3d_shift4mm") in dice:
            points = ((0.0, dice[name, "clicks_3d"]), (4.0, dice[name, "clicks_3d_shift4mm"]))
            found.append(Robustness(name, "clicks_3d", "shift", points))
    return tuple(found)


def _findings(entries: tuple[Entry, ...]) -> tuple[Finding, ...]:
    found = []
    for entry in entries:
        regime = "auto" if entry.automatic else "box_3d" if entry.name == "box_ellipse" else "box_clicks_3d"
        step = STEPS[regime][-1]
        cases = _case_means(_own(entry, regime, step), "dice")
        for case in sorted(cases, key=lambda c: cases[c])[:3]:
            found.append(Finding("worst", case, regime, step, (entry.name,), {entry.name: cases[case]}))
    for regime in ("auto", "box_clicks_3d"):
        step = STEPS[regime][-1]
        scores = {e.name: _case_means(own, "dice") for e in entries if (own := _own(e, regime, step))}
        spread = {c: max(s[c] for s in scores.values()) - min(s[c] for s in scores.values()) for c in scores["promise"]}
        for case in sorted(spread, key=lambda c: -spread[c])[:5]:
            dice = {name: s[case] for name, s in scores.items()}
            found.append(Finding("disagreement", case, regime, step, tuple(dice), dice))
    return tuple(found)


def fake_truth(case_id: str) -> np.ndarray:
    """uint8 (H, W): three ellipses, and a strip that is ignored."""
    rng = _rng("truth", case_id)
    y, x = np.mgrid[: SHAPE[1], : SHAPE[2]]
    truth = np.zeros(SHAPE[1:], np.uint8)
    for k, (cy, cx, ry, rx) in enumerate(((34, 30, 18, 20), (24, 70, 11, 9), (54, 68, 8, 11)), start=1):
        cy, cx = cy + rng.integers(-3, 4), cx + rng.integers(-3, 4)
        truth[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1] = k
    truth[-3:] = 255
    return truth


def _write_run(run: TestedRun, findings: tuple[Finding, ...]) -> None:
    write_records(run.folder / "records.csv", run.records)
    (run.folder / "run.json").write_text(json.dumps(run.info))
    prompts: dict = {}
    (run.folder / "slices").mkdir()
    for case_id in sorted({f.case_id for f in findings}):
        truth = fake_truth(case_id)
        own = [r for r in run.records if r.case_id == case_id]
        noise = _rng("image", case_id).normal(0, 9, truth.shape)
        grey = 60 + np.array([0, 60, 110, 85])[np.where(truth == 255, 0, truth)] + noise
        arrays: dict = {"image": grey.clip(0, 255).astype(np.uint8), "truth": truth, "z": 5}
        arrays |= {"shape": np.array(SHAPE), "spacing": np.array(SPACING), "factor": 1}
        for r in own:
            answer = arrays.setdefault(f"{r.regime}/{r.step}", np.zeros_like(truth))
            shift = round(14 * (1 - (r.dice or 0)))
            answer[np.roll(truth, (shift // 2, shift), (0, 1)) == r.class_id] = r.class_id
        np.savez_compressed(run.folder / "slices" / f"{case_id}.npz", **arrays)
        prompts[case_id] = {
            regime: {name: _steps(truth == k, regime) for k, name in enumerate(CLASSES, start=1)}
            for regime in sorted({r.regime for r in own} - {"auto"})
        }
    text = {"format": "samzoo-prompts", "version": 1, "cases": {c: p for c, p in prompts.items() if p}}
    if text["cases"]:
        (run.folder / "prompts.json").write_text(json.dumps(text))


def _steps(mask: np.ndarray, regime: str) -> list[dict]:
    y, x = (v.tolist() for v in np.nonzero(mask))
    steps: list[dict] = []
    if "box" in regime:
        steps.append({"effort": 2, "boxes": [[min(x), min(y), 3, max(x) + 1, max(y) + 1, 8]]})
    if "clicks" in regime:
        for i in range(5):
            place = (len(x) * (2 * i + 1)) // 10
            outside = i == 3
            click = [max(x) + 4 if outside else x[place], y[place], 5 if i != 2 else 6, int(not outside)]
            steps.append({"effort": 1, "clicks": [click]})
    return steps
