"""SAM-Med3D's windows, padded from a grid of 8 to 14: one key for all padding, against all 2744 tokens written out.

Both sides have the same random weights and take turns in one run: the windowed attention of one block, then the whole
image encoder, whose global blocks are the same on both sides.

python benchmarks/bench_sam3d.py                   CPU, float32
python benchmarks/bench_sam3d.py --device cuda
"""

from __future__ import annotations

import argparse
import copy

import torch
import torch.nn.functional as F
from bench_encoder import measure
from torch import Tensor

from samzoo.sam import build_sam3d
from samzoo.sam.sam3d import Attention3d


class WrittenOut(Attention3d):
    """SAM-Med3D's way: the padding goes through every layer, queries and scores of 14 x 14 x 14 tokens are made."""

    def forward(self, x: Tensor) -> Tensor:
        grid, side, heads = x.shape[1], self.window, self.num_heads
        if not side:
            return super().forward(x)
        x = F.pad(x, (0, 0, *[0, side - grid] * 3))
        q, k, v = self.qkv(x).flatten(1, 3).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        offset = torch.arange(side, device=x.device)
        index = offset[:, None] - offset + side - 1
        d, h, w = (t[index] for t in (self.rel_pos_d, self.rel_pos_h, self.rel_pos_w))
        cube = q.unflatten(2, (side,) * 3)
        d = torch.einsum("nhxyzc,xkc->nhxyzk", cube, d)[..., None, None, :]
        h = torch.einsum("nhxyic,ykc->nhxyik", cube, h)[:, :, :, :, None, :, None, :]
        w = torch.einsum("nhxyjc,jkc->nhxyjk", cube, w)[:, :, :, :, None, None]
        scores = (q * q.shape[-1] ** -0.5) @ k.mT
        scores = scores.unflatten(-1, (side,) * 3).unflatten(2, (side,) * 3).add_(d).add_(h).add_(w)
        scores = scores.flatten(-3).flatten(2, 4).softmax(-1)
        out = (scores @ v).transpose(1, 2).flatten(2).unflatten(1, (side,) * 3)
        return self.proj(out)[:, :grid, :grid, :grid]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20, help="measuring time for each of the two")
    args = parser.parse_args()
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {name}")

    torch.manual_seed(0)
    ours = build_sam3d("vit_b_ori").image_encoder.eval().to(args.device)
    for key, p in ours.named_parameters():
        if "rel_pos" in key:
            torch.nn.init.normal_(p, std=0.1)
    theirs = copy.deepcopy(ours)
    for block in theirs.blocks:
        block.attn.__class__ = WrittenOut
    size, grid, width = 128, 8, 768
    pairs = {
        "windowed attention": (theirs.blocks[0].attn, ours.blocks[0].attn, (grid, grid, grid, width)),
        "image encoder": (theirs, ours, (1, size, size, size)),
    }
    print(f"{'part':<20}{'batch':>6}{'written out ms':>16}{'one key ms':>12}{'ratio':>9}{'max diff':>12}")
    for part, (slow, fast, shape) in pairs.items():
        x = torch.randn(args.batch, *shape, device=args.device)
        difference = (slow(x) - fast(x)).abs().max().item()
        sides = {"written out": lambda slow=slow, x=x: slow(x), "one key": lambda fast=fast, x=x: fast(x)}
        times = measure(sides, args.device, args.seconds)
        a, b = times["written out"] * 1e3, times["one key"] * 1e3
        print(f"{part:<20}{args.batch:>6}{a:>16.1f}{b:>12.1f}{a / b:>8.2f}x{difference:>12.1e}", flush=True)


if __name__ == "__main__":
    main()
