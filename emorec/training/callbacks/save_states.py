"""States to resume from: two generations of everything that training needs, only while a run is unfinished."""

import hashlib
import io
import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from lightning.pytorch.plugins.io import CheckpointIO

from emorec.training.collectives import any_rank, on_all_ranks
from emorec.models.lightning_overhead import EpochCallback
from emorec.training.preemption import Preemption
from emorec.storage.atomic import make_folder, replacing

log = logging.getLogger(__name__)

GENERATIONS = 2
SUFFIX = ".ckpt"
DIGEST_DIGITS = 16
STEPS_BETWEEN_DECISIONS = 10  # of several ranks: each costs them a round of messages


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:DIGEST_DIGITS]


class AtomicCheckpointIO(CheckpointIO):
    """Writes a state whole, under a name that carries its digest; reads tensors and primitives only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        wanted = Path(path)
        with replacing(wanted) as temporary:
            content = io.BytesIO()  # torch makes a RuntimeError of a full disk, and keeps the file open
            torch.save(checkpoint, content)
            temporary.write_bytes(content.getbuffer())
            digest = _digest(temporary)
        wanted.rename(wanted.with_name(f"{wanted.stem}-{digest}{SUFFIX}"))

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        state: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        return state

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def states(folder: Path) -> list[Path]:
    """The states in `folder`, newest first."""
    return sorted(folder.glob(f"*-*{SUFFIX}"), reverse=True)


def newest_state(folder: Path) -> Path | None:
    """The newest state whose content matches its digest; says so when that is not the newest."""
    for place, path in enumerate(states(folder)):
        if _digest(path) == path.stem.rpartition("-")[2]:
            if place:
                log.warning("resuming from an older state, %s: the newest is broken", path.name)
            return path
        log.warning("the state %s is broken and is not used", path)
    return None


class SaveStates(EpochCallback):
    """Saves a state after a step or at the end of an epoch, at most every so many seconds, and keeps the newest two.

    After a signal it saves a state at once and ends the training. Several ranks decide together, every
    `STEPS_BETWEEN_DECISIONS` steps and at the ends of epochs.

    Args:
        folder: where the states lie.
        every_seconds: between two of them.
        owned: false once someone else has taken the run over; then training ends.
        preemption: tells of signals.
        seed: of the run; each of several ranks begins with a chance of its own.
    """

    def __init__(
        self,
        *,
        folder: Path,
        every_seconds: float,
        owned: Callable[[], bool],
        preemption: Preemption | None = None,
        seed: int = 0,
    ) -> None:
        self.folder, self.every_seconds, self.owned = folder, every_seconds, owned
        self.preemption = preemption or Preemption()
        self.seed = seed
        self._last = time.monotonic()
        self._random: list[dict[str, Any]] | None = None

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        # the last step of an epoch is followed by its validation: the epoch's end decides
        if trainer.is_last_batch or (trainer.world_size > 1 and trainer.global_step % STEPS_BETWEEN_DECISIONS):
            return
        self._decide(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._decide(trainer)

    def _decide(self, trainer: lightning.Trainer) -> None:
        if not self.owned():
            raise RunTakenOverError("another process has taken this run over")
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
        make_folder(self.folder)
        trainer.save_checkpoint(self.folder / f"{trainer.global_step:012d}{SUFFIX}")
        if trainer.is_global_zero:
            for old in states(self.folder)[GENERATIONS:]:
                old.unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        return {"ranks": on_all_ranks(self._state_of_chance())}

    def _state_of_chance(self) -> dict[str, Any]:
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
        self.preemption.install()  # Lightning has its own handlers by now
        if self._random is None or trainer.global_rank >= len(self._random):
            if trainer.global_rank:  # only now: the strategies of several ranks seed each like the first
                torch.manual_seed(self.seed + 1_000_003 * trainer.global_rank)
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


class RunTakenOverError(Exception):
    """The claim of a run that this process trains has gone to another process."""
