"""Pretrained weights into a `Sam` or `Sam3d`: translated, resized to its image size, and every tensor accounted for."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from samzoo.errors import WeightsError
from samzoo.reading import some
from samzoo.sam.checkpoint import read_state_dict
from samzoo.sam.config import ARCHITECTURES
from samzoo.sam.sam3d.config import ARCHITECTURES_3D
from samzoo.sam.weights import find_weights, is_seen

Shape = tuple[int, ...]

_PROMISE = ("apm_", "ips_")
_TABLE = "image_encoder.pos_embed"
_PATCH = "image_encoder.patch_embed.proj.weight"
_BOX_VECTORS = tuple(f"prompt_encoder.point_embeddings.{i}.weight" for i in (2, 3))
"""In files of SAM-Med3D's challenge branch alone."""


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor.

    Args:
        source: as asked for.
        path, sha256: the file and the hash of its bytes; `verified` if that hash was known beforehand.
        loaded: taken as they are.
        resized: fitted to the image size, with shapes in the file and in the model.
        new: in the model only; they keep their initial values.
        ignored: in the file only.
        seen: data sets of the zoo whose training parts the weights were trained on, see `WeightsEntry`.
    """

    source: str
    path: Path
    sha256: str
    verified: bool
    loaded: tuple[str, ...]
    resized: dict[str, tuple[Shape, Shape]]
    new: tuple[str, ...]
    ignored: tuple[str, ...]
    seen: tuple[str, ...] = ()

    def has_seen(self, dataset: str, layout: str = "") -> bool:
        """Whether a data set of this name and layout is among `seen`, see `samzoo.sam.weights.is_seen`."""
        return is_seen(self.seen, dataset, layout)

    def __str__(self) -> str:
        changes = Counter(f"{re.sub(r'.*[.]', '', k)} {_by(a)} -> {_by(b)}" for k, (a, b) in self.resized.items())
        resized = ", ".join(f"{count} x {change}" for change, count in changes.items())
        seen = [f"  trained on {', '.join(self.seen)}: no unseen data in there"] if self.seen else []
        return "\n".join(
            [
                f"weights {self.source} ({self.path})",
                f"  sha256 {self.sha256} ({'verified' if self.verified else 'no published hash to compare with'})",
                f"  loaded  {len(self.loaded)}",
                f"  resized {len(self.resized)}{': ' if resized else ''}{resized}",
                f"  new     {len(self.new)}{': ' if self.new else ''}{_patterns(self.new)}",
                f"  ignored {len(self.ignored)}{': ' if self.ignored else ''}{_patterns(self.ignored)}",
                *seen,
            ]
        )


def load_weights(
    sam: nn.Module,
    source: str | Path,
    new: Callable[[str], bool] = lambda key: False,
    ignore: Callable[[str], bool] = lambda key: False,
    encoder_only: bool = False,
    rename: Callable[[str], str] = lambda key: key,
    whole: Callable[[str], str | None] = lambda key: None,
    check: Callable[[Path, Mapping[str, Tensor]], None] = lambda path, state: None,
) -> LoadReport:
    """Fill `sam` from a file and print what was done; on an error `sam` is left as it was.

    Position tables are resized bi- or trilinearly (no corner alignment, no antialiasing), relative positions of global
    blocks linearly, each judged by shape. Files of timm's `samvit_*` (encoder only) are translated. A `Sam3d` of
    several channels takes over a patch kernel of one channel in equal parts, and the vectors of box prompts are taken
    if both sides have them.

    Args:
        sam: a `Sam` or `Sam3d`, or what holds SAM's parts under the same names.
        source: name in `WEIGHTS`, path, or url.
        new: tells by key which parameters the file may lack (adapters, say).
        ignore: tells by key what of the file may be left out.
        encoder_only: accept a file without any prompt encoder and mask decoder, which then stay as they are.
        rename: takes the file's names to those of the model.
        whole: names the part a tensor belongs to, if the file may lack this part as a whole only.
        check: sees the path and the renamed tensors first, to refuse them in better words than a loader can find.

    Raises:
        WeightsError: not to be had, unreadable, of another architecture, or with tensors that nothing explains.
    """
    file = find_weights(source)
    state = _renamed(file.path, _to_official_names(read_state_dict(file.path)), rename)
    check(file.path, state)
    own = sam.state_dict()
    held = {key: tensor for key, tensor in state.items() if key in own}
    resized = {}
    for key, tensor in held.items():
        target = tuple(own[key].shape)
        if tensor.is_floating_point() != own[key].is_floating_point():
            kinds = f"{tensor.dtype} in the file and {own[key].dtype} in the model".replace("torch.", "")
            raise WeightsError(f"{file.path} does not fit: tensor {key} is {kinds}")
        if tuple(tensor.shape) != target:
            held[key] = _resize(file.path, key, tensor, state, own)
            resized[key] = (tuple(tensor.shape), target)

    optional = _BOX_VECTORS if _is_3d(own) else ()
    missing = [key for key in own if key not in state]
    bare = encoder_only and not any(key.startswith(("prompt_encoder.", "mask_decoder.")) for key in state)
    unexplained = [k for k in missing if not (new(k) or k in optional or (bare and not k.startswith("image_encoder.")))]
    ignored = [key for key in state if key not in own]
    unknown = [key for key in ignored if not (ignore(key) or key in ("pixel_mean", "pixel_std", *optional))]
    if unexplained or unknown:
        raise WeightsError(_complaint(file.path, unexplained, unknown, state, own))
    for part in sorted({whole(key) for key in missing} & {whole(key) for key in held} - {None}):
        lacking = [key for key in missing if whole(key) == part]
        raise WeightsError(
            f"{file.path} does not fit: it holds only a part of {part}, without {len(lacking)} tensors "
            f"({_patterns(lacking)}); is it complete, and of the same version?"
        )

    sam.load_state_dict(held, strict=False)
    report = LoadReport(
        source=str(source),
        path=file.path,
        sha256=file.sha256,
        verified=file.verified,
        loaded=tuple(key for key in held if key not in resized),
        resized=resized,
        new=tuple(missing),
        ignored=tuple(ignored),
        seen=file.seen,
    )
    if os.environ.get("LOCAL_RANK", "0") == "0":  # once, not by every process of a node
        print(report)
    return report


def _to_official_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's samvit_* hold the bare encoder, its MLP under other names."""
    if "patch_embed.proj.weight" not in state:
        return state
    return {"image_encoder." + re.sub(r"\.mlp\.fc(\d)\.", r".mlp.lin\1.", k): v for k, v in state.items()}


