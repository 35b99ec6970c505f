"""Media settings: what counts in a feature's identity, and that the YAML files and the classes name the same fields."""

import json
import subprocess
import sys
from dataclasses import fields
from typing import Any

import pytest
from omegaconf import OmegaConf

from emorec.config.instantiation import config_folder
from emorec.errors import UserError
from emorec.media.audio import AudioSettings
from emorec.media.augmentation import AudioAugmentation, VideoAugmentation
from emorec.media.source import MediaSettings
from emorec.media.video import VideoSettings
from emorec.storage.digests import canonical_json

KINDS: dict[str, Any] = {"audio": AudioSettings, "video": VideoSettings}
AUGMENTATIONS: dict[str, Any] = {"audio": AudioAugmentation, "video": VideoAugmentation}


def from_yaml(modality: str) -> dict[str, Any]:
    found: Any = OmegaConf.to_container(OmegaConf.load(config_folder() / "media" / f"{modality}.yaml"))
    return found


@pytest.mark.parametrize("modality", KINDS)
def test_a_yaml_names_every_field(modality: str) -> None:
    given = from_yaml(modality)
    assert set(given) == {item.name for item in fields(KINDS[modality])}
    assert set(given["augmentation"]) == {item.name for item in fields(AUGMENTATIONS[modality])}


@pytest.mark.parametrize("modality", KINDS)
def test_a_yaml_without_changes_reads_as_the_class_without_arguments(modality: str) -> None:
    given = KINDS[modality].of(from_yaml(modality), "here")
    assert given.identity() == KINDS[modality]().identity()
    given.check_views(2, f"encoder.{modality}")


def test_what_asks_for_nothing_leaves_features_as_they_were_before_there_was_such_a_field() -> None:
    assert AudioSettings().identity() == {"sample_rate": 16_000, "minimum_seconds": 0.05}
    assert VideoSettings().identity() == {"frames": 16, "size": 224}


@pytest.mark.parametrize(
    ("modality", "changes"),
    [
        ("audio", {"trim": 30}),
        ("audio", {"loudness": -23}),
        ("audio", {"pre_emphasis": 0.97}),
        ("audio", {"compression": {"threshold": -20, "ratio": 4}}),
        ("audio", {"compression": {"threshold": -20, "ratio": 4, "attack": 0.01}}),
        ("video", {"faces": "haar"}),
        ("video", {"faces": "haar", "face_margin": 0.5}),
    ],
)
def test_every_field_counts(modality: str, changes: dict[str, Any]) -> None:
    plain, changed = KINDS[modality]().identity(), KINDS[modality](**changes).identity()
    assert plain != changed
    assert json.loads(canonical_json(changed))


def test_a_default_that_is_spelt_out_is_the_same_compression() -> None:
    short, long = {"threshold": -20, "ratio": 4}, {"threshold": -20.0, "ratio": 4.0, "attack": 0.005, "release": 0.05}
    one, other = (AudioSettings(compression=item).identity() for item in (short, long))
    assert canonical_json(one) == canonical_json(other)


@pytest.mark.parametrize(
    ("modality", "one", "other"),
    [("audio", {"gain": [-3, 3]}, {"gain": [-6, 6]}), ("video", {"flip": 0.5}, {"flip": 0.4})],
)
def test_augmentation_counts_for_views_alone(modality: str, one: dict[str, Any], other: dict[str, Any]) -> None:
    kind = KINDS[modality]
    assert kind(augmentation=one).identity() == kind(augmentation=other).identity() == kind().identity()
    augmented = [canonical_json(kind(augmentation=item).identity(augmented=True)) for item in (one, other)]
    assert augmented[0] != augmented[1]
    assert canonical_json(kind().identity()) not in augmented


def test_a_line_of_augmentation_that_is_null_is_no_line() -> None:
    one, other = ({"gain": [-3, 3]}, {"gain": [-3.0, 3.0], "speed": None, "time_masks": 0})
    found = [canonical_json(AudioSettings(augmentation=item).identity(augmented=True)) for item in (one, other)]
    assert found[0] == found[1]


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(UserError, match=r"expected fields of encoder\.audio\.media in .*, got \['rate'\]"):
        AudioSettings.of({"rate": 8_000}, "encoder.audio.media")


@pytest.mark.parametrize(
    ("modality", "field", "value"),
    [
        ("audio", "sample_rate", 0),
        ("audio", "sample_rate", 16_000.5),
        ("audio", "minimum_seconds", -1),
        ("video", "frames", 0),
        ("video", "size", "large"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_with_its_place(modality: str, field: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"expected encoder\.{modality}\.media\.{field} .*got {value!r}"):
        KINDS[modality](**{field: value})


def test_settings_without_a_modality_have_nothing_to_vary() -> None:
    assert MediaSettings().identity(augmented=True) == {}
    with pytest.raises(UserError, match="to say how views differ"):
        MediaSettings().check_views(1, "encoder")


def test_settings_import_no_decoder_and_no_detector() -> None:
    code = (
        "import sys\n"
        "from emorec.media.audio import AudioSettings\n"
        "from emorec.media.video import VideoSettings\n"
        "AudioSettings(trim=30, loudness=-23, augmentation={'speed': [0.9, 1.1]}).identity(augmented=True)\n"
        "VideoSettings(faces='haar', augmentation={'crop': 0.8}).identity(augmented=True)\n"
        "heavy = {'torch', 'torchaudio', 'cv2', 'onnxruntime', 'decord', 'av', 'soundfile'}\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"
