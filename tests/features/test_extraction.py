import logging
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emorec.config.schema import ExtractionConfig, FeaturesConfig
from emorec.config.validation import validated
from emorec.encoders.frame_statistics import FrameStatistics
from emorec.encoders.log_mel import LogMel
from emorec.errors import UserError
from emorec.features.extraction import ExtractionReport, extract
from emorec.features.spec import FeatureSpec
from emorec.features.store import FeatureStore
from emorec.media.source import Source
from emorec.media.video import VideoSettings
from emorec.storage.digests import FileDigests
from tests.benchmarks.extraction import SmallWav2Vec2
from tests.conftest import tone
from tests.media.clips import numbered, write_clip
from tests.media.damaged_decoder import damage_decoders

Sources = dict[str, Source | None]


@pytest.fixture
def sounds(write_sound: Callable[..., Path]) -> Sources:
    """Six tones of different lengths."""
    return {
        f"clip{n}": Source(modality="audio", path=write_sound(f"clip{n}.wav", tone(0.2 + 0.05 * n, pitch=200 + 40 * n)))
        for n in range(6)
    }


def run(
    cache: Path, sources: Sources, encoder: LogMel | None = None, **settings: Any
) -> tuple[FeatureStore, ExtractionReport]:
    encoder = encoder or LogMel()
    store = FeatureStore(cache, FeatureSpec(**encoder.spec()), FileDigests())
    return store, extract(store, encoder, sources, ExtractionConfig(**settings))


class NeverLoaded(LogMel):
    """Fails where features are computed."""

    def load(self) -> None:
        raise AssertionError("the encoder was loaded")


NeverLoaded.__name__ = "LogMel"  # the spec contains the name of the class


def test_a_second_run_computes_nothing_and_loads_no_encoder(tmp_path: Path, sounds: Sources) -> None:
    _, first = run(tmp_path / "cache", sounds)
    _, second = run(tmp_path / "cache", sounds, NeverLoaded())
    assert (first.found, first.computed) == (0, 6)
    assert (second.found, second.computed) == (6, 0)


def test_the_features_of_a_moved_corpus_are_found(tmp_path: Path, sounds: Sources) -> None:
    run(tmp_path / "cache", sounds)
    moved: Sources = {}
    for name, source in sounds.items():
        assert source is not None
        assert source.path is not None
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        moved[name] = Source(modality="audio", path=Path(shutil.move(source.path, tmp_path / "elsewhere")))
    _, report = run(tmp_path / "cache", moved, NeverLoaded())
    assert report.found == 6


def test_an_edited_file_is_computed_again(tmp_path: Path, sounds: Sources, write_sound: Callable[..., Path]) -> None:
    run(tmp_path / "cache", sounds)
    write_sound("clip3.wav", tone(0.35, pitch=555))
    _, report = run(tmp_path / "cache", sounds)
    assert (report.found, report.computed) == (5, 1)


