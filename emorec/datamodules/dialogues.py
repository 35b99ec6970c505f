"""Whole dialogues: which turns they have, and how they are put into batches."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from emorec.datasets.utterance import Utterance
from emorec.errors import UserError

SHOWN = 3  # dialogues in a message


def in_order(utterances: Iterable[Utterance]) -> list[Utterance]:
    """The utterances by dialogue, in the order in which the dialogues begin, and by turn within each."""
    items = list(utterances)
    first: dict[str, int] = {}
    for number, item in enumerate(items):
        first.setdefault(_name(item), number)
    order = sorted(range(len(items)), key=lambda number: (first[_name(items[number])], _turn(items[number]), number))
    return [items[number] for number in order]


def _name(item: Utterance) -> str:
    """The dialogue; an utterance without one is a dialogue of its own."""
    return f"dialogue {item.dialogue}" if item.dialogue is not None else f"utterance {item.id}"


def _turn(item: Utterance) -> int:
    return -1 if item.turn is None else item.turn


def with_all_turns(
    splits: Mapping[str, Sequence[Utterance]], corpus: Iterable[Utterance]
) -> dict[str, tuple[Utterance, ...]]:
    """{split: all turns of the dialogues that its utterances are from}, in order.

    Args:
        splits: {split: its utterances}.
        corpus: all utterances, also those that are in no split, such as turns without a target.

    Raises:
        UserError: a dialogue has turns in several splits.
    """
    of_dialogue: dict[str, set[str]] = {}
    for split, items in splits.items():
        for item in items:
            of_dialogue.setdefault(_name(item), set()).add(split)
    torn = sorted(name for name, found in of_dialogue.items() if len(found) > 1)
    if torn and len({tuple(item.id for item in items) for items in splits.values()}) > 1:
        raise UserError(
            f"dataset.protocol: expected splits of whole dialogues for a context, got {len(torn)} dialogues in several "
            f"splits ({', '.join(torn[:SHOWN])}); use context=none or another protocol"
        )
    turns: dict[str, list[Utterance]] = {split: [] for split in splits}
    for item in corpus:
        for split in of_dialogue.get(_name(item), ()):
            turns[split].append(item)
    return {split: tuple(in_order(items)) for split, items in turns.items()}


def lengths(utterances: Iterable[Utterance]) -> list[int]:
    """Number of turns of each dialogue, for utterances in order."""
    found: list[int] = []
    last = None
    for item in utterances:
        if (name := _name(item)) == last:
            found[-1] += 1
        else:
            found.append(1)
        last = name
    return found


def layout(counts: Tensor) -> Tensor:
    """(D, U), the rows of the turns of D dialogues of `counts` (D,) turns one after the other; -1 for padding."""
    number = torch.arange(int(counts.max()))
    first = counts.cumsum(0) - counts
    return torch.where(number < counts[:, None], first[:, None] + number, -1)


def groups_within(counts: Sequence[int], budget: int) -> list[int]:
    """Numbers of dialogues of batches that hold `counts` turns one after the other, padding included, within a budget.

    A dialogue above the budget is a batch of its own.
    """
    groups: list[int] = []
    longest = 0
    for count in counts:
        longest = max(longest, count)
        if groups and (groups[-1] + 1) * longest <= budget:
            groups[-1] += 1
        else:
            groups.append(1)
            longest = count
    return groups
