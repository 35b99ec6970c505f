"""Which clips of a split are read again for a card."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from emorec.cards.card import split_utterances
from emorec.config.cards import CardConfig
from emorec.datamodules.dialogues import in_order
from emorec.datasets.utterance import Task, Utterance
from emorec.inference.member import Member

if TYPE_CHECKING:
    from emorec.training.evaluation import Evaluation


@dataclass(frozen=True)
class Clips:
    """Clips of a split."""

    clips: list[Utterance]  # that are predicted together, in order
    counted: frozenset[str]  # the ids of those that have a target and count; others are context
    total: int  # how many of the split have a target

    @property
    def scored(self) -> int:
        """How many count."""
        return len(self.counted)


def chosen_clips(evaluation: "Evaluation", member: Member, settings: CardConfig) -> Clips:
    """Up to `settings.limit` clips of the split, drawn in equal shares of the classes.

    A run that reads dialogues, or compares the clips of a speaker, gets whole dialogues or speakers, as many as the
    limit has room for, and one at least.
    """
    scored, limit = split_utterances(evaluation), settings.limit
    limit = len(scored) if limit is None else limit
    generator = np.random.default_rng(settings.seed)
    if member.is_by_speaker or member.reads_dialogues:
        everyone = _with_context(evaluation, scored) if member.reads_dialogues else scored
        names = [item.speaker if member.is_by_speaker else item.dialogue for item in everyone]
        chosen = _whole(everyone, names, limit, generator)
    else:
        chosen = _balanced(scored, evaluation.data.task, limit, generator)
    own = {item.id for item in scored}
    counted = frozenset(item.id for item in chosen if item.id in own)
    return Clips(in_order(chosen) if member.reads_dialogues else chosen, counted, len(scored))


def _with_context(evaluation: "Evaluation", scored: Sequence[Utterance]) -> list[Utterance]:
    """All turns of the dialogues of some utterances."""
    dialogues = {item.dialogue for item in scored if item.dialogue is not None}
    own = {item.id for item in scored}
    return [item for item in evaluation.data.manifest.utterances if item.dialogue in dialogues or item.id in own]


def _whole(
    items: Sequence[Utterance], names: Sequence[str | None], limit: int, generator: np.random.Generator
) -> list[Utterance]:
    """The utterances of whole groups; those without a name stand alone."""
    groups: dict[Hashable, list[Utterance]] = defaultdict(list)
    for item, name in zip(items, names, strict=True):
        groups[("", item.id) if name is None else name].append(item)
    chosen: list[Utterance] = []
    ordered = list(groups.values())
    for number in generator.permutation(len(ordered)).tolist():
        if not chosen or len(chosen) + len(ordered[number]) <= limit:
            chosen += ordered[number]
    return chosen


def _balanced(scored: Sequence[Utterance], task: Task, limit: int, generator: np.random.Generator) -> list[Utterance]:
    """Equally many of each class while they last; in the order of the split."""
    if limit >= len(scored):
        return list(scored)
    of_class: dict[object, list[int]] = defaultdict(list)
    for row in generator.permutation(len(scored)).tolist():
        key = scored[row].targets[task.name] if task.kind == "classification" else None
        of_class[key].append(row)
    rows: list[int] = []
    queues = [of_class[key] for key in sorted(of_class, key=str)]
    while len(rows) < limit:
        for queue in queues:
            if queue and len(rows) < limit:
                rows.append(queue.pop())
    return [scored[row] for row in sorted(rows)]
