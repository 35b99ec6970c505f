"""Batches of utterances: their order, their content, and resuming inside an epoch."""

from itertools import pairwise

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch

from emorec.batch import IGNORED, Batch
from emorec.datamodules.loaders import BatchLoader
from emorec.datamodules.utterances import LARGEST, UtteranceDataModule
from emorec.draws import keys_of
from emorec.errors import UserError
from tests.datamodules.conftest import DIMS, LABELS, Example, MakeExample


def ids(loader: BatchLoader) -> list[str]:
    return [name for batch in loader for name in batch.id]


def train_loader(module: UtteranceDataModule, epoch: int = 0) -> BatchLoader:
    loader = module.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return loader


def row_of(batch: Batch, name: str) -> int:
    return batch.id.index(name)


def batch_with(example: Example, split: str, name: str) -> Batch:
    return next(batch for batch in example.module.loader(split) if name in batch.id)


# Order


def test_the_order_follows_from_seed_and_epoch_alone(make_example: MakeExample) -> None:
    first, second = make_example(seed=3).module, make_example(seed=3).module
    expected = ids(train_loader(first, epoch=2))
    torch.manual_seed(123)
    torch.rand(7)
    loader = train_loader(second, epoch=0)
    list(loader)
    loader.sampler.set_epoch(2)
    assert ids(loader) == expected
    assert ids(loader) == expected


def test_iterating_leaves_the_global_random_state_alone(make_example: MakeExample) -> None:
    module = make_example().module
    torch.manual_seed(1)
    before = torch.get_rng_state()
    list(train_loader(module))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_epoch_and_every_seed_has_an_order_of_its_own(make_example: MakeExample) -> None:
    orders = {
        tuple(ids(train_loader(make_example(seed=seed).module, epoch))) for seed in (0, 1, 2) for epoch in range(4)
    }
    assert len(orders) == 12


def test_the_batch_size_does_not_change_the_order(make_example: MakeExample) -> None:
    assert ids(train_loader(make_example(batch_size=3).module)) == ids(train_loader(make_example(batch_size=7).module))


