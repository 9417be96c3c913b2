"""Settings of a quick training, and a callback that stops one in the middle of an epoch."""

from lightning.pytorch import Callback

PHANTOM = ["--data.phantom.cases=6", "--data.phantom.size=48", "--data.phantom.slices=[4,5]"]
QUICK = [
    *PHANTOM,
    "--data.units_per_epoch=8",
    "--data.batch_size=4",
    "--trainer.max_epochs=2",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--protocol.regimes=[box_per_slice]",
    "--protocol.surface_metrics=false",
]

WHOLE = ["--model.init_args.weights=null", "--model.init_args.freeze_encoder=false"]
"""Nothing is frozen, so that a checkpoint holds everything."""


class StopAt(Callback):
    """Raises at the start of a training batch.

    Args:
        batch: number of the batch over all epochs.
        kind: "crash" or "ctrl_c".
    """

    def __init__(self, batch: int, kind: str = "crash") -> None:
        self.batch, self.kind = batch, kind
        self.seen = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if self.seen == self.batch:
            raise KeyboardInterrupt if self.kind == "ctrl_c" else OSError("the machine went down")
        self.seen += 1
