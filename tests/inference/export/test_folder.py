"""The folder of an export runs by itself, and says what is wrong; what cannot be exported leaves nothing behind."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emorec.cli import main
from emorec.datasets.manifest import Manifest
from emorec.datasets.utterance import Utterance
from emorec.inference.export.example import padded
from emorec.inference.export.port import ports_of
from emorec.inference.loaded_run import LoadedRun
from emorec.inference.predictor import Predictor
from emorec.storage.digests import hash_file

pytestmark = pytest.mark.slow

NETWORKS = (
    *("encoder/audio=crnn", "encoder.audio.channels=[4]", "encoder.audio.hidden=4", "encoder.audio.bands=16"),
    *("encoder/text=bilstm_attention", "encoder.text.embedding=8", "encoder.text.hidden=4"),
)
# Runs infer.py where neither emorec nor torch can be imported.
ALONE = """
import runpy, sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("emorec", "torch", "transformers", "onnx"):
            raise ImportError(name)

sys.meta_path.insert(0, Forbidden())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
Train = Callable[..., LoadedRun]


def infer(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-I", "-c", ALONE, str(folder / "infer.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder.parent)


@pytest.fixture(scope="module")
def run(train: Train) -> LoadedRun:
    """A run of two networks of media, and frozen features of pictures."""
    return train(*NETWORKS)


@pytest.fixture(scope="module")
def folder(run: LoadedRun, module_root: Path) -> Path:
    target = module_root / "exported"
    assert main(["export", f"run={run.record.run_id}", f"to={target}"]) == 0
    return target


@pytest.fixture
def clips(small_demo: Path) -> list[Utterance]:
    """Four clips of the demo corpus, one of them without sound."""
    found = []
    for number, sound in enumerate(sorted(next(small_demo.glob("version_*/audio")).iterdir())[:4]):
        video = sound.parent.parent / "video" / f"{sound.stem}.mp4"
        media = {"audio": None if number == 1 else sound, "video": video, "text": "how sad and happy it is"}
        found.append(Utterance(id=sound.stem, dataset="input", targets={}, **media))  # type: ignore[arg-type]
    return found


@pytest.fixture
def inputs(run: LoadedRun, clips: list[Utterance]) -> dict[str, Any]:
    """The arrays of the clips, as `preprocess.json` describes them."""
    nobody = Manifest(dataset="input", utterances=tuple(clips), tasks={}, protocols={})
    arrays: dict[str, Any] = {}
    for port in ports_of(run.encoders, dict(run.model.encoder.items()), run.widths, None).values():  # type: ignore[arg-type]
        sources = [port.encoder.source(clip, nobody) for clip in clips]
        arrays |= padded(port.declared, [None if source is None else port.value_of(source) for source in sources])
    return arrays


def test_the_folder_holds_what_a_stranger_needs(folder: Path, run: LoadedRun) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *(
            "README.md",
            "checks.py",
            "infer.py",
            "labels.json",
            "model.onnx",
            "preprocess.json",
            "selftest.npz",
            "sha256.txt",
        ),
        "vocabulary.json",
    }
    for line in (folder / "sha256.txt").read_text().splitlines():
        digest, name = line.split("  ")
        assert hash_file(folder / name) == digest
    assert json.loads((folder / "labels.json").read_text())["labels"] == list(run.task.labels)
    text, audio, video = json.loads((folder / "preprocess.json").read_text())["inputs"]
    assert (text["kind"], audio["kind"], video["kind"]) == ("tokens", "sound", "features")
    assert audio["settings"]["sample_rate"] == 16_000
    assert video["why_features"] == "FrameStatistics computes its features outside a network"
    card = (folder / "README.md").read_text()
    assert run.record.run_id in card
    assert f"| uar | {run.metrics['val/uar']:.4f} | {run.metrics['test/uar']:.4f} |" in card
    assert "work or in education" in card


