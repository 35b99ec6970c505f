"""What the feature store needs of every encoder, checked for each YAML of `conf/encoder`."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from emorec.config.schema import ExtractionConfig, FeaturesConfig
from emorec.encoders.encoder import Encoder, UtteranceEncoder
from emorec.errors import UserError
from emorec.features.extraction import extract
from emorec.features.spec import FeatureSpec
from emorec.features.store import FeatureStore
from emorec.media.source import Source
from emorec.media.video import VideoSettings
from emorec.storage.digests import FileDigests
from tests.conftest import REPOSITORY
from tests.encoders.conftest import ENCODERS, is_computed, is_pretrained, settings_of
from tests.encoders.tiny_checkpoints import TinyCheckpoints, family_of

pytestmark = pytest.mark.slow

MakeEncoder = Callable[..., Encoder]

# Another valid value of each setting that changes an encoder's output; a new setting needs a line here.
ALTERNATIVES: dict[str, Any] = {
    "bands": 32,
    "window": {0.025: 0.05, 0.085: 0.05, "padded": "clip", "clip": "padded"},
    "hop": 0.02,
    "coefficients": 13,
    "feature_set": {"egemaps": "compare", "compare": "egemaps"},
    "pooling": {"none": "functionals", "functionals": "none", "mean": "none"},
    "dtype": {"float16": "float32", "float32": "float16"},
    "dim": 512,
    "analyzer": "char_wb",
    "shortest": 2,
    "longest": 3,
    "grid": 8,
    "layer": 1,
    "max_length": 16,
    "context_turns": 2,
    "max_seconds": 5.0,
    "precision": "bfloat16",
    "summary": {"cls": "mean", "mean": "cls"},
}
# The same for the fields of `media`, by modality.
MEDIA_ALTERNATIVES: dict[str, dict[str, Any]] = {
    "audio": {
        "sample_rate": 8000,
        "minimum_seconds": 0.2,
        "maximum_seconds": 100.0,
        "trim": 40.0,
        "compression": {"threshold": -20, "ratio": 4},
        "loudness": -23.0,
        "pre_emphasis": 0.97,
    },
    "video": {"frames": 4, "size": 48, "faces": "haar", "face_margin": 0.4},
}
MEDIA_NEEDS = {"face_margin": {"faces": "haar"}}  # what a field needs to change anything
NOT_IN_THE_SPEC = {
    "_target_",
    "training",
    "largest_array",
    "revision",  # not used for local folders, which are tested here
    "template",  # not used without context turns
    "question",  # likewise
    "model",  # has its own test
    "path",  # its content counts, which has its own tests
    "media",  # its fields have their own alternatives
    "views",  # adds features, and does not change those of the utterance as it is
    *("train_from", "train_front", "lora", "augmentation", "gradient_checkpointing"),  # for encoders that train
}
NOT_IN_THE_MEDIA = {
    "augmentation",  # counts for views alone
}
SETTINGS = ExtractionConfig(batch_size=3, progress=False, device="cpu")


def live(encoder: Encoder, source: Source) -> Tensor:
    """The features (T, D) of one source, computed alone."""
    encoder.load()
    encoder.eval()
    with torch.inference_mode():
        features, mask = encoder.encode(encoder.collate([encoder.read(source)]))
    assert features.shape[:2] == mask.shape == (1, features.shape[1])
    return features[0][mask[0]]


def stored(
    folder: Path, encoder: Encoder, sources: Mapping[str, Source], settings: ExtractionConfig = SETTINGS
) -> dict[str, Tensor]:
    """{id: features (T, D)} as they are read from a new store."""
    store = FeatureStore(folder, FeatureSpec(**encoder.spec()), FileDigests())
    report = extract(store, encoder, sources, settings)
    assert report.computed == len(sources)
    reader = store.reader([report.keys[name] for name in sources], FeaturesConfig(preload="none"))
    features = {}
    for index, name in enumerate(sources):
        values, mask = reader.gather(torch.tensor([index]))
        assert reader.dim == values.shape[2]
        features[name] = values[0][mask[0]]
    return features


def assert_same(encoder: Encoder, actual: Tensor, expected: Tensor) -> None:
    """Checks for equal values, or for equal ones within rounding where a network's sums depend on the batch."""
    assert actual.shape == expected.shape
    if isinstance(encoder, UtteranceEncoder):
        assert torch.equal(actual, expected)
    else:
        torch.testing.assert_close(actual, expected, rtol=1e-3 if encoder.dtype == "float16" else 1e-4, atol=1e-5)


def test_the_spec_is_plain_json(make: MakeEncoder) -> None:
    spec = make().spec()
    assert json.loads(json.dumps(spec, allow_nan=False)) == spec
    assert len(FeatureSpec(**spec).digest) == 64


