"""States that an interrupted run resumes from: files that are written whole and named by their digest."""

import logging
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from emorec.errors import UserError, first_line
from emorec.storage.atomic import replacing, sync
from emorec.storage.digests import hash_file
from emorec.storage.folders import list_folder

log = logging.getLogger(__name__)

SUFFIX = ".ckpt"
DIGEST_DIGITS = 16


class _Stream:
    """Remembers the error of a full disk, of which torch makes a RuntimeError."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.stream.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.stream.flush()


class AtomicCheckpointIO(CheckpointIO):
    """Writes a state whole, under a name with its digest; reads tensors and primitives only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        target = Path(path)
        with replacing(target) as temporary:
            with temporary.open("wb") as file:
                stream = _Stream(file)
                try:
                    torch.save(checkpoint, stream)  # type: ignore[arg-type]
                except RuntimeError as error:
                    raise stream.error or error from error
            digest = hash_file(temporary)[:DIGEST_DIGITS]
        target.rename(target.with_name(f"{target.stem}-{digest}{SUFFIX}"))
        sync(target.parent)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_state(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def read_state(path: Path) -> dict[str, Any]:
    """The content of a state, on the CPU.

    Raises:
        UserError: it cannot be read, or holds something else than tensors and primitives.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        # torch's text for objects is long and advises to load them all the same
        what = "other objects" if isinstance(error, UnpicklingError) else first_line(error)
        raise UserError(
            f"expected a state of tensors and primitives, got {what} ({path}; rerun=true starts the run again)"
        ) from error
    return _with_best_weights(state)


def _with_best_weights(state: dict[str, Any]) -> dict[str, Any]:
    """A state in today's layout: version 0.1.0 kept the best epoch's weights among the history."""
    callbacks = state.get("callbacks", {})
    history = callbacks.get("History", {})
    if "best_weights" in history:
        callbacks["BestWeights"] = {name: history[f"best_{name}"] for name in ("epoch", "score", "weights")}
    return state


def states(folder: Path) -> list[Path]:
    """The states in `folder`, newest first."""
    return list_folder(folder, f"*-*{SUFFIX}")[::-1]


def newest_state(folder: Path) -> Path | None:
    """The newest state whose file, and whose file of best weights, match their digests; warns of those that do not."""
    for index, path in enumerate(states(folder)):
        try:
            valid = _is_whole(path) and _has_best_weights(path)
        except FileNotFoundError:
            continue  # another process has removed it in the meantime
        if valid:
            if index:
                log.warning("resuming from an older state, %s, since the newest is damaged", path.name)
            return path
        log.warning("the state %s is damaged and is not used", path)
    return None


def _is_whole(path: Path) -> bool:
    """Whether a file's content has the digest that its name ends with."""
    return hash_file(path)[:DIGEST_DIGITS] == path.stem.rpartition("-")[2]


def _has_best_weights(path: Path) -> bool:
    name = read_state(path).get("callbacks", {}).get("BestWeights", {}).get("file")
    return name is None or ((path.parent / name).is_file() and _is_whole(path.parent / name))
