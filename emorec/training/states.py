"""States that an interrupted run resumes from: files that are written whole and named by their digest."""

import logging
import re
import struct
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
BEST_NAME = re.compile(r"best-\d+-[0-9a-f]{16}\.safetensors")
# What of a state Lightning and the callbacks read.
CONTENT: dict[str, type] = {
    **{"epoch": int, "global_step": int, "pytorch-lightning_version": str, "state_dict": dict, "loops": dict},
    **{"callbacks": dict, "optimizer_states": list, "lr_schedulers": list},
}
CALLBACKS = {"History": ("rows",), "BestWeights": ("epoch", "score"), "SaveStates": ("ranks",)}
UNREADABLE = (
    *(UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, AssertionError),
    *(OverflowError, MemoryError, struct.error),
)


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
        state: Any = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except UNREADABLE as error:
        # torch's text for objects is long and advises to load them all the same
        what = "other objects" if isinstance(error, UnpicklingError) else first_line(error)
        raise _refusal("a state of tensors and primitives", what, path) from error
    for name, node in (("a state", state), ("the states of callbacks", isinstance(state, dict) and _callbacks(state))):
        if not isinstance(node, dict) or not all(isinstance(key, str) for key in node):
            raise _refusal(f"{name} by name", type(node).__name__, path)
    return _with_best_weights(state)


def check_state(path: Path) -> None:
    """Raises a `UserError` for a file of tensors and primitives that is no state of a training."""
    state = read_state(path)
    problems = [
        f"{name} of {type(state.get(name)).__name__}"
        for name, kind in CONTENT.items()
        if not isinstance(state.get(name), kind) or isinstance(state[name], bool)
    ]
    callbacks = _callbacks(state)
    for callback, names in CALLBACKS.items():
        own = callbacks.get(callback)
        problems += [f"no {callback}.{name}" for name in names if not isinstance(own, dict) or name not in own]
    if problems:
        raise _refusal(f"a state of a training with {', '.join(CONTENT)}", ", ".join(problems), path)


def misfit(path: Path, error: BaseException) -> UserError:
    """The error of a state that a training cannot go on from."""
    return _refusal("a state that fits the run", f"{type(error).__name__}: {first_line(error)}", path)


def _refusal(expected: str, got: str, path: Path) -> UserError:
    return UserError(f"expected {expected}, got {got} ({path}; rerun=true starts the run again)")


def _callbacks(state: dict[str, Any]) -> Any:
    return state.get("callbacks", {})


def _with_best_weights(state: dict[str, Any]) -> dict[str, Any]:
    """A state in today's layout: version 0.1.0 kept the best epoch's weights among the history."""
    callbacks = _callbacks(state)
    history = callbacks.get("History", {})
    if isinstance(history, dict) and "best_weights" in history:
        callbacks["BestWeights"] = {name: history[f"best_{name}"] for name in ("epoch", "score", "weights")}
    return state


def states(folder: Path) -> list[Path]:
    """The states in `folder`, newest first."""
    return [path for path in list_folder(folder, f"*-*{SUFFIX}")[::-1] if path.is_file()]


def newest_state(folder: Path) -> Path | None:
    """The newest state whose file, and whose files of best weights, match their digests; warns of those that do not."""
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
    best = _callbacks(read_state(path)).get("BestWeights", {})
    files = best.get("files", {None: best.get("file")}) if isinstance(best, dict) else {None: best}
    names = list(files.values()) if isinstance(files, dict) else [files]
    for name in names:
        if name is not None and not (isinstance(name, str) and BEST_NAME.fullmatch(name)):
            raise _refusal("BestWeights.files to name files of best weights", repr(name), path)
    return all(name is None or ((path.parent / name).is_file() and _is_whole(path.parent / name)) for name in names)
