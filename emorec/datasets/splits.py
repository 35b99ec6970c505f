"""Protocols: rules that assign the utterances of a corpus to train, val and test."""

import hashlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

from emorec.datasets.utterance import SPLITS, Utterance
from emorec.errors import UserError, raise_problems


@dataclass(frozen=True, kw_only=True)
class Protocol(ABC):
    """A rule that assigns each utterance to a split."""

    separates_speakers: bool = True  # whether no speaker is in two splits
    validation_shares_speakers: bool = False  # whether train and val may share speakers all the same
    shares_speakers: bool = False  # whether train and test share speakers by intent, whatever is known of them

    @property
    def folds(self) -> int:
        """The number of folds; 0 if there is only one way to split."""
        return 0

    @abstractmethod
    def split_of(self, utterance: Utterance, fold: int) -> str | None:
        """The split of an utterance, or `None` if the protocol leaves it out."""


@dataclass(frozen=True, kw_only=True)
class OfficialSplit(Protocol):
    """The split that the authors of the corpus assigned to each utterance."""

    separates_speakers: bool = False

    def split_of(self, utterance: Utterance, fold: int) -> str | None:
        return utterance.split


@dataclass(frozen=True)
class SpeakerFolds(Protocol):
    """Test and validation speakers of each fold; all other speakers are in train."""

    test: tuple[frozenset[str], ...]
    val: tuple[frozenset[str], ...]

    @property
    def folds(self) -> int:
        return len(self.test)

    def split_of(self, utterance: Utterance, fold: int) -> str | None:
        if utterance.speaker in self.test[fold]:
            return "test"
        return "val" if utterance.speaker in self.val[fold] else "train"


@dataclass(frozen=True)
class HeldOutSpeakers(Protocol):
    """Test speakers. About one in `val_every` of the other dialogues is in val, whoever speaks in it."""

    test: frozenset[str]
    _: KW_ONLY
    val_every: int = 10
    validation_shares_speakers: bool = True

    def split_of(self, utterance: Utterance, fold: int) -> str | None:
        if utterance.speaker in self.test:
            return "test"
        number = int(hashlib.sha256((utterance.dialogue or utterance.id).encode()).hexdigest(), 16)
        return "val" if number % self.val_every == 0 else "train"


@dataclass(frozen=True)
class ListedFolds(Protocol):
    """{utterance id: split} of each fold, or of the only way to split."""

    lists: tuple[Mapping[str, str], ...]
    _: KW_ONLY
    separates_speakers: bool = False

    @property
    def folds(self) -> int:
        return len(self.lists) if len(self.lists) > 1 else 0

    def split_of(self, utterance: Utterance, fold: int) -> str | None:
        return self.lists[fold].get(utterance.id)


def assign_splits(
    utterances: Iterable[Utterance],
    protocol: Protocol,
    *,
    fold: int | None,
    task: str | None,
    limit: int | None = None,
    where: str = "",
) -> dict[str, tuple[Utterance, ...]]:
    """The utterances of each split, in the given order, without those that have no target for the task.

    Args:
        utterances: the whole corpus.
        fold: `None` for a protocol without folds.
        task: `None` to keep all utterances.
        limit: keep only this many utterances, spread evenly over splits and, if there is a task, classes.
        where: the names of the corpus and the protocol, for errors.

    Raises:
        UserError: the fold does not exist, a split is empty, or a speaker is in two splits that are to be separate.
    """
    number = _checked_fold(protocol, fold, where)
    splits: dict[str, list[Utterance]] = {name: [] for name in SPLITS}
    for utterance in utterances:
        split = protocol.split_of(utterance, number)
        if split is not None and (task is None or task in utterance.targets):
            splits[split].append(utterance)
    assignment = _limited(splits, limit, task)
    empty = [f"no utterances in {name}" for name in SPLITS if not assignment[name]]
    separate: Mapping[str, Sequence[Utterance]] = assignment
    if protocol.validation_shares_speakers:
        separate = {"train or val": assignment["train"] + assignment["val"], "test": assignment["test"]}
    leaks = speaker_overlap(separate) if protocol.separates_speakers else []
    raise_problems(f"the split of {where}, dataset.fold={'null' if fold is None else fold}", [*empty, *leaks])
    return assignment


def _checked_fold(protocol: Protocol, fold: int | None, where: str) -> int:
    if protocol.folds == 0:
        if fold is not None:
            raise UserError(f"expected dataset.fold=null, since the protocol has no folds, got {fold!r} ({where})")
        return 0
    if fold is None or not 0 <= fold < protocol.folds:
        raise UserError(f"expected dataset.fold from 0 to {protocol.folds - 1}, got {fold!r} ({where})")
    return fold


def speaker_overlap(splits: Mapping[str, Sequence[Utterance]]) -> list[str]:
    """One line for each speaker in more than one split."""
    splits_of: dict[str, set[str]] = defaultdict(set)
    for name, utterances in splits.items():
        for utterance in utterances:
            if utterance.speaker is not None:
                splits_of[utterance.speaker].add(name)
    repeated = {speaker: sorted(names) for speaker, names in sorted(splits_of.items()) if len(names) > 1}
    return [f"speaker {speaker} is in {' and '.join(names)}" for speaker, names in repeated.items()]


def _limited(
    splits: dict[str, list[Utterance]], limit: int | None, task: str | None
) -> dict[str, tuple[Utterance, ...]]:
    if limit is None:
        return {name: tuple(utterances) for name, utterances in splits.items()}
    strata: dict[tuple[str, str], list[Utterance]] = defaultdict(list)
    for name, utterances in splits.items():
        for utterance in utterances:
            strata[name, "" if task is None else str(utterance.targets[task])].append(utterance)
    ranked = sorted(
        (rank / len(items), name, item.id)
        for (name, _), items in strata.items()
        # a pseudo-random order that depends on the ids alone
        for rank, item in enumerate(sorted(items, key=lambda item: hashlib.sha256(item.id.encode()).digest()))
    )
    kept = {identifier for _, _, identifier in ranked[:limit]}
    return {name: tuple(item for item in utterances if item.id in kept) for name, utterances in splits.items()}
