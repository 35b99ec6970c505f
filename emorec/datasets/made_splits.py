"""Splits for a corpus that has none: made of its utterances alone, the same on every machine."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from emorec.datasets.splits import ListedFolds
from emorec.datasets.utterance import Utterance
from emorec.errors import UserError

ByFold = list[list[str]]  # the ids of each part


def stratified(utterances: Sequence[Utterance], task: str, folds: int, seed: int) -> ListedFolds:
    """Parts with equal shares of each class, whoever speaks; fold n tests part n and validates on the next."""
    parts: ByFold = [[] for _ in range(folds)]
    classes: dict[str, list[str]] = defaultdict(list)
    for item in utterances:
        if task in item.targets:
            classes[str(item.targets[task])].append(item.id)
    start = 0
    for _, names in sorted(classes.items()):
        for place, name in enumerate(_shuffled(names, seed), start):  # on where the last class ended: equal parts
            parts[place % folds].append(name)
        start += len(names)
    return _folds(parts, separates_speakers=False)


def group_k_fold(utterances: Sequence[Utterance], task: str, folds: int, seed: int) -> ListedFolds:
    """Parts of whole speakers, as equal in size as they come; fold n tests part n and validates on the next.

    Raises:
        UserError: an utterance names no speaker, or there are fewer speakers than folds.
    """
    groups = _by_speaker(utterances, task)
    if len(groups) < max(folds, 3):
        raise UserError(f"expected at least {max(folds, 3)} speakers for group_k_fold, found {len(groups)}")
    parts: ByFold = [[] for _ in range(folds)]
    for speaker in sorted(_shuffled(groups, seed), key=lambda name: -len(groups[name])):
        min(parts, key=len).extend(groups[speaker])
    return _folds(parts, separates_speakers=True)


def leave_one_speaker_out(utterances: Sequence[Utterance], task: str, folds: int, seed: int) -> ListedFolds:
    """A fold for each speaker, who is tested; the next one validates.

    Raises:
        UserError: an utterance names no speaker, or there are fewer than three speakers.
    """
    groups = _by_speaker(utterances, task)
    if len(groups) < 3:
        raise UserError(f"expected at least three speakers for leave_one_speaker_out, found {len(groups)}")
    return _folds([groups[speaker] for speaker in sorted(groups)], separates_speakers=True)


def with_validation(utterances: Sequence[Utterance], seed: int, share: int = 8) -> dict[str, str]:
    """Given splits without validation: one of `share` training speakers validates, or, where speakers are not known,
    one of `share` training utterances. {id: split}"""
    train = [item for item in utterances if item.split == "train"]
    units = {item.speaker or "" for item in train}
    by_speaker = "" not in units and len(units) >= 3
    names = sorted(units) if by_speaker else [item.id for item in train]
    chosen = set(_shuffled(names, seed)[: max(1, len(names) // share)])
    given = {item.id: item.split for item in utterances if item.split is not None}
    return given | {item.id: "val" for item in train if (item.speaker if by_speaker else item.id) in chosen}


RULES: dict[str, Callable[[Sequence[Utterance], str, int, int], ListedFolds]] = {
    "stratified": stratified,
    "group_k_fold": group_k_fold,
    "leave_one_speaker_out": leave_one_speaker_out,
}


def _shuffled(names: Iterable[str], seed: int) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())


def _by_speaker(utterances: Sequence[Utterance], task: str) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    unnamed = [item.id for item in utterances if item.speaker is None]
    if unnamed:
        raise UserError(f"expected a speaker for each utterance, found none for {len(unnamed)}, such as {unnamed[:3]}")
    for item in utterances:
        if task in item.targets:
            groups[item.speaker or ""].append(item.id)
    return groups


def _folds(parts: ByFold, *, separates_speakers: bool) -> ListedFolds:
    lists = []
    for fold in range(len(parts)):
        split_of = {name: "train" for part in parts for name in part}
        split_of |= dict.fromkeys(parts[(fold + 1) % len(parts)], "val")
        split_of |= dict.fromkeys(parts[fold], "test")
        lists.append(split_of)
    return ListedFolds(tuple(lists), separates_speakers=separates_speakers)
