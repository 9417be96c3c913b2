"""Seconds of a MaskSAM training step and of one sliding window, against queries, slices and classes; and a profile.

python benchmarks/bench_masksam.py                   laptop-size SAM on the CPU
python benchmarks/bench_masksam.py --architecture vit_b --side 256 --depth 9 --device cuda
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from samzoo.methods.masksam.loss import Criterion, LossSettings
from samzoo.methods.masksam.network import MaskSAMNetwork, semantic_scores
from samzoo.methods.masksam.settings import FIXED, Corrections, MaskSAMSettings
from samzoo.methods.masksam.targets import slice_targets
from samzoo.sam.config import resolve_config

PARTS = ("encode", "generate", "decode", "loss", "backward")


class Bench:
    """One network and one patch.

    Args:
        points: at which masks are compared in matching and loss.
    """

    def __init__(self, args: argparse.Namespace, points: int, **settings) -> None:
        torch.manual_seed(0)
        architecture = resolve_config(args.architecture, args.canvas)
        self.settings = MaskSAMSettings(**settings)
        self.network = MaskSAMNetwork(architecture, self.settings).to(args.device)
        patch = self.settings.patch
        self.x = torch.randn(args.batch, 1, *patch, device=args.device)
        self.label = torch.randint(self.settings.num_classes, (args.batch * patch[0], 4, 4), device=args.device)
        self.label = self.label.repeat_interleave(patch[1] // 4, 1).repeat_interleave(patch[2] // 4, 2)
        self.criterion = Criterion(LossSettings(points=points))

    def step(self) -> None:
        """Forward, loss and backward."""
        with record_function("encode"):
            levels, neck = self.network.encode(self.x)
        with record_function("generate"):
            auxiliary = self.network.generate(levels, neck)
        with record_function("decode"):
            class_logits, mask_logits = self.network.decode(neck, auxiliary)
        with record_function("loss"):
            targets = slice_targets(self.label, self.settings.num_classes, self.settings.queries)
            terms = self.criterion(class_logits, mask_logits, auxiliary.masks, auxiliary.boxes, targets)
        with record_function("backward"):
            terms.total.backward()

    @torch.inference_mode()
    def window(self) -> None:
        """What evaluation computes of windows."""
        levels, neck = self.network.encode(self.x)
        class_logits, mask_logits = self.network.decode(neck, self.network.generate(levels, neck))
        semantic_scores(class_logits, mask_logits, self.settings.patch[0])


def seconds(call: Callable[[], None], device: str, repeats: int) -> float:
    """The best of some calls: what other programs take away only ever adds."""
    best = float("inf")
    call()
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--architecture", default="vit_tiny")
    parser.add_argument("--canvas", type=int, default=128, help="side of SAM's canvas")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--points", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=2, help="patches per step and windows per call")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {name}; {args.architecture}, {args.batch} patches of {args.side} x {args.side}")
    widths = (256, 128, 128, 64, 64) if args.architecture != "vit_tiny" else (64, 32, 32, 16)
    base = {
        "patch": (args.depth, args.side, args.side),
        "queries": 12,
        "num_classes": 4,
        "widths": widths,
        "head_width": 16,
    }
    fixed = {"corrections": FIXED, "head_width": 4}
    cases = {"base": {}} | {f"{n} queries": {"queries": n} for n in (6, 24, 48)}
    cases |= {f"{t} slices": {"patch": (t, args.side, args.side)} for t in (4, 16)}
    cases |= {f"{k} classes": {"num_classes": k, "queries": 48} for k in (16, 48)}
    cases |= {"fixed": fixed, "base, checkpointing": {"checkpointing": True, "query_chunk": 4}}
    cases |= {"fixed, but published windows": fixed | {"corrections": Corrections()}}
    print(f"{'case':<32}{'s/step':>10}{'s/call':>10}")
    for label, changes in cases.items():
        bench = Bench(args, args.points, **(base | changes))
        step = seconds(bench.step, args.device, args.repeats)
        print(f"{label:<32}{step:>10.3f}{seconds(bench.window, args.device, args.repeats):>10.3f}", flush=True)

    bench = Bench(args, args.points, **base)
    bench.step()
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if args.device == "cuda" else [])
    with profile(activities=activities) as profiled:
        for _ in range(args.repeats):
            bench.step()
    events = profiled.key_averages()
    attribute = "device_time_total" if args.device == "cuda" else "cpu_time_total"
    times = {e.key: getattr(e, attribute) / args.repeats / 1e6 for e in events if e.key in PARTS}
    print("\nwhere a step goes: " + ", ".join(f"{part} {times.get(part, 0):.3f} s" for part in PARTS))
    print(events.table(sort_by=f"self_{attribute}", row_limit=12, max_name_column_width=44))


if __name__ == "__main__":
    main()
