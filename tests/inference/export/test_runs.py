"""Runs of other kinds, exported by the command and applied by the folder's own program."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emorec import load_run
from emorec.cli import main
from emorec.datasets.utterance import SPLITS
from emorec.inference.export.port import ports_of
from emorec.inference.loaded_run import LoadedRun
from emorec.media.source import Source
from emorec.runs.checkpoint_store import CheckpointStore
from tests.encoders.tiny_checkpoints import TinyCheckpoints
from tests.inference.export.test_folder import infer

pytestmark = pytest.mark.slow

TEXTS = ("what a joy", "how sad it is", "i am angry again", "you are so calm today")
Custom = Callable[..., LoadedRun]


@pytest.fixture
def train_on_table(tmp_path: Path) -> Custom:
    """Trains a run on a table of texts in dialogues of five turns."""

    def trained(label: Callable[[int], object], *words: str, column: str = "label") -> LoadedRun:
        rows = [f"id,split,{column},text,dialogue,turn,speaker"]
        for split in SPLITS:
            for number in range(20):
                where = f"{split}_{number // 5},{number % 5},{split}{number % 2}"
                rows.append(f"{split}{number},{split},{label(number)},{TEXTS[number % 4]},{where}")
        table, store = tmp_path / "talk.csv", tmp_path / "store"
        table.write_text("\n".join(rows) + "\n")
        line = ["dataset=custom", f"dataset.table={table}", "encoder/audio=none", "encoder/video=none", *words]
        small = ["trainer.max_epochs=1", "model.hidden=8", "progress=false", f"paths.checkpoints={store}"]
        assert main(["train", *line, *small]) == 0
        (record,) = CheckpointStore(store).records()
        return load_run(record.run_id, checkpoints=store)

    return trained


def exported(run: LoadedRun, folder: Path, *words: str) -> Path:
    assert main(["export", f"run={run.folder}", f"to={folder}", *words]) == 0
    return folder


def feelings(number: int) -> str:
    return ("happy", "sad")[number % 2]


def values_of(folder: Path, arrays: dict[str, Any]) -> list[dict[str, Any]]:
    np.savez(folder.parent / "inputs.npz", **arrays)
    done = infer(folder, str(folder.parent / "inputs.npz"))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_turns_are_predicted_in_their_dialogue(train_on_table: Custom, tmp_path: Path) -> None:
    run = train_on_table(feelings, "context=bigru")
    folder = exported(run, tmp_path / "exported", "quantize=int8")
    assert infer(folder).returncode == 0
    compared = json.loads((folder / "quantization.json").read_text())
    assert compared["scores"]["float32"] == pytest.approx(run.metrics["val/uar"], abs=1e-6)
    (port,) = ports_of(run.encoders, {}, run.widths, None).values()
    rows = np.stack([port.value_of(Source(modality="text", text=TEXTS[number % 4])) for number in range(5)])
    arrays = {"text": rows, "text_lengths": np.ones(5, np.int64), "speakers": np.array([0, 1, 0, 1, 0])}
    found = values_of(folder, {**arrays, "layout": np.arange(5)[None]})
    expected = run.predictions.set_index("id").filter(like="probability_")
    for number, row in enumerate(found):
        np.testing.assert_allclose(list(row["probabilities"].values()), expected.loc[f"test{number}"], atol=1e-4)
    np.savez(tmp_path / "inputs.npz", **arrays, layout=np.array([[0, 2, 1, 3, 4]]))
    refused = infer(folder, str(tmp_path / "inputs.npz"))
    assert "expected a layout with each row once, in order, got [0, 2, 1, 3, 4]" in refused.stderr


def test_a_context_that_loops_over_turns_is_refused(
    train_on_table: Custom, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_on_table(feelings, "context=dialogue_rnn")
    assert main(["export", f"run={run.folder}", f"to={tmp_path / 'new'}"]) == 2
    assert "got DialogueRNN: its loop over the turns would be fixed" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_values_are_predicted(train_on_table: Custom, tmp_path: Path) -> None:
    run = train_on_table(lambda number: number / 20, column="target")
    folder = exported(run, tmp_path / "exported", "quantize=int8")
    (row, *_) = values_of(folder, dict(np.load(folder / "selftest.npz")))
    assert list(row) == ["values"]
    assert list(row["values"]) == list(run.task.labels)
    found = json.loads((folder / "quantization.json").read_text())
    assert found["score"] == "ccc"
    assert found["scores"]["float32"] == pytest.approx(run.metrics["val/ccc"], abs=1e-5)


@pytest.mark.parametrize("training", ["frozen", "full"])
def test_a_text_model_comes_with_its_tokenizer(
    training: str, train_on_table: Custom, tmp_path: Path, checkpoints: TinyCheckpoints
) -> None:
    from tokenizers import Tokenizer

    words = ["encoder/text=bert_base_chinese", f"encoder.text.model={checkpoints['bert']}"]
    run = train_on_table(feelings, *words, f"encoder.text.training={training}", "encoder.text.max_length=6")
    folder = exported(run, tmp_path / "exported")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [tokenizer.encode(TEXTS[number % 4]).ids for number in range(4)]
    assert max(map(len, ids)) == 6
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(item) for item in ids], batch_first=True).numpy()
    found = values_of(folder, {"text": tokens, "text_lengths": np.array([len(item) for item in ids])})
    expected = run.predictions.set_index("id").filter(like="probability_")
    for number, row in enumerate(found):
        np.testing.assert_allclose(list(row["probabilities"].values()), expected.loc[f"test{number}"], atol=1e-4)
