"""What was found in a data set, told in the terminal and written down beside the run as fingerprint.json."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from samzoo.data import SamzooDataModule
from samzoo.data.fingerprint import measure
from samzoo.data.found import in_words
from samzoo.data.index import Split
from samzoo.errors import ConfigError, DataError
from samzoo.methods.base import Method
from samzoo.paths import FINGERPRINT, find_root
from samzoo.reading import some
from samzoo.run_folder import CONFIG, read_fingerprint, trained_on
from samzoo.writing import write_atomically


def describe(
    folder: Path, data: SamzooDataModule, method: Method, asked: Mapping[str, Any], trains: bool = False
) -> None:
    """Write `fingerprint.json`; where something was found rather than given, say what, and what overrides it.

    To be called before the run's config is written: with that, a run has a fingerprint already, which stays.

    Args:
        asked: of what the method has planned, by name, what its config says.
        trains: whether the run is trained now, on cases that are to be remembered.

    Raises:
        DataError: a training case that can't be read, or the file can't be written.
    """
    entries = data.entries("train")
    measured = measure(entries, data.decoding) if entries else None
    channels = [data.index.channels[c] for c in data.decoding.channels]
    content: dict[str, Any] = {
        "dataset": data.dataset_name,
        "root": str(data.index.root.resolve()),
        "layout": data.layout,
        "cases": {split: len(data.entries(split)) for split in ("train", "val", "test")},
        "classes": {name: list(values) for name, values in data.index.table.values.items()},
        "background": list(data.index.table.background),
        "channels": channels,
        "all_channels": list(data.index.channels),
        "spacing_mm": measured and measured.spacing,
        "shape": measured and measured.shape,
        "intensity": asdict(data.decoding.intensity),
        "why": list(data.found.reasons),
        "planned": dict(method.planned),
        "asked": dict(asked),
        "trained_on": [e.id for e in entries] if trains else [],
    }
    known = read_fingerprint(folder) if (folder / CONFIG).is_file() else None
    if known:  # the run goes on, perhaps on more cases
        cases = [*(known.get("trained_on") or ()), *content["trained_on"]]
        content = known | {"trained_on": list(dict.fromkeys(cases))}
    if content != known and known != {}:
        write_atomically(folder / FINGERPRINT, lambda file: json.dump(content, file, indent=1))
    if not (data.found_settings or method.planned):
        return
    where = f"{folder / FINGERPRINT}; --data.NAME overrides"
    lines = [f"found in {data.index.root}, layout {data.layout} ({where})"]
    lines.append(f"  classes: {some(data.class_names, 12)}")
    lines.append(f"  channels: {', '.join(channels)}" + _seen_by_sam(len(channels), method))
    if measured:
        spacing, shape = (" x ".join(f"{n:g}" for n in v) for v in (measured.spacing, measured.shape))
        lines.append(f"  spacing: {spacing} mm (depth, height, width), median shape {shape}")
    lines.append(f"  intensity: {in_words(data.decoding.intensity, channels)}")
    lines += [f"    {reason}" for reason in dict.fromkeys(data.found.reasons)]
    if method.planned:
        lines.append("  planned: " + ", ".join(f"{name} {value}" for name, value in method.planned.items()))
    print("\n".join(lines), flush=True)


def without_data(run: Path, config: Mapping[str, Any]) -> list[str]:
    """Settings with which a run predicts where its data set is not: from what it has found in it.

    Args:
        config: of the run.

    Returns:
        none if the data set is there, or if the run doesn't tell enough.
    """
    data = config.get("data") or {}
    if data.get("layout") == "phantom" or "all_channels" not in read_fingerprint(run):
        return []
    try:
        find_root(data.get("root"))
    except (DataError, ConfigError):
        print(f"{data.get('root')} is not here: classes and channels are those of {run / FINGERPRINT}", flush=True)
        return [f"--data.root={run}", "--data.layout=run", "--data.folds=null"]
    return []


def check_trained(folder: Path, data: SamzooDataModule, method: Method, split: Split) -> None:
    """Compare the data with those that a run was trained on, and warn where they may be others.

    Args:
        folder: of the run.
        split: that is scored or predicted.

    Raises:
        ConfigError: channels or classes that its weights would take for others.
    """
    found = read_fingerprint(folder)
    pairs = {
        "channels": (list(found.get("channels") or ()), [data.index.channels[c] for c in data.decoding.channels]),
        "classes": (list(found.get("classes") or ()), list(data.class_names)),
    }
    for kind, (trained, given) in pairs.items():
        if not trained or trained == given or (kind == "classes" and not method.spec.multiclass):
            continue
        told = f"{folder} was trained on the {kind} {', '.join(trained)}; those of {data.index.root} are "
        told += ", ".join(given)
        if sorted(trained) == sorted(given):
            raise ConfigError(
                f"{told}: one would be taken for another; "
                + ("give --data.channels in the order of training" if kind == "channels" else "number them alike")
            )
        if len(trained) != len(given) and not (kind == "channels" and _is_sam_on_slices(method)):
            choice = trained if kind == "channels" else found["classes"]
            words = yaml.safe_dump(choice, default_flow_style=True, width=1000).strip()
            raise ConfigError(f"{told}: choose the same, as it calls and numbers them: --data.{kind} '{words}'")
        print(f"warning: {told}, and are taken for them in this order", file=sys.stderr, flush=True)
    known = trained_on(folder, data.dataset_name, data.index.root, (e.id for e in data.entries(split)))
    if known:
        print(
            f"warning: {folder} was trained on {len(known)} of the {len(data.entries(split))} cases ({known[0]}, ...), "
            "which says little about new ones: the data set or its split has changed since. --data.include or "
            "--data.splits_file choose others",
            file=sys.stderr,
            flush=True,
        )


def _is_sam_on_slices(method: Method) -> bool:
    """Which takes any number of channels."""
    return hasattr(method, "sam") and method.spec.dim == 2


def _seen_by_sam(count: int, method: Method) -> str:
    if not _is_sam_on_slices(method) or count in (1, 3):
        return ""
    return f"; SAM sees three: {'the first, the mean, the second' if count == 2 else 'means of neighbours, in order'}"
