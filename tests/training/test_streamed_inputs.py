"""Decoded inputs that are stored, streamed during training, or do not fit the disk."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from emorec.cli import main
from emorec.config.composition import composer, parse
from emorec.config.schema import TrainConfig
from emorec.datamodules.preparer import DataPreparer
from emorec.datamodules.utterances import UtteranceDataModule
from emorec.errors import UserError
from emorec.inference.loaded_run import load_run
from tests.encoders.tiny_checkpoints import save_bert

CRNN = ["encoder/audio=crnn", "encoder/text=none", "encoder/video=none"]
SMALL = ["trainer.max_epochs=2", "encoder.audio.channels=[4,4]", "encoder.audio.hidden=4"]


def module_of(*overrides: str) -> UtteranceDataModule:
    line = parse("train", list(overrides))
    with composer(line, TrainConfig) as open_composer:
        config = open_composer.compose(line.overrides).config
    preparer = DataPreparer.of(config)
    return preparer.prepare(config, *preparer.components(config)).module(config)


@pytest.fixture
def broken_demo(small_demo: Path, tmp_path: Path) -> Path:
    """A demo corpus of which one clip cannot be decoded."""
    copied = tmp_path / "demo"
    shutil.copytree(small_demo, copied)
    next(copied.rglob("speaker1_02.flac")).write_bytes(b"no sound")
    return copied


@pytest.mark.parametrize("workers", [1, 3])
def test_streamed_batches_equal_stored_ones(root: Path, broken_demo: Path, workers: int) -> None:
    words = [f"dataset.root={broken_demo}", "batch_size=5", *CRNN]
    stored = module_of(*words)
    streamed = module_of(*words, "inputs.keep=false", f"inputs.workers={workers}")
    total = 0
    for split in ("train", "val", "test"):
        pairs = list(zip(stored.loader(split, shuffle=True), streamed.loader(split, shuffle=True), strict=True))
        total += sum(len(batch) for batch, _ in pairs)
        for kept, decoded in pairs:
            assert kept.id == decoded.id
            assert kept.inputs["audio"].dtype == decoded.inputs["audio"].dtype
            assert torch.equal(kept.inputs["audio"], decoded.inputs["audio"])
            assert torch.equal(kept.mask["audio"], decoded.mask["audio"])
    assert total == 31  # the broken clip is left out


def test_a_run_is_the_same_whether_inputs_are_stored_or_streamed(
    small_demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, sizes = [], []
    for keep in ("true", "false"):
        folder = tmp_path / keep
        monkeypatch.setenv("EMOREC_ROOT", str(folder))
        words = [f"dataset.root={small_demo}", *CRNN, *SMALL, "model.normalisation=speaker"]
        assert main(["train", *words, f"inputs.keep={keep}"]) == 0
        (path,) = (folder / "checkpoints").glob("*/run.json")
        runs.append(load_run(path.parent))
        sizes.append(sum(shard.stat().st_size for shard in (folder / "cache").rglob("*.safetensors")))
    stored, streamed = runs
    assert stored.record.run_id == streamed.record.run_id
    assert stored.record.weights == streamed.record.weights
    assert stored.metrics == streamed.metrics
    assert sizes[1] < sizes[0] / 10


def test_a_file_that_changes_while_it_is_streamed_ends_the_training(root: Path, broken_demo: Path) -> None:
    module = module_of(f"dataset.root={broken_demo}", *CRNN, "inputs.keep=false")
    next(broken_demo.rglob("speaker0_00.flac")).write_bytes(b"no sound")
    with pytest.raises(UserError, match=r"expected .*speaker0_00\.flac to stay as it was"):
        list(module.loader("train"))


def test_inputs_that_do_not_fit_the_disk_are_refused_before_any_is_computed(
    empty_root: Path, small_demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=200_000))
    words = [f"dataset.root={small_demo}", *CRNN, *SMALL]
    assert main(["train", *words]) == 2
    message = capsys.readouterr().err
    assert "MB of free space for the audio features of 32 utterances, got 0.2 MB in" in message
    assert "inputs.keep=false decodes during training instead" in message
    assert not list((empty_root / "cache").rglob("*.safetensors"))
    assert main(["train", *words, "inputs.keep=false"]) == 0


def test_views_are_refused_where_inputs_are_streamed(root: Path, small_demo: Path) -> None:
    words = [f"dataset.root={small_demo}", *CRNN, "+encoder.audio.views=1", "inputs.keep=false"]
    with pytest.raises(UserError, match=r"inputs: keep: expected true with encoder\.audio\.views=1, got false"):
        module_of(*words, "+encoder.audio.media.augmentation={gain: [-6, 6]}")


def test_the_space_for_states_is_estimated_on_the_cpu_in_float32(
    root: Path, small_demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU may compute in float16, a CPU may not."""
    words = [f"dataset.root={small_demo}", "encoder/audio=none", "encoder/video=none", "encoder/text=minilm"]
    words += [f"encoder.text.model={save_bert(tmp_path)}", "encoder.text.training=full", "encoder.text.train_from=1"]
    monkeypatch.setattr("emorec.features.extraction.Computation", lambda *_, **__: pytest.fail("no space"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(UserError, match="free space for the text features"):
        module_of(*words, "encoder.text.precision=float16")
