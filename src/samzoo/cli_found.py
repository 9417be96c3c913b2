"""What was found in a data set, told in the terminal and written down beside the run as fingerprint.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from samzoo.data import SamzooDataModule
from samzoo.data.fingerprint import measure
from samzoo.data.found import in_words
from samzoo.methods.base import Method
from samzoo.run_folder import CONFIG, FINGERPRINT
from samzoo.writing import write_atomically


def describe(folder: Path, data: SamzooDataModule, method: Method, asked: Mapping[str, Any]) -> None:
    """Write `fingerprint.json`; where something was found rather than given, say what, and what overrides it.

    To be called before the run's config is written: with that, a run has a fingerprint already, which stays.

    Args:
        asked: of what the method has planned, by name, what its config says.

    Raises:
        DataError: a training case that can't be read, or the file can't be written.
    """
    entries = data.entries("train")
    measured = measure(entries, data.decoding) if entries else None
    channels = [data.index.channels[c] for c in data.decoding.channels]
    content: dict[str, Any] = {
        "dataset": data.dataset_name,
        "layout": data.layout,
        "cases": {split: len(data.entries(split)) for split in ("train", "val", "test")},
        "classes": {name: list(values) for name, values in data.index.table.values.items()},
        "channels": channels,
        "spacing_mm": measured and measured.spacing,
        "shape": measured and measured.shape,
        "intensity": asdict(data.decoding.intensity),
        "why": list(data.found.reasons),
        "planned": dict(method.planned),
        "asked": dict(asked),
    }
    if not (folder / CONFIG).is_file():
        write_atomically(folder / FINGERPRINT, lambda file: json.dump(content, file, indent=1))
    if not (data.found_settings or method.planned):
        return
    where = f"{folder / FINGERPRINT}; --data.NAME overrides"
    lines = [f"found in {data.index.root}, layout {data.layout} ({where})"]
    names = data.class_names
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    lines.append(f"  classes: {shown}")
    lines.append(f"  channels: {', '.join(channels)}" + _seen_by_sam(len(channels), method))
    if measured:
        spacing, shape = (" x ".join(f"{n:g}" for n in v) for v in (measured.spacing, measured.shape))
        lines.append(f"  spacing: {spacing} mm (depth, height, width), median shape {shape}")
    lines.append(f"  intensity: {in_words(data.decoding.intensity, channels)}")
    lines += [f"    {reason}" for reason in dict.fromkeys(data.found.reasons)]
    if method.planned:
        lines.append("  planned: " + ", ".join(f"{name} {value}" for name, value in method.planned.items()))
    print("\n".join(lines), flush=True)


def _seen_by_sam(count: int, method: Method) -> str:
    if not hasattr(method, "sam") or method.spec.dim != 2 or count in (1, 3):
        return ""
    return f"; SAM sees three: {'the first, the mean, the second' if count == 2 else 'means of neighbours, in order'}"
