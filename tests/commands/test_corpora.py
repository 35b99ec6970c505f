"""Every corpus, label maps, views and layers, from the command line on small corpora with real media."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from emorec.cli import main
from emorec.config.composition import composer, parse
from emorec.config.schema import TrainConfig
from emorec.datamodules.preparer import DataPreparer
from tests.discovery import names

pytestmark = pytest.mark.slow

SMALL = ["trainer.max_epochs=2", "model.hidden=8", "progress=false"]
SOUND = ["encoder/text=none", "encoder/video=none"]
DATASETS = [name for name in names("dataset") if name not in ("demo", "ravdess_crema_d")]


@pytest.fixture(scope="session")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the fixture of each dataset."""
    folder = tmp_path_factory.mktemp("corpora")
    for name in DATASETS:
        assert main(["data", "fixture", f"dataset={name}", f"to={folder / name}"]) == 0
    return folder


@pytest.fixture
def data(corpora: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMOREC_DATA", str(corpora))
    return corpora


def words_of(name: str, data: Path) -> list[str]:
    return [f"dataset={name}", *([f"dataset.table={data / name / 'corpus.csv'}"] if name == "custom" else [])]


def only_run(root: Path) -> Path:
    (found,) = (root / "checkpoints").glob("*/run.json")
    return found.parent


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", DATASETS)
def test_every_corpus_trains_from_its_layout(name: str, data: Path, root: Path) -> None:
    own = {"ch_sims": ["loss=mae"], "emodb": ["encoder/video=none"]}.get(name, [])
    assert main(["train", *SMALL, *words_of(name, data), *own]) == 0
    run = read_json(only_run(root) / "run.json")
    assert run["status"] == "finished"
    assert set(run["features"]) == {"text", "audio", "video"} - ({"video"} if name == "emodb" else set())


@pytest.mark.parametrize("name", DATASETS)
def test_every_corpus_passes_its_check(name: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "--json", *words_of(name, data)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["utterances"] > 10
    assert not found["fatal"]
    assert not [problem for problem in found["problems"] if problem["kind"] == "duplicate"]


def test_a_fixture_is_not_written_over_files(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["data", "fixture", "dataset=meld", f"to={tmp_path}"]) == 2
    assert "expected an empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.name != "root"] == ["mine.txt"]


def test_regression_is_trained_and_reported(data: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SMALL, "dataset=ch_sims", "dataset.task=sentiment"]
    assert main(["train", *words, "loss=cross_entropy"]) == 2
    assert "expected a loss for regression" in capsys.readouterr().err
    assert main(["train", *words]) == 0
    assert "test/ccc=" in capsys.readouterr().out
    metrics = read_json(only_run(root) / "metrics.json")
    assert {"test/mae", "test/pearson", "test/accuracy_2", "test/accuracy_3", "test/accuracy_5"} <= metrics.keys()
    assert main(["report"]) == 0
    assert "test/ccc" in capsys.readouterr().out


def test_the_splits_that_were_made_are_written_into_the_run(data: Path, root: Path) -> None:
    assert main(["train", *SMALL, *words_of("custom", data)]) == 0
    folder = only_run(root)
    with (folder / "splits.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    counts = read_json(folder / "run.json")["data"]["utterances"]
    assert {split: sum(row["split"] == split for row in rows) for split in counts} == counts
    assert "group_k_fold" in read_json(folder / "run.json")["data"]["notes"][0]


def test_trained_on_two_corpora_and_tested_on_a_third(
    data: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *SMALL, "dataset=ravdess_crema_d", "labels=four_emotions"]) == 0
    folder = only_run(root)
    assert read_json(folder / "run.json")["task"]["labels"] == ["neutral", "happy", "sad", "angry"]
    assert main(["evaluate", f"run={folder.name}", "dataset=iemocap", "split=all"]) == 0
    assert "all/uar=" in capsys.readouterr().out
    (evaluation,) = (folder / "evaluations").iterdir()
    metrics = read_json(evaluation / "metrics.json")
    assert metrics["labels"] == ["neutral", "happy", "sad", "angry"]
    assert sum(map(sum, metrics["all/confusion"])) == 90  # of 120 utterances those of the four classes
    reads = read_json(folder / "run.json")["test_reads"]
    assert reads[-1]["why"] == "evaluate dataset=iemocap"


def test_a_corpus_with_other_labels_needs_a_label_map(
    data: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *SMALL, "dataset=ravdess"]) == 0
    run = only_run(root).name
    assert main(["evaluate", f"run={run}", "dataset=meld", "labels=four_emotions"]) == 2
    assert "expected labels that make the run's classes" in capsys.readouterr().err
    assert main(["evaluate", f"run={run}", "dataset=ravdess", "split=all"]) == 2
    assert "neither trained nor selected on" in capsys.readouterr().err


def test_a_run_does_without_a_modality_that_another_corpus_lacks(
    data: Path,
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert main(["train", *SMALL, "dataset=iemocap", "labels=four_emotions"]) == 0
    run = only_run(root).name
    rows = [
        f"{number},{path},{('happy', 'sad', 'bored')[number % 3]}"
        for number, path in enumerate(sorted((data / "crema_d" / "AudioWAV").glob("*_HAP_*.wav"))[:6])
    ]
    (tmp_path / "sound.csv").write_text("\n".join(["id,audio,label", *rows]))
    words = ["evaluate", f"run={run}", "dataset=custom", f"dataset.table={tmp_path / 'sound.csv'}", "split=all"]
    assert main([*words, "dataset.protocol=stratified"]) == 0
    assert "no utterance of dataset=custom has video" in caplog.text
    assert "no utterance of dataset=custom has text" in caplog.text
    assert "left out: bored (2)" in caplog.text
    assert "utterances=4 of 6" in capsys.readouterr().out


def test_a_moved_combination_of_corpora_is_the_same_run(data: Path, root: Path, tmp_path: Path) -> None:
    words = ["train", *SMALL, "dataset=ravdess_crema_d", "labels=four_emotions"]
    assert main(words) == 0
    (tmp_path / "elsewhere").symlink_to(data)
    moved = [f"dataset.corpora.{name}.root={tmp_path}/elsewhere/{name}" for name in ("ravdess", "crema_d")]
    assert main([*words, *moved]) == 0
    only_run(root)


# Views


def test_training_samples_among_cached_views_and_evaluation_does_not(data: Path, root: Path) -> None:
    words = [*SMALL, *words_of("custom", data), "encoder.audio.views=2", "encoder/text=none", "encoder/video=none"]
    line = parse("train", words)
    with composer(line, TrainConfig) as open_composer:
        config = open_composer.compose(line.overrides).config
    preparer = DataPreparer(root / "cache")
    module = preparer.prepare(config, *preparer.components(config)).module(config)
    loader, clean = module.train_dataloader(), module.tables["train"].batch
    seen: dict[str, set[bytes]] = {}
    for epoch in range(12):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            for name, values in zip(batch.id, batch.features["audio"], strict=True):
                seen.setdefault(name, set()).add(values.numpy().tobytes())
    assert {len(found) for found in seen.values()} == {3}
    whole = clean(torch.arange(len(module.tables["train"])))
    for name, values in zip(whole.id, whole.features["audio"], strict=True):
        assert values.numpy().tobytes() in seen[name]
    first, again = (next(iter(module.val_dataloader())).features["audio"] for _ in range(2))
    assert torch.equal(first, again)


def test_one_modality_may_have_other_views_than_another(root: Path, train_overrides: list[str]) -> None:
    words = ["encoder/audio=log_mel_functionals", "encoder.audio.views=2", "encoder.video.views=1"]
    assert main(["train", *train_overrides, *words, "trainer.max_epochs=1"]) == 0
    only_run(root)


def test_the_choice_of_views_follows_from_seed_and_epoch(data: Path, root: Path) -> None:
    words = [*SMALL, *words_of("custom", data), "encoder.audio.views=2", "encoder/text=none", "encoder/video=none"]
    line = parse("train", words)
    with composer(line, TrainConfig) as open_composer:
        config = open_composer.compose(line.overrides).config
    preparer = DataPreparer(root / "cache")

    def epoch(number: int) -> dict[str, bytes]:
        loader = preparer.prepare(config, *preparer.components(config)).module(config).train_dataloader()
        loader.sampler.set_epoch(number)
        return {
            name: row.numpy().tobytes()
            for batch in loader
            for name, row in zip(batch.id, batch.features["audio"], strict=True)
        }

    assert epoch(3) == epoch(3)
    assert epoch(3) != epoch(4)


def test_a_run_with_views_is_another_run_and_finishes(data: Path, root: Path) -> None:
    words = ["train", *SMALL, *words_of("custom", data), "encoder/text=none"]
    assert main(words) == 0
    assert main([*words, "encoder.audio.views=1", "encoder.video.views=1"]) == 0
    assert len(list((root / "checkpoints").glob("*/run.json"))) == 2


def test_utterances_that_a_run_was_trained_on_are_refused_under_other_names_and_paths(
    data: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *SMALL, "dataset=ravdess_crema_d", "labels=four_emotions", "encoder/text=none"]) == 0
    run = only_run(root).name
    assert main(["evaluate", f"run={run}", "dataset=ravdess", "split=all"]) == 2
    assert "neither trained nor selected on" in capsys.readouterr().err
    rows = ["id,audio,video,label"]
    for number, path in enumerate(sorted((data / "crema_d" / "AudioWAV").glob("*_HAP_*.wav"))):
        video = data / "crema_d" / "VideoFlash" / f"{path.stem}.flv"
        rows.append(f"renamed{number},{path},{video},{('happy', 'sad')[number % 2]}")
    (tmp_path / "renamed.csv").write_text("\n".join(rows))
    words = ["evaluate", f"run={run}", "dataset=custom", f"dataset.table={tmp_path / 'renamed.csv'}", "split=all"]
    assert main([*words, "dataset.protocol=stratified"]) == 2
    assert "neither trained nor selected on" in capsys.readouterr().err


def test_a_folder_given_by_a_relative_path_is_read(
    data: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, path in enumerate(sorted((data / "custom" / "wavs").glob("*.wav"))):
        target = tmp_path / "folder" / ("happy", "sad")[number % 2] / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert (
        main(["train", *SMALL, "dataset=custom", "dataset.root=folder", "encoder/text=none", "encoder/video=none"]) == 0
    )
    assert read_json(only_run(root) / "run.json")["data"]["left_out"] == 0


def test_a_run_is_evaluated_with_another_limit_of_its_table(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"u{n},Hello {n}.,{'ab'[n // 3 % 2]},{('train', 'val', 'test')[n % 3]}" for n in range(24)]
    (tmp_path / "corpus.csv").write_text("\n".join(["id,text,label,split", *rows]))
    words = ["dataset=custom", f"dataset.table={tmp_path / 'corpus.csv'}", "encoder/audio=none", "encoder/video=none"]
    assert main(["train", *SMALL, *words]) == 0
    run = only_run(root).name
    assert main(["evaluate", f"run={run}", "dataset.largest_table=10000"]) == 0
    assert main(["evaluate", f"run={run}", "dataset.largest_table=100"]) == 2
    assert "expected a file of at most 100 bytes" in capsys.readouterr().err


def test_the_check_reports_what_a_table_leaves_open(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"u{n},Hello {n}.,{'ab'[n % 2]},s{n},{('train', 'val', 'test', '')[n % 4]}" for n in range(24)]
    table = tmp_path / "corpus.csv"
    table.write_text("\n".join(["id,text,label,speeker,split", *rows]))
    assert main(["data", "check", "dataset=custom", f"dataset.table={table}"]) == 1  # one class in train alone
    printed = capsys.readouterr().out
    assert "6 utterances without one are left out" in printed
    assert "columns kept as metadata, for they have no other meaning: speeker (did you mean speaker?)" in printed
    assert "speakers in more than one split: unknown" in printed
    assert "expected at least two classes in the train split, got 1: a" in printed


def test_the_check_reports_segments_that_end_beyond_their_file_and_repeated_ids(
    data: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = sorted((data / "ravdess").glob("**/01-*.mp4"))[:6]
    rows = [f"u{n},{path},{'ab'[n % 2]},0,{(9.5, 0.4)[n > 0]}" for n, path in enumerate(clips)]
    table = tmp_path / "corpus.csv"
    table.write_text("\n".join(["id,video,label,start,end", *rows, rows[1]]))
    assert main(["data", "check", "--json", "dataset=custom", f"dataset.table={table}"]) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    beyond = [problem for problem in problems if problem["kind"] == "segment"]
    assert {problem["where"] for problem in beyond} == {"u0"}
    assert {problem["detail"].split(":")[0] for problem in beyond} == {"audio", "video"}
    assert "expected the end at 9.5 s within the file" in beyond[0]["detail"]
    assert not [problem for problem in problems if "as u1" in problem["detail"]]
    assert [problem["fatal"] for problem in problems if problem["where"] == "u1"] == [True]


def test_training_warns_of_recordings_of_test_that_are_in_train(
    data: Path, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clips = sorted((data / "crema_d" / "AudioWAV").glob("*.wav"))[:18]
    rows = [f"u{n},{path},{'ab'[n % 2]},{('train', 'val', 'test')[n // 6]}" for n, path in enumerate(clips)]
    rows += [f"again{n},{clips[n]},{'ab'[n % 2]},test" for n in range(4)]
    (tmp_path / "corpus.csv").write_text("\n".join(["id,audio,label,split", *rows]))
    assert main(["train", *SMALL, "dataset=custom", f"dataset.table={tmp_path / 'corpus.csv'}", *SOUND]) == 0
    assert "4 of 10 utterances of test have the sound or picture of an utterance of train or val" in caplog.text


def test_texts_that_a_run_was_trained_on_are_recognised_by_id_and_reported_by_their_words(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def table(name: str, start: str, words: str) -> str:
        rows = [f"{start}{n},{words} {n},{'ab'[n % 2]}" for n in range(24)]
        (tmp_path / name).write_text("\n".join(["id,text,label", *rows]))
        return f"dataset.table={tmp_path / name}"

    text = ["dataset=custom", "dataset.protocol=stratified", "encoder/audio=none", "encoder/video=none"]
    assert main(["train", *SMALL, *text, table("one.csv", "u", "Sentence")]) == 0
    asked = ["evaluate", f"run={only_run(root).name}", "dataset=custom", "split=all"]
    assert main([*asked, table("same.csv", "u", "Sentence")]) == 2
    assert "neither trained nor selected on" in capsys.readouterr().err
    assert main([*asked, table("other.csv", "u", "Another")]) == 0
    caplog.clear()
    assert main([*asked, table("renamed.csv", "v", "Sentence")]) == 0
    assert "19 of 24 texts are also in the train or val split of the run" in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["encoder.text.dim=0"], "encoder.text.dim: expected a whole number of at least 1, got 0"),
        (["encoder.text.longest=0"], "encoder.text.longest: expected a whole number of at least 1, got 0"),
        (["encoder.audio.bands=0", "encoder.audio.hop=0"], "the config: 2 problem(s)"),
        (["encoder.audio.views=1.5"], "encoder.audio.views: expected a whole number of at least 0, got 1.5"),
        (["encoder.video.grid=0"], "encoder.video.grid: expected a whole number of at least 1"),
        (["+encoder.audio.media.trim=-4", "+encoder.audio.media.loudness=99"], "the config: 2 problem(s)"),
        (["dataset.limit=2.5"], "dataset.limit: expected a whole number of at least 1 or null, got 2.5"),
        (["dataset.limit=0"], "dataset.limit: expected a whole number of at least 1 or null, got 0"),
        (["dataset.limit=true"], "dataset.limit: expected a whole number of at least 1 or null, got True"),
        (["dataset.fold='0'"], "dataset.fold: expected a whole number of at least 0 or null, got '0'"),
        (["dataset.fold=5"], "expected dataset.fold from 0 to 4, got 5"),
        (["dataset.folds=abc"], "dataset.folds: expected a whole number of at least 3, got 'abc'"),
        (["dataset.folds=2"], "dataset.folds: expected a whole number of at least 3, got 2"),
        (["dataset.split_seed=-1"], "dataset.split_seed: expected a whole number of at least 0, got -1"),
        (["dataset.label_order=happy"], "dataset.label_order: expected a list or null, got 'happy'"),
        (["dataset.label_order=[sad,sad]"], "expected dataset.label_order to be a list of different labels"),
        (["dataset=iemocap", "dataset.classes=5"], "dataset.classes: expected 4 or 6, got 5"),
        (["dataset=ravdess", "dataset.classes=6"], "dataset.classes: expected 8 or 7, got 6"),
        (["dataset=ravdess", "dataset.channel=singing"], "dataset.channel: expected 'speech', 'song' or 'both'"),
        (["dataset.monitor=foo"], "metric: expected the monitor of task 'emotion', 'foo', got ['accuracy'"),
        (["+labels={a: happy, b: [sad]}"], "labels.a: expected a list, got 'happy'"),
    ],
)
def test_invalid_values_end_with_a_message(
    data: Path, root: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = [] if words[0].startswith("dataset=") else words_of("custom", data)
    assert main(["train", *SMALL, *corpus, *words]) == 2
    assert message in capsys.readouterr().err
