"""EfficientNet under an LSTM: what it computes, at which rates it learns, and from the command to a loaded run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emorec import load_run
from emorec.cli import main
from emorec.config.composition import compose_once
from emorec.config.instantiation import instantiate
from emorec.config.schema import TrainConfig
from emorec.encoders.efficientnet_lstm import ConvolutionLstmPart, EfficientNetLstm
from emorec.errors import UserError
from emorec.models.optimization import OptimizerFactory
from tests.encoders.conftest import settings_of
from tests.encoders.tiny_checkpoints import TinyCheckpoints

pytestmark = pytest.mark.slow

CHOICE = "video/efficientnet_lstm"
SIZE, FRAMES = 224, 3


def encoder(checkpoints: TinyCheckpoints, **changes: Any) -> EfficientNetLstm:
    return instantiate(
        settings_of(CHOICE, checkpoints, hidden=8, **changes), where="encoder.video", kind=EfficientNetLstm
    )


def part(made: EfficientNetLstm) -> ConvolutionLstmPart:
    torch.manual_seed(0)
    trained = made.trained()
    assert isinstance(trained, ConvolutionLstmPart)
    return trained


@pytest.mark.parametrize("pooling", ["none", "mean", "mean_std", "last"])
def test_padding_and_batch_mates_change_nothing(pooling: str, checkpoints: TinyCheckpoints) -> None:
    made = encoder(checkpoints, pooling=pooling, bidirectional=True)
    network = part(made).eval()
    assert network.dim == made.dim
    values = torch.randint(0, 256, (2, FRAMES, SIZE * SIZE * 3), dtype=torch.uint8)
    mask = torch.tensor([[True] * FRAMES, [True, True, False]])
    with torch.no_grad():
        together, frames = network(values, mask, mask[:, 0])
        alone, own = network(values[1:, :2], mask[1:, :2], mask[1:, 0])
    assert together.shape == (*frames.shape, network.dim)
    torch.testing.assert_close(together[1][frames[1]], alone[0][own[0]], atol=1e-5, rtol=1e-4)
    assert (together[~frames] == 0).all()


def test_the_order_of_frames_counts(checkpoints: TinyCheckpoints) -> None:
    network = part(encoder(checkpoints, pooling="last")).eval()
    for weights in network.lstm.parameters():  # what a random network gives would saturate it
        weights.data *= 0.001
    values = torch.randint(0, 256, (1, FRAMES, SIZE * SIZE * 3), dtype=torch.uint8)
    mask = torch.ones(1, FRAMES, dtype=torch.bool)
    with torch.no_grad():
        forth, back = (network(item, mask, mask[:, 0])[0] for item in (values, values.flip(1)))
    assert not torch.allclose(forth, back, rtol=0.01, atol=0)


def test_the_lstm_learns_at_the_rate_of_new_weights(checkpoints: TinyCheckpoints) -> None:
    composed = compose_once("train", TrainConfig, ["optimizer.lr=0.01", "optimizer.encoder_lr=0.0001"])
    assert composed is not None
    network = part(encoder(checkpoints))
    optimizer = OptimizerFactory(composed.config.optimizer, "32")(torch.nn.ModuleDict({"encoder": network}))
    rates = {id(item): group["lr"] for group in optimizer.param_groups for item in group["params"]}
    for name, parameter in network.named_parameters():
        assert rates[id(parameter)] == (0.01 if name.startswith("lstm.") else 0.0001), name


def test_networks_of_other_kinds_are_refused(checkpoints: TinyCheckpoints) -> None:
    made = encoder(checkpoints, model=str(checkpoints["vit"]))
    with pytest.raises(UserError, match=r"expected an EfficientNet as encoder\.video\.model, got 'vit'"):
        made.trained()


def test_it_trains_by_its_command_and_predicts_the_same_where_it_is_loaded(
    checkpoints: TinyCheckpoints, root: Path, train_overrides: list[str]
) -> None:
    words = ["encoder/text=none", "encoder/audio=none", "encoder/video=efficientnet_lstm", "encoder.video.hidden=8"]
    words += [f"encoder.video.model={checkpoints['efficientnet']}", "encoder.video.media.frames=2"]
    assert main(["train", *train_overrides, *words, "trainer.max_epochs=1"]) == 0
    (path,) = (root / "checkpoints").glob("*/run.json")
    record = json.loads(path.read_text())
    assert any(name.startswith("encoder") for name in record["weights"])
    assert main(["evaluate", f"run={record['run_id']}"]) == 0
    (evaluated,) = path.parent.glob("evaluations/*/metrics.json")
    kept = json.loads((path.parent / "metrics.json").read_text())
    assert json.loads(evaluated.read_text())["test/loss"] == pytest.approx(kept["test/loss"], abs=1e-6)
    weights = load_run(record["run_id"]).model.encoder["video"].lstm.weight_hh_l0
    assert np.isfinite(weights.detach().numpy()).all()
