"""Keeps the weights of the best epoch on disk."""

from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from emorec.models.lightning_overhead import EpochCallback
from emorec.storage.atomic import replacing, sync
from emorec.storage.digests import hash_file
from emorec.storage.folders import check_real_folder, list_folder
from emorec.training.collectives import any_rank
from emorec.training.states import DIGEST_DIGITS

PATTERN = "best-*.safetensors"


def first_not_finite(weights: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or an infinity; `None` where all are finite."""
    return next((name for name, value in weights.items() if not value.isfinite().all()), None)


class BestWeights(EpochCallback):
    """Writes the weights of the best epoch by the monitor; of equal epochs the first counts.

    An epoch of which the monitor, a loss or a weight is not finite is never the best. A saved state names the file that
    it belongs with. Files that no kept state names are removed.

    Args:
        folder: of the resume states.
        monitor: such as "val/uar".
        direction: "max" or "min".
        owned: false once another process has taken the run over; then its files are left alone.

    Attributes:
        epoch: the best epoch; `None` before there is a finite one.
        score: its monitor.
        diverged: what was not finite in which epoch, for the first such epoch.
    """

    def __init__(self, *, folder: Path, monitor: str, direction: str, owned: Callable[[], bool]) -> None:
        self.folder, self.monitor, self.sign = folder, monitor, 1 if direction == "max" else -1
        self.owned = owned
        self.epoch: int | None = None
        self.score: float | None = None
        self.diverged: str | None = None
        self._file: str | None = None
        self._in_states: list[str] = []  # files that the kept states name, newest last

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        score = metrics[self.monitor]
        losses = [name for name in metrics if name.rpartition("/")[2] == "loss"]
        not_finite = [name for name in (*losses, self.monitor) if not isfinite(metrics[name])]
        bad = f"{not_finite[0]} is {metrics[not_finite[0]]}" if not_finite else ""
        if not bad and self.score is not None and self.sign * score <= self.sign * self.score:
            return
        weights = trainer.strategy.lightning_module_state_dict()  # whole, also where ranks hold parts of it
        if tensor := first_not_finite(weights):
            bad = f"{tensor} holds values that are not finite"
        is_bad = bool(bad)
        if trainer.world_size > 1:  # with weights in parts only the first rank sees them whole
            (is_bad,) = any_rank(is_bad, device=trainer.strategy.root_device)
        if is_bad:
            self.diverged = self.diverged or f"in epoch {trainer.current_epoch} {bad}"
            return
        self.epoch, self.score = trainer.current_epoch, score
        if self.owned():
            self._write(weights)

    @rank_zero_only
    def _write(self, weights: dict[str, Tensor]) -> None:
        from safetensors.torch import save_file

        check_real_folder(self.folder)
        draft = self.folder / "best.safetensors"
        with replacing(draft) as temporary:
            save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, temporary)
            digest = hash_file(temporary)[:DIGEST_DIGITS]
        self._file = f"best-{self.epoch}-{digest}.safetensors"
        draft.rename(self.folder / self._file)
        sync(self.folder)
        self._prune()

    def _prune(self) -> None:
        for path in list_folder(self.folder, PATTERN):
            if path.name not in (self._file, *self._in_states):
                path.unlink(missing_ok=True)

    def load(self) -> dict[str, Tensor]:
        """The weights of the best epoch."""
        from safetensors.torch import load_file

        assert self._file is not None
        return load_file(self.folder / self._file)

    def state_dict(self) -> dict[str, Any]:
        if self._file is not None:
            self._in_states = [*self._in_states[-1:], self._file]  # there are two generations of states
        own = {"epoch": self.epoch, "score": self.score, "diverged": self.diverged}
        return {**own, "file": self._file, "in_states": self._in_states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epoch, self.score, self.diverged = (state_dict.get(name) for name in ("epoch", "score", "diverged"))
        if "weights" in state_dict:
            if self.epoch is not None:
                self._write(state_dict["weights"])
            return
        self._file, self._in_states = state_dict["file"], list(state_dict["in_states"])
