"""samzoo's image encoder against segment-anything's own: same weights, same pictures, both sides in turn in one run.

python benchmarks/bench_encoder.py                   CPU, float32
python benchmarks/bench_encoder.py --device cuda     float32, bf16 and bf16 compiled, with images/s and peak memory
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from samzoo.sam import ARCHITECTURES, build_sam
from samzoo.sam.config import resolve_config
from samzoo.sam.modeling import ImageEncoderViT


def build_pair(architecture: str, size: int, device: str) -> tuple[nn.Module, nn.Module]:
    """(segment-anything's encoder, ours) with the same random weights, relative positions included."""
    config = resolve_config(architecture, size)
    torch.manual_seed(0)
    theirs = ImageEncoderViT(
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
        mlp_ratio=config.mlp_ratio,
        out_chans=config.prompt_embed_dim,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=config.window_size,
        global_attn_indexes=config.global_attn_indexes,
    )
    for name, p in theirs.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            nn.init.normal_(p, std=0.1)
    ours = build_sam(config).image_encoder
    ours.load_state_dict(theirs.state_dict())
    return theirs.eval().to(device), ours.eval().to(device)


def measure(sides: dict[str, Callable[[], Tensor]], device: str, seconds: float) -> dict[str, float]:
    """Best seconds of one call per side: the sides take turns, and what other programs take away only ever adds."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for call in sides.values():
        call()
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or len(next(iter(times.values()))) < 5:
        for name, call in sides.items():
            synchronize(device)
            start = time.perf_counter()
            call()
            synchronize(device)
            times[name].append(time.perf_counter() - start)
    return {name: min(t) for name, t in times.items()}


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_gib(call: Callable[[], Tensor]) -> float:
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 2**30


def bench(architecture: str, size: int, device: str, batch: int, seconds: float) -> None:
    theirs, ours = build_pair(architecture, size, device)
    x = torch.randn(batch, 3, size, size, device=device)

    def half(encoder: nn.Module) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            return encoder(x)

    sides = {"segment-anything": lambda: theirs(x), "samzoo": lambda: ours(x)}
    if device == "cuda":
        compiled = build_pair(architecture, size, device)[1]
        compiled.compile()
        sides |= {
            "segment-anything bf16": lambda: half(theirs),
            "samzoo bf16": lambda: half(ours),
            "samzoo bf16 compiled": lambda: half(compiled),
        }
    reference = sides["segment-anything"]()
    errors = {name: (call().float() - reference).abs().max().item() for name, call in sides.items()}
    memory = {name: peak_gib(call) for name, call in sides.items()} if device == "cuda" else {}
    times = measure(sides, device, seconds)
    for name, t in times.items():
        peak = f"{memory[name]:9.2f}" if memory else f"{'':>9}"
        ratio = times["segment-anything"] / t
        line = f"{architecture:<9}{size:>5}{batch:>6}  {name:<22}{t * 1e3:>10.1f}{batch / t:>10.2f}{ratio:>7.2f}x"
        print(f"{line}{peak}{errors[name]:>12.1e}", flush=True)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--architecture", default="vit_b", choices=list(ARCHITECTURES))
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--batch", type=int, help="pictures per call (default: 1 on CPU, 16 on CUDA)")
    parser.add_argument("--seconds", type=float, default=20, help="measuring time per size")
    args = parser.parse_args()
    batch = args.batch or (16 if args.device == "cuda" else 1)
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {name}")
    heads = f"{'encoder':<9}{'size':>5}{'batch':>6}  {'side':<22}{'ms/call':>10}{'images/s':>10}{'ratio':>8}"
    print(f"{heads}{'peak GiB' if args.device == 'cuda' else '':>9}{'max diff':>12}")
    for size in args.sizes:
        bench(args.architecture, size, args.device, batch, args.seconds)


if __name__ == "__main__":
    main()
