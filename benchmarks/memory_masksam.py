"""Memory of one MaskSAM training step against patch size and slab depth, computed without running it.

The step (network forward, backward, AdamW's states; not the sampled points of the loss) is traced with tensors that
hold no data, and every storage is counted while it lives. What a device adds (allocator, libraries, cuDNN's workspaces)
is not in it, and attention is counted as the fused kernels of the CPU leave it.

python benchmarks/memory_masksam.py
python benchmarks/memory_masksam.py --architectures vit_b --sides 256 --depths 4 9
"""

from __future__ import annotations

import argparse

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from samzoo.methods.masksam.network import MaskSAMNetwork
from samzoo.methods.masksam.settings import Corrections, MaskSAMSettings
from samzoo.sam.config import resolve_config


def peak_gib(architecture: str, settings: MaskSAMSettings, batch: int, half: bool) -> float:
    """Peak GiB of a training step on `batch` patches."""
    with FakeTensorMode(allow_non_fake_inputs=True), MemTracker() as tracker:
        network = MaskSAMNetwork(resolve_config(architecture), settings)
        trained = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained)
        tracker.track_external(network, optimizer)
        x = torch.zeros(batch, settings.in_channels, *settings.patch)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = network(x)
            loss = sum(t.float().mean() for t in vars(output).values())
        loss.backward()
        optimizer.step()
    peaks = tracker.get_tracker_snapshot("peak")
    return max(kinds["Total"] for kinds in peaks.values()) / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", nargs="+", default=["vit_b", "vit_h"])
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 9, 26])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--queries", type=int, default=24)
    parser.add_argument("--classes", type=int, default=16)
    args = parser.parse_args()
    print(f"torch {torch.__version__}: GiB of a training step of {args.batch} patch(es), {args.queries} queries")
    forms = {
        "float32": (False, None, False),
        "bf16": (True, None, False),
        "bf16, chunks of 6, checkpointing": (True, 6, True),
    }
    print(f"{'encoder':<9}{'side':>5}{'T':>4}  " + "".join(f"{name:>36}" for name in forms))
    for architecture in args.architectures:
        for side in args.sides:
            for depth in args.depths:
                cells = []
                for half, chunk, checkpointing in forms.values():
                    settings = MaskSAMSettings(
                        patch=(depth, side, side),
                        num_classes=args.classes,
                        queries=args.queries,
                        query_chunk=chunk,
                        checkpointing=checkpointing,
                        corrections=Corrections(),
                    )
                    cells.append(peak_gib(architecture, settings, args.batch, half))
                print(f"{architecture:<9}{side:>5}{depth:>4}  " + "".join(f"{c:>36.1f}" for c in cells), flush=True)


if __name__ == "__main__":
    main()
