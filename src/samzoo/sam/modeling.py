"""Segment Anything's own building blocks (segment-anything 1.0, Apache-2.0, https://github.com/facebookresearch/segment-anything).

`import segment_anything` also imports its predictor and with it torchvision, which is missing or broken beside a
CPU-only torch. The sub-package `segment_anything.modeling` needs torch alone and imports its siblings relatively, so it
is loaded here under a name of our own: the real `segment_anything` stays importable for everybody else.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

_ALIAS = f"{__package__}._segment_anything"


def _load() -> ModuleType:
    if _ALIAS in sys.modules:
        return sys.modules[_ALIAS]
    package = importlib.util.find_spec("segment_anything")  # finds the folder without running the package
    if package is None or not package.submodule_search_locations:
        raise ImportError("samzoo needs the package segment-anything: pip install 'segment-anything>=1.0'")
    folder = Path(next(iter(package.submodule_search_locations))) / "modeling"
    spec = importlib.util.spec_from_file_location(
        _ALIAS, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[_ALIAS] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[_ALIAS]
        raise
    return module


_modeling = _load()

ImageEncoderViT = _modeling.ImageEncoderViT
MaskDecoder = _modeling.MaskDecoder
PromptEncoder = _modeling.PromptEncoder
TwoWayTransformer = _modeling.TwoWayTransformer

EncoderAttention = _modeling.image_encoder.Attention
PatchEmbed = _modeling.image_encoder.PatchEmbed
DecoderAttention = _modeling.transformer.Attention
TwoWayAttentionBlock = _modeling.transformer.TwoWayAttentionBlock
window_partition = _modeling.image_encoder.window_partition
window_unpartition = _modeling.image_encoder.window_unpartition
LayerNorm2d = _modeling.common.LayerNorm2d
MLPBlock = _modeling.common.MLPBlock
