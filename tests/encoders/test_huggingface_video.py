"""The encoder of pretrained models of pictures and clips: pixels, tokens, steps of time, layers."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from emorec.encoders.huggingface_video import HuggingFaceVideo
from emorec.encoders.pictures import clip_steps, pixel_scaling, stated_size
from emorec.errors import UserError
from emorec.features.spec import FeatureSpec
from emorec.media.resizing import Frames
from tests.encoders.conftest import instantiated
from tests.encoders.tiny_checkpoints import HIDDEN, LAYERS, TinyCheckpoints

pytestmark = pytest.mark.slow

FRAMES = {"videomae": 16, "timesformer": 8, "vivit": 8}
STEPS = {"videomae": 8, "timesformer": 8, "vivit": 4}
CLIPS = tuple(FRAMES)
PATCHES = ("vit", "vit_classifier", "clip")
TOKENS = (*PATCHES, *CLIPS)
FAMILIES = (*TOKENS, "efficientnet")


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(checkpoints: TinyCheckpoints, family: str, **settings: Any) -> HuggingFaceVideo:
    media = {"frames": FRAMES.get(family, 3)}
    arguments = {"model": str(checkpoints[family]), "pooling": "none", "media": media, **settings}
    encoder = instantiated(HuggingFaceVideo, **arguments)
    encoder.load()
    return encoder


def clip(family: str, seed: int = 0) -> Frames:
    """Coarse noise, another in each frame: (frames, 224, 224, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (FRAMES.get(family, 3), 8, 8, 3), dtype=np.uint8)
    return coarse.repeat(28, axis=1).repeat(28, axis=2)


def encoded(encoder: HuggingFaceVideo, *clips: Frames) -> list[Tensor]:
    """The features (T, D) of each clip, all in one batch."""
    with torch.inference_mode():
        features, mask = encoder.encode(encoder.collate(clips))
    assert mask.all()
    assert mask.shape == features.shape[:2]
    return list(features)


def pixels_by_hand(folder: Path, frames: Frames) -> Tensor:
    """(frames, 3, 224, 224) as the folder's config says, written out."""
    stated = json.loads((folder / "preprocessor_config.json").read_text())
    values = torch.from_numpy(frames).permute(0, 3, 1, 2) * stated.get("rescale_factor", 1 / 255)
    values = values - 1 if stated.get("offset") else values
    mean, deviation = (torch.tensor(stated[name])[:, None, None] for name in ("image_mean", "image_std"))
    values = (values - mean) / deviation
    return values / deviation if stated.get("include_top") else values


def by_hand(folder: Path, frames: Frames, layer: int = -1) -> Any:
    """Straight from transformers: hidden states (frames or 1, tokens, D), or pooled (frames, D)."""
    from transformers import AutoConfig, AutoModel, CLIPModel

    kind = AutoConfig.from_pretrained(str(folder)).model_type
    pixels = pixels_by_hand(folder, frames)
    if kind == "clip":
        model = CLIPModel.from_pretrained(str(folder)).eval().vision_model
    else:
        model = AutoModel.from_pretrained(str(folder)).eval()
    with torch.inference_mode():
        output = model(pixels[None] if kind in CLIPS else pixels, output_hidden_states=kind != "efficientnet")
    if kind == "efficientnet":
        return output.pooler_output
    return output.last_hidden_state if layer == -1 else output.hidden_states[layer]


def check_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


# What comes out


@pytest.mark.parametrize("layer", [-1, *range(LAYERS + 1)])
@pytest.mark.parametrize("family", PATCHES)
def test_the_mean_over_patches_leaves_the_class_token_out(
    checkpoints: TinyCheckpoints, family: str, layer: int
) -> None:
    actual = encoded(make(checkpoints, family, layer=layer, summary="mean"), clip(family))[0]
    check_close(actual, by_hand(checkpoints[family], clip(family), layer)[:, 1:].mean(1))


