"""Features in a narrow precision are stored only if they are close to those in float32."""

import logging
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from emorec.config.schema import ExtractionConfig
from emorec.encoders.encoder import Encoder, Inputs
from emorec.errors import UserError
from emorec.features.extraction import ExtractionReport, extract
from emorec.features.precision_check import LARGEST_DEVIATION, relative_deviation
from emorec.features.spec import FeatureSpec
from emorec.features.store import FeatureStore
from emorec.media.source import MediaError, Source
from emorec.storage.digests import FileDigests

DIM, LAYERS = 8, 2


class Projection(Encoder):
    """Two layers of features of a text's length, computed in `precision`.

    Args:
        precision: what `encode` computes in.
        error: relative error of the second layer in a narrow precision.
        empty: texts whose features are `empty_value` in any precision.
        empty_value: zero, or not finite.
        broken: texts that cannot be decoded.
    """

    modality: ClassVar[str] = "text"
    version: ClassVar[int] = 1

    def __init__(
        self,
        precision: str,
        *,
        error: float = 0.0,
        empty: tuple[str, ...] = (),
        empty_value: float = 0.0,
        broken: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.empty_value = empty_value
        self.precision, self.error, self.empty, self.broken = precision, error, empty, broken
        self.calls: list[tuple[str, int]] = []  # precision and batch size of each forward pass

    @property
    def dim(self) -> int:
        return DIM

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(range(LAYERS))

    def settings(self) -> dict[str, Any]:
        return {"processor": {"precision": self.precision}}

    def read(self, source: Source) -> str:
        assert source.text is not None
        if source.text in self.broken:
            raise MediaError("it cannot be decoded")
        return source.text

    def length(self, item: str) -> int:
        return len(item)

    def collate(self, items: list[str]) -> Inputs:  # type: ignore[override]
        scale = [self.empty_value if item in self.empty else float(len(item)) for item in items]
        return {"scale": torch.tensor(scale)}

    def encode(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        scale = inputs["scale"]
        self.calls.append((self.precision, len(scale)))
        dtype = getattr(torch, self.precision)
        values = torch.linspace(0.1, 1.0, LAYERS * DIM).to(dtype) * scale.to(dtype)[:, None]  # (B, L · D)
        values = values.float()[:, None]  # (B, 1, L · D)
        values[..., :DIM] *= 1000  # a layer with large values must not hide another one
        if self.precision != "float32":
            values[..., DIM:] *= 1 + self.error
        return values, torch.ones(len(scale), 1, dtype=torch.bool)


def texts(count: int = 5) -> dict[str, Source | None]:
    return {f"text{n}": Source(modality="text", text="x" * (n + 1)) for n in range(count)}


def run(cache: Path, encoder: Projection, **settings: Any) -> tuple[list[FeatureStore], ExtractionReport]:
    stores = [FeatureStore(cache, FeatureSpec(**spec), FileDigests()) for spec in encoder.specs()]
    return stores, extract(stores, encoder, texts(), ExtractionConfig(device="cpu", batch_size=2, **settings))


@pytest.mark.parametrize("error", [1.0, -1.0, LARGEST_DEVIATION + 0.05, float("nan"), float("inf")])
def test_wrong_features_in_a_narrow_precision_are_refused_and_nothing_is_stored(tmp_path: Path, error: float) -> None:
    with pytest.raises(UserError) as caught:
        run(tmp_path, Projection("bfloat16", error=error))
    message = str(caught.value)
    for part in ("text0", "Projection", "encoder.text.precision=bfloat16", "device cpu", "at most 10 %"):
        assert part in message
    for remedy in ("encoder.text.precision=float32", "ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16"):
        assert remedy in message
    if np.isfinite(error):
        assert f"got {100 * abs(error):.0f} %" in message
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("error", [0.0, 0.05])
def test_the_rounding_of_a_narrow_precision_is_accepted_at_the_cost_of_one_utterance(
    tmp_path: Path, error: float
) -> None:
    encoder = Projection("bfloat16", error=error)
    stores, report = run(tmp_path, encoder)
    assert report.computed == 5
    assert [len(store) for store in stores] == [5, 5]
    assert encoder.calls == [("bfloat16", 2), ("float32", 1), ("bfloat16", 2), ("bfloat16", 1)]
    assert encoder.precision == "bfloat16"


def test_features_in_float32_are_not_checked(tmp_path: Path) -> None:
    encoder = Projection("float32")
    run(tmp_path, encoder)
    assert encoder.calls == [("float32", 2), ("float32", 2), ("float32", 1)]


def test_nothing_is_checked_where_nothing_is_computed(tmp_path: Path) -> None:
    run(tmp_path, Projection("bfloat16"))
    encoder = Projection("bfloat16", error=1.0)
    _, report = run(tmp_path, encoder)
    assert report.found == 5
    assert encoder.calls == []


@pytest.mark.parametrize("value", [0.0, float("inf"), float("nan")])
def test_an_utterance_without_valid_features_is_not_conclusive_and_the_next_batch_is_checked(
    tmp_path: Path, value: float
) -> None:
    encoder = Projection("bfloat16", error=1.0, empty=("x",), empty_value=value)
    with pytest.raises(UserError, match="text2"):
        run(tmp_path, encoder)
    assert encoder.calls == [("bfloat16", 2), ("float32", 1), ("bfloat16", 2), ("float32", 1)]


def test_media_that_cannot_be_decoded_are_not_checked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    encoder = Projection("bfloat16", broken=("x",))
    _, report = run(tmp_path, encoder)
    assert list(report.bad) == ["text0"]
    assert encoder.calls.count(("float32", 1)) == 1


def test_the_hint_for_cpus_is_left_out_on_other_devices(tmp_path: Path) -> None:
    encoder = Projection("float16", error=1.0)
    stores = [FeatureStore(tmp_path, FeatureSpec(**spec), FileDigests()) for spec in encoder.specs()]
    with pytest.raises(UserError, match="device meta") as caught:
        extract(stores, MetaProjection("float16", error=1.0), texts(), ExtractionConfig(device="meta"))
    assert "ONEDNN" not in str(caught.value)


class MetaProjection(Projection):
    """Computes on the CPU, whatever its device is."""

    def encode(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        count = len(inputs["scale"])
        return super().encode({"scale": torch.arange(1.0, count + 1)})


def test_the_deviation_is_that_of_the_worst_layer() -> None:
    exact = torch.cat([torch.full((3, DIM), 100.0), torch.ones(3, DIM)], dim=1)
    narrow = exact.clone()
    narrow[:, DIM:] = 1.5
    assert relative_deviation(narrow, exact, LAYERS) == pytest.approx(0.5)
    assert relative_deviation(narrow, exact, 1) < 0.01
