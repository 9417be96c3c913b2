"""The order of training units and of cases: pure functions of (seed, epoch, position), sharded over ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset, DistributedSampler


@dataclass(frozen=True)
class SliceKey:
    """One training unit: what the sampler yields and the data set answers.

    Args:
        slice: of a slab or crop, the one that it is cut around.
        view: which cached view of the slice, 0 the plain one; None without a feature cache.
        class_id: for which the slice was drawn; 0: for none.
    """

    epoch: int
    position: int
    case: int
    slice: int
    view: int | None = None
    class_id: int = 0


class SliceSampler(DistributedSampler):
    """Draws slices, or slabs and crops around them, so that small classes are seen.

    With probability `foreground_fraction` a class is drawn uniformly, then a slice that holds it; else any slice. Unit
    `position` of an epoch is the same whatever the number of ranks; rank r takes positions r, r + ranks, ...

    Args:
        counts: per case (D, K), voxels of each class on each slice.
        units_per_epoch: over all ranks; a remainder that can't be shared evenly is left out: ranks stay in step.
        foreground_fraction: in [0, 1].
        seed: of the data order.
        rank, ranks: this process among all.
        views: augmented views in the feature cache, of which and the plain one each unit draws; None without a cache.

    It derives from `DistributedSampler` because Lightning leaves such samplers alone instead of wrapping them.
    """

    def __init__(
        self,
        counts: Sequence[np.ndarray],
        units_per_epoch: int | None,
        foreground_fraction: float,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        views: int | None = None,
    ) -> None:
        super().__init__(_Sized(sum(map(len, counts))), num_replicas=ranks, rank=rank, shuffle=True, seed=seed)
        self.slices = np.concatenate(
            [np.stack([np.full(len(c), i), np.arange(len(c))], axis=1) for i, c in enumerate(counts)]
        )
        held = np.concatenate([c > 0 for c in counts])
        self.of_class = [(k + 1, rows) for k in range(held.shape[1]) if (rows := np.flatnonzero(held[:, k])).size]
        self.units = len(self.slices) if units_per_epoch is None else units_per_epoch
        self.foreground_fraction = foreground_fraction
        self.views = views

    def __len__(self) -> int:
        return self.units // self.num_replicas

    def __iter__(self) -> Iterator[SliceKey]:
        for i in range(len(self)):
            yield self.key(self.epoch, self.rank + i * self.num_replicas)

    def key(self, epoch: int, position: int) -> SliceKey:
        """Which slice is unit `position` of an epoch."""
        rng = np.random.default_rng((self.seed, epoch, position))
        class_id = 0
        if self.of_class and rng.random() < self.foreground_fraction:
            class_id, rows = self.of_class[rng.integers(len(self.of_class))]
            row = rows[rng.integers(len(rows))]
        else:
            row = rng.integers(len(self.slices))
        case, index = self.slices[row]
        view = None if self.views is None else int(rng.integers(self.views + 1))
        return SliceKey(epoch, position, int(case), int(index), view, class_id)


class CaseSampler(DistributedSampler):
    """Whole cases in order; rank r takes cases r, r + ranks, ... No case twice, so ranks may differ by one."""

    def __init__(self, count: int, rank: int = 0, ranks: int = 1) -> None:
        super().__init__(_Sized(count), num_replicas=ranks, rank=rank, shuffle=False)
        self.count = count

    def __len__(self) -> int:
        return len(range(self.rank, self.count, self.num_replicas))

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank, self.count, self.num_replicas))


class _Sized(Dataset):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count
