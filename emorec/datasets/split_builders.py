"""Splits for a corpus that has none: made of its utterances alone, the same on every machine."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from emorec.datasets.splits import ListedFolds
from emorec.datasets.utterance import Utterance
from emorec.errors import UserError

ByFold = list[list[str]]  # the ids of each part


def stratified(utterances: Sequence[Utterance], task: str, folds: int, seed: int) -> ListedFolds:
    """Parts with equal shares of each class, whoever speaks; fold n tests part n and validates on the next.

    Utterances cut from one recording are in one part, and count for their commonest class.
    """
    parts: ByFold = [[] for _ in range(folds)]
    together = _by_recording(item for item in utterances if task in item.targets)
    classes: dict[str, list[str]] = defaultdict(list)
    for name, items in together.items():
        counts = Counter(str(item.targets[task]) for item in items)
        classes[min(counts, key=lambda label: (-counts[label], label))].append(name)
    start = 0
    for _, names in sorted(classes.items()):
        for place, name in enumerate(_shuffled(names, seed), start):  # on where the last class ended: equal parts
            parts[place % folds].extend(item.id for item in together[name])
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
    one of `share` training recordings. {id: split}"""
    train = [item for item in utterances if item.split == "train"]
    speakers: dict[str, list[Utterance]] = defaultdict(list)
    for item in train:
        speakers[item.speaker or ""].append(item)
    units = speakers if "" not in speakers and len(speakers) >= 3 else _by_recording(train)
    chosen = _shuffled(units, seed)[: max(1, len(units) // share)]
    given = {item.id: item.split for item in utterances if item.split is not None}
    return given | {item.id: "val" for name in chosen for item in units[name]}


def why_speakers_recur(utterances: Sequence[Utterance], folds: int) -> str:
    """Why no folds part the speakers, in brackets; nothing where they do, or none is named."""
    named = {item.speaker for item in utterances if item.speaker is not None}
    without = sum(item.speaker is None for item in utterances)
    if not named or (not without and len(named) >= max(3, folds)):
        return ""
    reason = f"{without} utterances name none" if without else f"{len(named)} are too few for {folds} folds"
    return f" (speakers recur in several splits: {reason})"


RULES: dict[str, Callable[[Sequence[Utterance], str, int, int], ListedFolds]] = {
    "stratified": stratified,
    "group_k_fold": group_k_fold,
    "leave_one_speaker_out": leave_one_speaker_out,
}


def _shuffled(names: Iterable[str], seed: int) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())


def _by_recording(utterances: Iterable[Utterance]) -> dict[str, list[Utterance]]:
    """Those cut from one file together, under the id of the first; each other by itself."""
    files: dict[Path | str, list[Utterance]] = defaultdict(list)
    for item in utterances:
        files[item.audio or item.video or item.id].append(item)
    return {items[0].id: items for items in files.values()}


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
