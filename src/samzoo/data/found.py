"""What a data set's files tell where the user says nothing: how intensities become [0, 1], and the table of it all.

Intensities follow nnU-Net v2's fingerprint (Isensee et al., Nat Methods 2021,
https://doi.org/10.1038/s41592-020-01008-z): CT has a scale of its own, and is cut at the percentiles 0.5 and 99.5 of
what lies inside the labels of the training cases; of MR and anything else each case is cut at its own percentiles;
pictures are divided by their largest possible value. Unlike nnU-Net, values then go to [0, 1] and not to a z-score.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from samzoo.data.decode import DecodeSettings, Intensity, Loaded, load, per_channel
from samzoo.data.index import CaseEntry, DatasetIndex
from samzoo.data.store import digest, source_signature, table_meaning
from samzoo.errors import ConfigError, DataError
from samzoo.locks import locked
from samzoo.paths import OTHER_HOME, samzoo_home
from samzoo.writing import disk_errors, write_atomically

VERSION = 1
"""Raise it when other intensities are found in the same files."""

PERCENTILES = (0.5, 99.5)
MOST_CASES = 100
"""Evenly spread over the training cases; so many tell."""
VALUES_PER_CASE = 10_000
"""Drawn from a case's foreground, as in nnU-Net."""
AIR = -500
"""HU below which all of CT has values, and nothing else."""
NAME_OF_CT = re.compile(r"(?<![a-z])ct(?![a-z])")


@dataclass(frozen=True)
class Found:
    """How the intensities of a data set's chosen channels become [0, 1], and why so.

    Args:
        intensity: without "auto".
        reasons: one sentence per channel; empty where nothing had to be found.
    """

    intensity: Intensity
    reasons: tuple[str, ...] = ()


def doubt_of_ct(name: str, lowest: Sequence[float]) -> str:
    """Why what is called CT may not be in HU, by the lowest values of the cases; empty if there is no doubt."""
    positive = sum(low >= 0 for low in lowest)
    if not positive or AIR <= min(lowest) < 0 or NAME_OF_CT.search(name.casefold()) is None:
        return ""  # where there is air in no case, those without values below 0 may be cut out of soft tissue
    which = "no case has a" if positive == len(lowest) else f"{positive} of {len(lowest)} cases have no"
    return f"{which} value below 0: are they CT in HU? If they are stored with an offset, as of 1024, take it off"


