"""Checks that splits can be trained on."""

import logging
from collections.abc import Mapping, Sequence

from emorec.datamodules.dialogues import lengths
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


def check_sizes(
    splits: Mapping[str, Sequence[Utterance]], ranks: int, turns: Mapping[str, Sequence[Utterance]] | None = None
) -> None:
    """Raises a `UserError` where a rank would have nothing of train or val: the others would wait for it.

    With `turns` of whole dialogues each rank needs a dialogue, else an utterance.
    """
    what = "utterance" if turns is None else "dialogue"
    counts = {split: len(splits[split] if turns is None else lengths(turns[split])) for split in ("train", "val")}
    few = [f"{split} has {count}" for split, count in counts.items() if count < ranks]
    raise_problems(f"expected at least one {what} for each of the {ranks} ranks", few)
