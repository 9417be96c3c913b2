"""State dicts out of weights files, without ever running code that a file brings along."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from samzoo.errors import WeightsError


class _Inert:
    """Stands in for an optimiser object: takes anything, keeps and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


def _empty_dict(*_: Any) -> dict:
    return {}


_NUMPY = {f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")} | {
    "numpy.dtype",
    "numpy.ndarray",
}
"""What numpy's numbers and arrays are pickled as, before and since numpy 2."""


BASE_HASH_KEY = "samzoo_base_sha256"
"""What a checkpoint of samzoo's own calls the hash of the weights that hold what it leaves out."""


def base_hash(checkpoint: Path) -> str | None:
    """Hash of the base weights that a checkpoint of samzoo's own belongs to; None: it needs none.

    Raises:
        WeightsError: as `read_state_dict`.
    """
    read_state_dict(checkpoint)  # says what is wrong with it
    data = None if checkpoint.suffix == ".safetensors" else _read_torch(checkpoint)
    return data.get(BASE_HASH_KEY) if isinstance(data, Mapping) else None


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file or of a torch file (flat, or under "model"), or of a checkpoint of samzoo's own.

    SAM-Med2D's training writes {"model": state dict, "optimizer": the optimiser *object*}, that of MaskSAM (nnU-Net)
    {"network_weights": state dict, ...} with figures of its log as numbers of numpy: such files are opened with inert
    stand-ins for the classes of torch.optim and for numpy's. So are those of SAM-Med3D, {"model_state_dict": state
    dict, "args": argparse.Namespace, ...}. Any other object in a file is refused.

    Raises:
        WeightsError: unreadable, not a state dict, or with objects other than tensors in it.
    """
    if not path.is_file():
        raise WeightsError(f"no weights file at {path}")
    try:
        data = load_file(path) if path.suffix == ".safetensors" else _read_torch(path)
    except WeightsError:
        raise
    except Exception as error:  # broken files fail in as many ways as there are bytes
        raise WeightsError(f"{path} can't be read as weights ({_first_line(error)}); is it complete?") from error
    for key in ("model", "state_dict", "network_weights", "model_state_dict"):
        if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
            data = data[key]
    if not isinstance(data, Mapping) or not data:
        raise WeightsError(f"{path} holds no state dict (a mapping of names to tensors, or one under 'model')")
    check_tensors(path, data)
    # the checkpoint of a run has the network of its method under this name
    return {key.removeprefix("sam."): value for key, value in data.items()}


def check_tensors(path: Path, state: Mapping[Any, Any]) -> None:
    """Whether all entries of a file are plain tensors of finite numbers.

    Raises:
        WeightsError: one is not, or is larger than the file that it is said to be in.
    """
    size = path.stat().st_size
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"{path} holds no state dict: its entry {key!r:.80} is a {type(value).__name__}, not a tensor by name"
            )
        if value.layout is not torch.strided or value.is_quantized or value.is_meta or value.is_complex():
            raise WeightsError(f"{path}: tensor {key!r} is sparse, quantised, complex or empty; save plain numbers")
        if value.numel() * value.element_size() > size:
            raise WeightsError(f"{path}: tensor {key!r} of {tuple(value.shape)} is larger than the file; it is damaged")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise WeightsError(f"{path}: tensor {key!r} holds NaN or infinite values")


def _read_torch(path: Path) -> Any:
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # the format before torch 1.6 can't be looked through beforehand
        foreign = []
    stand_ins: dict[str, Any] = {
        "builtins.dict": _Inert,
        "collections.defaultdict": _empty_dict,
        "argparse.Namespace": _Inert,
    }
    inert = [name for name in foreign if name.startswith("torch.optim.") or name in _NUMPY]
    refused = [name for name in foreign if name not in inert and name not in stand_ins]
    if refused:
        raise WeightsError(
            f"{path} holds code or objects that are not tensors and was not opened: {', '.join(sorted(refused))}. "
            "If you trust its origin, save its tensors alone (a state dict by torch.save, or safetensors) and use that"
        )
    admitted = [(stand_ins.get(name, _Inert), name) for name in foreign]
    with torch.serialization.safe_globals(admitted):
        return torch.load(path, map_location="cpu", weights_only=True)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
