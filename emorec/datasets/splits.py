"""Which utterances train, validate and test: computed from a manifest, the same for every loader."""

import hashlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from emorec.datasets.utterance import SPLITS, Utterance
from emorec.errors import UserError, raise_problems


@dataclass(frozen=True)
class Protocol(ABC):
    """A rule that gives each utterance its split. `folds` is 0 where there is only one way to split."""

    @property
    @abstractmethod
    def folds(self) -> int: ...

    @property
    @abstractmethod
    def speaker_independent(self) -> bool: ...

    @property
    def validation_shares_speakers(self) -> bool:
        """Whether only the test speakers are kept apart."""
        return False

    @abstractmethod
    def split_of(self, utterance: Utterance, fold: int) -> str | None:
        """The utterance's split, or `None` where the protocol leaves it out."""


@dataclass(frozen=True)
class OfficialSplit(Protocol):
    """The split that the corpus's authors gave each utterance."""

    separates_speakers: bool = False

    @property
    def folds(self) -> int:
        return 0

    @property
    def speaker_independent(self) -> bool:
        return self.separates_speakers

    def split_of(self, utterance: Utterance, fold: int) -> str | None:
        return utterance.split


@dataclass(frozen=True)
class SpeakerFolds(Protocol):
    """Each fold names its test speakers and its validation speakers; all others train."""

    test: tuple[frozenset[str], ...]
    val: tuple[frozenset[str], ...]

    @property
    def folds(self) -> int:
        return len(self.test)

    @property
    def speaker_independent(self) -> bool:
        return True

    def split_of(self, utterance: Utterance, fold: int) -> str | None:
        if utterance.speaker in self.test[fold]:
            return "test"
        return "val" if utterance.speaker in self.val[fold] else "train"


@dataclass(frozen=True)
class HeldOutSpeakers(Protocol):
    """Speakers who are tested; of the others' dialogues, about one in `val_every` validates, whoever speaks in it."""

    test: frozenset[str]
    val_every: int = 10

    @property
    def folds(self) -> int:
        return 0

    @property
    def speaker_independent(self) -> bool:
        return True

    @property
    def validation_shares_speakers(self) -> bool:
        return True

    def split_of(self, utterance: Utterance, fold: int) -> str | None:
        if utterance.speaker in self.test:
            return "test"
        number = int(hashlib.sha256((utterance.dialogue or utterance.id).encode()).hexdigest(), 16)
        return "val" if number % self.val_every == 0 else "train"


@dataclass(frozen=True)
class ListedFolds(Protocol):
    """The split of each utterance of each fold, by its id; `separates_speakers` where the lists part speakers."""

    lists: tuple[Mapping[str, str], ...]
    has_folds: bool = True
    separates_speakers: bool = False

    @property
    def folds(self) -> int:
        return len(self.lists) if self.has_folds else 0

    @property
    def speaker_independent(self) -> bool:
        return self.separates_speakers

    def split_of(self, utterance: Utterance, fold: int) -> str | None:
        return self.lists[fold].get(utterance.id)


def assign_splits(
    utterances: Iterable[Utterance],
    protocol: Protocol,
    *,
    fold: int | None,
    task: str,
    limit: int | None = None,
    where: str = "",
) -> dict[str, tuple[Utterance, ...]]:
    """The utterances of each split, in the given order.

    Args:
        utterances: the whole corpus.
        protocol: the rule.
        fold: which fold; `None` where the protocol has no folds.
        task: utterances without a target for it are left out.
        limit: keep only this many utterances, spread evenly over splits and classes.
        where: the corpus and protocol by name, for errors.

    Raises:
        UserError: no such fold, an empty split, or a speaker in two splits of a protocol that parts speakers.
    """
    number = _checked_fold(protocol, fold, where)
    splits: dict[str, list[Utterance]] = {name: [] for name in SPLITS}
    for utterance in utterances:
        split = protocol.split_of(utterance, number)
        if split is not None and task in utterance.targets:
            splits[split].append(utterance)
    assignment = _limited(splits, limit, task)
    empty = [f"no utterances in {name}" for name in SPLITS if not assignment[name]]
    leaks = speaker_leaks(assignment, protocol)
    raise_problems(f"the split of {where}, dataset.fold={'null' if fold is None else fold}", [*empty, *leaks])
    return assignment


def _checked_fold(rule: Protocol, fold: int | None, where: str) -> int:
    if rule.folds == 0:
        if fold is not None:
            raise UserError(f"expected dataset.fold=null, for the protocol has no folds, got {fold!r} ({where})")
        return 0
    if not isinstance(fold, int) or not 0 <= fold < rule.folds:
        raise UserError(f"expected dataset.fold from 0 to {rule.folds - 1}, got {fold!r} ({where})")
    return fold


def speaker_leaks(splits: Mapping[str, Sequence[Utterance]], protocol: Protocol) -> list[str]:
    """One line for each speaker who is in two splits that the protocol promises to keep apart."""
    if not protocol.speaker_independent:
        return []
    if protocol.validation_shares_speakers:
        return speaker_overlap({"train or val": [*splits["train"], *splits["val"]], "test": splits["test"]})
    return speaker_overlap(splits)


def speaker_overlap(splits: Mapping[str, Sequence[Utterance]]) -> list[str]:
    """One line for each speaker who is in more than one split."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, utterances in splits.items():
        for utterance in utterances:
            if utterance.speaker is not None:
                found[utterance.speaker].add(name)
    return [
        f"speaker {speaker} is in {' and '.join(sorted(names))}"
        for speaker, names in sorted(found.items())
        if len(names) > 1
    ]


def _limited(splits: dict[str, list[Utterance]], limit: int | None, task: str) -> dict[str, tuple[Utterance, ...]]:
    if limit is None:
        return {name: tuple(utterances) for name, utterances in splits.items()}
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise UserError(f"expected dataset.limit to be null or a whole number from 1, got {limit!r}")
    strata: dict[tuple[str, str], list[Utterance]] = defaultdict(list)
    for name, utterances in splits.items():
        for utterance in utterances:
            strata[name, str(utterance.targets[task])].append(utterance)
    ranked: list[tuple[float, str, str]] = []
    for (name, _), utterances in strata.items():
        for rank, utterance in enumerate(_shuffled(utterances)):
            ranked.append((rank / len(utterances), name, utterance.id))
    kept = {identifier for _, _, identifier in sorted(ranked)[:limit]}
    return {name: tuple(item for item in utterances if item.id in kept) for name, utterances in splits.items()}


def _shuffled(utterances: Iterable[Utterance]) -> list[Utterance]:
    """An order that depends on the ids alone."""
    return sorted(utterances, key=lambda utterance: hashlib.sha256(utterance.id.encode()).digest())
