"""Batches of whole dialogues."""

from collections import Counter

import pytest
import torch

from emorec.batch import Batch
from emorec.datamodules.dialogues import groups_within, in_order, layout, lengths, with_all_turns
from emorec.datamodules.loaders import DialogueLoader
from emorec.datasets.utterance import Utterance
from emorec.errors import UserError
from tests.datamodules.conftest import MakeExample

SIZES = (42, 7, 9)  # ten dialogues of four turns and one of two


def utterance(name: str, dialogue: str | None, turn: int | None) -> Utterance:
    return Utterance(id=name, dataset="small", dialogue=dialogue, turn=turn, targets={"emotion": 0})


def train(make_example: MakeExample, epoch: int = 0, shard: tuple[int, int] = (0, 1), **changes: object) -> list[Batch]:
    loader = make_example(sizes=SIZES, dialogues=True, **changes).module.loader("train", shuffle=True, shard=shard)
    loader.sampler.set_epoch(epoch)
    batches = list(loader)
    assert len(batches) == len(loader)
    return batches


def names(batches: list[Batch]) -> list[str]:
    return [name for batch in batches for name in batch.id]


def test_turns_are_put_in_order_within_their_dialogues() -> None:
    items = [
        utterance("b2", "b", 7),
        utterance("a1", "a", 1),
        utterance("alone", None, None),
        utterance("b1", "b", 2),
        utterance("a0", "a", 0),
        utterance("other", None, None),
    ]
    ordered = in_order(items)
    assert [item.id for item in ordered] == ["b1", "b2", "a0", "a1", "alone", "other"]
    assert lengths(ordered) == [2, 2, 1, 1]


def test_turns_in_no_split_come_with_their_dialogue_and_others_do_not() -> None:
    corpus = [utterance(f"{dialogue}{turn}", dialogue, turn) for dialogue in "abc" for turn in range(3)]
    splits = {"train": [corpus[0], corpus[2]], "val": [corpus[4]]}
    found = with_all_turns(splits, corpus)
    assert {split: [item.id for item in items] for split, items in found.items()} == {
        "train": ["a0", "a1", "a2"],
        "val": ["b0", "b1", "b2"],
    }


def test_dialogues_that_are_torn_apart_are_refused() -> None:
    corpus = [utterance(f"{dialogue}{turn}", dialogue, turn) for dialogue in "ab" for turn in range(2)]
    with pytest.raises(UserError, match=r"expected splits of whole dialogues .*, got 1 dialogues .*\(dialogue a\)"):
        with_all_turns({"train": [corpus[0], corpus[2]], "val": [corpus[1]]}, corpus)


def test_a_layout_has_the_rows_of_each_dialogue() -> None:
    assert layout(torch.tensor([2, 1, 3])).tolist() == [[0, 1, -1], [2, -1, -1], [3, 4, 5]]


def test_groups_stay_within_the_budget_with_their_padding() -> None:
    assert groups_within([1, 1, 2, 3, 9, 2], budget=6) == [3, 1, 1, 1]
    assert groups_within([3, 3, 3], budget=6) == [2, 1]
    assert groups_within([], budget=6) == []


def test_an_epoch_has_each_dialogue_once_and_whole(make_example: MakeExample) -> None:
    for batch in (batches := train(make_example, batch_size=10)):
        assert batch.layout is not None
        assert batch.layout.numel() <= 10
        for row in batch.layout:
            turns = row[row >= 0]
            assert len(set(batch.dialogue[turns].tolist())) == 1
            assert batch.turn[turns].tolist() == list(range(len(turns)))
        assert sorted(batch.layout[batch.layout >= 0].tolist()) == list(range(len(batch)))
    assert Counter(names(batches)) == Counter(f"train_{number}" for number in range(SIZES[0]))


def test_the_order_follows_from_seed_and_epoch(make_example: MakeExample) -> None:
    first = names(train(make_example, epoch=3, batch_size=8))
    assert names(train(make_example, epoch=3, batch_size=8)) == first
    assert names(train(make_example, epoch=4, batch_size=8)) != first
    assert names(train(make_example, epoch=3, batch_size=8, seed=1)) != first


def test_a_loader_goes_on_within_an_epoch(make_example: MakeExample) -> None:
    module = make_example(sizes=SIZES, dialogues=True, batch_size=8).module
    loader, resumed = module.loader("train", shuffle=True), module.loader("train", shuffle=True)
    loader.sampler.set_epoch(2)
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    resumed.load_state_dict(loader.state_dict())
    assert [batch.id for batch in resumed] == [batch.id for batch in iterator]


def test_ranks_share_the_dialogues_out(make_example: MakeExample) -> None:
    of_ranks = [train(make_example, shard=(rank, 2), batch_size=16) for rank in range(2)]
    assert len(of_ranks[0]) == len(of_ranks[1])
    seen = Counter(names(of_ranks[0]) + names(of_ranks[1]))
    assert set(seen.values()) == {1}
    assert len(seen) >= SIZES[0] - 8  # but for one batch
    module = make_example(sizes=SIZES, dialogues=True, batch_size=4).module
    evaluated = [list(module.loader("train", shard=(rank, 3))) for rank in range(3)]
    assert sorted(names([batch for batches in evaluated for batch in batches])) == sorted(
        item.id for item in module.tables["train"].utterances
    )
    assert [len(module.loader("train", shard=(rank, 3))) for rank in range(3)] == [len(own) for own in evaluated]


def test_the_shares_of_unequal_batches_give_the_mean_over_all_targets(make_example: MakeExample) -> None:
    unlabelled = tuple(f"train_{number}" for number in range(0, SIZES[0], 3))
    module = make_example(sizes=SIZES, dialogues=True, batch_size=8, unlabelled=unlabelled).module
    for ranks, window in ((1, 2), (2, 1), (2, 2)):
        loaders = [module.loader("train", shuffle=True, shard=(rank, ranks)) for rank in range(ranks)]
        batches = [list(loader) for loader in loaders]
        for first in range(0, len(batches[0]), window):
            step = [
                (int(batch.target_mask["emotion"].sum()), loader.share(number, window))
                for loader, own in zip(loaders, batches, strict=True)
                for number, batch in list(enumerate(own))[first : first + window]
            ]
            total = sum(count for count, _ in step)
            # a rank's gradient is divided by the window, and the mean over the ranks is taken
            assert [share / window / ranks for _, share in step] == pytest.approx([count / total for count, _ in step])


def test_turns_without_a_target_are_no_part_of_loss_and_predictions(make_example: MakeExample) -> None:
    batches = train(make_example, batch_size=8, unlabelled=("train_1", "train_6"))
    scored = [name for batch in batches for name in batch.scored("emotion")]
    assert len(scored) == SIZES[0] - 2
    assert not {"train_1", "train_6"} & set(scored)
    assert isinstance(make_example(dialogues=True).module.loader("val"), DialogueLoader)


def test_each_rank_has_a_batch_also_where_one_would_hold_all(make_example: MakeExample) -> None:
    module = make_example(sizes=SIZES, dialogues=True, batch_size=1000).module
    for split, shuffle in (("train", True), ("val", False)):
        loaders = [module.loader(split, shuffle=shuffle, shard=(rank, 2)) for rank in range(2)]
        assert [len(list(loader)) for loader in loaders] == [1, 1]
