"""Checks that splits can be trained on."""

import logging
from collections.abc import Mapping, Sequence

from emorec.datasets.utterance import Task, Utterance
from emorec.errors import UserError, raise_problems

log = logging.getLogger(__name__)


def check_classes(task: Task, splits: Mapping[str, Sequence[Utterance]]) -> None:
    """Warns of classes that a split lacks.

    Raises:
        UserError: train has fewer than two classes.
    """
    if task.kind != "classification":
        return
    classes = {split: {int(item.targets[task.name]) for item in items} for split, items in splits.items()}  # type: ignore[arg-type]

    def names(numbers: set[int]) -> str:
        return ", ".join(task.labels[number] for number in sorted(numbers))

    train = classes["train"]
    if len(train) < 2:
        raise UserError(f"expected at least two classes in the train split, got {len(train)}: {names(train)}")
    for split in ("val", "test"):
        if unknown := classes[split] - train:
            log.warning("train has no utterance of some classes of %s: %s", split, names(unknown))
        if absent := train - classes[split]:
            log.warning("%s has no utterance of some classes of train: %s", split, names(absent))


def check_sizes(splits: Mapping[str, Sequence[Utterance]], ranks: int) -> None:
    """Raises a `UserError` where a rank would have no utterance of train or val: the others would wait for it."""
    few = [f"{split} has {len(splits[split])}" for split in ("train", "val") if len(splits[split]) < ranks]
    raise_problems(f"expected at least one utterance for each of the {ranks} ranks", few)
