"""Train MaskSAM in two CPU processes on the same slabs, then in one: python train_masksam_on_two.py FOLDER.

Both ranks see the same slab and draw the same points (`global_rank` is kept out of the draw), so that the averaged
gradient is that of one process; what the ranks exchange (gradients, number of targets) has to be right for it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import lightning.pytorch as L
import torch
from tiny_slabs import masksam, slabs
from torch.utils.data import DataLoader

from samzoo.methods.masksam import module

drawn = module.seeded_generator
module.seeded_generator = lambda epoch, batch, rank, device="cpu": drawn(epoch, batch, 0, device=device)


def train(devices: int) -> dict[str, torch.Tensor]:
    method = masksam(optimizer="sgd", lr=1e-3)
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
    trainer.fit(method, DataLoader([slabs(0), slabs(1)], batch_size=None))
    return method.state_dict()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    weights = train(2)
    rank = torch.distributed.get_rank()
    torch.save(weights, folder / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    if rank == 0:
        torch.save(train(1), folder / "alone.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
