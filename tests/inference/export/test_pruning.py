"""Pruned models: whole units are removed, of every fusion and context, and what is left is trained again."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from emorec.cli import main
from emorec.context.context import Context
from emorec.errors import UserError
from emorec.inference.export.pruning import load_units, strongest_units
from emorec.inference.loaded_run import LoadedRun
from emorec.models.emotion_model import EmotionModel
from tests.discovery import names
from tests.inference.export import small_models
from tests.inference.export.small_models import DIMS, HIDDEN, context_of, feature_ports, fusion_of, model_of, parity_of
from tests.inference.export.test_folder import infer

pytestmark = pytest.mark.slow

NARROW = 12
INDIVISIBLE = ("channel_attention", "low_rank")  # parts of them have other widths


def pair(monkeypatch: pytest.MonkeyPatch, fusion: str, context: str | None = None) -> tuple[EmotionModel, EmotionModel]:
    """A model, and one of the same kind that is narrower."""
    models = []
    for hidden in (HIDDEN, NARROW):
        monkeypatch.setattr(small_models, "HIDDEN", hidden)
        torch.manual_seed(hidden)
        own: Context | None = None if context is None else context_of(context)
        models.append(model_of(DIMS, fusion_of(fusion, tuple(DIMS)), context=own))
    return models[0], models[1]


@pytest.mark.parametrize("name", [name for name in names("fusion") if name not in INDIVISIBLE])
def test_a_fusion_is_made_narrower(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wide, narrow = pair(monkeypatch, name)
    load_units(narrow, wide, HIDDEN, NARROW, 4)
    old, new = wide.state_dict(), narrow.state_dict()
    for key, value in new.items():
        assert torch.isin(value, old[key]).all(), key
    assert sum(value.numel() for value in new.values()) < sum(value.numel() for value in old.values())


@pytest.mark.parametrize("name", names("context"))
def test_a_context_is_made_narrower(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wide, narrow = pair(monkeypatch, "concat", name)
    load_units(narrow, wide, HIDDEN, NARROW, 4)
    assert all(torch.isin(value, wide.state_dict()[key]).all() for key, value in narrow.state_dict().items())


@pytest.mark.parametrize("name", INDIVISIBLE)
def test_a_part_of_another_width_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wide, narrow = pair(monkeypatch, name)
    with pytest.raises(UserError, match=r"(?s)prune: .*expected weights in units of model\.hidden=16, got fusion\."):
        load_units(narrow, wide, HIDDEN, NARROW, 4)


def test_units_without_weights_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, narrow = pair(monkeypatch, "concat")
    dead = [1, 6, 11, 12]  # one of each four
    for projection in wide.projection.values():
        projection.layers[1].weight.data[dead], projection.layers[1].bias.data[dead] = 0, 0
    layer, last = wide.fusion.layer[1], wide.head.layers[1]
    layer.weight.data[dead], layer.bias.data[dead] = 0, 0
    for block in range(len(DIMS)):
        layer.weight.data[:, [unit + HIDDEN * block for unit in dead]] = 0
    last.weight.data[:, dead] = 0
    load_units(narrow, wide, HIDDEN, NARROW, 4)
    ports = feature_ports(DIMS)
    assert parity_of(narrow, ports, batches=(3,)).difference < 1e-5
    for key, value in wide.state_dict().items():  # what was normalised stays as it was
        if key.startswith("normalisation"):
            assert torch.equal(narrow.state_dict()[key], value)
    features = {name: torch.randn(2, 3, dim) for name, dim in DIMS.items()}
    there = {name: torch.ones(2, dtype=torch.bool) for name in DIMS}
    mask = {name: torch.ones(2, 3, dtype=torch.bool) for name in DIMS}
    results = []
    for model in (wide, narrow):
        projected = {name: model.projected(name, values) for name, values in features.items()}
        results.append(model.decided(model.fused(projected, mask, there, None, None)))
    torch.testing.assert_close(results[0], results[1])


def test_the_strongest_units_of_each_group_are_kept() -> None:
    weight = torch.tensor([[3.0, 0.0, 1.0, 2.0, 0.0, 0.0, 5.0, 0.0]])  # two blocks of four units
    assert strongest_units({"one": (weight, {1: 2})}, 4, 2, 1).tolist() == [0, 2]
    assert strongest_units({"one": (weight, {1: 2})}, 4, 2, 2).tolist() == [0, 2]
    assert strongest_units({"one": (weight[:, :4], {1: 1})}, 4, 2, 2).tolist() == [0, 3]


def test_a_pruned_run_is_smaller_and_its_scores_are_told(
    train: Callable[..., LoadedRun], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("fusion=self_attention", "model.hidden=32")
    sizes = []
    for name, words in {"whole": [], "pruned": ["prune=0.3", "prune_epochs=2", "progress=false"]}.items():
        assert main(["export", f"run={run.folder}", f"to={tmp_path / name}", *words]) == 0
        sizes.append((tmp_path / name / "model.onnx").stat().st_size)
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "pruned" / "pruning.json").read_text())
    assert found["hidden"] == {"before": 32, "after": 24}
    assert found["scores"]["before"] == pytest.approx(run.metrics["val/uar"], abs=1e-6)
    assert f"model.hidden 32 to 24, parameters {found['parameters']['before']:,}" in printed
    assert sizes[1] < 0.8 * sizes[0]
    assert infer(tmp_path / "pruned").returncode == 0
    card = (tmp_path / "pruned" / "README.md").read_text()
    assert "Its model was changed since:\n\n- pruned: model.hidden 32 to 24" in card
