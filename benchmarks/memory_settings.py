"""What each setting saves of the memory of a training step and of a test case: the order of `Method.memory_settings`.

Each line is a run of its own on CPU, of laptop size, on the embedded phantom: the peak of its resident memory over what
there was before the first step (two steps, so that the optimiser's state is there), or before the first case. Every
setting is changed as the error of too little memory proposes it. trainer.precision is not measured: it is advice for
CUDA alone, and on CPU bfloat16 convolutions in 3D take minutes (`memory_masksam.py` traces what it saves).

python benchmarks/memory_settings.py
python benchmarks/memory_settings.py --methods unet masksam --stages fit
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import torch
import yaml
from lightning.pytorch import Callback

from samzoo.cli import main as samzoo
from samzoo.memory import REMEDIES
from samzoo.memory_use import peak_resident_bytes, reset_peak, resident_bytes

PHANTOM = ["--data.phantom.cases=6", "--data.phantom.size=128", "--data.phantom.slices=[10,11]"]
QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
FIT = [
    "--data.batch_size=4",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=0",
]
TEST = ["--zero-shot", "--data.max_cases=1", "--protocol.surface_metrics=false", "--protocol.slices=0"]
TEST += ["--protocol.click_steps=2", "--protocol.extensions=2"]
REGIMES = {"slab": "[auto]", "crop": "[box_clicks_3d]", "slice": "[box_per_slice]"}

SIDE, BATCH = "model.init_args.image_size", "data.batch_size"
CHUNKS = ("protocol.encode_chunk", "protocol.decode_chunk")
MODEL = "model.init_args."
CROP = (BATCH, f"{MODEL}refinement.steps", f"{MODEL}refinement.detach", SIDE)
MASKSAM = (BATCH, f"{MODEL}checkpointing", f"{MODEL}query_chunk", f"{MODEL}patch")
CANDIDATES = {  # config: training unit, settings of training, settings of a test
    "sam_finetuned": ("slice", (BATCH, f"{MODEL}training.masks_per_picture", SIDE), (*CHUNKS, SIDE)),
    "sam_med2d": (
        "slice",
        (BATCH, f"{MODEL}accumulate", f"{MODEL}masks_per_picture", SIDE),
        (*CHUNKS, SIDE),
    ),
    "promise": (
        "slice",
        (BATCH, "data.features", f"{MODEL}decode_chunk", SIDE),
        (*CHUNKS, f"{MODEL}decode_chunk", SIDE),
    ),
    "masksam_fixed": ("slab", MASKSAM, (*CHUNKS, f"{MODEL}query_chunk", f"{MODEL}patch", "protocol.window_step")),
    "m_sam_fixed": ("crop", CROP, (*CHUNKS, SIDE)),
    "sam_med3d": ("crop", CROP, (*CHUNKS, SIDE)),
    "unet": (
        "slab",
        (BATCH, f"{MODEL}patch_voxels"),
        (*CHUNKS, "protocol.window_step", f"{MODEL}patch_voxels"),
    ),
}
EXTRA = {"promise": ["--data.features=null", "--data.batch_size=16"]}
WITHOUT_EFFECT = {f"{MODEL}refinement.detach": True, "protocol.window_step": 1.0}
"""Might help, but all steps' graphs wait for one backward pass, and windows are answered one after the other."""
NOW = {"model.init_args.image_size": {"crop": 48, "slice": 128}}


class Peak(Callback):
    """Writes what the run took at its peak.

    Args:
        path: file to write.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_start(self, *_) -> None:
        self.base = resident_bytes()
        reset_peak()

    def on_train_end(self, *_) -> None:
        self.path.write_text(str(peak_resident_bytes() - self.base))

    on_test_start, on_test_end = on_train_start, on_train_end


def measure(args: list[str]) -> float | None:
    """Peak MiB of a command, in a process of its own; None if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "peak"
        callback = {"class_path": "memory_settings.Peak", "init_args": {"path": str(out)}}
        if (child := os.fork()) == 0:
            os.chdir(folder)
            log = os.open(f"{folder}/log", os.O_WRONLY | os.O_CREAT)
            os.dup2(log, 1)
            os.dup2(log, 2)
            try:
                samzoo([*args, f"--trainer.callbacks=[{json.dumps(callback)}]"])
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        if not out.exists():
            print((Path(folder) / "log").read_text()[-600:], file=sys.stderr)
            return None
        return int(out.read_text()) / 2**20


def value_now(config: dict, unit: str, name: str):
    if name in NOW:
        return NOW[name][unit]
    for key in name.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return config


def settings_of(config: str, extra: list[str]) -> dict:
    """All settings of a fit."""
    with tempfile.TemporaryFile("w+") as file:
        out, sys.stdout = sys.stdout, file
        try:
            samzoo(["fit", "--config", config, *extra, "--print_config"])
        finally:
            sys.stdout = out
        file.seek(0)
        return yaml.safe_load(file.read())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(CANDIDATES), choices=list(CANDIDATES))
    parser.add_argument("--stages", nargs="+", default=["fit", "test"], choices=["fit", "test"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for method in options.methods:
        unit, *candidates = CANDIDATES[method]
        for stage, names in zip(("fit", "test"), candidates, strict=True):
            if stage not in options.stages:
                continue
            base = [*PHANTOM, *QUIET, *(FIT if stage == "fit" else [*TEST, f"--protocol.regimes={REGIMES[unit]}"])]
            base += EXTRA.get(method, [])
            config = settings_of(f"{method}_phantom", [a for a in base if a != "--zero-shot"])
            first = measure([stage, "--config", f"{method}_phantom", *base])
            print(f"{method}, {stage}: {first:.0f} MiB", flush=True)
            found = []
            for name in names:
                now = value_now(config, unit, name)
                better = WITHOUT_EFFECT.get(name) or REMEDIES[name].less(now)
                if better is None:
                    print(f"    {name}: nothing less than {now}")
                    continue
                text = json.dumps(better) if isinstance(better, (list, bool)) else str(better)
                peak = measure([stage, "--config", f"{method}_phantom", *base, f"--{name}={text}"])
                if peak is not None:
                    found.append((peak, f"{name} {now} -> {better}"))
            for peak, what in sorted(found):
                print(f"  {peak:6.0f} MiB  {100 * (peak / first - 1):+4.0f} %  {what}", flush=True)


if __name__ == "__main__":
    main()
