"""A run's checkpoint as a weights file: `python -m samzoo.sam.export CHECKPOINT OUT.safetensors [--base FILE] ...`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import yaml
from safetensors.torch import save
from torch import Tensor

import samzoo
from samzoo.errors import SamzooError, WeightsError
from samzoo.sam.checkpoint import base_hash, read_state_dict
from samzoo.sam.model import build_sam
from samzoo.sam.sam3d import build_sam3d
from samzoo.sam.weights import file_sha256
from samzoo.writing import write_atomically

PARTS = ("image_encoder.", "prompt_encoder.", "mask_decoder.")


def export(checkpoint: str | Path, out: str | Path, float16: bool = False, base: str | Path | None = None) -> list[str]:
    """Write the SAM of a checkpoint under the official names, as `load_weights` takes it.

    The file's metadata tell the method (if the checkpoint lies in its run folder), the checkpoint's sha256 and the
    version of samzoo.

    Args:
        checkpoint: of a method that holds its network as `sam`.
        out: ends in .safetensors.
        base: the weights that the training started from, where the checkpoint leaves out what they hold.
        float16: write half precision, which takes half the space; `load_weights` copies it into float32.

    Returns:
        Names of the checkpoint's tensors that are no part of a SAM and are left out.

    Raises:
        WeightsError: unreadable, no SAM, not a whole one, or values too large for float16; `out` is of another kind,
            or `base` other weights than those of the training.
        DataError: `out` can't be written.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    if out.suffix != ".safetensors":
        raise WeightsError(f"{out}: weights are written as .safetensors; give a name that ends so")
    state = read_state_dict(checkpoint)
    if base is not None:
        if (found := file_sha256(Path(base))) != (expected := base_hash(checkpoint)):
            raise WeightsError(f"{checkpoint} was trained from weights with sha256 {expected}, {base} has {found}")
        state = read_state_dict(Path(base)) | state
    tensors = {name: t.detach().contiguous() for name, t in state.items() if name.startswith(PARTS)}
    _check_whole(checkpoint, tensors)
    if float16:
        tensors = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
        if large := [name for name, t in tensors.items() if not torch.isfinite(t).all()]:
            raise WeightsError(f"{checkpoint}: tensor {large[0]!r} is too large for float16; leave --float16 out")
    metadata = {
        "method": _method(checkpoint),
        "checkpoint_sha256": file_sha256(checkpoint),
        "samzoo": samzoo.__version__,
    }
    content = save({name: t.clone() for name, t in tensors.items()}, metadata)  # two names may share one memory
    write_atomically(out, lambda file: file.write(content), "wb")
    return sorted(set(state) - set(tensors))


def _check_whole(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A checkpoint lacks what is frozen and can be restored from base weights; a file of its own must not."""
    kernel = tensors.get("image_encoder.patch_embed.proj.weight")
    with torch.device("meta"):
        tiny = build_sam3d("vit_tiny_3d") if kernel is not None and kernel.ndim == 5 else build_sam("vit_tiny")
    block = "image_encoder.blocks."
    expected = [name for name in tiny.state_dict() if not name.startswith(block)]
    of_one = [name.removeprefix(f"{block}0.") for name in tiny.state_dict() if name.startswith(f"{block}0.")]
    numbers = [int(m[1]) for name in tensors if (m := re.match(r"image_encoder\.blocks\.(\d+)\.", name))]
    expected += [f"{block}{i}.{name}" for i in range(max(numbers, default=0) + 1) for name in of_one]
    if missing := [name for name in expected if name not in tensors]:
        raise WeightsError(
            f"{path} holds no whole SAM: {len(missing)} of its {len(expected)} tensors are missing, first "
            f"{missing[0]!r}. Either its method has no SAM, or what it froze is in its base weights and not in the "
            "checkpoint: give the file that the training started from as --base"
        )


def _method(checkpoint: Path) -> str:
    """Class name of the method, as the config of its run folder tells."""
    try:
        config = yaml.safe_load((checkpoint.absolute().parent.parent / "config.yaml").read_text(encoding="utf-8"))
        return str(config["model"]["class_path"]).rsplit(".", 1)[-1]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return "unknown"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m samzoo.sam.export", description="Write a run's SAM as weights.")
    parser.add_argument("checkpoint", help="a .ckpt of a run")
    parser.add_argument("out", help="file to write, .safetensors")
    parser.add_argument("--base", metavar="FILE", help="the weights that the training started from")
    parser.add_argument("--float16", action="store_true", help="half precision: half the size")
    options = parser.parse_args(argv)
    try:
        left_out = export(options.checkpoint, options.out, options.float16, options.base)
        digest = file_sha256(Path(options.out))
    except SamzooError as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    if left_out:
        print(f"left out, no part of a SAM: {', '.join(left_out)}")
    print(f"{options.out}: {Path(options.out).stat().st_size} bytes, sha256 {digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