@pytest.mark.parametrize("batch_size", [1, 3, 5, 10, 64])
def test_every_row_comes_once_an_epoch(make_example: MakeExample, batch_size: int) -> None:
    loader = train_loader(make_example(batch_size=batch_size).module)
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == len(loader) == -(-10 // batch_size)
        assert sorted(name for batch in batches for name in batch.id) == sorted(f"train_{row}" for row in range(10))
        assert all(len(batch) == batch_size for batch in batches[:-1])


def test_batches_by_length_hold_near_equal_lengths_in_an_order_of_their_own(make_example: MakeExample) -> None:
    table = make_example().module.tables["train"]
    orders = set()
    for epoch in range(4):
        loader = BatchLoader(table, batch_size=4, shuffle=True, by_length=True)
        loader.sampler.set_epoch(epoch)
        rows, sizes = loader.plan().rows, loader.plan().sizes
        assert sorted(rows.tolist()) == list(range(len(table)))
        assert sizes == [4] * (len(table) // 4) + ([len(table) % 4] if len(table) % 4 else [])
        lengths = [table.length[batch] for batch in torch.split(rows, sizes)]
        ordered = sorted(lengths, key=lambda batch: int(batch.min()))
        assert all(int(one.max()) <= int(other.min()) for one, other in pairwise(ordered))
        orders.add(tuple(rows.tolist()))
    assert len(orders) == 4


def test_only_training_is_grouped_by_length(make_example: MakeExample) -> None:
    module = make_example().module
    module.group_by_length = True
    assert module.loader("train", shuffle=True).by_length
    assert not module.loader("train").by_length


def test_batches_by_speaker_hold_so_many_of_each_and_those_left_over_come_last(make_example: MakeExample) -> None:
    table = make_example(sizes=(40, 3, 4)).module.tables["train"]
    counts = torch.bincount(table.speaker)
    orders = set()
    for epoch in range(4):
        loader = BatchLoader(table, batch_size=8, shuffle=True, of_speaker=4)
        loader.sampler.set_epoch(epoch)
        rows = loader.plan().rows
        assert sorted(rows.tolist()) == list(range(len(table)))
        whole = int((counts // 4).sum())
        groups = table.speaker[rows[: 4 * whole]].view(whole, 4)
        assert (groups == groups[:, :1]).all()
        assert torch.equal(torch.bincount(groups[:, 0], minlength=len(counts)), counts // 4)
        orders.add(tuple(rows.tolist()))
    assert len(orders) == 4


def test_only_training_is_grouped_by_speaker(make_example: MakeExample) -> None:
    module = make_example().module
    module.group_by_speaker = 5
    assert module.loader("train", shuffle=True).of_speaker == 5
    assert module.loader("train").of_speaker is None


@pytest.mark.parametrize("split", ["val", "test"])
def test_other_splits_come_in_their_own_order(make_example: MakeExample, split: str) -> None:
    module = make_example().module
    loader = module.val_dataloader() if split == "val" else module.test_dataloader()
    assert ids(loader) == [item.id for item in module.tables[split].utterances]
    assert ids(module.loader("train")) == [f"train_{row}" for row in range(10)]


# Resuming inside an epoch


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_state_resumes_at_the_right_batch(make_example: MakeExample, done: int) -> None:
    module = make_example().module
    loader = train_loader(module, epoch=5)
    iterator = iter(loader)
    for _ in range(done):
        next(iterator)
    state = loader.state_dict()
    rest = [batch.id for batch in iterator]
    resumed = module.train_dataloader()
    resumed.load_state_dict(state)
    assert [batch.id for batch in resumed] == rest
    assert len(rest) == len(loader) - done


def test_the_epoch_after_a_resumed_one_is_whole(make_example: MakeExample) -> None:
    module = make_example().module
    resumed = module.train_dataloader()
    resumed.load_state_dict({"epoch": 1, "done": 2})
    list(resumed)
    resumed.sampler.set_epoch(2)
    assert ids(resumed) == ids(train_loader(module, epoch=2))


def test_a_state_from_the_end_of_an_epoch_starts_a_whole_one(make_example: MakeExample) -> None:
    module = make_example().module
    loader = train_loader(module, epoch=1)
    list(loader)
    resumed = module.train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    resumed.sampler.set_epoch(2)
    assert ids(resumed) == ids(train_loader(module, epoch=2))


def test_a_state_taken_while_resuming_counts_from_the_epochs_start(make_example: MakeExample) -> None:
    module = make_example(batch_size=2).module
    resumed = module.train_dataloader()
    resumed.load_state_dict({"epoch": 1, "done": 2})
    next(iter(resumed))
    assert resumed.state_dict() == {"epoch": 1, "done": 3}


class Recorder(lightning.LightningModule):
    """Notes what each step gets."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.seen: list[list[str]] = []

    def on_train_epoch_start(self) -> None:
        self.seen.append([])

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.seen[-1].extend(batch.id)

    def configure_optimizers(self) -> None:
        return None


@pytest.mark.filterwarnings("ignore:.*this fit will run with no optimizer")
def test_lightning_sets_the_epoch(make_example: MakeExample) -> None:
    module = make_example().module
    recorder = Recorder()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        max_epochs=3, accelerator="cpu", use_distributed_sampler=False, enable_checkpointing=False, **quiet
    )
    trainer.fit(recorder, train_dataloaders=module.train_dataloader())
    assert recorder.seen == [ids(train_loader(module, epoch)) for epoch in range(3)]


# Content


@pytest.mark.parametrize("resident_bytes", [0, 1 << 30], ids=["mapped", "in_memory"])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_each_row_holds_its_utterances_features(make_example: MakeExample, split: str, resident_bytes: int) -> None:
    example = make_example(resident_bytes=resident_bytes)
    seen = 0
    for batch in example.module.loader(split, shuffle=True):
        for modality, dim in DIMS.items():
            values, mask = batch.features[modality], batch.mask[modality]
            assert values.shape == (*mask.shape, dim)
            assert values.dtype == torch.float32
            for row, name in enumerate(batch.id):
                expected = example.values[modality].get(name, np.zeros((0, dim), np.float32))
                np.testing.assert_array_equal(values[row][mask[row]].numpy(), expected)
                assert (values[row][~mask[row]] == 0).all()
                assert bool(batch.present[modality][row]) == (name in example.values[modality])
                seen += 1
    assert seen == 2 * len(example.module.tables[split])


def test_a_missing_modality_is_a_zero_row_that_is_not_present(make_example: MakeExample) -> None:
    example = make_example()
    batch = batch_with(example, "train", "train_2")
    row = row_of(batch, "train_2")
    assert not batch.present["audio"][row]
    assert batch.present["text"][row]
    assert not batch.mask["audio"][row].any()
    assert (batch.features["audio"][row] == 0).all()


def test_a_batch_that_lacks_a_modality_altogether_still_has_a_frame(make_example: MakeExample) -> None:
    table = make_example().module.tables["val"]
    batch = table.batch(torch.tensor([[item.id for item in table.utterances].index("val_0")]))
    assert batch.features["audio"].shape == (1, 1, DIMS["audio"])
    assert batch.mask["audio"].shape == (1, 1)
    assert not batch.mask["audio"].any()
    assert (batch.features["audio"] == 0).all()


def test_targets_speakers_dialogues_and_turns_are_the_utterances(make_example: MakeExample) -> None:
    example = make_example(unlabelled=("train_1", "train_8"))
    names = ["speaker0", "speaker1", "speaker2"]
    speaker_of = dict(zip((keys_of(names) & LARGEST).tolist(), names, strict=True))
    for split in ("train", "val"):
        known = {item.id: item for item in example.module.tables[split].utterances}
        for batch in example.module.loader(split, shuffle=True):
            for row, name in enumerate(batch.id):
                item = known[name]
                assert int(batch.targets["emotion"][row]) == item.targets.get("emotion", IGNORED)
                assert bool(batch.target_mask["emotion"][row]) == ("emotion" in item.targets)
                assert speaker_of[int(batch.speaker[row])] == item.speaker
                assert int(batch.turn[row]) == item.turn
    val = next(iter(example.module.val_dataloader()))
    train = list(example.module.loader("train"))
    assert not set(val.dialogue.tolist()) & {number for batch in train for number in batch.dialogue.tolist()}


def test_the_feature_dims_are_the_readers(make_example: MakeExample) -> None:
    assert make_example().module.feature_dims == DIMS


def test_class_counts_are_of_known_targets_and_0_for_an_absent_class(make_example: MakeExample) -> None:
    module = make_example(unlabelled=("train_0", "train_9")).module
    counts = module.tables["train"].class_counts()
    assert counts.tolist() == [2, 3, 3, 0]
    assert len(counts) == len(LABELS)


# Statistics


@pytest.mark.parametrize("modality", DIMS)
@pytest.mark.parametrize("batch_size", [1, 3, 512])
def test_statistics_equal_numpys_over_all_frames_of_the_split(
    make_example: MakeExample, modality: str, batch_size: int
) -> None:
    example = make_example()
    mean, deviation = example.module.tables["train"].feature_statistics(modality, batch_size=batch_size)
    frames = np.concatenate([rows for name, rows in example.values[modality].items() if name.startswith("train")])
    np.testing.assert_allclose(mean.numpy(), frames.astype(np.float64).mean(0), rtol=1e-5)
    np.testing.assert_allclose(deviation.numpy(), frames.astype(np.float64).std(0), rtol=1e-5)


def test_statistics_keep_their_digits_far_from_zero(make_example: MakeExample) -> None:
    example = make_example(offset=1e5)
    _, deviation = example.module.tables["train"].feature_statistics("audio", batch_size=2)
    frames = np.concatenate([rows for name, rows in example.values["audio"].items() if name.startswith("train")])
    np.testing.assert_allclose(deviation.numpy(), frames.astype(np.float64).std(0), rtol=1e-5)


def test_statistics_of_a_modality_that_no_utterance_has_are_refused(make_example: MakeExample) -> None:
    missing = tuple(("audio", f"train_{row}") for row in range(10))
    module = make_example(missing=missing).module
    with pytest.raises(UserError, match="expected audio of at least one utterance"):
        module.tables["train"].feature_statistics("audio")


@pytest.mark.parametrize("batch_size", [0, -3])
def test_a_batch_size_below_one_is_refused(make_example: MakeExample, batch_size: int) -> None:
    with pytest.raises(UserError, match=f"expected batch_size of at least 1, got {batch_size}"):
        make_example(batch_size=batch_size)


# Draws


def drawn(loader: BatchLoader, epoch: int = 0) -> dict[str, int]:
    """{id: its draw} of an epoch."""
    loader.sampler.set_epoch(epoch)
    draws: dict[str, int] = {}
    for batch in loader:
        assert batch.draw is not None
        draws |= zip(batch.id, batch.draw.tolist(), strict=True)
    return draws


def test_draws_are_a_function_of_seed_epoch_and_id_alone(make_example: MakeExample) -> None:
    expected = drawn(make_example(batch_size=4).module.loader("train", shuffle=True), epoch=3)
    assert len(set(expected.values())) == 10
    module = make_example(batch_size=2, missing=()).module
    assert drawn(module.loader("train", shuffle=True), epoch=3) == expected
    of_ranks = [drawn(module.loader("train", shuffle=True, shard=(rank, 2)), epoch=3) for rank in range(2)]
    assert of_ranks[0] | of_ranks[1] == expected
    resumed = module.loader("train", shuffle=True)
    resumed.load_state_dict({"epoch": 3, "done": 2})
    rest = [batch for batch in resumed if batch.draw is not None]
    assert [draw for batch in rest for draw in batch.draw.tolist()] == [  # type: ignore[union-attr]
        expected[name] for batch in rest for name in batch.id
    ]
    assert len(rest) == 3
    for other in (
        drawn(module.loader("train", shuffle=True), epoch=4),
        drawn(make_example(seed=1).module.loader("train", shuffle=True), epoch=3),
    ):
        assert not set(other.values()) & set(expected.values())


def test_evaluation_draws_nothing(make_example: MakeExample) -> None:
    assert all(batch.draw is None for batch in make_example().module.loader("val"))


def test_statistics_are_of_what_the_front_makes_of_stored_values(make_example: MakeExample) -> None:
    example = make_example()
    table = example.module.tables["train"]
    mean, deviation = table.feature_statistics("audio")
    doubled = table.feature_statistics("audio", batch_size=3, front=lambda values, mask: (2 * values, mask))
    torch.testing.assert_close(doubled, (2 * mean, 2 * deviation))
