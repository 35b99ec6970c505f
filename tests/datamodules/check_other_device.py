"""Run by `tests/test_other_device.py` in a process of its own: features held on a device that is not the CPU."""

import torch

from emorec.datamodules.utterances import UtteranceDataModule
from tests.datamodules.conftest import DIMS, MakeExample
from tests.stand_in_device import NAME, stand_in_device


def held_on_the_device(module: UtteranceDataModule) -> UtteranceDataModule:
    for table in module.tables.values():
        table.readers = {modality: reader.resident(NAME) for modality, reader in table.readers.items()}
    return module


def test_batches_of_features_on_another_device_equal_those_in_memory(make_example: MakeExample) -> None:
    expected = list(make_example().module.loader("train", shuffle=True))
    module = make_example().module
    with stand_in_device():
        batches = list(held_on_the_device(module).loader("train", shuffle=True))
        assert {values.device.type for batch in batches for values in batch.features.values()} == {NAME}
        batches = [batch.to(NAME).to("cpu") for batch in batches]
    assert len(batches) == len(expected) > 1
    for there, here in zip(batches, expected, strict=True):
        assert there.id == here.id
        for modality in DIMS:
            assert torch.equal(there.features[modality], here.features[modality])
            assert torch.equal(there.mask[modality], here.mask[modality])


def test_statistics_of_features_on_another_device_equal_those_in_memory(make_example: MakeExample) -> None:
    expected = make_example().module.tables["train"].feature_statistics("audio")
    module = make_example().module
    with stand_in_device():
        mean, deviation = held_on_the_device(module).tables["train"].feature_statistics("audio")
    assert mean.is_cpu
    torch.testing.assert_close((mean, deviation), expected)
