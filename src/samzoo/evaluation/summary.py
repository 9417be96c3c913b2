"""Records as a table to read. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from samzoo.evaluation.records import ORDER_OF_AVERAGING, Record, aggregate, area_under_clicks

SHOWN = {"dice": "Dice", "nsd_1mm": "NSD@1mm", "nsd_2mm": "NSD@2mm", "hd95_mm": "HD95 mm", "effort": "effort/case"}


def summary(records: Sequence[Record]) -> str:
    """A row for each regime and step, the areas under the click steps, and how means were taken.

    Where case ids say which set a case comes from ("Kvasir/abc"), each set gets a line of its own, too.
    """
    means = {metric: aggregate(records, metric) for metric in SHOWN}
    keys = list(dict.fromkeys((r.regime, r.step) for r in sorted(records, key=lambda r: (r.regime, r.step))))
    table = [["regime", "step", *SHOWN.values()]]
    for key in keys:
        table.append([key[0], str(key[1]), *(_shown(means[m].get(key), m) for m in SHOWN)])
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
    areas = {metric: area_under_clicks(records, metric) for metric in ("dice", "nsd_2mm")}
    for regime, dice in areas["dice"].items():
        steps = sorted({r.step for r in records if r.regime == regime and r.step >= 1})
        nsd = areas["nsd_2mm"].get(regime)
        lines.append(
            f"{regime}: area under click steps {steps[0]} to {steps[-1]} (at most {steps[-1] - steps[0]}): "
            f"Dice {dice:.4f}" + (f", NSD@2mm {nsd:.4f}" if nsd is not None else "")
        )
    lines += _sets(records)
    false = sum(r.false_positive for r in records)
    cases = len({r.case_id for r in records})
    lines.append(f"{cases} cases; {ORDER_OF_AVERAGING}; effort is summed over classes; {false} false positive records.")
    return "\n".join(lines)


def published_summary(means: Mapping[str, Mapping[int, Mapping[str, float | None]]]) -> str:
    """A line for each regime and step of regime -> step -> name -> mean."""
    lines = ["as published, ranks nothing (means over the slices of a class, the classes of a case, then cases):"]
    for regime, steps in sorted(means.items()):
        for step, values in sorted(steps.items()):
            lines.append(f"{regime} step {step}: " + ", ".join(f"{n} {_shown(v, n)}" for n, v in values.items()))
    return "\n".join(lines)


def _sets(records: Sequence[Record]) -> list[str]:
    """A line for each prefix of case ids: Dice and IoU after the last step of each regime."""
    by_set: dict[str, list[Record]] = {}
    for record in records:
        name, slash, _ = record.case_id.partition("/")
        if slash:
            by_set.setdefault(name, []).append(record)
    lines = []
    for name, own in sorted(by_set.items()):
        dice, iou = aggregate(own, "dice"), aggregate(own, "iou")
        last = sorted({regime: step for regime, step in sorted(dice)}.items())
        means = [f"{key[0]} {_shown(dice[key], 'dice')} / {_shown(iou[key], 'iou')}" for key in last]
        lines.append(
            f"{name}, {len({r.case_id for r in own})} cases, Dice / IoU after the last step: {', '.join(means)}"
        )
    return lines


def _shown(value: float | None, metric: str) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if metric == "effort" else f"{value:.2f}" if metric == "hd95_mm" else f"{value:.4f}"
