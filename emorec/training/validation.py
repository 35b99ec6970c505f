"""Checks a training config before anything is started: all problems at once."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from emorec.config.instantiation import target_of
from emorec.datasets.utterance import Task, Utterance
from emorec.errors import UserError, raise_problems
from emorec.features.computation import ExtractionSettings
from emorec.features.reader import ReadSettings

log = logging.getLogger(__name__)

STRATEGIES = ("auto", "ddp", "fsdp")
ACCELERATORS = ("auto", "cpu", "gpu")
SWEEP_NAME = re.compile(r"\w[\w.+-]*")  # a folder of its own
CLASSIFICATION = ("weighted_f1", "macro_f1", "uar", "accuracy")
REGRESSION = ("mae", "rmse", "pearson", "ccc")
PRECISIONS = ("32", "bf16-mixed", "16-mixed")


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_training(config: Mapping[str, Any]) -> None:
    """Raises a `UserError` that lists everything in the config that cannot be trained."""
    trainer, model = config["trainer"], config["model"]
    problems = []

    def expect(holds: bool, what: str, got: Any) -> None:
        if not holds:
            problems.append(f"expected {what}, got {got!r}")

    expect(_is_whole(config["seed"], 0), "seed to be a whole number from 0", config["seed"])
    expect(_is_whole(config["batch_size"], 1), "batch_size to be a whole number from 1", config["batch_size"])
    expect(_is_whole(model["hidden"], 1), "model.hidden to be a whole number from 1", model["hidden"])
    dropout = model["dropout"]
    expect(isinstance(dropout, int | float) and 0 <= dropout < 1, "model.dropout in [0, 1)", dropout)
    epochs, patience = trainer["max_epochs"], trainer["patience"]
    expect(_is_whole(epochs, 1), "trainer.max_epochs to be a whole number from 1", epochs)
    expect(patience is None or _is_whole(patience, 1), "trainer.patience to be null or a whole number from 1", patience)
    expect(str(trainer["precision"]) in PRECISIONS, f"trainer.precision in {PRECISIONS}", trainer["precision"])
    fused = bool(config["optimizer"].get("fused")) and str(trainer["precision"]) != "32" and trainer["gradient_clip"]
    expect(not fused, "trainer.gradient_clip=null or no fused optimizer with a mixed precision", "optimizer.fused=true")
    devices, nodes = trainer["devices"], trainer["num_nodes"]
    expect(_is_whole(devices, 1), "trainer.devices to be a whole number from 1", devices)
    expect(_is_whole(nodes, 1), "trainer.num_nodes to be a whole number from 1", nodes)
    expect(trainer["strategy"] in STRATEGIES, f"trainer.strategy in {STRATEGIES}", trainer["strategy"])
    expect(trainer["accelerator"] in ACCELERATORS, f"trainer.accelerator in {ACCELERATORS}", trainer["accelerator"])
    if trainer["strategy"] == "fsdp":
        half = str(trainer["precision"]) != "16-mixed"
        expect(half, "trainer.precision=32 or bf16-mixed with trainer.strategy=fsdp", trainer["precision"])
        alone = devices == nodes == 1
        expect(not alone, "several ranks (trainer.devices, trainer.num_nodes) for trainer.strategy=fsdp", devices)
    per = config["batch_size_per"]
    expect(per in ("step", "device"), "batch_size_per in ('step', 'device')", per)
    if not problems and per == "step":
        ranks = devices * nodes
        size = config["batch_size"]
        expect(size % ranks == 0, f"batch_size to be a multiple of the {ranks} ranks (batch_size_per=step)", size)
    expect(config["on_running"] in ("wait", "skip"), "on_running in ('wait', 'skip')", config["on_running"])
    for name in ("test", "rerun"):
        expect(isinstance(config[name], bool), f"{name} to be true or false", config[name])
    tags, notes, every = config["tags"], config["notes"], config["checkpoint"]["every_seconds"]
    expect(
        isinstance(tags, list) and all(isinstance(tag, str) for tag in tags), "tags to be a list such as [a,b]", tags
    )
    expect(notes is None or isinstance(notes, str), "notes to be null or a text", notes)
    number = isinstance(every, int | float) and not isinstance(every, bool) and every >= 0
    expect(number, "checkpoint.every_seconds to be a number from 0", every)
    name = config["sweep"]["name"]
    folder = name is not None and SWEEP_NAME.fullmatch(str(name)) is not None
    expect(folder, "sweep.name to be letters, digits, '_', '.', '-' or '+', the first no mark", name)
    for key, made in (("extraction", ExtractionSettings), ("features", ReadSettings)):
        try:
            made(**config[key])
        except (UserError, TypeError) as error:
            problems.append(f"{key}: {error}")
    raise_problems("the config", problems)


def check_devices(settings: Mapping[str, Any]) -> None:
    """Raises a `UserError` where this machine cannot train what a config's `trainer` asks for."""
    import torch

    gpus = 0 if settings["accelerator"] == "cpu" else torch.cuda.device_count()
    wanted = settings["devices"]
    if (gpus or settings["accelerator"] == "gpu") and gpus < wanted:
        bound = "; Slurm may have given each task one of its own (--gpus-per-task, --gpu-bind): ask for --gpus-per-node"
        raise UserError(
            f"expected {wanted} GPU(s) on this machine (trainer.devices={wanted}, "
            f"trainer.accelerator={settings['accelerator']}), found {gpus}"
            f"{bound if gpus and 'SLURM_STEP_ID' in os.environ else ''}"
        )
    if gpus and not torch.cuda.is_available():
        raise UserError(
            f"expected a driver for CUDA {torch.version.cuda}, which this torch is made for, found {gpus} GPU(s) that "
            "it cannot use; trainer.accelerator=cpu does without"
        )
    if gpus == 0 and str(settings["precision"]) == "16-mixed":
        raise UserError("expected a GPU for trainer.precision=16-mixed, found none; bf16-mixed works on a CPU")