def test_the_spec_loads_nothing(make: MakeEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make()

    def refuse(_: Encoder) -> None:
        raise AssertionError("expected spec() to load nothing")

    monkeypatch.setattr(type(encoder), "load", refuse)
    encoder.spec()
    assert getattr(encoder, "_backbone", None) is None
    assert not list(encoder.parameters())


def test_specs_import_no_backbone(checkpoints: TinyCheckpoints) -> None:
    nodes = [settings_of(choice, checkpoints) for choice in ENCODERS]
    code = (
        "import json, sys\n"
        "from emorec.config.instantiation import instantiate\n"
        "from emorec.encoders.encoder import Encoder\n"
        "for node in json.load(sys.stdin): instantiate(node, where='encoder', kind=Encoder).spec()\n"
        "heavy = {'transformers', 'torchaudio', 'opensmile', 'decord', 'av', 'sklearn', 'soundfile'}\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        input=json.dumps(nodes),
        env=environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == "[]"


def test_two_instances_have_the_same_spec(make: MakeEncoder) -> None:
    assert make().spec() == make().spec()


def test_computing_leaves_the_spec_as_it_was(make: MakeEncoder, sources: dict[str, Source]) -> None:
    encoder = make()
    before = encoder.spec()
    live(encoder, sources["u0"])
    assert encoder.spec() == before


def test_every_setting_that_changes_the_output_changes_the_spec(
    choice: str, checkpoints: TinyCheckpoints, make: MakeEncoder
) -> None:
    settings = settings_of(choice, checkpoints)
    digests = {"as it is": FeatureSpec(**make().spec()).digest}
    for key in settings.keys() - NOT_IN_THE_SPEC:
        if key == "dtype" and "opensmile" in choice:
            continue  # stores float32 only
        assert key in ALTERNATIVES, f"expected another value of {choice}'s {key!r} in ALTERNATIVES, got none"
        value = ALTERNATIVES[key]
        value = value[settings[key]] if isinstance(value, dict) else value
        assert value != settings[key]
        digests[key] = FeatureSpec(**make(**{key: value}).spec()).digest
    for key in settings.get("media", {}).keys() - NOT_IN_THE_MEDIA:
        modality = choice.partition("/")[0]
        assert key in MEDIA_ALTERNATIVES[modality], f"expected another value of {key!r} in MEDIA_ALTERNATIVES"
        value = MEDIA_ALTERNATIVES[modality][key]
        assert value != settings["media"][key]
        media = {**settings["media"], **MEDIA_NEEDS.get(key, {}), key: value}
        digests[f"media.{key}"] = FeatureSpec(**make(media=media).spec()).digest
    assert len(digests) > 1
    assert len(set(digests.values())) == len(digests), digests


def test_another_model_changes_the_spec(choice: str, make: MakeEncoder, tmp_path: Path) -> None:
    if not is_pretrained(choice):
        pytest.skip("has no pretrained model")
    other = TinyCheckpoints(tmp_path, seed=1)[family_of(choice)]
    assert make(model=str(other)).spec() != make().spec()


def test_training_is_refused_where_there_is_nothing_to_train(make: MakeEncoder) -> None:
    if "full" in make().trainable:
        pytest.skip("can train")
    with pytest.raises(UserError, match=r"expected encoder\.\w+\.training=frozen for \w+, got 'full'"):
        make(training="full")


def test_arguments_are_checked_all_at_once(make: MakeEncoder) -> None:
    with pytest.raises(UserError) as refusal:
        make(training="thawed", dtype="int8", views=-1, bogus=1)
    for key in ("training: expected 'frozen', 'full' or 'lora'", "dtype: expected 'float", "views: expected", "bogus"):
        assert f".{key}" in str(refusal.value)


def test_the_training_argument_is_not_the_modules_own_mode(make: MakeEncoder) -> None:
    encoder = make(training="frozen")
    assert encoder.training is True
    assert encoder.eval().training is False


def test_only_encoders_of_pictures_count_clips_without_a_face(choice: str, make: MakeEncoder) -> None:
    assert (make().face_misses is not None) == (choice.startswith("video/") and is_computed(choice))


def test_clips_without_a_face_are_counted(
    choice: str, make: MakeEncoder, sources: dict[str, Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make()
    if not isinstance(encoder.media, VideoSettings):
        pytest.skip("reads no pictures")
    monkeypatch.setattr("emorec.media.video.find_face", lambda *_: None)
    encoder.media = replace(encoder.media, faces="haar")
    for source in sources.values():
        encoder.read(source)
    assert encoder.face_misses is not None
    assert encoder.face_misses.take() == len(sources)
    assert encoder.face_misses.take() == 0


def test_each_utterance_gets_at_least_one_frame_of_the_stated_width(
    make: MakeEncoder, sources: dict[str, Source]
) -> None:
    encoder = make()
    for source in sources.values():
        features = live(encoder, source)
        assert len(features) >= 1
        assert features.shape == (len(features), len(encoder.layers) * encoder.dim)
        assert torch.isfinite(features).all()


def test_different_utterances_get_different_features(make: MakeEncoder, sources: dict[str, Source]) -> None:
    encoder = make()
    summaries = torch.stack([live(encoder, source).mean(0) for source in sources.values()])
    assert torch.pdist(summaries).min() > 1e-4


def test_the_mask_marks_each_utterances_own_frames(make: MakeEncoder, sources: dict[str, Source]) -> None:
    encoder = make()
    alone = [live(encoder, source) for source in sources.values()]
    with torch.inference_mode():
        features, mask = encoder.encode(encoder.collate([encoder.read(source) for source in sources.values()]))
    assert features.shape == (*mask.shape, len(encoder.layers) * encoder.dim)
    assert mask.dtype == torch.bool
    assert mask.sum(1).tolist() == [len(item) for item in alone]
    assert (features[~mask] == 0).all()


@pytest.mark.parametrize("batch_size", [1, 5])
def test_stored_features_equal_live_ones_whatever_the_batch(
    make: MakeEncoder, sources: dict[str, Source], tmp_path: Path, batch_size: int
) -> None:
    encoder = make()
    settings = ExtractionConfig(batch_size=batch_size, progress=False, device="cpu")
    features = stored(tmp_path, make(), sources, settings)
    for name, source in sources.items():
        expected = live(encoder, source).to(getattr(torch, encoder.dtype)).float()
        assert_same(encoder, features[name], expected)


def test_stored_views_equal_live_ones_under_a_spec_of_their_own(
    make: MakeEncoder, sources: dict[str, Source], tmp_path: Path
) -> None:
    encoder = make()
    if encoder.media is None:
        pytest.skip("reads no media that could be augmented")
    spec = FeatureSpec(**encoder.specs(augmented=True)[0])
    assert spec.digest != FeatureSpec(**encoder.spec()).digest
    some = list(sources.items())[:2]
    views = {f"{name} {view}": replace(source, view=view) for name, source in some for view in (1, 2)}
    store = FeatureStore(tmp_path, spec, FileDigests())
    report = extract(store, make(), views, SETTINGS)
    assert report.computed == len(views)
    reader = store.reader([report.keys[name] for name in views], FeaturesConfig())
    for index, (name, source) in enumerate(views.items()):
        values, mask = reader.gather(torch.tensor([index]))
        assert_same(encoder, values[0][mask[0]], live(encoder, source).to(getattr(torch, encoder.dtype)).float())
        clean = live(encoder, sources[name.split()[0]])
        assert values[0][mask[0]].shape != clean.shape or not torch.equal(values[0][mask[0]].float(), clean)


def test_the_order_of_extraction_does_not_matter(make: MakeEncoder, sources: dict[str, Source], tmp_path: Path) -> None:
    backwards = dict(reversed(sources.items()))
    forth, back = stored(tmp_path / "forth", make(), sources), stored(tmp_path / "back", make(), backwards)
    for name in sources:
        assert_same(make(), back[name], forth[name])


def test_an_encoder_left_in_train_mode_is_extracted_in_eval(
    make: MakeEncoder, sources: dict[str, Source], tmp_path: Path
) -> None:
    encoder = make()
    encoder.load()
    encoder.train()
    features = stored(tmp_path, encoder, sources)
    fresh = make()
    for name, source in sources.items():
        assert_same(fresh, features[name], live(fresh, source).to(getattr(torch, fresh.dtype)).float())


def test_a_second_extraction_computes_nothing(
    make: MakeEncoder, sources: dict[str, Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make()
    stored(tmp_path, encoder, sources)
    again = make()
    monkeypatch.setattr(again, "load", lambda: pytest.fail("expected nothing to be loaded"))
    store = FeatureStore(tmp_path, FeatureSpec(**again.spec()), FileDigests())
    report = extract(store, again, sources, SETTINGS)
    assert (report.found, report.computed) == (len(sources), 0)


def test_media_that_cannot_be_used_are_reported_and_do_not_affect_others(
    make: MakeEncoder, sources: dict[str, Source], unusable: Source, tmp_path: Path
) -> None:
    encoder = make()
    mixed = {"bad": unusable, **sources}
    store = FeatureStore(tmp_path, FeatureSpec(**encoder.spec()), FileDigests())
    report = extract(store, encoder, mixed, SETTINGS)
    reader = store.reader(list(report.keys.values()), FeaturesConfig())
    assert list(report.bad) == ["bad"]
    assert report.bad["bad"]
    assert reader.present.tolist() == [False, *(True for _ in sources)]
    values, mask = reader.gather(torch.tensor([2]))
    assert_same(encoder, values[0][mask[0]], live(encoder, sources["u1"]).to(getattr(torch, encoder.dtype)).float())
