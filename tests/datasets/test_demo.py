"""The demo corpus is reproducible, never partial, and suitable for training."""

import threading
from collections import Counter
from pathlib import Path

import pytest
import soundfile

from emorec.datasets import demo_synthesis
from emorec.datasets.demo import EMOTIONS, TABLE, VERSION, Demo, make_corpus
from emorec.errors import UserError
from emorec.media.audio import AudioSettings, read_audio
from emorec.media.source import Source


def demo(root: Path) -> Demo:
    return Demo(root=str(root), task="emotion", protocol="official")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_two_generated_corpora_are_identical_to_the_byte(tmp_path: Path) -> None:
    for name in ("one", "other"):
        make_corpus(tmp_path / name, speakers=2, clips_per_speaker=2)
    one, other = contents(tmp_path / "one"), contents(tmp_path / "other")
    assert Counter(Path(name).suffix for name in one) == {".flac": 4, ".mp4": 4, ".csv": 1}
    assert [name for name in one if one[name] != other.get(name)] == []
    assert set(other) == set(one)
    assert len(set(one.values())) == len(one), "no two clips are the same"


def test_a_smaller_corpus_has_the_first_clips_of_a_larger_one(tmp_path: Path) -> None:
    make_corpus(tmp_path / "fewer", speakers=1, clips_per_speaker=1)
    make_corpus(tmp_path / "more", speakers=2, clips_per_speaker=2)
    fewer, more = contents(tmp_path / "fewer"), contents(tmp_path / "more")
    media = [name for name in fewer if name != TABLE]
    assert len(media) == 2
    assert all(fewer[name] == more[name] for name in media)


def test_a_corpus_can_be_generated_concurrently(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "corpus"
    start, failed = threading.Barrier(4), []

    def make() -> None:
        start.wait(60)
        try:
            make_corpus(folder, speakers=1, clips_per_speaker=2)
        except Exception as error:
            failed.append(error)

    makers = [threading.Thread(target=make) for _ in range(4)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert failed == []
    assert [path.name for path in folder.parent.iterdir()] == ["corpus"]
    make_corpus(tmp_path / "alone", speakers=1, clips_per_speaker=2)
    assert contents(folder) == contents(tmp_path / "alone")


def test_a_failed_generation_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = demo_synthesis.write_clip, []

    def fail_at_the_second(*arguments: object, **options: object) -> str:
        written.append(arguments)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        return write(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(demo_synthesis, "write_clip", fail_at_the_second)
    with pytest.raises(OSError, match="No space left"):
        make_corpus(tmp_path / "deep" / "corpus", speakers=1, clips_per_speaker=3)
    assert list((tmp_path / "deep").iterdir()) == []


def test_an_existing_corpus_is_not_generated_again(small_demo: Path) -> None:
    table = small_demo / f"version_{VERSION}" / TABLE
    before = table.stat()
    manifest = demo(small_demo).read()
    assert len(manifest.utterances) == 32
    assert (table.stat().st_mtime_ns, table.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_a_missing_corpus_is_generated_on_first_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_corpus, "__kwdefaults__", {"speakers": 8, "clips_per_speaker": 1})
    manifest = demo(tmp_path / "data" / "demo").read()
    assert len(manifest.utterances) == 8
    assert all(
        item.audio and item.audio.is_file() and item.video and item.video.is_file() for item in manifest.utterances
    )


def test_splits_share_no_speaker_and_contain_each_emotion(small_demo: Path) -> None:
    dataset = demo(small_demo)
    manifest = dataset.read()
    splits = dataset.split(manifest)
    assert {name: len({item.speaker for item in items}) for name, items in splits.items()} == {
        "train": 4,
        "val": 2,
        "test": 2,
    }
    speakers = [item for items in splits.values() for item in {utterance.speaker for utterance in items}]
    assert len(speakers) == len(set(speakers)) == 8
    for items in splits.values():
        counts = Counter(EMOTIONS[int(item.targets["emotion"])] for item in items)  # type: ignore[arg-type]
        assert set(counts) == set(EMOTIONS)
        assert len(set(counts.values())) == 1, "all equally often"


def test_the_sound_file_and_the_sound_track_have_the_same_length(small_demo: Path) -> None:
    item = demo(small_demo).read().utterances[0]
    assert item.audio is not None
    assert item.video is not None
    sound, rate = soundfile.read(item.audio)
    track = read_audio(Source(modality="audio", path=item.video), AudioSettings(sample_rate=rate))
    assert 0 <= len(track) - len(sound) < 2048  # AAC comes in packets of 1024 samples


def test_an_unknown_emotion_in_the_table_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / f"version_{VERSION}"
    make_corpus(folder, speakers=1, clips_per_speaker=1)
    table = folder / TABLE
    table.write_text(table.read_text().replace("angry", "hangry"))
    with pytest.raises(UserError, match=r"utterances\.csv:2: expected emotion in .*got 'hangry'"):
        demo(tmp_path).read()
