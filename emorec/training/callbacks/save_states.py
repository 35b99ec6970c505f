"""Saves states to resume from, also when a signal asks the run to end."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch

from emorec.errors import RunTakenOverError
from emorec.models.lightning_overhead import EpochCallback
from emorec.storage.atomic import make_folder
from emorec.storage.folders import check_real_folder
from emorec.training.collectives import any_rank, gather
from emorec.training.preemption import Preemption
from emorec.training.states import SUFFIX, states

GENERATIONS = 2
STEPS_BETWEEN_DECISIONS = 10  # with several ranks, since each decision costs them a message


class SaveStates(EpochCallback):
    """Saves a state after a step or at the end of an epoch, at most once in so many seconds, and keeps the newest two.

    After a signal it saves a state at once and ends the training. Several ranks decide together, every
    `STEPS_BETWEEN_DECISIONS` steps and at the end of each epoch.

    Args:
        folder: of the states.
        every_seconds: between two of them.
        owned: false once another process has taken the run over; then training ends.
        preemption: knows of signals.
        seed: of the run; each rank draws random numbers of its own from it.

    Attributes:
        started: whether training has begun; until then a state is restored.
    """

    def __init__(
        self, *, folder: Path, every_seconds: float, owned: Callable[[], bool], preemption: Preemption, seed: int
    ) -> None:
        self.folder, self.every_seconds, self.owned = folder, every_seconds, owned
        self.preemption, self.seed = preemption, seed
        self._last = time.monotonic()
        self._random: list[dict[str, Any]] | None = None
        self.started = False

    def on_train_batch_end(self, trainer: lightning.Trainer, *arguments: Any) -> None:
        # a state holds no gradients: it is saved when they have been used
        if (arguments[-1] + 1) % trainer.accumulate_grad_batches:
            return
        # the last step of an epoch is followed by its validation: the end of the epoch decides
        if trainer.is_last_batch or (trainer.world_size > 1 and trainer.global_step % STEPS_BETWEEN_DECISIONS):
            return
        self._decide(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._decide(trainer)

    def _decide(self, trainer: lightning.Trainer) -> None:
        if not self.owned():
            raise RunTakenOverError
        due = trainer.is_global_zero and time.monotonic() - self._last >= self.every_seconds
        signalled = self.preemption.received is not None
        if trainer.world_size > 1:
            due, signalled = any_rank(due, signalled, device=trainer.strategy.root_device)
        if due or signalled:
            self.save(trainer)
            self._last = time.monotonic()
        if signalled:
            raise self.preemption.error()

    def save(self, trainer: lightning.Trainer) -> None:
        """Saves a state now; with several ranks, all of them call it."""
        check_real_folder(make_folder(self.folder))
        trainer.save_checkpoint(self.folder / f"{trainer.global_step:012d}{SUFFIX}")
        if trainer.is_global_zero:
            for old in states(self.folder)[GENERATIONS:]:
                old.unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        return {"ranks": gather(self._random_state())}

    @staticmethod
    def _random_state() -> dict[str, Any]:
        kind, keys, *rest = np.random.get_state(legacy=True)
        version, internal, gauss = random.getstate()
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy": [str(kind), torch.from_numpy(np.array(keys).astype(np.int64)), *rest],
            "python": [version, list(internal), gauss],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._random = list(state_dict["ranks"])

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.preemption.install()  # Lightning has installed its own handlers by now
        self._restore_random_state(trainer)
        self.started = True

    def _restore_random_state(self, trainer: lightning.Trainer) -> None:
        if self._random is None or trainer.global_rank >= len(self._random):
            if trainer.global_rank:  # only now: with several ranks the strategies seed each like the first
                torch.manual_seed(self.seed + 1_000_003 * trainer.global_rank)
                np.random.seed((self.seed + 1_000_003 * trainer.global_rank) % 2**32)  # transformers masks with it
            return
        own = self._random[trainer.global_rank]
        torch.set_rng_state(own["torch"])
        if own["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(own["cuda"][: torch.cuda.device_count()])  # there may be fewer now
        kind, keys, *rest = own["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
        version, internal, gauss = own["python"]
        random.setstate((version, tuple(internal), gauss))
        self._random = None
