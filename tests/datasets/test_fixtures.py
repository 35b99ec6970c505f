"""Small corpora have media that decode, in the formats of the published corpora."""

import pickle
import re
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from emorec.datasets.fixtures.media import write_clip
from emorec.datasets.manifest import Corpus
from emorec.errors import UserError
from tests.datasets.conftest import WITH_FIXTURE, Roots, configured

pytestmark = pytest.mark.slow


def frames_of(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.mark.parametrize("name", WITH_FIXTURE)
def test_every_file_of_a_small_corpus_decodes(small_corpus: Roots, name: str) -> None:
    utterances = configured(name, small_corpus(name)).read().utterances
    for path in {item.video for item in utterances if item.video}:
        assert frames_of(path) > 3, path
    sounds = {item.audio for item in utterances if item.audio}
    assert sounds
    for path in sounds:
        if path.suffix == ".wav":
            assert soundfile.info(path).duration > 0.3, path
        else:
            with av.open(str(path)) as container:
                assert sum(frame.samples for frame in container.decode(audio=0)) > 4000, path


@pytest.mark.parametrize("name", WITH_FIXTURE)
def test_a_small_corpus_is_small_and_reproducible(small_corpus: Roots, name: str, tmp_path: Path) -> None:
    WITH_FIXTURE[name].write_fixture(tmp_path / name)
    again = configured(name, tmp_path / name).read()
    assert again.digest == configured(name, small_corpus(name)).read().digest
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 8e6


@pytest.mark.parametrize("name", WITH_FIXTURE)
def test_a_manifest_can_be_handed_to_another_process(small_corpus: Roots, name: str) -> None:
    manifest = configured(name, small_corpus(name)).read()
    digest = manifest.digest
    received = pickle.loads(pickle.dumps(manifest))
    assert received == manifest
    assert received.digest == digest


@pytest.mark.parametrize("name", WITH_FIXTURE)
def test_the_digest_does_not_change_when_the_corpus_is_moved(small_corpus: Roots, name: str, tmp_path: Path) -> None:
    shutil.copytree(small_corpus(name), tmp_path / "moved")
    assert configured(name, tmp_path / "moved").read().digest == configured(name, small_corpus(name)).read().digest


@pytest.mark.parametrize("name", WITH_FIXTURE)
def test_the_error_for_a_missing_folder_names_the_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "nothing" / name
    with pytest.raises(UserError, match=re.escape(str(folder))):
        configured(name, folder).scan()


@pytest.mark.parametrize(
    ("file", "picture", "sound"),
    [("a.mp4", "h264", "aac"), ("a.avi", "mpeg4", "pcm_s16le"), ("a.flv", "flv", "mp3")],
)
def test_the_suffix_selects_the_format_of_a_clip(tmp_path: Path, file: str, picture: str, sound: str) -> None:
    write_clip(tmp_path / file, seconds=0.5)
    with av.open(str(tmp_path / file)) as container:
        codecs = {stream.type: stream.codec_context.name.removesuffix("float") for stream in container.streams}
    assert codecs == {"video": picture, "audio": sound}
    assert frames_of(tmp_path / file) == 6


def test_a_clip_has_the_requested_channels(tmp_path: Path) -> None:
    for channels in (1, 6):
        write_clip(tmp_path / f"{channels}.mp4", seconds=0.4, channels=channels)
        with av.open(str(tmp_path / f"{channels}.mp4")) as container:
            assert container.streams.audio[0].codec_context.channels == channels
    write_clip(tmp_path / "silent.mp4", seconds=0.4, sound=False)
    with av.open(str(tmp_path / "silent.mp4")) as container:
        assert len(container.streams.audio) == 0


def test_two_people_are_side_by_side_in_two_tints(tmp_path: Path) -> None:
    write_clip(tmp_path / "two.avi", seconds=0.4, width=256, two_people=True)
    with av.open(str(tmp_path / "two.avi")) as container:
        picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert picture.shape == (96, 256, 3)
    left, right = (half.mean(axis=(0, 1)) for half in np.split(picture.astype(float), 2, axis=1))
    assert left[0] > 1.5 * left[2]
    assert right[2] > 1.5 * right[0]


def test_a_corpus_without_a_fixture_is_an_error(tmp_path: Path) -> None:
    class Bare(Corpus):
        name = "bare"

    with pytest.raises(UserError, match="expected a dataset with a fixture, got bare"):
        Bare.write_fixture(tmp_path)