def test_an_edited_file_with_the_same_size_and_time_has_another_digest(tmp_path: Path, sounds: Sources) -> None:
    database = tmp_path / "cache" / "digests.tsv"
    source = sounds["clip3"]
    assert source is not None
    assert source.path is not None
    digests = FileDigests(database)
    before = digests.digest(source.path)
    digests.save()
    status = source.path.stat()
    content = bytearray(source.path.read_bytes())
    content[-2] ^= 0x40
    source.path.write_bytes(bytes(content))
    os.utime(source.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert FileDigests(database).digest(source.path) != before


def test_features_are_computed_without_tf32_and_deterministically(tmp_path: Path, sounds: Sources) -> None:
    settings = set()

    class Watched(LogMel):
        def encode(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            settings.add(now())
            return super().encode(inputs)

    def now() -> tuple[bool, bool, bool]:
        return (
            torch.backends.cudnn.allow_tf32,
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.deterministic,
        )

    torch.backends.cuda.matmul.allow_tf32 = True  # as some environments have it
    try:
        before = now()
        run(tmp_path / "cache", sounds, Watched())
        assert settings == {(False, False, True)}
        assert now() == before == (True, True, False)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def test_features_that_are_computed_again_into_the_same_shard_are_found(tmp_path: Path, sounds: Sources) -> None:
    store, _ = run(tmp_path / "cache", sounds, workers=1)
    (path,) = store.folder.glob("*.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    _, report = run(tmp_path / "cache", sounds, workers=1)
    assert (report.found, report.computed) == (0, 6)
    assert path.read_bytes() == content


def test_equal_content_shares_a_row(tmp_path: Path, write_sound: Callable[..., Path]) -> None:
    sources: Sources = {
        name: Source(modality="audio", path=write_sound(f"{name}.wav", tone(0.3))) for name in ("one", "two")
    }
    store, report = run(tmp_path / "cache", sources)
    assert len(store) == 1
    assert report.keys["one"] == report.keys["two"]
    assert report.computed == 2


@pytest.fixture
def with_bad(sounds: Sources, write_sound: Callable[..., Path], tmp_path: Path) -> Sources:
    """The sounds, a silent, an empty and a missing one, and an utterance without the modality."""
    (tmp_path / "empty.wav").touch()
    return {
        **sounds,
        "silent": Source(modality="audio", path=write_sound("silent.wav", np.zeros(8000, np.float32))),
        "empty": Source(modality="audio", path=tmp_path / "empty.wav"),
        "missing": Source(modality="audio", path=tmp_path / "missing.wav"),
        "wordless": None,
    }


def test_bad_media_are_reported_by_id_and_left_out(
    tmp_path: Path, with_bad: Sources, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    store, report = run(tmp_path / "cache", with_bad)
    assert set(report.bad) == {"silent", "empty", "missing"}
    for name in report.bad:
        assert name in caplog.text
    reader = store.reader([report.keys[name] for name in with_bad], FeaturesConfig(preload="none"))
    assert reader.present.tolist() == [True] * 6 + [False] * 4
    assert report.found + report.computed + len(report.bad) + 1 == len(with_bad)  # and one without the modality


def test_media_that_failed_once_are_not_decoded_again(tmp_path: Path, with_bad: Sources) -> None:
    run(tmp_path / "cache", with_bad)
    _, again = run(tmp_path / "cache", with_bad, NeverLoaded())
    assert again.computed == 0
    assert set(again.bad) == {"silent", "empty", "missing"}


def test_a_clip_that_takes_too_long_is_named_and_tried_again(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", numbered(4, 64, 64))
    sources: Sources = {name: Source(modality="video", path=path) for name in ("one", "same")}
    encoder: Any = FrameStatistics(media=VideoSettings(frames=2, size=32), grid=2)
    store, report = run(tmp_path / "cache", sources, encoder, clip_seconds=1e-9)
    assert set(report.bad) == {"one", "same"}
    assert "longer than 1e-09 seconds (extraction.clip_seconds)" in report.bad["one"]
    assert not store.reader([report.keys[name] for name in sources], FeaturesConfig()).present.any()
    _, again = run(tmp_path / "cache", sources, encoder)
    assert (again.computed, again.bad) == (2, {})


def test_a_clip_that_crashes_the_decoder_is_named_and_tried_again(
    tmp_path: Path, sounds: Sources, write_sound: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {"bad": Source(modality="audio", path=write_sound("segfault.wav", tone(0.3))), **sounds}
    with monkeypatch.context() as patch:
        damage_decoders(tmp_path, patch)
        store, report = run(tmp_path / "cache", sources)
    assert report.bad == {"bad": "decoding ended with SIGSEGV"}
    assert (report.computed, len(store)) == (6, 6)
    _, again = run(tmp_path / "cache", sources)
    assert (again.found, again.computed, again.bad) == (6, 1, {})


def test_bad_media_are_an_error_with_on_bad_media_fail(tmp_path: Path, with_bad: Sources) -> None:
    with pytest.raises(UserError) as caught:
        run(tmp_path / "cache", with_bad, on_bad_media="fail")
    assert all(name in str(caught.value) for name in ("silent", "empty", "missing"))


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_the_batch_size_changes_no_feature(tmp_path: Path, sounds: Sources, batch_size: int) -> None:
    stores = [run(tmp_path / f"cache{size}", sounds, batch_size=size) for size in (batch_size, 16)]
    (values, mask), (other, other_mask) = (
        store.reader([report.keys[name] for name in sounds], FeaturesConfig(preload="none")).gather(torch.arange(6))
        for store, report in stores
    )
    assert torch.equal(mask, other_mask)
    assert torch.equal(values, other)


class Overflowing(LogMel):
    """Returns values that half precision cannot hold."""

    def features(self, source: Source) -> np.ndarray:
        return super().features(source) * np.float32(1e6)


def test_a_value_that_the_stored_type_cannot_hold_is_an_error(tmp_path: Path, sounds: Sources) -> None:
    with pytest.raises(UserError, match="that float16 can hold"):
        run(tmp_path / "cache", sounds, Overflowing(dtype="float16"))


class Infinite(LogMel):
    """Returns infinite values for one clip."""

    def features(self, source: Source) -> np.ndarray:
        values = super().features(source)
        return values * np.float32("inf") if source.path is not None and source.path.stem == "clip2" else values


Overflowing.__name__ = Infinite.__name__ = "LogMel"


def test_media_with_features_that_are_not_finite_are_bad_media(tmp_path: Path, sounds: Sources) -> None:
    _, report = run(tmp_path / "cache", sounds, Infinite())
    assert list(report.bad) == ["clip2"]
    assert "not finite" in report.bad["clip2"]
    assert report.computed == 5
    with pytest.raises(UserError, match="clip2"):
        run(tmp_path / "other", sounds, Infinite(), on_bad_media="fail")


class Replaced(LogMel):
    """Reads a clip whose content changes after its digest was computed."""

    def features(self, source: Source) -> np.ndarray:
        if source.path is not None and source.path.stem == "clip3":
            source.path.write_bytes(source.path.with_name("clip5.wav").read_bytes())
        return super().features(source)


Replaced.__name__ = "LogMel"


def test_a_file_that_changes_while_it_is_read_leaves_no_wrong_features(tmp_path: Path, sounds: Sources) -> None:
    path = sounds["clip3"].path  # type: ignore[union-attr]
    assert path is not None
    content = path.read_bytes()
    with pytest.raises(UserError, match=r"clip3\.wav to stay the same, got a change"):
        run(tmp_path / "cache", sounds, Replaced(), batch_size=1)
    path.write_bytes(content)
    store, report = run(tmp_path / "cache", sounds)
    _, fresh = run(tmp_path / "fresh", sounds)
    assert report.keys == fresh.keys
    alone = store.reader([report.keys["clip3"]], FeaturesConfig())
    other, _ = run(tmp_path / "third", {"clip3": sounds["clip3"]})
    expected = other.reader([report.keys["clip3"]], FeaturesConfig())
    assert torch.equal(alone.gather(torch.tensor([0]))[0], expected.gather(torch.tensor([0]))[0])


class Interrupted(LogMel):
    """Is interrupted at one clip."""

    def features(self, source: Source) -> np.ndarray:
        if source.path is not None and source.path.stem == "clip5":
            raise KeyboardInterrupt
        return super().features(source)


Interrupted.__name__ = "LogMel"


def test_features_extracted_before_an_interrupt_are_kept(tmp_path: Path, sounds: Sources) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cache", sounds, Interrupted(), batch_size=1, workers=1, every_seconds=0.0)
    _, report = run(tmp_path / "cache", sounds)
    assert report.found >= 1
    assert report.found + report.computed == 6


def test_invalid_settings_are_refused() -> None:
    values = {"on_bad_media": "ignore", "batch_size": 0, "workers": 0}
    with pytest.raises(UserError) as caught:
        validated(ExtractionConfig, values, path="extraction")
    assert all(f"extraction.{name}" in str(caught.value) for name in values)


def test_verify_hashes_a_file_again_although_its_digest_is_in_the_database(
    tmp_path: Path, write_sound: Callable[..., Path]
) -> None:
    path, database = write_sound("clip.wav", tone(0.3)), tmp_path / "digests.tsv"
    digests = FileDigests(database)
    digests.digest(path)
    digests.save()
    line = database.read_text().splitlines()[0].split("\t")[1:]
    claimed = "\t".join([*line[:-1], "0" * 64])  # as if another content had had this size, these times and this inode
    database.write_text(f"{zlib.crc32(claimed.encode()):08x}\t{claimed}\n")
    assert FileDigests(database).digest(path) == "0" * 64
    assert FileDigests(database, verify=True).digest(path) == line[-1]


def test_the_encoder_of_the_benchmark_is_extracted(tmp_path: Path, sounds: Sources) -> None:
    _, report = run(tmp_path / "cache", sounds, SmallWav2Vec2())  # type: ignore[arg-type]
    assert report.computed == 6
