"""Files of torch, of the hub, and in 8 bits."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from emorec.cli import main
from emorec.datasets.utterance import SPLITS
from emorec.inference.loaded_run import LoadedRun
from emorec.runs.checkpoint_store import CheckpointStore
from tests.inference.export.test_folder import NETWORKS, infer

pytestmark = pytest.mark.slow

FEATURES = ("fusion=self_attention", "fusion.over=time")
RECURRENT = (*NETWORKS, "encoder/video=none")
CONVOLUTIONS = (
    *("encoder/text=none", "encoder/video=none", "encoder/audio=crnn"),
    *("encoder.audio.channels=[32,32]", "encoder.audio.hidden=32", "encoder.audio.bands=16"),
)
Train = Callable[..., LoadedRun]


@pytest.fixture
def export(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Path]:
    """Exports a run, with further words, and returns the folder."""

    def exported(run: LoadedRun, *words: str) -> Path:
        capsys.readouterr()
        target = tmp_path / "exported"
        assert main(["export", f"run={run.folder}", f"to={target}", "progress=false", *words]) == 0
        return target

    return exported


def inputs_and_expected(folder: Path) -> tuple[list[torch.Tensor], np.ndarray]:
    arrays = np.load(folder / "selftest.npz")
    stated = json.loads((folder / "preprocess.json").read_text())
    names = [name for item in stated["inputs"] for name in (item["name"], item["lengths"])]
    return [torch.from_numpy(arrays[name]) for name in names], arrays["expected/probabilities"]


def test_torchscript_needs_torch_alone(train: Train, export: Callable[..., Path]) -> None:
    folder = export(train(*RECURRENT), "format=torchscript")
    tensors, expected = inputs_and_expected(folder)
    model = torch.jit.load(folder / "model.pt")
    np.testing.assert_allclose(model(*tensors)[0].detach().numpy(), expected, atol=1e-4)
    assert 'torch.jit.load("model.pt")' in (folder / "README.md").read_text()


def test_a_program_of_torch_export_takes_any_size(train: Train, export: Callable[..., Path]) -> None:
    folder = export(train(*CONVOLUTIONS[:2], "fusion=concat"), "format=torch")
    tensors, expected = inputs_and_expected(folder)
    model = torch.export.load(folder / "model.pt2").module()
    np.testing.assert_allclose(model(*tensors)[0].detach().numpy(), expected, atol=1e-4)
    assert model(*(item[:1] for item in tensors))[0].shape == expected[:1].shape


def test_recurrent_layers_are_refused_for_torch_export(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"run={train(*RECURRENT).folder}", f"to={tmp_path / 'new'}", "format=torch"]
    assert main(["export", *words]) == 2
    assert "expected onnx or torchscript for a model with LSTM layers, got torch" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_for_the_hub_has_weights_config_and_results(train: Train, export: Callable[..., Path]) -> None:
    from huggingface_hub import ModelCard

    run = train(*RECURRENT)
    folder = export(run, "format=huggingface")
    weights = load_file(folder / "model.safetensors")
    expected = {f"{part}.{name}": value for part, own in run.model.components().items() for name, value in own.items()}
    assert weights.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())
    config = json.loads((folder / "config.json").read_text())
    assert list(config["id2label"].values()) == list(run.task.labels)
    card = ModelCard.load(folder / "README.md")
    (found,) = [
        item.metric_value
        for item in card.data.eval_results
        if (item.dataset_split, item.metric_type) == ("test", "uar")
    ]
    assert found == pytest.approx(run.metrics["test/uar"], abs=1e-6)
    assert infer(folder).returncode == 0


def test_tensorrt_is_refused_where_it_is_missing(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    words = [f"run={train(*RECURRENT).folder}", f"to={tmp_path / 'new'}", "format=tensorrt"]
    assert main(["export", *words]) == 2
    assert "trtexec" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "method"), [(FEATURES, "dynamic"), (CONVOLUTIONS, "static")])
def test_a_model_in_8_bits_is_smaller_and_compared_on_validation(
    words: tuple[str, ...],
    method: str,
    train: Train,
    export: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = train(*words)
    folder = export(run, "quantize=int8", "reads=features")
    printed = capsys.readouterr().out
    found = json.loads((folder / "quantization.json").read_text())
    assert found["method"].startswith(method)
    assert (folder / "model.int8.onnx").stat().st_size < (folder / "model.onnx").stat().st_size
    assert found["scores"]["float32"] == pytest.approx(run.metrics["val/uar"], abs=1e-6)
    assert found["utterances"] == len(run.predictions.query("split == 'val'"))
    assert f"{found['size_ratio']:.2f} times smaller" in printed
    assert f"{found['speed_ratio']:.2f} times as fast" in printed
    assert f"val/uar {found['scores']['float32']:.4f} to {found['scores']['int8']:.4f}" in printed
    assert infer(folder, str(folder / "selftest.npz"), "model.int8.onnx").returncode == 0


def test_a_corpus_that_is_gone_is_told(module_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        f"{split}{number},{split},{'sad' if number % 2 else 'glad'},a word" for split in SPLITS for number in range(4)
    ]
    table = tmp_path / "talk.csv"
    table.write_text("\n".join(["id,split,label,text", *rows]) + "\n")
    words = ["dataset=custom", f"dataset.table={table}", "encoder/audio=none", "encoder/video=none"]
    assert main(["train", *words, "trainer.max_epochs=1", f"paths.checkpoints={tmp_path / 'store'}"]) == 0
    (record,) = CheckpointStore(tmp_path / "store").records()
    table.unlink()
    words = [f"run={tmp_path / 'store' / record.run_id}", f"to={tmp_path / 'new'}", "quantize=int8"]
    assert main(["export", *words]) == 2
    assert "whose validation split models are compared, got: " in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_8_bits_are_for_onnx_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "run=0", f"to={tmp_path / 'new'}", "format=torch", "quantize=int8"]) == 2
    assert "quantize: expected null with format=torch" in capsys.readouterr().err