class ChannelValues:
    """Gathers what of one channel decides about its intensities.

    Args:
        name: of the channel.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.lowest: list[float] = []
        self.foreground: list[np.ndarray] = []
        self.anywhere: list[np.ndarray] = []
        self.eight_bit_pictures = True

    def add(self, channel: np.ndarray, label: np.ndarray | None, full_range: int | None, seed: int) -> None:
        """One case.

        Args:
            channel: (i, j, k) file values.
            label: (i, j, k) class ids; None: without ground truth.
            full_range: largest value of a picture's integer type; None of floats and volumes.
        """
        generator = np.random.default_rng(seed)
        self.eight_bit_pictures &= full_range == 255
        self.lowest.append(float(channel.min()))
        self.anywhere.append(_draw(channel.ravel(), generator))
        if label is not None:
            self.foreground.append(_draw(channel[(label > 0) & (label < 255)], generator))

    def decide(self, low: float | None, high: float | None) -> tuple[str, float | None, float | None, str]:
        """(kind, low, high, reason)

        Args:
            low, high: the window of CT in HU, if the user gives one.
        """
        if self.eight_bit_pictures:
            return "range", None, None, "8-bit pictures, divided by 255"
        named, air = NAME_OF_CT.search(self.name.casefold()) is not None, max(self.lowest) < AIR
        if not (named or air):
            return "percentile", *PERCENTILES, "no CT: each case is cut at its own percentiles 0.5 and 99.5"
        why = "CT by its name" if named else f"CT, for all cases have values below {AIR}"
        if doubt := doubt_of_ct(self.name, self.lowest):
            why += f" (but {doubt})"
        hounsfield = min(self.lowest) < 0
        if low is not None and high is not None and hounsfield:
            return "window", low, high, f"{why}: the method's window"
        values = np.concatenate([v for v in self.foreground if v.size] or self.anywhere)
        where = "what the training labels hold" if any(v.size for v in self.foreground) else "all voxels"
        low, high = (round(float(v), 3) for v in np.percentile(values, PERCENTILES))
        if not high > low:
            low, high = float(values.min()), float(values.max())
        if not high > low:
            return "percentile", *PERCENTILES, f"{why}, but all of {where} is {low:g}: each case by its own percentiles"
        return "window", low, high, f"{why}: percentiles 0.5 and 99.5 of {where}"


def _draw(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    if values.size > VALUES_PER_CASE:
        values = values[generator.integers(0, values.size, VALUES_PER_CASE)]
    return values.astype(np.float32)


class Measured:
    """The values of all chosen channels, case by case."""

    def __init__(self, channels: Sequence[str]) -> None:
        self.channels = [ChannelValues(name) for name in channels]

    def add(self, loaded: Loaded, chosen: Sequence[int]) -> None:
        stacked = [(part, channel) for part in loaded.parts for channel in part.data]
        for number, (gathered, position) in enumerate(zip(self.channels, chosen, strict=True)):
            part, channel = stacked[position]
            gathered.add(channel, loaded.label, part.full_range, len(gathered.lowest) * 100 + number)

    @property
    def cases(self) -> int:
        return len(self.channels[0].lowest) if self.channels else 0

    def decide(self, given: Intensity) -> Found:
        """Of channels of kind "auto"; the others stay as they are given."""
        count = len(self.channels)
        kinds, lows, highs, reasons = [], [], [], []
        for i, channel in enumerate(self.channels):
            kind, low, high = (per_channel(getattr(given, n), i, n, count) for n in ("kind", "low", "high"))
            if kind == "auto":
                kind, low, high, reason = channel.decide(low, high)
                reasons.append(f"{channel.name}: {reason}")
            else:
                reasons.append(f"{channel.name}: as given")
            kinds.append(kind)
            lows.append(low)
            highs.append(high)
        return Found(Intensity(_one(kinds), _one(lows), _one(highs)), tuple(reasons))


def _one(values: list[Any]) -> Any:
    """A value that all channels share, or all of them."""
    return values[0] if all(v == values[0] for v in values) else values


def find_intensity(index: DatasetIndex, settings: DecodeSettings, progress: bool = True) -> Found:
    """What stands for `Intensity("auto")`; measured once for the same files, and kept in `$SAMZOO_HOME/fingerprints`.

    Measured are training cases, at most `MOST_CASES`; where there is none, any labelled ones, else any.

    Raises:
        DataError: a case that can't be read. ConfigError: settings that don't fit the channels.
    """
    given = settings.intensity
    kinds = [per_channel(given.kind, i, "kind", len(settings.channels)) for i in range(len(settings.channels))]
    if "auto" not in kinds:
        return Found(given)
    if (given.low is None) != (given.high is None):
        raise ConfigError(
            "data.intensity: give both low and high, or neither; with kind auto they are the window of CT"
        )
    entries = measured_entries(index)
    if not entries:
        raise DataError(f"{index.root}: there is no case whose intensities could be measured; set data.intensity")
    measured_from = [table_meaning(index.table), [source_signature(e) for e in entries]]
    content = [VERSION, index.channels, settings.channels, settings.pictures, asdict(given), measured_from]
    path = samzoo_home() / "fingerprints" / f"{digest(content)}.json"
    if (known := _read(path)) is not None:
        return known
    with disk_errors(path.parent, OTHER_HOME), locked(path.with_suffix(".lock")):
        if (known := _read(path)) is not None:  # another process was faster
            return known
        measured = Measured([index.channels[c] for c in settings.channels])
        for entry in tqdm(entries, desc=f"measuring {index.name}", unit="case", disable=not progress, leave=False):
            measured.add(load(entry, index, settings.pictures), settings.channels)
        found = measured.decide(given)
        write_atomically(path, lambda file: json.dump(asdict(found), file))
    return found


def measured_entries(index: DatasetIndex) -> list[CaseEntry]:
    """The cases whose values decide."""
    labelled = [e for e in index.entries if e.labels]
    entries = [e for e in labelled if e.split == "train"] or labelled or list(index.entries)
    step = len(entries) / min(len(entries), MOST_CASES) if entries else 1
    return [entries[int(i * step)] for i in range(min(len(entries), MOST_CASES))]


def _read(path: Any) -> Found | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Found(Intensity(**content["intensity"]), tuple(content["reasons"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def in_words(intensity: Intensity, channels: Sequence[str]) -> str:
    """For the terminal: `window -160 to 240`, or one for each channel."""
    words = []
    for i in range(len(channels)):
        kind, low, high = (per_channel(getattr(intensity, n), i, n, len(channels)) for n in ("kind", "low", "high"))
        words.append(kind if low is None or high is None else f"{kind} {low:g} to {high:g}")
    same = len(set(words)) == 1
    return words[0] if same else ", ".join(f"{name} {word}" for name, word in zip(channels, words, strict=True))
