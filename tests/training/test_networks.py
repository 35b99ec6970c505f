"""Networks that are trained from scratch, from the command to predictions elsewhere."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import parquet

from emorec import load_run
from emorec.cli import main
from emorec.config.composition import compose_once
from emorec.config.schema import TrainConfig
from emorec.datamodules.preparer import DataPreparer
from emorec.encoders.vocabulary import unpacked_words
from emorec.models.emotion_model import EmotionModel
from emorec.models.builder import restore_encoders

pytestmark = pytest.mark.slow

# {modality: what makes its encoder small}
SMALL = {
    "audio=crnn": ["encoder.audio.channels=[4,8]", "encoder.audio.hidden=8", "encoder.audio.attention=se"],
    "text=bilstm_attention": ["encoder.text.embedding=8", "encoder.text.hidden=8"],
    "video=frame_cnn_lstm": [
        "encoder.video.channels=[4,8]",
        "encoder.video.hidden=8",
        "encoder.video.media.frames=4",
        "encoder.video.media.size=24",
    ],
}
EPOCHS = 2


def overrides(choice: str, corpus: Path) -> list[str]:
    modality = choice.partition("=")[0]
    others = [f"encoder/{other.partition('=')[0]}=none" for other in SMALL if not other.startswith(modality)]
    small = [f"trainer.max_epochs={EPOCHS}", "model.hidden=16", "batch_size=8"]
    return [f"dataset.root={corpus}", f"encoder/{choice}", *others, *SMALL[choice], *small]


def only_run(root: Path) -> Path:
    (path,) = (root / "checkpoints").glob("*/run.json")
    return path.parent


def probabilities(table: Path) -> dict[str, list[float]]:
    """{utterance: its probabilities} of a table of predictions."""
    frame = parquet.read_table(table).to_pandas()
    names = [name for name in frame.columns if name.startswith("probability")]
    assert names, list(frame.columns)
    return {row["id"]: [row[name] for name in names] for _, row in frame.iterrows() if row["split"] in ("test", "all")}


def applied(model: EmotionModel, words: list[str], run: Path) -> dict[str, list[float]]:
    """As `probabilities`, of the loaded model on the test split, whose inputs are prepared by the run's own state."""
    composed = compose_once("train", TrainConfig, words)
    assert composed is not None
    preparer = DataPreparer.of(composed.config)
    corpus, encoders = preparer.components(composed.config)
    restore_encoders(encoders, model.components())
    module = preparer.prepare(composed.config, corpus, encoders).module(composed.config)
    predictions = model.predict(module.loader("test"))
    return dict(zip(predictions.id, torch.softmax(predictions.logits, 1).tolist(), strict=True))


@pytest.mark.parametrize("choice", SMALL)
def test_a_trained_network_predicts_the_same_wherever_it_is_loaded(
    choice: str, root: Path, small_demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = overrides(choice, small_demo)
    assert main(["train", *words]) == 0
    folder = only_run(root)
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert "encoder" in record["weights"]
    expected = probabilities(folder / "predictions.parquet")
    assert len(expected) == 8

    assert main(["evaluate", f"run={folder.name}"]) == 0
    (evaluated,) = (folder / "evaluations").glob("*/predictions.parquet")
    assert probabilities(evaluated) == pytest.approx(expected, abs=1e-6)

    loaded = applied(load_run(folder.name).model, words, folder)
    assert loaded == pytest.approx(expected, abs=1e-6)

    assert main(["train", *words]) == 0  # finds the finished run
    assert only_run(root) == folder
    assert folder.name in capsys.readouterr().out