def check_ranks(splits: Mapping[str, Sequence[Utterance]], ranks: int) -> None:
    """Raises a `UserError` where a rank would have nothing to train or to validate on: the others would wait for it."""
    few = [f"{split} has {len(splits[split])}" for split in ("train", "val") if len(splits[split]) < ranks]
    raise_problems(f"expected an utterance for each of the {ranks} ranks", few)


def check_loss(settings: Mapping[str, Any], task: Task) -> None:
    """Raises a `UserError` where the loss is for another kind of task."""
    made = target_of(settings, where="loss")
    kind = getattr(made, "kind", task.kind)
    if kind != task.kind:
        raise UserError(
            f"expected a loss for {task.kind} (task {task.name!r}), got {made.__name__}, which is for {kind}"
        )


def check_monitor(task: Task) -> None:
    """Raises a `UserError` where the metric that chooses the best epoch is none of the task's."""
    known = {"loss", *(CLASSIFICATION if task.kind == "classification" else REGRESSION)}
    known |= {f"accuracy_{len(thresholds) + 1}" for thresholds in task.cuts}
    known |= {"weighted_f1"} if any(len(thresholds) == 1 for thresholds in task.cuts) else set()
    if task.monitor not in known:
        raise UserError(f"expected the monitor of task {task.name!r} in {sorted(known)}, got {task.monitor!r}")


def check_classes(task: Task, splits: Mapping[str, Sequence[Utterance]]) -> None:
    """Says which classes a split lacks.

    Raises:
        UserError: there is nothing to tell apart.
    """
    if task.kind != "classification":
        return
    found = {split: {item.targets[task.name] for item in items} for split, items in splits.items()}

    def names(numbers: set[Any]) -> str:
        return ", ".join(task.labels[number] for number in sorted(numbers))

    train = found["train"]
    if len(train) < 2:
        told = f"found {len(train)}: {names(train)}"
        raise UserError(f"expected at least two classes among the utterances of train, {told}")
    for split in ("val", "test"):
        if unknown := found[split] - train:
            log.warning("train has no utterance of some classes of %s: %s", split, names(unknown))
        if absent := train - found[split]:
            log.warning("%s has no utterance of some classes of train: %s", split, names(absent))
