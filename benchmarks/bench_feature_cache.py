"""ProMISe with and without cached features: seconds of an epoch, their ratio, and the peak memory of training.

Pictures are random, weights too; what is timed is what a fit does: reading, encoding or not, one optimiser step a
batch. Each fit is a process of its own, so that its peak memory is its own.

python benchmarks/bench_feature_cache.py                                    ViT-B at 256, one process after another, CPU
python benchmarks/bench_feature_cache.py --image-size 1024 --batch 8 --pictures 8
python benchmarks/bench_feature_cache.py --heads resnet --classes 15 --decode-chunk 16 --image-size 1024 --batch 1
python benchmarks/bench_feature_cache.py --device cuda --pictures 256 --batch 32
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

HEADS = {"resnet": {}, "cross": {"apm": "cross"}, "ips": {"apm": None}}


def write_pictures(root: Path, count: int, side: int, classes: int) -> None:
    """Pictures of noise with one square of each class."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for i in range(count):
        label = np.zeros((side, side), dtype=np.uint8)
        for k in range(classes):
            y, x = rng.integers(0, side * 3 // 4, 2)
            label[y : y + side // 6, x : x + side // 6] = k + 1
        picture = rng.integers(0, 60, (side, side, 3)) + label[..., None] * (180 // classes)
        Image.fromarray(picture.astype(np.uint8)).save(root / "images" / f"{i}.png")
        Image.fromarray(label).save(root / "masks" / f"{i}.png")


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Fit for two epochs; the second is timed, the first warms up (and stands before it the filling of the cache)."""
    import lightning.pytorch as L
    import torch

    from samzoo.data import SamzooDataModule
    from samzoo.data.decode import Intensity
    from samzoo.data.features import FeatureCacheSettings
    from samzoo.evaluation.run_info import peak_memory_bytes
    from samzoo.methods import ProMISe

    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    data = SamzooDataModule(
        root=options.root,
        classes={f"class_{k}": k for k in range(1, options.classes + 1)},
        intensity=Intensity("range"),
        val_fraction=0,
        test_fraction=0,
        foreground_fraction=0,
        batch_size=options.batch,
        units_per_epoch=options.pictures,
        features=FeatureCacheSettings(dtype=options.dtype) if options.cached else None,
    )
    model = ProMISe(
        options.architecture,
        options.image_size,
        num_classes=options.classes,
        decode_chunk=options.decode_chunk,
        **HEADS[options.head],
    )

    class Clock(L.Callback):
        def __init__(self) -> None:
            self.starts, self.epochs, self.begin = 0.0, [], time.perf_counter()

        def on_train_start(self, *_) -> None:
            self.filling = time.perf_counter() - self.begin

        def on_train_epoch_start(self, *_) -> None:
            self.starts = _now(options.device)

        def on_train_epoch_end(self, *_) -> None:
            self.epochs.append(_now(options.device) - self.starts)

    clock = Clock()
    trainer = L.Trainer(
        max_epochs=options.epochs,
        accelerator="gpu" if options.device == "cuda" else "cpu",
        devices=1,
        precision=options.precision,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
    )
    clock.begin = time.perf_counter()
    trainer.fit(model, datamodule=data)
    peak = peak_memory_bytes(torch.device(options.device))
    return {"seconds": clock.epochs[-1], "first": clock.epochs[0], "before": clock.filling, "peak": peak}


def _now(device: str) -> float:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="vit_b")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--classes", type=int, default=1)
    parser.add_argument("--decode-chunk", type=int, default=None)
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=["resnet", "ips"])
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--only", choices=["plain", "cached"], help="leave the other side out")
    parser.add_argument("--root", help=argparse.SUPPRESS)
    parser.add_argument("--cached", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--head", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.root:  # one of the processes below
        print("RESULT", json.dumps(measure(options)), flush=True)
        return
    print(f"{options.architecture} at {options.image_size}, {options.pictures} pictures, {options.classes} classes, "
          f"batch {options.batch}, {options.device}, {options.precision}, {options.threads} threads")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "pictures"
        write_pictures(root, options.pictures, options.image_size, options.classes)
        environment = os.environ | {"SAMZOO_HOME": str(Path(folder) / "home")}
        for head in options.heads:
            seconds = {}
            for side in ("plain", "cached") if options.only is None else (options.only,):
                command = [sys.executable, __file__, *sys.argv[1:], "--root", str(root), "--head", head]
                command += ["--cached", str(int(side == "cached"))]
                out = subprocess.run(command, env=environment, capture_output=True, text=True)
                lines = [line for line in out.stdout.splitlines() if line.startswith("RESULT ")]
                if not lines:
                    raise SystemExit(out.stdout + out.stderr)
                result = json.loads(lines[0].removeprefix("RESULT "))
                seconds[side] = result["seconds"]
                print(
                    f"  {head:6s} {side:6s} epoch {result['seconds']:8.2f} s, before the first epoch "
                    f"{result['before']:7.2f} s, peak memory {result['peak'] / 2**30:6.2f} GiB",
                    flush=True,
                )
            if len(seconds) == 2:
                print(f"  {head:6s} ratio  {seconds['plain'] / seconds['cached']:.1f}x", flush=True)


if __name__ == "__main__":
    main()
