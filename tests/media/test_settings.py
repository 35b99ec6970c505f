"""Media settings: what counts in a feature's identity, and that the YAML files and the classes have the same fields."""

import json
import math
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from emorec.config.locations import config_folder
from emorec.config.validation import validated
from emorec.errors import UserError
from emorec.media.audio import AudioSettings
from emorec.media.augmentation import AudioAugmentation, VideoAugmentation
from emorec.media.source import MediaSettings
from emorec.media.video import VideoSettings
from emorec.storage.digests import canonical_json

KINDS: dict[str, Any] = {"audio": AudioSettings, "video": VideoSettings}
AUGMENTATIONS: dict[str, Any] = {"audio": AudioAugmentation, "video": VideoAugmentation}
# lines of modality, settings, canonical JSON of the identity, and of that of an augmented view
IDENTITIES = Path(__file__).with_name("identities.jsonl").read_text().splitlines()


def settings(modality: str, values: dict[str, Any]) -> Any:
    return validated(KINDS[modality], values, path=f"encoder.{modality}.media")


def from_yaml(modality: str) -> dict[str, Any]:
    values: Any = OmegaConf.to_container(OmegaConf.load(config_folder() / "media" / f"{modality}.yaml"))
    return values


@pytest.mark.parametrize("modality", KINDS)
def test_a_yaml_names_every_field(modality: str) -> None:
    values = from_yaml(modality)
    assert set(values) == {item.name for item in fields(KINDS[modality])}
    assert set(values["augmentation"]) == {item.name for item in fields(AUGMENTATIONS[modality])}


@pytest.mark.parametrize("modality", KINDS)
def test_an_unchanged_yaml_has_the_identity_of_the_class_without_arguments(modality: str) -> None:
    unchanged = settings(modality, from_yaml(modality))
    assert unchanged.identity() == KINDS[modality]().identity()
    unchanged.check_views(2, f"encoder.{modality}")


@pytest.mark.parametrize("line", IDENTITIES)
def test_identities_of_stored_features_do_not_change(line: str) -> None:
    modality, values, identity, augmented = json.loads(line)
    made = settings(modality, values)
    assert canonical_json(made.identity()) == identity
    assert canonical_json(made.identity(augmented=True)) == augmented


def test_fields_at_their_defaults_do_not_count_unless_they_always_did() -> None:
    assert AudioSettings().identity() == {"sample_rate": 16_000, "minimum_seconds": 0.05}
    assert VideoSettings().identity() == {"frames": 16, "size": 224}