@pytest.mark.parametrize("layer", [-1, *range(LAYERS + 1)])
@pytest.mark.parametrize("family", ["vit", "vit_classifier"])
def test_the_class_token_is_the_first(checkpoints: TinyCheckpoints, family: str, layer: int) -> None:
    actual = encoded(make(checkpoints, family, layer=layer, summary="cls"), clip(family))[0]
    check_close(actual, by_hand(checkpoints[family], clip(family), layer)[:, 0])


def test_clips_class_token_is_normalised_as_clip_uses_it(checkpoints: TinyCheckpoints) -> None:
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(str(checkpoints["clip"])).eval()
    with torch.inference_mode():
        expected = model.vision_model(pixels_by_hand(checkpoints["clip"], clip("clip"))).pooler_output
    check_close(encoded(make(checkpoints, "clip", summary="cls"), clip("clip"))[0], expected)


def test_only_clips_tower_for_pictures_is_loaded(checkpoints: TinyCheckpoints) -> None:
    encoder = make(checkpoints, "clip")
    assert type(encoder._backbone).__name__ == "CLIPVisionModel"
    assert not [name for name, _ in encoder.named_parameters() if "text" in name]


def test_efficientnet_gives_its_pooled_output(checkpoints: TinyCheckpoints) -> None:
    encoder = make(checkpoints, "efficientnet")
    actual = encoded(encoder, clip("efficientnet"))[0]
    assert actual.shape == (3, encoder.dim)
    check_close(actual, by_hand(checkpoints["efficientnet"], clip("efficientnet")))


@pytest.mark.parametrize("layer", [-1, *range(LAYERS + 1)])
@pytest.mark.parametrize("family", ["videomae", "vivit"])
def test_a_step_is_the_mean_of_its_patches(checkpoints: TinyCheckpoints, family: str, layer: int) -> None:
    actual = encoded(make(checkpoints, family, layer=layer), clip(family))[0]
    tokens = by_hand(checkpoints[family], clip(family), layer)[0, -STEPS[family] * 16 :]
    assert actual.shape == (STEPS[family], HIDDEN)
    check_close(actual, torch.stack([tokens[16 * step : 16 * (step + 1)].mean(0) for step in range(STEPS[family])]))


@pytest.mark.parametrize("layer", [-1, *range(LAYERS + 1)])
def test_timesformer_orders_its_tokens_by_patch(checkpoints: TinyCheckpoints, layer: int) -> None:
    actual = encoded(make(checkpoints, "timesformer", layer=layer), clip("timesformer"))[0]
    tokens = by_hand(checkpoints["timesformer"], clip("timesformer"), layer)[0, 1:]
    check_close(actual, torch.stack([tokens[step::8].mean(0) for step in range(8)]))


@pytest.mark.parametrize("family", CLIPS)
def test_a_changed_frame_changes_the_embeddings_of_its_own_step_only(checkpoints: TinyCheckpoints, family: str) -> None:
    encoder, frames = make(checkpoints, family, layer=0), clip(family)
    changed = frames.copy()
    changed[-3] = 255 - changed[-3]
    before, after = encoded(encoder, frames, changed)
    differs = (before - after).abs().amax(1) > 1e-4
    step = (FRAMES[family] - 3) * STEPS[family] // FRAMES[family]
    assert differs.nonzero().ravel().tolist() == [step]


@pytest.mark.parametrize("first", [True, False])
def test_time_steps_are_separated_from_patches(first: bool) -> None:
    steps = torch.arange(5.0).expand(3, 5)  # (P, T), the step's number in each
    tokens = (steps if first else steps.T).reshape(1, 15, 1)
    hidden = torch.cat([torch.full((1, 1, 1), 99.0), tokens], dim=1)
    assert clip_steps(hidden, 5, 3, patches_first=first).ravel().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("family", TOKENS)