def _renamed(path: Path, state: dict[str, Tensor], rename: Callable[[str], str]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if rename(key) in renamed:
            raise WeightsError(f"{path} holds {rename(key)!r} twice, under an old and a new name")
        renamed[rename(key)] = tensor
    return renamed


def _resize(path: Path, key: str, tensor: Tensor, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Tensor:
    """What depends on the image size or the number of channels, at those of the model."""
    target = own[key].shape
    if key == _TABLE and tensor.ndim == len(target) and tensor.shape[-1] == target[-1]:
        mode = "bilinear" if tensor.ndim == 4 else "trilinear"
        channels_first = tensor.float().movedim(-1, 1)
        return F.interpolate(channels_first, target[1:-1], mode=mode, align_corners=False).movedim(1, -1)
    if (
        key.endswith((".rel_pos_d", ".rel_pos_h", ".rel_pos_w"))
        and tensor.ndim == 2
        and tensor.shape[1] == target[1]
        and _TABLE in state
    ):
        # Global on both sides? Then its length follows the grid; a window's does not, and must be equal.
        axis = "whd".index(key[-1])
        if (len(tensor), target[0]) == tuple(2 * t[_TABLE].shape[-2 - axis] - 1 for t in (state, own)):
            length = int(target[0])
            return F.interpolate(tensor.float().T[None], length, mode="linear", align_corners=False)[0].T
    if key == _PATCH and tensor.ndim == 5 and tensor.shape[1] == 1 and tensor.shape[2:] == target[2:]:
        return (tensor / target[1]).expand(target)  # the same answer where all channels show the same
    hint = ""
    if key.startswith(_PROMISE):
        hint = "its ProMISe part was trained with another num_classes, num_points or other widths; "
    elif _is_3d(state) != _is_3d(own):
        hint = "weights of a 2D SAM do not fit a 3D one, nor the reverse; "
    raise WeightsError(
        f"{path} does not fit: tensor {key} is {_by(tensor.shape)} in the file and {_by(target)} in the model; {hint}"
        f"the file looks like {_looks_like(state)}, the model like {_looks_like(own)}"
    )


def _complaint(
    path: Path, missing: list[str], unknown: list[str], state: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> str:
    parts = []
    if not any(key in own for key in state):
        parts.append("none of its tensors has a name that SAM knows")
    elif missing and not any(key.startswith(("prompt_encoder.", "mask_decoder.")) for key in state):
        parts.append(
            "it holds an image encoder only, and nothing to answer prompts with: take whole SAM weights such as "
            "sam_vit_b, or a method that trains the decoder"
        )
    if missing:
        parts.append(f"it lacks {len(missing)} tensors of the model ({_patterns(missing)})")
    if unknown:
        parts.append(f"it holds {len(unknown)} tensors that the model does not have ({_patterns(unknown)})")
    if any(".Adapter." in key for key in unknown):
        parts.append("it has SAM-Med2D's adapters: load it into the method SAMMed2D")
    if any(key.startswith(_PROMISE) for key in unknown):
        parts.append("it has ProMISe's modules: load it into the method ProMISe")
    if any(key.startswith("sam_model.") or key.endswith(".temporal_embedding") for key in unknown):
        parts.append("it has MaskSAM's modules: load it into the method MaskSAM")
    parts.append(f"the file looks like {_looks_like(state)}, the model like {_looks_like(own)}")
    return f"{path} does not fit: {'; '.join(parts)}"


def _is_3d(state: Mapping[str, Tensor]) -> bool:
    return _TABLE in state and state[_TABLE].ndim == 5


def _looks_like(state: Mapping[str, Tensor]) -> str:
    """The likely architecture of a state dict, in words."""
    patch, table = state.get(_PATCH), state.get(_TABLE)
    if patch is None or table is None or (patch.ndim, table.ndim) not in ((4, 4), (5, 5)):
        return "no SAM"
    width, side = patch.shape[0], patch.shape[-1]
    blocks = {int(m[1]) for key in state if (m := re.match(r"image_encoder\.blocks\.(\d+)\.", key))}
    known = ARCHITECTURES_3D if _is_3d(state) else ARCHITECTURES
    names = [n for n, c in known.items() if (c.embed_dim, c.depth, c.patch_size) == (width, len(blocks), side)]
    name = names[0] if names else "no published SAM"
    adapters = " with adapters" if any(".Adapter." in key for key in state) else ""
    size = f"{table.shape[1] * side} {'voxels, 3D' if _is_3d(state) else 'px'}"
    return f"{name}{adapters} (width {width}, {len(blocks)} blocks, patches of {side}, {size})"


def _by(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))


def _patterns(keys: Iterable[str], most: int = 6) -> str:
    """Keys with block numbers left out, so that hundreds become a few."""
    counts = Counter(re.sub(r"\.\d+\.", ".*.", key) for key in keys)
    return some([f"{name} ({count})" if count > 1 else name for name, count in counts.items()], most)
