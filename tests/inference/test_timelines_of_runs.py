"""Runs predict recordings over time, together with others, by speaker, and with transcribed texts."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest
import soundfile

from emorec import Predictor, load_run
from emorec.cli import main
from emorec.config.schema import WhisperConfig
from emorec.datasets.demo import VERSION
from emorec.errors import UserError
from emorec.inference.clips import read_clips
from emorec.inference.loaded_run import LoadedRun
from emorec.inference.transcription import Transcriber
from emorec.runs.checkpoint_store import CheckpointStore
from tests.encoders.tiny_checkpoints import TinyCheckpoints

pytestmark = pytest.mark.slow

AUDIO = ["encoder/text=none", "encoder/video=none"]
TEXT = ["encoder/audio=none", "encoder/video=none"]


def trained(root: Path, words: list[str]) -> list[LoadedRun]:
    assert main(["train", *words, "progress=false"]) == 0
    store = CheckpointStore(root / "checkpoints")
    return [load_run(record.run_id, checkpoints=store.root) for record in store.records()]


@pytest.fixture
def sounds(small_demo: Path) -> list[Path]:
    return sorted((small_demo / f"version_{VERSION}" / "audio").glob("*.flac"))


@pytest.fixture
def recording(sounds: list[Path], tmp_path: Path) -> Path:
    """Three clips one after the other."""
    parts = [soundfile.read(path, dtype="float32") for path in sounds[:3]]
    path = tmp_path / "recording.wav"
    soundfile.write(path, np.concatenate([samples for samples, _ in parts]), parts[0][1])
    return path


def test_a_window_is_predicted_as_a_file_that_holds_it(
    root: Path, train_overrides: list[str], recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = trained(root, [*train_overrides, *AUDIO])
    samples, rate = soundfile.read(recording)
    found = run.predict(recording, window=0.5, hop=0.25)
    assert len(found) == round((len(samples) / rate - 0.5) / 0.25 + 0.49999) + 1
    for item in found[:: len(found) // 3]:
        assert item.start is not None
        assert item.end is not None
        part = tmp_path / "part.wav"
        soundfile.write(part, samples[round(item.start * rate) : round(item.end * rate)], rate)
        (alone,) = run.predict(part)
        np.testing.assert_allclose(list(item.probabilities.values()), list(alone.probabilities.values()), atol=1e-4)

    words = [f"run={run.record.run_id}", f"input={recording}", "window=0.5", "hop=0.25", "smoothing.method=hmm"]
    files = [tmp_path / name for name in ("rows.json", "talk.vtt", "talk.png")]
    outputs = [f"{key}={path}" for key, path in zip(("output", "subtitles", "plot"), files, strict=True)]
    assert main(["predict", *words, *outputs]) == 0
    assert f"1 clips, {len(found)} segments" in capsys.readouterr().err
    rows = json.loads(files[0].read_text())
    assert [(row["start"], row["end"]) for row in rows] == [(item.start, item.end) for item in found]
    assert rows[0]["probabilities"] != found[0].probabilities  # smoothed
    assert files[1].read_text().startswith("WEBVTT")
    assert files[2].stat().st_size > 1000


def test_several_runs_predict_the_mean_of_their_probabilities(
    root: Path, train_overrides: list[str], recording: Path
) -> None:
    runs = trained(root, [*train_overrides, *AUDIO, "seed=0"])[:1]
    runs += [run for run in trained(root, [*train_overrides, *TEXT, "seed=1"]) if run.record.seed == 1]
    recording.with_suffix(".txt").write_text("what a day")
    (together,) = Predictor(runs).predict(read_clips(recording))
    each = [run.predict(recording)[0] for run in runs]
    assert [item.modalities for item in each] == [("audio",), ("text",)]
    expected = np.mean([list(item.probabilities.values()) for item in each], axis=0)
    np.testing.assert_allclose(list(together.probabilities.values()), expected, atol=1e-6)
    assert together.modalities == ("audio", "text")
    recording.with_suffix(".txt").unlink()  # then one of the two knows nothing
    (heard,) = Predictor(runs).predict(read_clips(recording))
    np.testing.assert_allclose(list(heard.probabilities.values()), list(each[0].probabilities.values()), atol=1e-6)
    assert main(["predict", f"run=[{','.join(run.record.run_id for run in runs)}]", f"input={recording}"]) == 0


def test_runs_of_other_classes_are_refused(root: Path, train_overrides: list[str], small_demo: Path) -> None:
    (one,) = trained(root, [*train_overrides, *TEXT, "trainer.max_epochs=1"])
    others = trained(
        root, [*train_overrides, *TEXT, "trainer.max_epochs=1", "labels={good: [happy], bad: [sad, angry]}"]
    )
    (two,) = (run for run in others if run.record.run_id != one.record.run_id)
    with pytest.raises(UserError, match=r"run: expected runs that predict .* got \['good', 'bad'\]"):
        Predictor([one, two])


def test_clips_of_named_speakers_are_standardised_by_their_own(
    root: Path, train_overrides: list[str], small_demo: Path, tmp_path: Path
) -> None:
    folder, table = small_demo / f"version_{VERSION}", tmp_path / "clips.csv"
    with (folder / "utterances.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    frame = pandas.DataFrame(
        [{"id": row["id"], "audio": folder / "audio" / f"{row['id']}.flac", "speaker": row["speaker"]} for row in rows]
    )
    frame = pandas.concat([frame, frame.assign(id=frame["id"] + "_again")])  # 8 clips a speaker: enough for statistics
    frame.sample(frac=1, random_state=0).to_csv(table, index=False)
    (run,) = trained(root, [*train_overrides, *AUDIO, "model.normalisation=speaker"])
    found = {item.id: list(item.probabilities.values()) for item in run.predict(table)}
    assert len(found) == 64
    frame.drop(columns="speaker").to_csv(table, index=False)
    unknown = {item.id: list(item.probabilities.values()) for item in run.predict(table)}
    names = [row["id"] for row in rows]
    assert not np.allclose([found[name] for name in names], [unknown[name] for name in names], atol=1e-3)
    np.testing.assert_allclose([found[name] for name in names], [found[f"{name}_again"] for name in names], atol=1e-6)


def test_what_is_said_is_transcribed_where_there_is_no_text(
    root: Path, train_overrides: list[str], recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = trained(root, [*train_overrides, *TEXT])
    model = write_whisper(tmp_path / "whisper")
    heard: list[int] = []

    def text(self: Transcriber, waveform: np.ndarray) -> str:
        heard.append(len(waveform))
        return "what a happy day"

    clips = tmp_path / "clips"
    clips.mkdir()
    shutil.copy(recording, clips / "heard.wav")
    shutil.copy(recording, clips / "given.wav")
    (clips / "given.txt").write_text("how sad")
    (clips / "broken.wav").write_bytes(b"no sound")
    (tmp_path / "read.txt").write_text("what a happy day")
    (read,) = run.predict(tmp_path / "read.txt")
    predictor = Predictor(run, transcriber=Transcriber(WhisperConfig(model=str(model))))
    with monkeypatch.context() as patched:
        patched.setattr(Transcriber, "text", text)
        found = {Path(item.id).stem: item for item in predictor.predict(read_clips(clips))}
    assert len(heard) == 1
    assert found["heard"].probabilities == pytest.approx(read.probabilities)
    assert (found["heard"].text, found["given"].text) == ("what a happy day", "how sad")
    assert found["broken"].problems["text"].startswith("cannot be transcribed: ")
    assert isinstance(Transcriber(WhisperConfig(model=str(model))).text(np.zeros(40 * 16_000, np.float32)), str)


def test_turns_that_an_encoder_reads_are_in_the_block(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {
            "id": f"{split}{n}",
            "label": ("a", "b")[n % 2],
            "text": f"word{n}",
            "dialogue": split,
            "turn": n,
            "split": split,
        }
        for split in ("train", "val", "test")
        for n in range(8)
    ]
    table = pandas.DataFrame(rows, columns=["id", "label", "text", "dialogue", "turn", "split"])
    table.to_csv(tmp_path / "talk.csv", index=False)
    checkpoint = TinyCheckpoints(tmp_path)["bert"]
    words = ["dataset=custom", f"dataset.table={tmp_path / 'talk.csv'}", *TEXT, "trainer.max_epochs=1"]
    words += ["encoder/text=minilm", f"encoder.text.model={checkpoint}", "encoder.text.context_turns=2"]
    (run,) = trained(root, words)
    expected = run.predictions.set_index("id").filter(like="probability_")
    monkeypatch.setattr("emorec.inference.predictor.BLOCK", 3)
    new = tmp_path / "new.csv"  # columns that nothing is predicted by are not read
    table[table["split"] == "test"].assign(split="holdout").sample(frac=1, random_state=0).to_csv(new, index=False)
    for item in run.predict(new):
        np.testing.assert_allclose(list(item.probabilities.values()), expected.loc[item.id], atol=1e-5)


def write_whisper(folder: Path) -> Path:
    """A Whisper model of random weights, with a tokenizer of two words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast, WhisperFeatureExtractor, WhisperForConditionalGeneration
    from transformers import WhisperConfig as Config

    token = {f"{name}_token_id": number for number, name in enumerate(("bos", "eos", "pad", "decoder_start"))}
    layers = {f"{side}_{what}": 1 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    sizes = {"d_model": 8, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "num_mel_bins": 8}
    config = Config(vocab_size=6, max_target_positions=8, **token, **layers, **sizes)
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=8).save_pretrained(folder)
    words = {word: number for number, word in enumerate(("<b>", "<e>", "<p>", "<s>", "hello", "there"))}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<p>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<p>", eos_token="<e>").save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["hop=1"], "hop: expected up to the seconds of a window, got 1 with window=None"),
        (["window=1", "hop=2"], "hop: expected up to the seconds of a window, got 2 with window=1"),
        (["subtitles=a.vtt"], "subtitles: expected a window, such as window=3, to have a timeline, got none"),
        (["smoothing.method=ema"], "smoothing.method: expected a window"),
        (["text=whisper"], "whisper.model: expected a folder, or a name on the hub, for text=whisper, got null"),
        (["window=loud"], "window: expected"),
    ],
)
def test_what_does_not_go_together_is_told(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "run=abc", "input=x.wav", *words]) == 2
    assert expected in capsys.readouterr().err
