"""Keeps the weights of the epochs that are selected on validation, on disk."""

from collections.abc import Callable, Iterable, Mapping
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
from emorec.training.callbacks.moving_average import kept_weights
from emorec.training.collectives import any_rank
from emorec.training.selection import Best, Selection
from emorec.training.states import DIGEST_DIGITS

PATTERN = "best-*.safetensors"


def first_not_finite(weights: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or an infinity; `None` where all are finite."""
    return next((name for name, value in weights.items() if not value.isfinite().all()), None)


def mean_weights(files: Iterable[Path]) -> dict[str, Tensor]:
    """The mean of the weights in files, summed in float64; of whole numbers, such as counts of batches, the last."""
    from safetensors.torch import load_file

    total: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    count = 0
    for file in files:
        weights = load_file(file)
        for name, value in weights.items():
            if value.is_floating_point():
                total[name] = total[name] + value if name in total else value.double()
        count += 1
    return {name: (total[name] / count).to(value.dtype) if name in total else value for name, value in weights.items()}


class BestWeights(EpochCallback):
    """Writes the weights of the epochs that are selected by the monitor, or may still be.

    An epoch of which the monitor, a loss or a weight is not finite is never selected. A saved state names the files
    that it belongs with. Files that no kept state names are removed.

    Args:
        folder: of the resume states.
        monitor: such as "val/uar".
        direction: "max" or "min".
        owned: false once another process has taken the run over; then its files are left alone.
        selection: which epochs are selected.

    Attributes:
        diverged: what was not finite in which epoch, for the first such epoch.
    """

    def __init__(
        self,
        *,
        folder: Path,
        monitor: str,
        direction: str,
        owned: Callable[[], bool],
        selection: Selection | None = None,
    ) -> None:
        self.folder, self.monitor, self.sign = folder, monitor, 1 if direction == "max" else -1
        self.owned, self.selection = owned, selection or Best()
        self.diverged: str | None = None
        self._scores: dict[int, float] = {}  # {epoch: monitor, the higher the better}
        self._files: dict[int, str] = {}  # {epoch: file of its weights}
        self._in_states: list[list[str]] = []  # files that each of the kept states names, newest last

    @property
    def epochs(self) -> tuple[int, ...]:
        """The selected epochs; none before there is a finite one."""
        return self.selection.chosen(self._scores)

    @property
    def epoch(self) -> int | None:
        """The last of the selected epochs."""
        return self.epochs[-1] if self.epochs else None

    @property
    def score(self) -> float | None:
        """The monitor of `epoch`."""
        return None if self.epoch is None else self.sign * self._scores[self.epoch]

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        epoch, score = trainer.current_epoch, self.sign * metrics[self.monitor]
        losses = [name for name in metrics if name.rpartition("/")[2] == "loss"]
        not_finite = [name for name in (*losses, self.monitor) if not isfinite(metrics[name])]
        bad = f"{not_finite[0]} is {metrics[not_finite[0]]}" if not_finite else ""
        if not bad and epoch not in self.selection.needed({**self._scores, epoch: score}):
            self._scores[epoch] = score
            return
        weights = kept_weights(trainer)
        if tensor := first_not_finite(weights):
            bad = f"{tensor} holds values that are not finite"
        is_bad = bool(bad)
        if trainer.world_size > 1:  # with weights in parts only the first rank sees them whole
            (is_bad,) = any_rank(is_bad, device=trainer.strategy.root_device)
        if is_bad:
            self.diverged = self.diverged or f"in epoch {epoch} {bad}"
            return
        self._scores[epoch] = score
        if self.owned():
            self._write(epoch, weights)

    @rank_zero_only
    def _write(self, epoch: int, weights: dict[str, Tensor]) -> None:
        from safetensors.torch import save_file

        check_real_folder(self.folder)
        draft = self.folder / "best.safetensors"
        with replacing(draft) as temporary:
            save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, temporary)
            digest = hash_file(temporary)[:DIGEST_DIGITS]
        self._files[epoch] = f"best-{epoch}-{digest}.safetensors"
        draft.rename(self.folder / self._files[epoch])
        sync(self.folder)
        needed = self.selection.needed(self._scores)
        self._files = {epoch: name for epoch, name in self._files.items() if epoch in needed}
        self._prune()

    def _prune(self) -> None:
        kept = {*self._files.values(), *(name for names in self._in_states for name in names)}
        for path in list_folder(self.folder, PATTERN):
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def load(self) -> dict[str, Tensor]:
        """The weights of the selected epoch, or the mean of those of several."""
        return mean_weights(self.folder / self._files[epoch] for epoch in self.epochs)

    def state_dict(self) -> dict[str, Any]:
        self._in_states = [*self._in_states[-1:], list(self._files.values())]  # there are two generations of states
        own = {"epoch": self.epoch, "score": self.score, "diverged": self.diverged, "scores": self._scores}
        return {**own, "files": self._files, "in_states": self._in_states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.diverged = state_dict.get("diverged")
        if "files" in state_dict:
            self._scores, self._files = dict(state_dict["scores"]), dict(state_dict["files"])
            self._in_states = [list(names) for names in state_dict["in_states"]]
            return
        # states of older versions know the best epoch alone, by its weights or by the name of their file
        if (epoch := state_dict["epoch"]) is not None:
            self._scores = {epoch: self.sign * state_dict["score"]}
            if "weights" in state_dict:
                self._write(epoch, state_dict["weights"])
            else:
                self._files, self._in_states = {epoch: state_dict["file"]}, [[state_dict["file"]]]
