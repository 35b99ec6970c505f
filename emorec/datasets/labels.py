"""Label maps: a common set of labels for corpora with different labels."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from emorec.datasets.manifest import Manifest
from emorec.datasets.names import name_key
from emorec.datasets.utterance import VOTES, Target, Task, Utterance
from emorec.errors import UserError, choose, raise_problems

LabelMap = Mapping[str, Sequence[str]]


def relabel(manifest: Manifest, task_name: str, labels: LabelMap) -> Manifest:
    """Maps the classes of one classification task to those of a label map: {new class: the labels that it replaces}.

    An utterance of another class loses its target. Labels that this corpus does not have are ignored.

    Raises:
        UserError: the task is unknown or a regression, a label is mapped to two classes, or no label is of this corpus.
    """
    task = choose(manifest.tasks, task_name, f"dataset.task (dataset={manifest.dataset})")
    if task.kind != "classification":
        raise UserError(f"expected a classification task for a label map, got {task_name!r}, which is regression")
    number_of: dict[str, int] = {}  # by the key of a label's name, for annotators spell it in several ways
    problems = []
    for number, (label, names) in enumerate(labels.items()):
        for name in names:
            if (other := number_of.setdefault(name_key(name), number)) != number:
                problems.append(f"{name!r} is mapped to both {list(labels)[other]!r} and {label!r}")
    numbers = [number_of.get(name_key(name)) for name in task.labels]
    if not problems and all(number is None for number in numbers):
        names = sorted(name for group in labels.values() for name in group)
        problems.append(f"expected some of {names} among the labels, which are {list(task.labels)}")
    raise_problems(f"the label map for {task_name!r} (dataset={manifest.dataset})", problems)
    mapped = replace(task, labels=tuple(labels))
    utterances = tuple(_relabelled(item, task, numbers, len(labels)) for item in manifest.utterances)
    return replace(manifest, utterances=utterances, tasks={**manifest.tasks, task_name: mapped})


def _relabelled(utterance: Utterance, task: Task, number_of: Sequence[int | None], classes: int) -> Utterance:
    targets: dict[str, Target] = dict(utterance.targets)
    old, votes = targets.pop(task.name, None), targets.pop(task.name + VOTES, None)
    new = number_of[old] if isinstance(old, int) else None
    if new is not None:
        targets[task.name] = new
    if isinstance(votes, tuple):
        shares = [0.0] * classes
        for share, number in zip(votes, number_of, strict=True):
            if number is not None:
                shares[number] += share
        if sum(shares) > 0:
            targets[task.name + VOTES] = tuple(share / sum(shares) for share in shares)
    return replace(utterance, targets=targets)
