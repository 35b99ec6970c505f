"""The life of runs whose encoders train: resumed, published, started from, selected, evaluated elsewhere."""

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from emorec import load_run
from emorec.batch import Batch
from emorec.cli import main
from emorec.models.emotion_model import EmotionModel
from emorec.runs.checkpoint_store import CheckpointStore, RunRecord
from emorec.training.states import read_state, states
from tests.encoders.tiny_checkpoints import TinyCheckpoints

pytestmark = pytest.mark.slow

NO_VIDEO = "encoder/video=none"
NO_AUDIO = "encoder/audio=none"
NO_TEXT = "encoder/text=none"
PLAIN = ("optimizer._target_=torch.optim.SGD", "optimizer.lr=0.1", "loss=cross_entropy")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> TinyCheckpoints:
    return TinyCheckpoints(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def calm_bert(checkpoints: TinyCheckpoints, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT without dropout."""
    folder = tmp_path_factory.mktemp("calm") / "bert"
    shutil.copytree(checkpoints["bert"], folder)
    config = json.loads((folder / "config.json").read_text())
    without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps({**config, **without}))
    return folder


@pytest.fixture
def words(checkpoints: TinyCheckpoints, train_overrides: list[str]) -> Callable[..., list[str]]:
    """The command line of a training of encoders: "bert", "wav2vec2" or "crnn"."""

    def make(*names: str, training: str = "full") -> list[str]:
        line = ["train", *train_overrides, "trainer.max_epochs=2", "batch_size=2", "progress=false", NO_VIDEO]
        if "bert" in names:
            line += ["encoder/text=minilm", f"encoder.text.model={checkpoints['bert']}"]
            line += [f"encoder.text.training={training}"]
        else:
            line += [NO_TEXT]
        if "wav2vec2" in names:
            line += ["encoder/audio=wav2vec2_base", f"encoder.audio.model={checkpoints['wav2vec2_group']}"]
            line += [f"encoder.audio.training={training}"]
        elif "crnn" in names:
            line += ["encoder/audio=crnn", "encoder.audio.channels=[4,4]", "encoder.audio.hidden=4"]
        else:
            line += [NO_AUDIO]
        return line

    return make


Words = Callable[..., list[str]]


def only_record(root: Path) -> RunRecord:
    (record,) = CheckpointStore(root / "checkpoints").records()
    return record


def weights_of(root: Path, record: RunRecord) -> dict[str, dict[str, Tensor]]:
    return CheckpointStore(root / "checkpoints").load(record)


def metrics_of(root: Path, record: RunRecord) -> dict[str, Any]:
    values = json.loads((root / "checkpoints" / record.run_id / "metrics.json").read_text())
    assert isinstance(values, dict)
    return values


def history_of(root: Path, record: RunRecord) -> list[dict[str, str]]:
    with (root / "checkpoints" / record.run_id / "history.csv").open(newline="") as stream:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(stream)]


def stop_at(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal arrives in the training step of that number, from 1."""
    step, count = EmotionModel.training_step, [0]

    def stopped(model: EmotionModel, batch: Batch, batch_idx: int) -> Tensor:
        count[0] += 1
        if count[0] == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(model, batch, batch_idx)

    monkeypatch.setattr(EmotionModel, "training_step", stopped)


# ---------------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize(
    ("names", "training", "settings"),
    [
        (("bert",), "lora", ["trainer.accumulate=2", "scheduler=warmup_cosine"]),
        (("bert", "wav2vec2"), "full", ["trainer.accumulate=2"]),
        (("bert", "crnn"), "full", ["model.selection=average_last_k"]),
        (("bert", "crnn"), "lora", ["trainer.ema=0.5"]),
    ],
    ids=["lora", "full", "from scratch", "moving average"],
)
def test_a_training_that_is_stopped_within_an_epoch_goes_on_exactly(
    *,
    names: tuple[str, ...],
    training: str,
    settings: list[str],
    words: Words,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = [*words(*names, training=training), *settings]
    draws: list[float] = []
    mask = "transformers.models.wav2vec2.modeling_wav2vec2._compute_mask_indices"
    if "wav2vec2" in names:
        import transformers.models.wav2vec2.modeling_wav2vec2 as network

        compute = network._compute_mask_indices

        def noted(*arguments: Any, **options: Any) -> np.ndarray:
            result: np.ndarray = compute(*arguments, **options)
            draws.append(float(result.sum()))
            return result

        monkeypatch.setattr(mask, noted)
    assert main(line) == 0
    undisturbed = only_record(root)
    expected = weights_of(root, undisturbed), history_of(root, undisturbed), metrics_of(root, undisturbed)
    assert ("wav2vec2" in names) == bool(draws), "SpecAugment draws from numpy's generator"

    monkeypatch.setenv("EMOREC_ROOT", str(tmp_path / "stopped"))
    with monkeypatch.context() as patched:
        stop_at(11, patched)
        assert main(line) == 75
    (state,) = states(tmp_path / "stopped" / "checkpoints" / undisturbed.run_id / "resume")
    position = read_state(state)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    assert position["processed"] == (12 if "accumulate" in settings[0] else 11) - 8
    assert main(line) == 0
    record = only_record(tmp_path / "stopped")
    assert (record.run_id, record.attempts) == (undisturbed.run_id, 2)
    assert history_of(tmp_path / "stopped", record) == expected[1]
    assert metrics_of(tmp_path / "stopped", record) == expected[2]
    found = weights_of(tmp_path / "stopped", record)
    assert record.weights == undisturbed.weights
    assert found.keys() == expected[0].keys()


def test_what_does_not_train_is_on_disk_neither_in_states_nor_in_best_weights_nor_in_components(
    words: Words, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = [*words("bert", training="lora"), "checkpoint.every_seconds=0"]
    with monkeypatch.context() as patched:
        stop_at(11, patched)
        assert main(line) == 75
    resume = next((root / "checkpoints").glob("*/resume"))
    kept = [load_file(path) for path in resume.glob("best-*.safetensors")]
    kept += [read_state(path)["state_dict"] for path in states(resume)]
    assert len(kept) == 3
    assert main(line) == 0
    kept.append(weights_of(root, only_record(root))["encoder.text"])
    for weights in kept:
        names = [name for name in weights if "stack.network" in name]
        assert names
        assert all("lora_" in name for name in names)


def test_equal_weights_of_two_runs_are_stored_once(words: Words, root: Path) -> None:
    line = [*words("bert", training="lora"), "trainer.max_epochs=1"]
    assert main([*line, "model.selection=best"]) == main([*line, "model.selection=last"]) == 0
    first, second = CheckpointStore(root / "checkpoints").records()
    assert first.run_id != second.run_id
    assert (first.weights, first.files) == (second.weights, second.files)
    blobs = {path.name for path in (root / "checkpoints" / "weights").iterdir()}
    linked = {digest for name, digest in first.published.items() if name.endswith(".safetensors")}
    assert blobs == {f"{digest}.safetensors" for digest in linked}


# -------------------------------------------------------------------------------------------- accumulation


@pytest.mark.parametrize(("size", "parts"), [(8, 4), (12, 4)])
def test_added_gradients_of_small_batches_are_those_of_a_large_one(
    *, size: int, parts: int, words: Words, calm_bert: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = [*words("bert"), f"encoder.text.model={calm_bert}", "model.dropout=0", "trainer.max_epochs=3", *PLAIN]
    line += ["trainer.gradient_clip=0.01", "scheduler=linear"]
    assert main([*line, f"batch_size={size}"]) == 0  # of 16: with 12 the last batch is smaller, and has fewer parts
    large = only_record(root)
    monkeypatch.setenv("EMOREC_ROOT", str(tmp_path / "small"))
    assert main([*line, f"batch_size={size // parts}", f"trainer.accumulate={parts}"]) == 0
    small = only_record(tmp_path / "small")
    torch.testing.assert_close(weights_of(tmp_path / "small", small), weights_of(root, large), rtol=1e-4, atol=1e-6)
    rows = history_of(root, large), history_of(tmp_path / "small", small)
    assert [[(row["step"], row["lr"]) for row in history] for history in rows] == [
        [(row["step"], row["lr"]) for row in rows[0]]
    ] * 2


# --------------------------------------------------------------------------------------- stored elsewhere


def test_a_run_whose_checkpoint_lies_elsewhere_is_evaluated_and_loaded(
    words: Words, root: Path, tmp_path: Path, checkpoints: TinyCheckpoints, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(checkpoints["bert"], tmp_path / "here")
    assert main([*words("bert", training="lora"), f"encoder.text.model={tmp_path / 'here'}"]) == 0
    record = only_record(root)
    expected = load_run(record.run_id).model.state_dict()
    (tmp_path / "here").rename(tmp_path / "there")
    evaluate = ["evaluate", f"run={record.run_id}", "split=val", "progress=false"]
    assert main(evaluate) == 2
    capsys.readouterr()
    assert main([*evaluate, f"encoder.text.model={tmp_path / 'there'}"]) == 0
    (found,) = (root / "checkpoints" / record.run_id / "evaluations").glob("*/metrics.json")
    assert json.loads(found.read_text())["val/loss"] == metrics_of(root, record)["val/loss"]
    moved = load_run(record.run_id, models={"text": tmp_path / "there"}).model.state_dict()
    assert all(torch.equal(moved[name], value) for name, value in expected.items())
    other = TinyCheckpoints(tmp_path, seed=1)["bert"]
    assert main([*evaluate, f"encoder.text.model={other}"]) == 2
    assert "expected the checkpoint of run" in capsys.readouterr().err
    assert main([*evaluate, f"encoder.audio.model={other}"]) == 2
    assert "expected encoder.<modality>.model of ['text']" in capsys.readouterr().err


@pytest.mark.parametrize("training", ["frozen", "lora"])
def test_a_run_with_its_backbone_works_without_the_checkpoint(
    training: str, words: Words, root: Path, tmp_path: Path, checkpoints: TinyCheckpoints
) -> None:
    shutil.copytree(checkpoints["bert"], tmp_path / "here")
    line = [*words("bert", training=training), f"encoder.text.model={tmp_path / 'here'}", "checkpoint.backbone=link"]
    assert main([*line, "seed=0"]) == main([*line, "seed=1"]) == 0
    shutil.rmtree(tmp_path / "here")
    store = CheckpointStore(root / "checkpoints")
    first, second = store.records()
    blobs = {record.files["backbone/text/model.safetensors"] for record in (first, second)}
    assert len(blobs) == 1
    assert main(["runs", "verify"]) == 0
    assert main(["runs", "gc", "--grace", "0s", "--yes"]) == 0
    assert (store.root / "weights" / f"{blobs.pop()}.safetensors").exists()
    assert main(["runs", "export", first.run_id, str(tmp_path / "exported")]) == 0
    assert main(["evaluate", f"run={tmp_path / 'exported'}", "split=val", "progress=false"]) == 0
    (found,) = (tmp_path / "exported" / "evaluations").glob("*/metrics.json")
    assert json.loads(found.read_text())["val/loss"] == metrics_of(root, first)["val/loss"]
    assert load_run(tmp_path / "exported").model.components().keys() == first.weights.keys()


def test_a_damaged_adapter_is_named(words: Words, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words("bert", training="lora")) == 0
    record = only_record(root)
    assert sorted(record.files) == ["adapter/text/adapter_config.json", "adapter/text/adapter_model.safetensors"]
    (root / "checkpoints" / record.run_id / "adapter" / "text" / "adapter_config.json").write_text("{}")
    capsys.readouterr()
    assert main(["runs", "verify"]) == 1
    assert "adapter/text/adapter_config.json: the content does not match" in capsys.readouterr().out


# -------------------------------------------------------------------------------------------- init_from


def test_a_training_starts_from_the_parts_of_a_run_that_fit(
    words: Words,
    root: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(words("crnn")) == 0
    source = only_record(root)
    both = words("bert", "crnn", training="lora")
    capsys.readouterr()
    assert main([*both, f"init_from={source.run_id}"]) == 2
    message = capsys.readouterr().err
    assert "expected fusion.layer.1.weight of shape (16, 32), got (16, 16)" in message
    start = {}

    def noted(model: EmotionModel) -> None:
        start.update(model.components())
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(EmotionModel, "on_train_start", noted)
        assert main([*both, f"init_from={source.run_id[:8]}", "init_components=[encoder,projection.audio]"]) == 130
    assert "taken are projection.audio, encoder.audio" in caplog.text
    expected = weights_of(root, source)
    assert all(torch.equal(start["encoder.audio"][name], value) for name, value in expected["encoder.audio"].items())
    assert all(torch.equal(start["projection"][name], value) for name, value in expected["projection"].items())
    assert not torch.equal(start["head"]["layers.1.weight"], expected["head"]["layers.1.weight"])


def test_the_head_of_other_labels_is_left_out_and_said(
    words: Words, root: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(words("crnn")) == 0
    source = only_record(root)
    merged = "labels={up:[happy,angry],down:[sad,calm]}"
    line = [*words("crnn"), "~labels", f"+{merged}", f"init_from={source.run_id}"]
    assert main([*line, "init_components=[head]"]) == 2
    assert "expected head to fit: it is for other labels" in capsys.readouterr().err
    assert main(line) == 0
    assert "left out is head: it is for other labels" in caplog.text


def test_the_source_counts_by_its_weights_wherever_it_lies(
    words: Words,
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert main(words("crnn")) == 0
    source = only_record(root)
    assert main(["runs", "export", source.run_id, str(tmp_path / "exported")]) == 0
    line = [*words("crnn"), "seed=5"]
    assert main([*line, f"init_from={source.run_id}"]) == 0
    assert main([*line, f"init_from={tmp_path / 'exported'}"]) == 0
    assert "is finished" in caplog.text
    assert main(line) == 0
    assert len(list(CheckpointStore(root / "checkpoints").records())) == 3
    assert main([*line, "init_from=nothing"]) == 2
    assert main([*line, f"init_from={source.run_id}", "init_components=[encodr]"]) == 2
    assert "init_components: expected components of run" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------ sweeps, tuning


def test_a_sweep_of_local_jobs_trains_encoders_in_each_way(words: Words, root: Path) -> None:
    line = words("bert")
    sweep = ["-m", "encoder.text.training=frozen,lora,full", "launcher=local", "launcher.slots=2"]
    assert main(["train", *sweep, *line[1:-2], line[-1]]) == 0
    records = list(CheckpointStore(root / "checkpoints").records())
    assert [record.status for record in records] == ["finished"] * 3
    assert main(["runs", "verify"]) == 0


def test_encoders_that_train_are_tuned(words: Words, root: Path) -> None:
    pytest.importorskip("optuna")
    search = [
        "~search.model.hidden",
        "~search.batch_size",
        "study.name=first",
        "study.trials=2",
        "study.startup=1",
        "search=head",
    ]
    assert main(["tune", *words("bert", training="lora")[1:], *search]) == 0
    assert [record.status for record in CheckpointStore(root / "checkpoints").records()] == ["finished"] * 2


# ---------------------------------------------------------------------------------------------- selection


def test_the_mean_of_the_last_epochs_is_kept_and_scored(
    words: Words, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = [*words("crnn"), "trainer.max_epochs=4"]
    states_of_epochs: list[dict[str, Tensor]] = []

    def noted(model: EmotionModel) -> None:
        states_of_epochs.append({name: value.clone() for name, value in model.state_dict().items()})

    with monkeypatch.context() as patched:
        patched.setattr(EmotionModel, "on_validation_end", noted)
        assert main([*line, "model.selection=average_last_k", "model.average_last=3"]) == 0
    record = only_record(root)
    assert (record.best_epoch, record.averaged_epochs) == (3, [1, 2, 3])
    assert [read["why"] for read in record.test_reads] == ["the mean of epochs 1 to 3"]
    model = load_run(record.run_id).model
    found = model.state_dict()
    assert any("running_mean" in name for name in found)
    for name, value in found.items():
        if value.is_floating_point():
            expected = torch.stack([state[name].double() for state in states_of_epochs[1:]]).mean(0)
            torch.testing.assert_close(value, expected.float(), rtol=0, atol=1e-7)
    assert main(["evaluate", f"run={record.run_id}", "split=val", "progress=false"]) == 0
    (path,) = (root / "checkpoints" / record.run_id / "evaluations").glob("*/metrics.json")
    assert json.loads(path.read_text())["val/loss"] == metrics_of(root, record)["val/loss"]


@pytest.mark.parametrize("selection", ["last", "smoothed", "average_last_k"])
def test_a_selection_survives_a_stop_after_each_epoch_and_early_stopping(
    selection: str, words: Words, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = [*words("crnn"), f"model.selection={selection}", "model.average_last=2", "checkpoint.every_seconds=0"]
    line += ["trainer.max_epochs=6", "trainer.patience=2", "optimizer.lr=0.01"]
    assert main(line) == 0
    undisturbed = only_record(root)
    monkeypatch.setenv("EMOREC_ROOT", str(tmp_path / "stopped"))
    code, starts = 75, 0
    while code == 75 and starts < 10:
        with monkeypatch.context() as patched:
            stop_at(10, patched)  # each start trains more than an epoch, of 8 steps
            code, starts = main(line), starts + 1
    record = only_record(tmp_path / "stopped")
    assert starts > 2
    assert (record.run_id, record.weights, record.best_epoch) == (
        undisturbed.run_id,
        undisturbed.weights,
        undisturbed.best_epoch,
    )
    assert record.epochs == undisturbed.epochs


def test_keys_of_other_selections_do_not_count(words: Words, root: Path) -> None:
    line = [*words("crnn"), "trainer.max_epochs=1"]
    assert main([*line, "model.average_last=4"]) == main([*line, "model.smoothed_over=5"]) == main(line) == 0
    assert only_record(root).attempts == 1


def test_a_moving_average_of_the_weights_is_validated_and_kept(
    words: Words, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = [*words("bert", "crnn", training="lora"), "trainer.max_epochs=1", "trainer.ema=0.75"]
    seen: list[dict[str, Tensor]] = []

    def noted(model: EmotionModel, *_: Any) -> None:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})

    with monkeypatch.context() as patched:
        patched.setattr(EmotionModel, "on_train_batch_end", noted)
        assert main(line) == 0
    record = only_record(root)
    found = load_run(record.run_id).model.state_dict()
    assert any("lora_" in name for name in found)
    for name, value in found.items():
        if value.is_floating_point():
            average = seen[0][name]
            for weights in seen[1:]:
                average = 0.75 * average + 0.25 * weights[name]
            torch.testing.assert_close(value, average, rtol=1e-5, atol=1e-6)
    (row,) = history_of(root, record)
    assert float(row["val/loss"]) == pytest.approx(metrics_of(root, record)["val/loss"], rel=1e-4)


def test_weights_of_a_run_that_saw_this_folds_test_utterances_are_no_start(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"u{number},mood {number},{'ab'[number % 2]},s{number % 5}" for number in range(80)]
    table = tmp_path / "moods.csv"
    table.write_text("\n".join(["id,text,label,speaker", *rows]))
    line = ["train", "dataset=custom", f"dataset.table={table}", "dataset.protocol=group_k_fold", NO_VIDEO, NO_AUDIO]
    line += ["trainer.max_epochs=1", "model.hidden=8", "progress=false", "test=false"]
    assert main([*line, "dataset.fold=0"]) == 0
    source = only_record(root)
    assert main([*line, "dataset.fold=0", "seed=1", f"init_from={source.run_id}"]) == 0
    capsys.readouterr()
    assert main([*line, "dataset.fold=1", f"init_from={source.run_id}"]) == 2
    assert "init_from: expected utterances of test that the run was neither trained nor" in capsys.readouterr().err


def test_a_moving_average_leaves_the_numbers_of_positions_alone(
    words: Words, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    validate = EmotionModel.validation_step

    def noted(model: EmotionModel, batch: Batch, batch_idx: int) -> None:
        seen.append(model.encoder["text"].stack.network.embeddings.position_ids[0].clone())
        validate(model, batch, batch_idx)

    monkeypatch.setattr(EmotionModel, "validation_step", noted)
    assert main([*words("bert"), "trainer.ema=0.9"]) == 0
    assert seen
    assert all(torch.equal(item, torch.arange(len(item))) for item in seen)


def test_a_backbone_that_a_finished_run_does_not_store_is_said(
    words: Words, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line = words("bert", training="lora")
    assert main(line) == main(line) == 0
    assert "checkpoint.backbone" not in caplog.text
    assert main([*line, "checkpoint.backbone=link"]) == 0
    assert "checkpoint.backbone=link stores nothing with a finished run" in caplog.text


@pytest.mark.parametrize("training", ["full", "lora"])
def test_a_head_of_stored_features_fits_the_standardised_features_of_an_encoder_that_trains(
    training: str, words: Words, root: Path
) -> None:
    pooling = "encoder.text.pooling=mean_std"
    assert main([*words("bert", training="frozen"), pooling]) == 0
    frozen = only_record(root)
    still = [pooling, f"init_from={frozen.run_id}", "optimizer.lr=1e-12", "model.dropout=0", *PLAIN[:1]]
    assert main([*words("bert", training=training), *still, "model.encoded_normalisation=train"]) == 0
    assert main([*words("bert", training=training), *still]) == 0
    expected = load_run(frozen.run_id).predictions.filter(like="probability_").to_numpy()
    found = {
        load_run(record.run_id).config["model"].get("encoded_normalisation"): load_run(record.run_id)
        for record in CheckpointStore(root / "checkpoints").records()
        if record.run_id != frozen.run_id
    }
    own = found["train"].predictions.filter(like="probability_").to_numpy()
    np.testing.assert_allclose(own, expected, atol=1e-3)
    assert "encoded" in found["train"].record.weights
    other = found["none"].predictions.filter(like="probability_").to_numpy()
    assert np.abs(other - expected).max() > 10 * np.abs(own - expected).max()