@pytest.mark.parametrize(
    ("modality", "changes"),
    [
        ("audio", {"maximum_seconds": 10}),
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
    plain, changed = KINDS[modality]().identity(), settings(modality, changes).identity()
    assert plain != changed
    assert json.loads(canonical_json(changed))


def test_a_compression_with_written_out_defaults_is_the_same() -> None:
    short, long = {"threshold": -20, "ratio": 4}, {"threshold": -20.0, "ratio": 4.0, "attack": 0.005, "release": 0.05}
    one, other = (settings("audio", {"compression": item}).identity() for item in (short, long))
    assert canonical_json(one) == canonical_json(other)


@pytest.mark.parametrize(
    ("modality", "one", "other"),
    [("audio", {"gain": [-3, 3]}, {"gain": [-6, 6]}), ("video", {"flip": 0.5}, {"flip": 0.4})],
)
def test_augmentation_counts_for_views_only(modality: str, one: dict[str, Any], other: dict[str, Any]) -> None:
    made = [settings(modality, {"augmentation": item}) for item in (one, other)]
    plain = KINDS[modality]().identity()
    assert [item.identity() for item in made] == [plain, plain]
    augmented = [canonical_json(item.identity(augmented=True)) for item in made]
    assert augmented[0] != augmented[1]
    assert canonical_json(plain) not in augmented


def test_null_in_augmentation_is_the_default() -> None:
    one, other = ({"gain": [-3, 3]}, {"gain": [-3.0, 3.0], "speed": None, "time_masks": None})
    made = [settings("audio", {"augmentation": item}) for item in (one, other)]
    assert made[0] == made[1] == AudioSettings(augmentation=AudioAugmentation(gain=(-3, 3)))
    assert len({canonical_json(item.identity(augmented=True)) for item in made}) == 1


BAD_VALUES: list[tuple[str, dict[str, Any], str]] = [
    ("audio", {"sample_rate": 0}, "sample_rate: expected a whole number of at least 4000, got 0"),
    ("audio", {"sample_rate": 16_000.5}, "sample_rate: expected a whole number of at least 4000, got 16000.5"),
    ("audio", {"minimum_seconds": -1}, "minimum_seconds: expected a number of at least 0, got -1"),
    ("audio", {"maximum_seconds": math.inf}, "maximum_seconds: expected a number"),
    ("audio", {"maximum_seconds": 0}, "maximum_seconds: expected a number above 0 and of at most 360000"),
    ("audio", {"sampel_rate": 8_000}, "sampel_rate: unknown key; did you mean encoder.audio.media.sample_rate?"),
    ("audio", {"trim": -3}, "trim: expected a number of at least 1 and of at most 120 or null, got -3"),
    ("audio", {"trim": "loud"}, "trim: expected a number of at least 1 and of at most 120 or null, got 'loud'"),
    ("audio", {"trim": True}, "trim: expected a number of at least 1 and of at most 120 or null, got True"),
    ("audio", {"loudness": 3}, "loudness: expected a number of at least -70 and of at most 0 or null, got 3"),
    ("audio", {"loudness": math.nan}, "loudness: expected a number of at least -70 and of at most 0 or null, got nan"),
    ("audio", {"pre_emphasis": 1.5}, "pre_emphasis: expected a number of at least 0 and of at most 1 or null, got 1.5"),
    ("audio", {"compression": -20}, "compression: expected a mapping or null, got -20"),
    (
        "audio",
        {"compression": {"ratio": 2}},
        "compression.threshold: expected a number of at least -100 and of at most 0, got nothing",
    ),
    (
        "audio",
        {"compression": {"threshold": -20, "ratio": 0.5}},
        "compression.ratio: expected a number of at least 1 and of at most 100, got 0.5",
    ),
    ("audio", {"compression": {"threshold": -20, "ratio": 2, "knee": 3}}, "compression.knee: unknown key"),
    ("audio", {"augmentation": {"echo": 1}}, "augmentation.echo: unknown key"),
    ("audio", {"augmentation": {"echo": None}}, "augmentation.echo: unknown key"),
    ("audio", {"augmentation": "loud"}, "augmentation: expected a mapping or null, got 'loud'"),
    ("audio", {"augmentation": {"gain": 3}}, "augmentation.gain: expected a list of 2: a number of at least -100"),
    ("audio", {"augmentation": {"gain": [6, -6]}}, "augmentation.gain: expected [lowest, highest], got [6, -6]"),
    ("audio", {"augmentation": {"gain": [0, "loud"]}}, "augmentation.gain: expected a list of 2: a number"),
    (
        "audio",
        {"augmentation": {"speed": [0, 1]}},
        "augmentation.speed: expected a list of 2: a number of at least 0.5",
    ),
    (
        "audio",
        {"augmentation": {"time_masks": 1.5}},
        "augmentation.time_masks: expected a whole number of at least 0, got 1.5",
    ),
    ("audio", {"augmentation": {"time_mask_seconds": -1}}, "augmentation.time_mask_seconds: expected a number of at"),
    ("video", {"frames": 0}, "frames: expected a whole number of at least 1, got 0"),
    ("video", {"size": "large"}, "size: expected a whole number of at least 1, got 'large'"),
    (
        "video",
        {"faces": "mediapipe"},
        "faces: expected none, haar or the path of an .onnx file or null, got",
    ),
    ("video", {"faces": "model.pt"}, "faces: expected none, haar or the path of an .onnx file or null, got 'model.pt'"),
    ("video", {"faces": 3}, "faces: expected none, haar or the path of an .onnx file or null, got 3"),
    ("video", {"faces": True}, "faces: expected none, haar or the path of an .onnx file or null, got True"),
    ("video", {"face_margin": -1}, "face_margin: expected a number of at least 0 and of at most 2, got -1"),
    ("video", {"augmentation": {"gain": [0, 1]}}, "augmentation.gain: unknown key"),
    (
        "video",
        {"augmentation": {"flip": 1.5}},
        "augmentation.flip: expected a number of at least 0 and of at most 1, got 1.5",
    ),
    (
        "video",
        {"augmentation": {"crop": 0.0}},
        "augmentation.crop: expected a number of at least 0.05 and of at most 1, got 0.0",
    ),
    ("video", {"augmentation": {"color_jitter": "much"}}, "augmentation.color_jitter: expected a number of at least 0"),
]


@pytest.mark.parametrize(("modality", "values", "message"), BAD_VALUES, ids=str)
def test_a_bad_value_is_reported_under_its_key(modality: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        settings(modality, values)
    assert f"encoder.{modality}.media.{message}" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_settings_without_a_modality_have_no_views() -> None:
    assert MediaSettings().identity(augmented=True) == {}
    with pytest.raises(UserError, match="to say how views differ"):
        MediaSettings().check_views(1, "encoder")


def test_settings_import_no_decoder_and_no_detector() -> None:
    code = (
        "import sys\n"
        "from emorec.config.validation import validated\n"
        "from emorec.media.audio import AudioSettings\n"
        "from emorec.media.video import VideoSettings\n"
        "sound = {'trim': 30, 'loudness': -23, 'augmentation': {'speed': [0.9, 1.1]}}\n"
        "validated(AudioSettings, sound).identity(augmented=True)\n"
        "validated(VideoSettings, {'faces': 'haar', 'augmentation': {'crop': 0.8}}).identity(augmented=True)\n"
        "heavy = {'torch', 'torchaudio', 'scipy', 'cv2', 'onnxruntime', 'decord', 'av', 'soundfile'}\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"
