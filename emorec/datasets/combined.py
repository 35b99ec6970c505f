"""Several corpora combined into one. Each keeps its own protocol and fold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from emorec.datasets.manifest import Corpus, Manifest, Problem
from emorec.datasets.names import name_key
from emorec.datasets.splits import ListedFolds
from emorec.datasets.utterance import VOTES, Target, Task, Utterance
from emorec.errors import UserError, choose


@dataclass(kw_only=True)
class Combined(Corpus):
    """The utterances of several corpora with the union of their labels, which a label map can merge.

    Args:
        corpora: {name: configured corpus}; each is split by its own protocol and fold.
        task: name of the combined task; each corpus contributes the task that it is configured for.
        protocol: "own": the protocols of the corpora.
    """

    name: ClassVar[str] = "combined"

    root: str = ""
    task: str = "emotion"
    protocol: str = "own"
    corpora: Mapping[str, Corpus] = field(default_factory=dict)

    def scan(self) -> Manifest:
        if len(self.corpora) < 2:
            raise UserError(f"expected dataset.corpora to name at least two corpora, got {list(self.corpora)}")
        manifests = {name: corpus.with_random(corpus.scan()) for name, corpus in self.corpora.items()}
        tasks = {name: self.corpora[name].chosen_task(item) for name, item in manifests.items()}
        task = self._union(tasks)
        utterances: list[Utterance] = []
        split_of: dict[str, str] = {}
        problems: list[Problem] = []
        separate = True
        for name, manifest in manifests.items():
            corpus = self.corpora[name]
            problems += [replace(item, where=f"{name}/{item.where}") for item in manifest.problems]
            if not any(item.fatal for item in manifest.problems):  # otherwise it cannot be split
                rule = choose(manifest.protocols, corpus.protocol, f"dataset.corpora.{name}.protocol")
                separate = separate and rule.separates_speakers and not rule.validation_shares_speakers
                for split, items in corpus.split(manifest).items():
                    split_of |= {f"{name}/{item.id}": split for item in items}
            numbers = _numbers(tasks[name], task)
            utterances += [_renamed(item, name, tasks[name], task, numbers) for item in manifest.utterances]
        return Manifest(
            dataset="+".join(self.corpora),
            utterances=tuple(sorted(utterances, key=lambda item: item.id)),
            tasks={self.task: task},
            protocols={"own": ListedFolds((split_of,), separates_speakers=separate)},
            problems=tuple(problems),
            notes=tuple(f"{name}: {note}" for name, item in manifests.items() for note in item.notes),
        )

    def _union(self, tasks: Mapping[str, Task]) -> Task:
        kinds = {task.kind for task in tasks.values()}
        if len(kinds) > 1:
            raise UserError(f"expected corpora of one kind of task, got { ({n: t.kind for n, t in tasks.items()}) }")
        first = next(iter(tasks.values()))
        labels: dict[str, str] = {}  # by the key of their names: capitals, for one, make no other class
        for label in (label for task in tasks.values() for label in task.labels):
            labels.setdefault(name_key(label), label)
        union = first.labels if first.kind == "regression" else tuple(labels.values())
        return replace(first, name=self.task, labels=union)


def _numbers(own: Task, union: Task) -> list[int]:
    """The number in the union of each class; none for regression."""
    names = [name_key(label) for label in union.labels]
    return [names.index(name_key(label)) for label in own.labels] if own.kind == "classification" else []


def _renamed(utterance: Utterance, name: str, own: Task, union: Task, numbers: Sequence[int]) -> Utterance:
    """The utterance with its corpus in its id, speaker, dialogue and session, and with its class in the union."""
    targets: dict[str, Target] = {}
    value, votes = utterance.targets.get(own.name), utterance.targets.get(own.name + VOTES)
    if own.kind == "regression":
        targets |= {} if value is None else {union.name: value}
    elif isinstance(value, int):
        targets[union.name] = numbers[value]
    if isinstance(votes, tuple):
        shares = dict(zip(numbers, votes, strict=True))
        targets[union.name + VOTES] = tuple(shares.get(number, 0.0) for number in range(len(union.labels)))

    keys = ("id", "speaker", "dialogue", "session")
    names: dict[str, Any] = {key: f"{name}/{value}" for key in keys if (value := getattr(utterance, key)) is not None}
    return replace(utterance, targets=targets, **names)
