"""The leaderboard as Markdown and CSV, from records and run.json alone. Needs no torch."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from samzoo.errors import DataError
from samzoo.evaluation.records import METRICS, ORDER_OF_AVERAGING, aggregate, file_name, read_records
from samzoo.writing import write_atomically


@dataclass(frozen=True)
class Row:
    """One entry after one step of one regime. None is undefined, or not measured.

    Args:
        effort_per_case: human actions, summed over the classes of a case, then averaged over cases.
        false_positives: number of (case, class) pairs where something was found of a class that is not there.
        oracle_classes, oracle_slices: what the regime was told that nobody would know; see `evaluation.records.Record`.
        ms_per_encode, ms_per_prompt: milliseconds for an image and for a prompt, mean over the whole test.
        base: pretrained weights that the method started from.
        dice_published: Dice as the method's own paper or code takes it; it ranks nothing.
        seen: whether `base` was trained on public training cases of this data set, which are then no unseen data.
    """

    entry: str
    method: str
    dataset: str
    regime: str
    step: int
    effort_per_case: float | None
    dice: float | None
    iou: float | None
    nsd_1mm: float | None
    nsd_2mm: float | None
    hd95_mm: float | None
    false_positives: int
    cases: int
    oracle_classes: bool
    oracle_slices: str
    parameters_total: int | None
    parameters_trained: int | None
    ms_per_encode: float | None
    ms_per_prompt: float | None
    training_seconds: float | None
    architecture: str
    base: str
    device: str
    dice_published: float | None = None
    seen: bool = False


def entry_rows(name: str, folder: Path) -> list[Row]:
    """The rows of one tested run.

    Raises:
        DataError: records.csv or run.json is missing or damaged.
    """
    records = read_records(folder / "records.csv")
    run = _read_json(folder / "run.json")
    means = {metric: aggregate(records, metric) for metric in ("effort", *METRICS)}
    cost, training, weights = run.get("cost") or {}, run.get("training") or {}, run.get("weights") or {}
    model = ((run.get("config") or {}).get("model") or {}).get("init_args") or {}
    rows = []
    for regime, step in sorted({(r.regime, r.step) for r in records}):
        own = [r for r in records if (r.regime, r.step) == (regime, step)]
        rows.append(
            Row(
                entry=name,
                method=own[0].method,
                dataset=own[0].dataset,
                regime=regime,
                step=step,
                effort_per_case=means["effort"][regime, step],
                **{metric: means[metric][regime, step] for metric in METRICS},
                false_positives=sum(r.false_positive for r in own),
                cases=len({r.case_id for r in own}),
                oracle_classes=any(r.oracle_classes for r in own),
                oracle_slices=", ".join(sorted({r.oracle_slices for r in own})),
                parameters_total=run.get("parameters_total"),
                parameters_trained=run.get("parameters_trained") if training else 0,
                ms_per_encode=cost.get("ms_per_encode"),
                ms_per_prompt=cost.get("ms_per_prompt"),
                training_seconds=training.get("training_seconds", 0.0),
                architecture=str(model.get("architecture") or ""),
                base=str(model.get("weights") or ("random" if run.get("parameters_total") else "")),
                device=str((run.get("device") or {}).get("type") or ""),
                dice_published=(run.get("published") or {}).get(regime, {}).get(str(step), {}).get("dice"),
                seen=bool(weights.get("seen_this", own[0].dataset in (weights.get("seen") or ()))),
            )
        )
    return rows


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold a JSON object")
    return content


def write_leaderboard(folder: Path, rows: Sequence[Row], missing: Sequence[str] = ()) -> None:
    """Write leaderboard.md and leaderboard.csv and a picture for each data set, each whole or not at all.

    Args:
        folder: where they go.
        rows: of all entries.
        missing: names of the entries that have no result yet.
    """
    from samzoo.leaderboard.figures import save_effort_figure

    write_atomically(folder / "leaderboard.csv", lambda file: file.write(_csv(rows)))
    for dataset in {r.dataset for r in rows}:
        save_effort_figure(folder / _figure(dataset), [r for r in rows if r.dataset == dataset], dataset)
    write_atomically(folder / "leaderboard.md", lambda file: file.write(_markdown(rows, missing)))


def _figure(dataset: str) -> str:
    return f"effort_{file_name(dataset)}.png"


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    shown = {"dice_published": _any_published(rows), "seen": any(r.seen for r in rows)}
    names = [f.name for f in fields(Row) if shown.get(f.name, True)]
    writer.writerow(names)
    for row in sorted(rows, key=lambda r: (r.dataset, r.regime, r.step, r.entry)):
        values = (getattr(row, name) for name in names)
        writer.writerow("" if v is None else int(v) if isinstance(v, bool) else _exact(v) for v in values)
    return text.getvalue()


def _exact(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _any_published(rows: Sequence[Row]) -> bool:
    return any(r.dice_published is not None for r in rows)


SEEN = "†"

SCORES = "regime|step|entry|method|effort/case|Dice|IoU|NSD@1mm|NSD@2mm|HD95 mm|false pos.|cases|oracle"
COSTS = "entry|method|architecture|base weights|parameters|trained|ms/encode|ms/prompt|training s|device"


def _markdown(rows: Sequence[Row], missing: Sequence[str]) -> str:
    lines = [
        "# Leaderboard",
        "",
        f"Made by `make leaderboard` from records alone. Scores on the native grid; {ORDER_OF_AVERAGING}.",
        "Within a regime and step, entries are ordered by Dice.",
        "",
        "- *effort/case*: human actions (a click is 1, a box 2), summed over the classes and slices of a case.",
        "- *false pos.*: pairs of case and class where something was found of a class that is not there (Dice 0).",
        "- *oracle*: what the regime was told that nobody would know: `classes` are those present in the case, `range`",
        "  the first and last slice of each, `each` every slice of each, `crop` where the middle of the structure is.",
    ]
    if published := _any_published(rows):
        lines.append("- *Dice as published*: as the method's own paper or code takes it; it ranks nothing.")
    if any(r.seen for r in rows):
        lines.append(f"- {SEEN} its base weights were trained on this data set's public training part: no unseen data.")
    lines.append("- A dash is undefined or not measured.")
    for dataset in sorted({r.dataset for r in rows}):
        own = [r for r in rows if r.dataset == dataset]
        lines += ["", f"## {dataset}", "", f"![Dice and NSD against effort]({_figure(dataset)})", ""]
        lines += _table(SCORES + "|Dice as published" * published)
        for row in sorted(own, key=lambda r: (r.regime, r.step, -(r.dice if r.dice is not None else -1), r.entry)):
            oracle = [*["classes"] * row.oracle_classes, *[row.oracle_slices] * (row.oracle_slices != "none")]
            cells = [
                row.regime,
                row.step,
                _marked(row, row.entry),
                row.method,
                _number(row.effort_per_case, 1),
                _number(row.dice, 3),
            ]
            cells += [_number(v, 3) for v in (row.iou, row.nsd_1mm, row.nsd_2mm)]
            cells += [_number(row.hd95_mm, 2), row.false_positives, row.cases, ", ".join(oracle) or "none"]
            lines.append(_line(cells + [_number(row.dice_published, 3)] * published))
        lines += ["", "What it costs:", "", *_table(COSTS)]
        for row in {r.entry: r for r in own}.values():
            base = _marked(row, row.base or "-")
            cells = [row.entry, row.method, row.architecture or "-", base, _number(row.parameters_total, 0)]
            cells += [_number(row.parameters_trained, 0), _number(row.ms_per_encode, 2), _number(row.ms_per_prompt, 2)]
            lines.append(_line([*cells, _number(row.training_seconds, 0), row.device or "-"]))
    if missing:
        lines += ["", "No result yet: " + ", ".join(missing) + "."]
    return "\n".join(lines) + "\n"


def _marked(row: Row, text: str) -> str:
    return f"{text} {SEEN}" if row.seen else text


def _table(header: str) -> list[str]:
    names = header.split("|")
    return [_line(names), _line(["---"] * len(names))]


def _line(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