def test_several_layers_stand_side_by_side(checkpoints: TinyCheckpoints, family: str) -> None:
    encoder = make(checkpoints, family, layer=[2, -1, 0])
    assert (encoder.layers, encoder.dim) == ((2, -1, 0), HIDDEN)
    parts = [encoded(make(checkpoints, family, layer=layer), clip(family))[0] for layer in (2, -1, 0)]
    check_close(encoded(encoder, clip(family))[0], torch.cat(parts, dim=1))


@pytest.mark.parametrize("family", TOKENS)
def test_all_layers_are_known_without_loading_weights(
    checkpoints: TinyCheckpoints, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = HuggingFaceVideo(model=str(checkpoints[family]), layer="all")
    monkeypatch.setattr(encoder, "load", lambda: pytest.fail("expected specs() to load nothing"))
    assert [spec["layer"] for spec in encoder.specs()] == list(range(LAYERS + 1))
    assert len({FeatureSpec(**spec).digest for spec in encoder.specs()}) == LAYERS + 1


def test_pooling_is_the_mean_over_time(checkpoints: TinyCheckpoints, family: str) -> None:
    pooled = encoded(make(checkpoints, family, pooling="mean"), clip(family))[0]
    check_close(pooled, encoded(make(checkpoints, family), clip(family))[0].mean(0, keepdim=True))


def test_a_clip_does_not_depend_on_its_batch_mates(checkpoints: TinyCheckpoints, family: str) -> None:
    encoder = make(checkpoints, family)
    together = encoded(encoder, *(clip(family, seed) for seed in range(3)))
    for seed, values in enumerate(together):
        check_close(values, encoded(encoder, clip(family, seed))[0])


def test_two_calls_are_equal_as_dropout_is_off(checkpoints: TinyCheckpoints, family: str) -> None:
    encoder = make(checkpoints, family)
    assert torch.equal(encoded(encoder, clip(family))[0], encoded(encoder, clip(family))[0])
    assert not any(module.training for module in encoder._backbone.modules())


# What goes in


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ViTImageProcessorPil", {"size": {"height": 224, "width": 224}}),
        ("CLIPImageProcessorPil", {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}),
        ("VideoMAEImageProcessorPil", {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}),
        ("EfficientNetImageProcessorPil", {"size": {"height": 224, "width": 224}, "include_top": True}),
        ("EfficientNetImageProcessorPil", {"size": {"height": 224, "width": 224}, "include_top": False}),
        ("EfficientNetImageProcessorPil", {"size": {"height": 224, "width": 224}, "rescale_offset": True}),
    ],
)
def test_pixels_are_normalised_as_by_the_checkpoints_own_processor(
    tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    import transformers

    processor = getattr(transformers, kind)(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.25], **settings)
    processor.save_pretrained(tmp_path)
    stated = json.loads((tmp_path / "preprocessor_config.json").read_text())
    frames = clip("vit")
    factor, shift = pixel_scaling(stated, "model")
    expected = processor(list(frames), return_tensors="pt")["pixel_values"]
    expected = expected[0] if expected.ndim == 5 else expected
    torch.testing.assert_close(
        torch.from_numpy(frames).permute(0, 3, 1, 2) * factor + shift, expected, atol=1e-5, rtol=0
    )
    assert stated_size(stated, "model") == 224


@pytest.mark.parametrize(
    "stated",
    [
        {"size": 112},
        {"size": {"height": 112, "width": 112}},
        {"size": {"shortest_edge": 112}},
        {"size": 128, "crop_size": 112},
        {"size": {"shortest_edge": 128}, "crop_size": {"height": 112, "width": 112}, "do_center_crop": True},
        {"size": 112, "crop_size": 100, "do_center_crop": False},
    ],
)
def test_the_size_is_that_of_the_last_crop(stated: dict[str, Any]) -> None:
    assert stated_size(stated, "model") == 112


@pytest.mark.parametrize("stated", [{}, {"size": {"height": 112, "width": 224}}, {"size": "large"}])
def test_a_processor_without_a_square_is_refused(stated: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"expected a square size in preprocessor_config\.json of 'model'"):
        stated_size(stated, "model")


