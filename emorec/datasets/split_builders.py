"""Builders of splits for corpora without official splits. The result depends only on the utterances and the seed."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from emorec.datasets.splits import ListedFolds
from emorec.datasets.utterance import Utterance
from emorec.errors import UserError


def stratified(utterances: Sequence[Utterance], task: str, folds: int, seed: int) -> ListedFolds:
    """Parts with equal shares of each class; speakers may be in several. Fold n tests part n and validates on the next.

    Segments of one recording are in the same part and count as their most common class.
    """
    parts: list[list[str]] = [[] for _ in range(folds)]
    recordings = _by_recording(item for item in utterances if task in item.targets)
    classes: dict[str, list[str]] = defaultdict(list)
    for name, items in recordings.items():
        counts = Counter(str(item.targets[task]) for item in items)
        classes[min(counts, key=lambda label: (-counts[label], label))].append(name)
    start = 0
    for _, names in sorted(classes.items()):
        for index, name in enumerate(_shuffled(names, seed), start):  # continues after the last class: equal parts
            parts[index % folds].extend(item.id for item in recordings[name])
        start += len(names)
    return replace(_folds(parts, separates_speakers=False), shares_speakers=True)


def group_k_fold(utterances: Sequence[Utterance], task: str, folds: int, seed: int) -> ListedFolds:
    """Parts of whole speakers with similar sizes. Fold n tests part n and validates on the next.

    Raises:
        UserError: an utterance has no speaker, or there are fewer speakers than folds.
    """
    groups = _by_speaker(utterances, task, max(folds, 3), "group_k_fold")
    parts: list[list[str]] = [[] for _ in range(folds)]
    for speaker in sorted(_shuffled(groups, seed), key=lambda name: -len(groups[name])):
        min(parts, key=len).extend(groups[speaker])
    return _folds(parts, separates_speakers=True)


def leave_one_speaker_out(utterances: Sequence[Utterance], task: str, folds: int, seed: int) -> ListedFolds:
    """A fold for each speaker, who is in test; the next speaker is in val.

    Raises:
        UserError: an utterance has no speaker, or there are fewer than three speakers.
    """
    groups = _by_speaker(utterances, task, 3, "leave_one_speaker_out")
    return _folds([groups[speaker] for speaker in sorted(groups)], separates_speakers=True)


def add_validation(utterances: Sequence[Utterance], seed: int, one_in: int = 8) -> dict[str, str]:
    """Moves one in `one_in` training speakers to val, or training recordings if speakers are unknown. {id: split}"""
    train = [item for item in utterances if item.split == "train"]
    speakers: dict[str, list[Utterance]] = defaultdict(list)
    for item in train:
        speakers[item.speaker or ""].append(item)
    groups = speakers if "" not in speakers and len(speakers) >= 3 else _by_recording(train)
    chosen = _shuffled(groups, seed)[: max(1, len(groups) // one_in)]
    given = {item.id: item.split for item in utterances if item.split is not None}
    return given | {item.id: "val" for name in chosen for item in groups[name]}


def why_speakers_overlap(utterances: Sequence[Utterance], folds: int) -> str:
    """Why no folds can separate the speakers, in parentheses; empty if they can, or if no speaker is known."""
    speakers = {item.speaker for item in utterances if item.speaker is not None}
    without = sum(item.speaker is None for item in utterances)
    if not speakers or (not without and len(speakers) >= max(3, folds)):
        return ""
    reason = f"{without} utterances have no speaker" if without else f"{len(speakers)} are too few for {folds} folds"
    return f" (speakers are in several splits: {reason})"


BUILDERS: dict[str, Callable[[Sequence[Utterance], str, int, int], ListedFolds]] = {
    "stratified": stratified,
    "group_k_fold": group_k_fold,
    "leave_one_speaker_out": leave_one_speaker_out,
}


def _shuffled(names: Iterable[str], seed: int) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())


def _by_recording(utterances: Iterable[Utterance]) -> dict[str, list[Utterance]]:
    """The utterances of each recording by the id of the first one; an utterance without media is on its own."""
    recordings: dict[Path | str, list[Utterance]] = defaultdict(list)
    for item in utterances:
        recordings[item.audio or item.video or item.id].append(item)
    return {items[0].id: items for items in recordings.values()}


def _by_speaker(utterances: Sequence[Utterance], task: str, minimum: int, name: str) -> dict[str, list[str]]:
    """The ids of each speaker, for the builder called `name`, which requires at least `minimum` speakers."""
    groups: dict[str, list[str]] = defaultdict(list)
    unnamed = [item.id for item in utterances if item.speaker is None]
    if unnamed:
        raise UserError(f"expected a speaker for each utterance, found none for {len(unnamed)}, such as {unnamed[:3]}")
    for item in utterances:
        if task in item.targets:
            groups[item.speaker or ""].append(item.id)
    if len(groups) < minimum:
        raise UserError(f"expected at least {minimum} speakers for {name}, found {len(groups)}")
    return groups


def _folds(parts: Sequence[Sequence[str]], *, separates_speakers: bool) -> ListedFolds:
    lists = []
    for fold in range(len(parts)):
        held_out = {fold: "test", (fold + 1) % len(parts): "val"}
        lists.append({name: held_out.get(index, "train") for index, part in enumerate(parts) for name in part})
    return ListedFolds(tuple(lists), separates_speakers=separates_speakers)
