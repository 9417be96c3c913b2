"""Train SAM-Med2D in two CPU processes and save each one's weights: python train_on_two.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import lightning.pytorch as L
import torch
from tiny_methods import TINY, make_batch
from torch.utils.data import DataLoader

from samzoo.methods import SAMMed2D


class Slices(L.LightningDataModule):
    """Other slices in each process; the first batch of the second one has no object at all."""

    def train_dataloader(self):
        rank = self.trainer.global_rank
        return DataLoader([make_batch(10 + rank, objects=rank == 0), make_batch(20 + rank)], batch_size=None)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    method = SAMMed2D(
        TINY, image_size=None, freeze_encoder=False, refinement_passes=3, masks_per_picture=2, accumulate=2, lr=1e-3
    )
    before = {k: v.clone() for k, v in method.state_dict().items()}
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=2,
        strategy="ddp_find_unused_parameters_true",
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(method, datamodule=Slices())
    assert trainer.global_step == 2 * 2 * 4
    assert any(not torch.equal(before[k], v) for k, v in method.state_dict().items())
    torch.save(method.state_dict(), folder / f"{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