def test_a_processor_that_does_not_say_how_it_normalises_is_refused() -> None:
    with pytest.raises(UserError, match=r"expected \['image_std'\] in preprocessor_config\.json of 'model'"):
        pixel_scaling({"image_mean": [0.5] * 3}, "model")


def test_pixels_that_are_not_normalised_stay_as_they_are() -> None:
    factor, shift = pixel_scaling({"do_normalize": False, "do_rescale": False}, "model")
    assert (factor == 1).all()
    assert (shift == 0).all()


# Settings


@pytest.mark.parametrize(
    ("family", "settings", "words"),
    [
        ("vit", {"media": {"size": 112}}, r"encoder\.video\.media\.size=224 .*got 112"),
        ("efficientnet", {"media": {"size": 200}}, r"encoder\.video\.media\.size=224 .*got 200"),
        ("videomae", {"media": {"frames": 8}}, r"encoder\.video\.media\.frames=16 .*got 8"),
        ("timesformer", {"media": {"frames": 16}}, r"encoder\.video\.media\.frames=8 .*got 16"),
        ("videomae", {"summary": "cls"}, r"encoder\.video\.summary=mean .*videomae.*got 'cls'"),
        ("efficientnet", {"summary": "cls"}, r"encoder\.video\.summary=mean .*got 'cls'"),
        ("efficientnet", {"layer": 1}, r"encoder\.video\.layer=-1 .*got \[1\]"),
        ("vit", {"layer": 3}, r"encoder\.video\.layer from -1 to 2 .*got 3"),
        ("clip", {"layer": [0, 5]}, r"encoder\.video\.layer from -1 to 2 .*got \[5\]"),
        ("vit", {"summary": "all"}, r"encoder\.video\.summary: expected 'cls' or 'mean', got 'all'"),
        ("vit", {"pooling": "max"}, r"encoder\.video\.pooling: expected 'none', 'mean' or 'mean_std', got 'max'"),
        ("vit", {"precision": "half"}, r"encoder\.video\.precision: expected .*got 'half'"),
    ],
)
def test_an_invalid_setting_is_refused(
    checkpoints: TinyCheckpoints, family: str, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        make(checkpoints, family, **settings)


def test_bfloat16_comes_close_and_is_stored_as_float32(checkpoints: TinyCheckpoints, family: str) -> None:
    full = encoded(make(checkpoints, family), clip(family))[0]
    half = encoded(make(checkpoints, family, precision="bfloat16"), clip(family))[0]
    assert half.dtype == torch.float32
    assert 0 < (full - half).abs().mean() < 0.1 * full.abs().mean()


def test_float16_on_a_cpu_is_refused(checkpoints: TinyCheckpoints) -> None:
    encoder = make(checkpoints, "vit", precision="float16")
    with pytest.raises(UserError, match=r"expected encoder\.video\.precision=float32 or bfloat16 on a CPU"):
        encoded(encoder, clip("vit"))


def test_a_model_of_something_else_is_refused(checkpoints: TinyCheckpoints) -> None:
    with pytest.raises(UserError, match=r"expected the kind of encoder\.video\.model=.* in \['clip'.*got 'bert'"):
        make(checkpoints, "bert")


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_checkpoint_whose_configs_cannot_be_read_is_refused(
    checkpoints: TinyCheckpoints, tmp_path: Path, name: str, content: str | None
) -> None:
    folder = Path(shutil.copytree(checkpoints["vit"], tmp_path / "copy"))
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(UserError, match=rf"expected .*{name}.* of .*copy"):
        HuggingFaceVideo(model=str(folder)).load()


def test_a_clip_checkpoint_that_lacks_weights_is_refused(checkpoints: TinyCheckpoints, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(checkpoints["clip"], tmp_path / "copy"))
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "vision_model.encoder.layers.1.mlp" not in name}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"expected all weights .*layers\.1\.mlp"):
        HuggingFaceVideo(model=str(folder)).load()
