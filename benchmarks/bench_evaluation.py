"""Evaluation of 8 classes x 4 regimes on a slice: encoded once, against encoding it anew for each class and regime.

Both sides answer the same prompts with the same SAM ViT-B at 256 (random weights) and end with the same Dice values.

python benchmarks/bench_evaluation.py                   CPU, float32
python benchmarks/bench_evaluation.py --device cuda     also with bf16
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from samzoo.evaluation.scoring import Settings, score_case
from samzoo.methods.base import Method
from samzoo.methods.baselines.sam import SAM
from samzoo.prompts import Regime, make_regime
from samzoo.types import Case

CLASSES = 8
REGIMES = ("box_per_slice", "clicks_per_slice", "box_3d", "box_clicks_3d")


def make_case(side: int) -> Case:
    """One slice with 8 ellipses."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    label = np.zeros((1, side, side), dtype=np.uint8)
    for k in range(CLASSES):
        cy, cx = (k // 4 * 2 + 1) * side / 4, (k % 4 * 2 + 1) * side / 8
        ry, rx = rng.uniform(0.05, 0.11, 2) * side
        label[0][((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1] = k + 1
    image = torch.from_numpy(0.1 * label + 0.05 * rng.random(label.shape)).float()[None]
    return Case("slice", "nobody", image, torch.from_numpy(label), (1.0, 1.0, 1.0), np.eye(4))


def once(method: Method, case: Case, regimes: list[Regime], settings: Settings) -> list[float]:
    result = score_case(method, case, regimes, settings)
    return [r.dice for r in sorted(result.records, key=lambda r: r.sort_key)]


def anew(method: Method, case: Case, regimes: list[Regime], settings: Settings) -> list[float]:
    records = []
    for k in range(1, CLASSES + 1):
        alone = replace(case, label=torch.where(case.label == k, case.label, 0))
        for regime in regimes:
            records += score_case(method, alone, [regime], settings).records
    return [r.dice for r in sorted(records, key=lambda r: r.sort_key)]


def timed(run: Callable[[], list[float]]) -> tuple[float, list[float]]:
    """Seconds and result; results are on the CPU, so nothing is left running on a device."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--architecture", default="vit_b")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    torch.manual_seed(0)
    names = tuple(f"class_{k}" for k in range(1, CLASSES + 1))
    method = SAM(options.architecture, options.size, num_classes=CLASSES, class_names=names).eval().to(options.device)
    case, settings = make_case(options.size), Settings("bench", names, surface=False)
    regimes = [make_regime(name) for name in REGIMES]
    for precision in ("float32", "bf16") if options.device.startswith("cuda") else ("float32",):
        context = torch.autocast("cuda", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
        sides = {f.__name__: lambda f=f: f(method, case, regimes, settings) for f in (once, anew)}
        with context:
            sides["once"]()  # warms up
            taken, values = {name: [] for name in sides}, {}
            for _ in range(options.repeats):
                for name, run in sides.items():
                    took, values[name] = timed(run)
                    taken[name].append(took)
        fast, slow = (statistics.median(taken[name]) for name in ("once", "anew"))
        difference = np.abs(np.subtract(values["once"], values["anew"])).max()
        print(
            f"{options.architecture} {options.size} {options.device} {precision}: encoded once {fast:.3f} s, "
            f"anew {slow:.3f} s, {slow / fast:.1f} times faster; largest difference in Dice {difference:.1e}"
        )


if __name__ == "__main__":
    main()
