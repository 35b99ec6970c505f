"""Early stopping that survives a resume."""

import lightning.pytorch as lightning
from lightning.pytorch.callbacks import EarlyStopping

from emorec.models.lightning_overhead import EpochCallback


class ResumableEarlyStopping(EarlyStopping, EpochCallback):
    """Early stopping that a run resumed after its last epoch remembers, instead of training one epoch more."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience
