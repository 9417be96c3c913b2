"""Train a method in two CPU processes on the same volumes, then in one: python train_alike_on_two.py FOLDER METHOD.

Both ranks see the same batch and draw the same (`global_rank` is kept out of the draw), so that the averaged gradient
is that of one process; what the ranks exchange has to be right for it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import lightning.pytorch as L
import torch
from test_methods_crop import crops, make
from tiny_slabs import masksam, slabs
from torch.utils.data import DataLoader

from samzoo.methods import MSAM, crop
from samzoo.methods.masksam import module

drawn = module.seeded_generator
module.seeded_generator = lambda epoch, batch, rank, device="cpu": drawn(epoch, batch, 0, device=device)
crop.seeded_generator = lambda epoch, batch, rank=0: drawn(epoch, batch, min(rank, 1))


def build(name: str):
    """The method and two batches for it."""
    if name == "MaskSAM":
        return masksam(optimizer="sgd", lr=1e-3), [slabs(0), slabs(1)]
    method = make(MSAM, boxes="corners", refinement={"box_fraction": 0.5})
    # AdamW's first steps are as large for a gradient of rounding errors as for any other
    method.configure_optimizers = lambda: torch.optim.SGD(
        [{"params": method.trainable_parameters(), "initial_lr": 1e-3}], lr=1e-3
    )
    return method, [crops(seed=0), crops(seed=1)]


def train(name: str, devices: int) -> dict[str, torch.Tensor]:
    method, batches = build(name)
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",  # no parameter may stay without gradient
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(method, DataLoader(batches, batch_size=None))
    return method.state_dict()


def main(folder: Path, name: str) -> None:
    torch.set_num_threads(1)
    weights = train(name, 2)
    rank = torch.distributed.get_rank()
    torch.save(weights, folder / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    if rank == 0:
        torch.save(train(name, 1), folder / "alone.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