def test_the_program_of_the_folder_tests_itself_without_emorec_and_torch(folder: Path) -> None:
    done = infer(folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("self-test: largest difference")


def test_the_program_predicts_media_as_the_run_does(
    folder: Path, run: LoadedRun, clips: list[Utterance], inputs: dict[str, Any], tmp_path: Path
) -> None:
    np.savez(tmp_path / "inputs.npz", **inputs)
    done = infer(folder, str(tmp_path / "inputs.npz"))
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    for row, prediction in zip(rows, Predictor(run).predict(clips), strict=True):
        assert row["class"] == prediction.predicted
        assert row["probabilities"] == pytest.approx(prediction.probabilities, abs=1e-4)


def test_another_preprocessing_fails(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "changed"
    shutil.copytree(folder, copy)
    stated = (copy / "preprocess.json").read_text()
    (copy / "preprocess.json").write_text(stated.replace("16000", "8000"))
    done = infer(copy)
    assert done.returncode == 1
    assert "expected the preprocess.json of model.onnx, got another one" in done.stderr


def test_other_outputs_fail_the_self_test(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "changed"
    shutil.copytree(folder, copy)
    arrays = dict(np.load(copy / "selftest.npz"))
    arrays["expected/probabilities"] = arrays["expected/probabilities"] + 2e-4
    np.savez(copy / "selftest.npz", **arrays)
    assert infer(copy).returncode == 1


Change = Callable[[dict[str, Any]], Mapping[str, Any]]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda own: {"audio": own["audio"].astype(np.float64)},
            "audio as float32 ['batch', 'audio_time'], got float64",
        ),
        (lambda own: {"video": own["video"][:, :, :-1]}, "video as float32 ['batch', 'video_time', 4096], got float32"),
        (lambda own: {"text": own["text"][:3]}, "text_lengths as int64 ['batch'], got int64 [4]"),
        (lambda own: {"audio_lengths": own["audio_lengths"] + 1}, "audio_lengths from 0 to"),
        (lambda own: {name: own[name] * 0 for name in own if "lengths" in name}, "a modality in each row"),
        (lambda own: {"text": None}, "text and text_lengths, got"),
        (
            lambda own: {"text": own["text"][:2], "text_lengths": own["text_lengths"][:2]},
            "one batch, got rows [2, 4, 4]",
        ),
    ],
)
def test_arrays_of_another_form_are_refused(
    folder: Path, inputs: dict[str, Any], change: Change, expected: str, tmp_path: Path
) -> None:
    arrays = {name: value for name, value in {**inputs, **change(inputs)}.items() if value is not None}
    np.savez(tmp_path / "inputs.npz", **arrays)
    done = infer(folder, str(tmp_path / "inputs.npz"))
    assert done.returncode == 1
    assert f"expected {expected}" in done.stderr


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["export", *words]) == 2
    return capsys.readouterr().err


def test_an_existing_folder_is_left_alone(run: LoadedRun, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"expected a new folder, got {folder}" in error_of(capsys, f"run={run.record.run_id}", f"to={folder}")


def test_media_are_refused_where_an_encoder_is_no_network(
    run: LoadedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = error_of(capsys, f"run={run.record.run_id}", f"to={tmp_path / 'new'}", "reads=raw")
    assert "reads=raw: expected reads=features, since encoder.video cannot read media" in message
    assert not list(tmp_path.iterdir())


def test_a_graph_that_differs_from_its_run_is_refused(
    run: LoadedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from emorec.inference.export import exporting

    class Wrong(exporting.Session):
        def __call__(self, tensors: Mapping[str, Any]) -> tuple[Any, ...]:
            return tuple(value + 3e-4 * (len(value) == 17) for value in super().__call__(tensors))

    monkeypatch.setattr(exporting, "Session", Wrong)
    message = error_of(capsys, f"run={run.record.run_id}", f"to={tmp_path / 'new'}")
    assert "expected a graph within 0.0001 of the run, got a difference of 0.0003 (text (17, " in message
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_told(
    run: LoadedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install 'emorec[onnx]'" in error_of(capsys, f"run={run.record.run_id}", f"to={tmp_path / 'new'}")
