"""Run by `tests/test_other_device.py` in a process of its own: encoders extract on a device that is not the CPU."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from emorec.encoders.encoder import Encoder
from emorec.features.computation import ExtractionSettings
from emorec.media.source import Source
from tests.encoders.conftest import is_pretrained
from tests.encoders.test_every_encoder import assert_same, stored
from tests.stand_in_device import NAME, stand_in_device


def test_extraction_on_another_device_equals_that_on_the_cpu(
    make: Callable[..., Encoder], sources: dict[str, Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)  # the stand-in knows no inference tensors
    settings = ExtractionSettings(batch_size=3, progress=False, device=NAME)
    encoder = make()
    with stand_in_device():
        found = stored(tmp_path / NAME, encoder, sources, settings)
    devices = {parameter.device.type for parameter in encoder.parameters()}
    assert devices <= ({"cpu"} if encoder.on_cpu else {NAME})
    expected = stored(tmp_path / "cpu", make(), sources)
    for name in sources:
        assert isinstance(found[name], torch.Tensor)
        assert_same(encoder, found[name], expected[name])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_extraction_in_a_narrow_precision_is_near_to_that_in_float32(
    precision: str,
    choice: str,
    make: Callable[..., Encoder],
    sources: dict[str, Source],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not is_pretrained(choice):
        pytest.skip("computes in float32 alone")
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)
    settings = ExtractionSettings(batch_size=3, progress=False, device=NAME)
    with stand_in_device():
        found = stored(tmp_path / "narrow", make(precision=precision), sources, settings)
    exact = stored(tmp_path / "exact", make(), sources)
    errors = []
    for name, values in found.items():
        expected = exact[name]
        assert isinstance(values, torch.Tensor)
        assert isinstance(expected, torch.Tensor)
        assert values.dtype == expected.dtype == torch.float32
        errors.append(float((values - expected).norm() / expected.norm()))
    assert 0 < max(errors) < {"bfloat16": 0.05, "float16": 0.01}[precision], errors
