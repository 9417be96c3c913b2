"""Memory of one MaskSAM training step against patch size and slab depth, computed without running it.

The step (network forward, backward, AdamW's states; not the sampled points of the loss) is traced with tensors that
hold no data, and every storage is counted while it lives. What a device adds (allocator, libraries, cuDNN's workspaces)
is not in it, and attention is counted as the fused kernels of the CPU leave it.

python benchmarks/memory_masksam.py
python benchmarks/memory_masksam.py --architectures vit_b --sides 256 --depths 4 9
"""

from __future__ import annotations

import argparse
import weakref
from collections.abc import Iterable

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from samzoo.methods.masksam.network import MaskSAMNetwork
from samzoo.methods.masksam.settings import Corrections, MaskSAMSettings
from samzoo.sam.config import resolve_config


class Peak(TorchDispatchMode):
    """Bytes of all storages that are alive, and the most that they ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.most, self.known = 0, 0, set()

    def count(self, tensors: Iterable[torch.Tensor]) -> None:
        for storage in (t.untyped_storage() for t in tensors):
            if id(storage) not in self.known:
                self.known.add(id(storage))
                self.alive += storage.nbytes()
                weakref.finalize(storage, self._forget, id(storage), storage.nbytes())
        self.most = max(self.most, self.alive)

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.alive -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.count(t for t in tree_leaves(result) if isinstance(t, torch.Tensor))
        return result


def peak_gib(architecture: str, settings: MaskSAMSettings, batch: int, half: bool) -> float:
    """Peak GiB of a training step on `batch` patches."""
    with torch.device("meta"):
        network = MaskSAMNetwork(resolve_config(architecture), settings)
    for parameter in network.sam_parameters() + network.unused_parameters():
        parameter.requires_grad_(False)
    with FakeTensorMode(allow_non_fake_inputs=True), Peak() as peak:
        network.to_empty(device="cpu")
        peak.count([*network.parameters(), *network.buffers()])
        trained = [p for p in network.parameters() if p.requires_grad]
        x = torch.zeros(batch, settings.in_channels, *settings.patch)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = network(x)
            loss = sum(t.float().mean() for t in vars(output).values())
        loss.backward()
    states = 2 * sum(p.numel() * p.element_size() for p in trained)  # AdamW's; they are there from the second step on
    return (peak.most + states) / 2**30


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
