"""Several corpora as one: each keeps its own protocol and fold."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

from emorec.datasets.manifest import Corpus, Manifest, Problem
from emorec.datasets.splits import ListedFolds
from emorec.datasets.utterance import VOTES, Target, Task, Utterance
from emorec.errors import UserError, choose


@dataclass(kw_only=True)
class Combined(Corpus):
    """The utterances of several corpora, with the union of their labels; a label map makes them one set.

    Args:
        corpora: {name: a corpus as configured}; each is split by its own protocol and fold.
        task: what it is called here; each corpus brings the task that it is configured for.
        protocol: "own", the corpora's.
        fold: `None`.
        limit: keep only this many utterances of all, spread evenly over splits and classes.
    """

    name: ClassVar[str] = "combined"

    root: str = ""
    task: str = "emotion"
    protocol: str = "own"
    corpora: Mapping[str, Corpus] = field(default_factory=dict)

    def scan(self) -> Manifest:
        if len(self.corpora) < 2:
            raise UserError(f"expected dataset.corpora to name at least two corpora, got {list(self.corpora)}")
        manifests = {name: corpus.scan() for name, corpus in self.corpora.items()}
        task = self._union({name: self.corpora[name].chosen_task(item) for name, item in manifests.items()})
        utterances: list[Utterance] = []
        split_of: dict[str, str] = {}
        problems: list[Problem] = []
        apart = True
        for name, manifest in manifests.items():
            corpus = self.corpora[name]
            own = corpus.chosen_task(manifest)
            problems += [replace(item, where=f"{name}/{item.where}") for item in manifest.problems]
            if not any(item.fatal for item in manifest.problems):  # else there is nothing to split
                rule = choose(manifest.protocols, corpus.protocol, f"dataset.corpora.{name}.protocol")
                apart = apart and rule.speaker_independent and not rule.validation_shares_speakers
                for split, items in corpus.split(manifest).items():
                    split_of |= {f"{name}/{item.id}": split for item in items}
            utterances += [_joined(item, name, own, task) for item in manifest.utterances]
        return Manifest(
            dataset="+".join(self.corpora),
            utterances=tuple(sorted(utterances, key=lambda item: item.id)),
            tasks={self.task: task},
            protocols={"own": ListedFolds((split_of,), has_folds=False, separates_speakers=apart)},
            problems=tuple(problems),
            notes=tuple(f"{name}: {note}" for name, item in manifests.items() for note in item.notes),
        )

    def _union(self, tasks: Mapping[str, Task]) -> Task:
        kinds = {task.kind for task in tasks.values()}
        if len(kinds) > 1:
            raise UserError(f"expected corpora of one kind of task, got { ({n: t.kind for n, t in tasks.items()}) }")
        labels = tuple(dict.fromkeys(label for task in tasks.values() for label in task.labels))
        first = next(iter(tasks.values()))
        if first.kind == "regression":
            labels = first.labels
        return replace(first, name=self.task, labels=labels)


def _joined(utterance: Utterance, name: str, own: Task, union: Task) -> Utterance:
    """The utterance under names that are unique among all corpora, with its class's number in the union."""
    targets: dict[str, Target] = {}
    value, votes = utterance.targets.get(own.name), utterance.targets.get(own.name + VOTES)
    if own.kind == "regression":
        targets |= {} if value is None else {union.name: value}
    elif isinstance(value, int):
        targets[union.name] = union.labels.index(own.labels[value])
    if isinstance(votes, tuple):
        shares = dict(zip(own.labels, votes, strict=True))
        targets[union.name + VOTES] = tuple(shares.get(label, 0.0) for label in union.labels)

    def named(value: str | None) -> str | None:
        return None if value is None else f"{name}/{value}"

    return replace(
        utterance,
        id=f"{name}/{utterance.id}",
        targets=targets,
        speaker=named(utterance.speaker),
        dialogue=named(utterance.dialogue),
        session=named(utterance.session),
    )
