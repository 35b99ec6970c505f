"""Run by `tests/test_other_device.py` in a process of its own: encoders extract on a device that is not the CPU."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from emorec.config.schema import ExtractionConfig
from emorec.encoders.encoder import Encoder
from emorec.media.source import Source
from tests.encoders.bfloat16 import bfloat16_is_wrong
from tests.encoders.test_every_encoder import assert_same, stored
from tests.stand_in_device import NAME, stand_in_device

NARROW = ("text/bert_base_chinese", "audio/wavlm_base_plus", "audio/whisper_base", "video/vit_base")  # all take one way


@pytest.fixture(autouse=True)
def no_inference_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in has none."""
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)


def test_extraction_on_another_device_equals_that_on_the_cpu(
    make: Callable[..., Encoder], sources: dict[str, Source], tmp_path: Path
) -> None:
    settings = ExtractionConfig(batch_size=3, progress=False, device=NAME)
    encoder = make()
    with stand_in_device():
        features = stored(tmp_path / NAME, encoder, sources, settings)
    devices = {parameter.device.type for parameter in encoder.parameters()}
    assert devices <= ({"cpu"} if encoder.on_cpu else {NAME})
    expected = stored(tmp_path / "cpu", make(), sources)
    for name in sources:
        assert isinstance(features[name], torch.Tensor)
        assert_same(encoder, features[name], expected[name])


@pytest.mark.parametrize("choice", NARROW)
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_extraction_in_a_narrow_precision_is_near_to_that_in_float32(
    precision: str, make: Callable[..., Encoder], sources: dict[str, Source], tmp_path: Path
) -> None:
    encoder = make()
    if precision == "bfloat16" and bfloat16_is_wrong():
        pytest.skip("this CPU computes grouped convolutions wrongly in bfloat16")
    settings = ExtractionConfig(batch_size=3, progress=False, device=NAME)
    with stand_in_device():
        narrow = stored(tmp_path / "narrow", make(precision=precision), sources, settings)
    exact = stored(tmp_path / "exact", encoder, sources)
    errors = []
    for name, values in narrow.items():
        expected = exact[name]
        assert isinstance(values, torch.Tensor)
        assert isinstance(expected, torch.Tensor)
        assert values.dtype == expected.dtype == torch.float32
        errors.append(float((values - expected).norm() / expected.norm()))
    assert 0 < max(errors) < {"bfloat16": 0.05, "float16": 0.01}[precision], errors
