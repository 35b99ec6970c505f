"""Networks that are trained from scratch, from the command to predictions elsewhere."""

import json
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from pyarrow import parquet

from emorec import load_run
from emorec.cli import main
from emorec.config.composition import compose_once
from emorec.config.schema import TrainConfig
from emorec.datamodules.preparer import DataPreparer
from emorec.encoders.vocabulary import WordNumbers, tokens_of, unpacked_words
from emorec.models.builder import restore_encoders
from emorec.models.emotion_model import EmotionModel

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


def probabilities(table: Path) -> pandas.DataFrame:
    """A row of probabilities for each utterance of test, by its id."""
    frame = parquet.read_table(table).to_pandas()
    frame = frame[frame["split"] == "test"].set_index("id")
    return frame[[name for name in frame.columns if name.startswith("probability")]]


def applied(model: EmotionModel, words: list[str]) -> pandas.DataFrame:
    """As `probabilities`, of the loaded model on the test split, whose inputs are prepared by the run's own state."""
    composed = compose_once("train", TrainConfig, words)
    assert composed is not None
    preparer = DataPreparer.of(composed.config)
    corpus, encoders = preparer.components(composed.config)
    restore_encoders(encoders, model.components())
    module = preparer.prepare(composed.config, corpus, encoders).module(composed.config)
    predictions = model.predict(module.loader("test"))
    return pandas.DataFrame(torch.softmax(predictions.logits, 1).numpy(), index=predictions.id)


@pytest.mark.parametrize("choice", SMALL)
def test_a_trained_network_predicts_the_same_wherever_it_is_loaded(
    choice: str, root: Path, small_demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = overrides(choice, small_demo)
    assert main(["train", *words]) == 0
    folder = only_run(root)
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert any(name.startswith("encoder") for name in record["weights"])
    expected = probabilities(folder / "predictions.parquet")
    assert expected.shape == (8, 4)

    assert main(["evaluate", f"run={folder.name}"]) == 0
    (evaluated,) = (folder / "evaluations").glob("*/predictions.parquet")
    np.testing.assert_allclose(probabilities(evaluated).loc[expected.index], expected, atol=1e-6)

    loaded = applied(load_run(folder.name).model, words)
    np.testing.assert_allclose(loaded.loc[expected.index], expected, atol=1e-6)

    assert main(["train", *words]) == 0  # finds the finished run
    assert only_run(root) == folder
    assert folder.name in capsys.readouterr().out


TABLE = """id,text,label
1,I am so happy today,happy
2,entirely different words,sad
3,what unheard-of luck,angry
4,such calm weather,calm
"""


def test_another_corpus_is_read_with_the_vocabulary_of_the_run(
    root: Path, small_demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *overrides("text=bilstm_attention", small_demo)]) == 0
    folder = only_run(root)
    (vocabulary,) = (root / "cache").glob("word_numbers-*")
    table = root / "other.csv"
    table.write_text(TABLE)
    assert main(["evaluate", f"run={folder.name}", "dataset=custom", f"dataset.table={table}", "split=all"]) == 0
    assert "utterances=4 of 4" in capsys.readouterr().out
    assert list((root / "cache").glob("word_numbers-*")) == [vocabulary]
    words = unpacked_words(load_run(folder.name).model.encoder["text"].vocabulary)
    assert words
    assert not {"unheard", "weather"} & set(words)


def test_the_vocabulary_is_that_of_the_training_split(root: Path, small_demo: Path) -> None:
    words = overrides("text=bilstm_attention", small_demo)
    composed = compose_once("train", TrainConfig, [*words, "encoder.text.minimum_count=1"])
    assert composed is not None
    preparer = DataPreparer.of(composed.config)
    corpus, encoders = preparer.components(composed.config)
    data = preparer.prepare(composed.config, corpus, encoders)
    spoken = {word for item in data.splits["train"] for word in tokens_of(item.text or "")}
    below = encoders["text"].stored()
    assert isinstance(below, WordNumbers)
    assert set(below.words or ()) == spoken
    assert data.learned == {"text": below.state}


def test_a_run_is_evaluated_on_a_corpus_without_sound(
    root: Path, small_demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = overrides("audio=crnn", small_demo)
    words[words.index("encoder/text=none")] = "encoder/text=hashed_ngrams"
    assert main(["train", *words]) == 0
    table = root / "texts.csv"
    table.write_text(TABLE)
    run = only_run(root).name
    assert main(["evaluate", f"run={run}", "dataset=custom", f"dataset.table={table}", "split=all"]) == 0
    assert "utterances=4 of 4" in capsys.readouterr().out


def test_a_moving_average_keeps_the_vocabulary(root: Path, small_demo: Path) -> None:
    words = [*overrides("text=bilstm_attention", small_demo), "encoder.text.minimum_count=1"]
    composed = compose_once("train", TrainConfig, words)
    assert composed is not None
    preparer = DataPreparer.of(composed.config)
    corpus, encoders = preparer.components(composed.config)
    preparer.fit(composed.config, corpus, encoders)
    assert main(["train", *words, "trainer.ema=0.9"]) == 0
    below = encoders["text"].stored()
    assert isinstance(below, WordNumbers)
    assert unpacked_words(load_run(only_run(root).name).model.encoder["text"].vocabulary) == below.words
