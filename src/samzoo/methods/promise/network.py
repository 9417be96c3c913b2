"""The network of ProMISe: a wholly frozen SAM, point prompts regressed from its taps, shifted mask tokens.

What it computes and how its tensors are named follow the public reference code. Sizes that are constants there derive
from the encoder here, prompts of a batch are decoded together, and with several classes each has its own points and
shift.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from samzoo.errors import ConfigError
from samzoo.methods.promise.apm import TAPS, CrossHead, FeatureFusion, ResidualHead
from samzoo.methods.promise.ips import ShiftMLP, shift_table
from samzoo.sam import LoadReport, Sam, SamConfig

Apm = Literal["resnet", "cross"]
"""Head of the auto-prompting module: residual network on fused taps, or learned queries that attend to them."""

Ips = Literal["mlp", "table"]
"""Where the shift comes from: the picture's mean embedding, or one learned table for all pictures."""

Embedded = tuple[Tensor, Tensor, Tensor]
"""embedding (B, C, g, g), regressed points (B, K, N, 2) and shift (B, K, T, C)."""


class ProMISeNetwork(Sam):
    """Keys of the state dict are those of the published files.

    Args:
        config: sizes of the SAM.
        num_classes: K; with 1 it is the original. Every class has its own points and its own shift.
        apm, ips: which parts there are, and in which form.
        num_points: N regressed points of each class; the first `positive_points` are labelled foreground, the others
            background.
        fusion_width: of the fused taps (resnet); None: C.
        stage_widths: of the residual network (resnet).
        cross_heads: of the attention (cross); None: the encoder's.
        ips_zero_init: the MLP starts with no shift. A table always does.

    Raises:
        ConfigError: neither APM nor IPS, or numbers that do not fit.
    """

    point_labels: Tensor

    def __init__(
        self,
        config: SamConfig,
        num_classes: int = 1,
        *,
        apm: Apm | None = "resnet",
        ips: Ips | None = "mlp",
        num_points: int = 16,
        positive_points: int = 8,
        fusion_width: int | None = None,
        stage_widths: Sequence[int] = (64, 128, 256, 512),
        cross_heads: int | None = None,
        ips_zero_init: bool = False,
    ) -> None:
        super().__init__(config)
        _check(num_classes, apm, ips, num_points, positive_points)
        self.requires_grad_(False)
        self.num_classes, self.apm, self.ips = num_classes, apm, ips
        self.num_points = num_points if apm else 0
        self.num_tokens = 1 + config.num_multimask_outputs
        self.taps = choose_taps(config) if apm else ()
        dim, width, points = config.embed_dim, config.prompt_embed_dim, num_classes * num_points
        if apm == "resnet":
            fused = fusion_width or width
            self.apm_feature_map = FeatureFusion(dim, fused)
            self.apm_resnet = ResidualHead(fused, stage_widths, 2 * points, unused=self.num_tokens * width)
        elif apm == "cross":
            self.apm_cross = CrossHead(dim, cross_heads or config.num_heads, points)
            self.apm_cross_prompt = nn.Linear(dim, 2)
        if ips == "mlp":
            self.ips_ffn = ShiftMLP(width, self.num_tokens, num_classes, ips_zero_init)
        elif ips == "table":
            self.ips_table = shift_table(width, self.num_tokens, num_classes)
        labels = (torch.arange(self.num_points) < positive_points).long()
        self.register_buffer("point_labels", labels, persistent=False)

    def sam_modules(self) -> tuple[nn.Module, ...]:
        """SAM's parts, all of them frozen."""
        return self.image_encoder, self.prompt_encoder, self.mask_decoder

    @torch.no_grad()
    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        """What no training step changes: (B, 3, S, S) -> embedding (B, C, g, g) and, with APM, taps (B, D, g, g).

        All float32; the taps are those of `self.taps`, the last block first.
        """
        if not self.taps:
            return (self.image_encoder(x).float().contiguous(),)
        embedding, taps = self.image_encoder(x, self.taps)
        maps = (embedding, *(tap.permute(0, 3, 1, 2) for tap in taps))
        return tuple(m.float().contiguous() for m in maps)

    def embed(self, features: tuple[Tensor, ...]) -> Embedded:
        """`features` (float16 too, from a cache) -> embedding, points in pixels of the S x S grid, shift.

        Without APM there are no points (N = 0), without IPS the shift is zero.
        """
        embedding, *taps = (f.float() for f in features)
        if len(taps) != len(self.taps):
            raise ConfigError(f"these features hold {len(taps)} taps of the encoder, this network wants {self.taps}")
        batch = len(embedding)
        if self.ips == "mlp":
            shift = self.ips_ffn(embedding)
        elif self.ips == "table":
            shift = self.ips_table.expand(batch, -1, -1, -1)
        else:
            shift = embedding.new_zeros(batch, self.num_classes, self.num_tokens, embedding.shape[1])
        if self.apm is None:
            return embedding, embedding.new_zeros(batch, self.num_classes, 0, 2), shift
        points = self.regress(taps).sigmoid() * self.config.image_size
        return embedding, points, shift

    def regress(self, taps: Sequence[Tensor]) -> Tensor:
        """Three taps (B, D, g, g), last block first -> float32 (B, K, N, 2); sigmoid takes them to shares of S."""
        if self.apm == "resnet":
            raw = self.apm_resnet(self.apm_feature_map(taps))
        else:
            queries = self.apm_cross(taps)
            with torch.autocast(queries.device.type, enabled=False):
                raw = self.apm_cross_prompt(queries.float())
        return raw.reshape(-1, self.num_classes, self.num_points, 2)

    def answer(
        self,
        embedded: Embedded,
        image_index: Tensor,
        class_index: Tensor,
        user_points: Tensor | None = None,
        user_labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        regressed: bool = True,
        tokens: Sequence[int] = (1,),
        chunk: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Masks of P pairs of picture and class, all in the same form.

        Args:
            embedded: of `embed`.
            image_index, class_index: int64 (P,); classes count from 0.
            user_points, user_labels: (P, M, 2) in pixels of the S x S grid and (P, M), as in `Sam.encode_prompts`.
            boxes: (P, 4).
            masks: (P, 1, 4g, 4g), logits of an earlier answer.
            regressed: the regressed points go first; False leaves them out.
            tokens: mask tokens that answer. The original trains and uses token 1 alone.
            chunk: most prompts in a call of the decoder; where gradients are kept, chunks are computed again in the
                backward pass, so that one of them at a time takes memory. The answer is the same.

        Returns:
            logits (P, len(tokens), 4g, 4g) and quality (P, len(tokens)).

        Raises:
            ConfigError: neither points nor boxes.
        """
        embedding, own_points, shift = embedded
        count = len(image_index)
        pieces = []
        if regressed and self.num_points:
            pieces.append((own_points[image_index, class_index], self.point_labels.expand(count, -1)))
        if user_points is not None and user_points.shape[1]:
            pieces.append((user_points, user_labels))
        points = labels = None
        if pieces:
            points, labels = (torch.cat(column, dim=1) for column in zip(*pieces, strict=True))
        elif boxes is None:
            raise ConfigError("ProMISe without regressed points needs a click or a box for each mask")
        moved = shift[image_index, class_index] if self.ips else None

        def decode(image: Tensor, index: Tensor, *prompts: Tensor | None) -> tuple[Tensor, Tensor]:
            *prompts, moved = prompts
            sparse, dense = self.encode_prompts(*prompts)
            return self.decode(image, index, sparse, dense, tokens, moved)

        rows = (points, labels, boxes, masks, moved)
        if chunk is None or count <= chunk:
            return decode(embedding, image_index, *rows)
        parts = []
        for start in range(0, count, chunk):
            part = slice(start, start + chunk)
            index, image = image_index[part], embedding
            if chunk < len(embedding):  # the decoder works on every picture that it is given
                image, index = embedding[index], torch.arange(len(index), device=index.device)
            arguments = (image, index, *(None if r is None else r[part] for r in rows))
            if torch.is_grad_enabled():
                parts.append(checkpoint(decode, *arguments, use_reentrant=False, preserve_rng_state=False))
            else:
                parts.append(decode(*arguments))
        logits, quality = (torch.cat(column) for column in zip(*parts, strict=True))
        return logits, quality


def choose_taps(config: SamConfig) -> tuple[int, ...]:
    """Blocks (from 0, last first) whose output APM reads, by position as 12, 9, 6 are in ViT-B.

    With three or more global-attention blocks the last three of them, else those at 4/4, 3/4 and 1/2 of the depth.
    """
    places = sorted(config.global_attn_indexes)
    if len(places) < TAPS:
        places = [math.ceil(config.depth * quarters / 4) - 1 for quarters in (2, 3, 4)]
    return tuple(places[-TAPS:][::-1])


def _check(num_classes: int, apm: str | None, ips: str | None, num_points: int, positive_points: int) -> None:
    if apm not in ("resnet", "cross", None):
        raise ConfigError(f"ProMISe's apm must be resnet, cross or null, got {apm!r}")
    if ips not in ("mlp", "table", None):
        raise ConfigError(f"ProMISe's ips must be mlp, table or null, got {ips!r}")
    if apm is None and ips is None:
        raise ConfigError("ProMISe without APM and IPS is plain SAM and has nothing to train: set apm or ips")
    if num_classes < 1:
        raise ConfigError(f"ProMISe needs at least one class, got num_classes {num_classes}")
    if apm and not (num_points >= 1 and 0 <= positive_points <= num_points):
        raise ConfigError(
            f"ProMISe's positive_points {positive_points} must lie between 0 and num_points {num_points}, and "
            "num_points be at least 1"
        )


def group_of(key: str) -> str | None:
    """Which of ProMISe's parts a tensor belongs to: "APM (resnet)", "IPS (mlp)", ...; None: SAM's or unknown."""
    match = re.match(r"apm_feature_map\.|apm_resnet\.|apm_cross\.|apm_cross_prompt\.|ips_ffn\.|ips_table$", key)
    if match is None:
        return None
    part = match[0].rstrip(".")
    return {"ips_ffn": "IPS (mlp)", "ips_table": "IPS (table)"}.get(
        part, "APM (cross)" if part.startswith("apm_cross") else "APM (resnet)"
    )


def load_args(network: ProMISeNetwork) -> dict[str, Callable[[str], Any]]:
    """Arguments of `samzoo.sam.load_weights`: plain SAM weights, and files of the reference in any of its modes.

    A part (APM's head, IPS) may be missing in the file, whole only; parts that this network lacks are left out.
    """
    own = {group_of(key) for key in network.state_dict()} - {None}
    return {
        "new": lambda key: group_of(key) is not None,
        "ignore": lambda key: group_of(key) not in own | {None},
        "rename": lambda key: re.sub(r"^ffn\.(lin\d\.)", r"ips_ffn.\1", key),  # the name in early files
        "whole": group_of,
    }


def warn_of_ignored(report: LoadReport) -> None:
    """Tell that trained parts of a file were left out; the loader's print alone is easily overlooked."""
    groups = sorted({group_of(key) for key in report.ignored} - {None})
    if groups:
        rank_zero_warn(
            f"{report.path} holds a trained {' and '.join(groups)}, which these settings of apm and ips have no place "
            "for: left out"
        )
