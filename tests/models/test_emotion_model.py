"""The model learns, keeps order and mode, and loads the weights that it gave."""

import math
from dataclasses import replace
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from emorec.batch import IGNORED, Batch, FusionOutput, ModelOutput
from emorec.config.schema import OptimizerComponent
from emorec.datasets.utterance import Task
from emorec.errors import UserError
from emorec.fusion.concat import Concat
from emorec.losses.cross_entropy import CrossEntropy
from emorec.metrics.classification import Accuracy, MacroF1, UnweightedAverageRecall, WeightedF1
from emorec.models.emotion_model import EmotionModel
from emorec.models.heads import Head
from emorec.models.normalisation import Normalisation
from emorec.models.optimization import OptimizerFactory
from emorec.models.projection import Projection
from emorec.models.schedule import WarmupCosine

TASK = "emotion"
DIMS = {"text": 6, "audio": 4}
HIDDEN = 8
CLASSES = 3
EMOTION = Task(name=TASK, labels=("happy", "sad", "angry"))
COMPONENTS = {"normalisation", "projection", "fusion", "head"}


ADAMW = OptimizerFactory(OptimizerComponent(AdamW, {"lr": 0.02}, "optimizer", {}), precision="32")


def make_metrics(classes: int = CLASSES) -> dict[str, Metric]:
    kinds = {"weighted_f1": WeightedF1, "macro_f1": MacroF1, "uar": UnweightedAverageRecall, "accuracy": Accuracy}
    return {name: kind(classes) for name, kind in kinds.items()}


def make_model(seed: int = 0, *, fusion: nn.Module | None = None, dropout: float = 0.3, **options: Any) -> EmotionModel:
    torch.manual_seed(seed)
    normalisations: dict[str, nn.Module] = {}
    for modality, dim in DIMS.items():
        normalisation = Normalisation(kind="train", dim=dim)
        normalisation.fit(torch.randn(dim), torch.rand(dim) + 0.5)
        normalisations[modality] = normalisation
    settings = {"make_optimizer": ADAMW, "weights": None, "metrics": make_metrics(), **options}
    loss = CrossEntropy(task=TASK, weights=settings.pop("weights"))
    loss.fit(torch.tensor([5, 5, 5]))
    return EmotionModel(
        task=EMOTION,
        normalisations=normalisations,
        projections={name: Projection(dim=dim, hidden=HIDDEN, dropout=dropout) for name, dim in DIMS.items()},
        fusion=fusion or Concat(dims=dict.fromkeys(DIMS, HIDDEN), hidden=HIDDEN, dropout=dropout),
        head=None if getattr(fusion, "classifies", False) else Head(hidden=HIDDEN, outputs=CLASSES, dropout=dropout),
        loss=loss,
        **settings,
    )


def make_batch(rows: int, start: int = 0) -> Batch:
    """Random features from which the class can be told."""
    generator = torch.Generator().manual_seed(start)
    target = torch.arange(start, start + rows) % CLASSES
    features = {name: torch.randn(rows, 3, dim, generator=generator) for name, dim in DIMS.items()}
    features["text"][:, :, 0] += 4.0 * target[:, None]
    unknown = torch.full((rows,), -1)
    return Batch(
        id=tuple(f"u{start + row}" for row in range(rows)),
        features=features,
        mask={name: torch.ones(rows, 3, dtype=torch.bool) for name in DIMS},
        present={name: torch.ones(rows, dtype=torch.bool) for name in DIMS},
        targets={TASK: target},
        target_mask={TASK: torch.ones(rows, dtype=torch.bool)},
        speaker=unknown,
        dialogue=unknown,
        turn=unknown,
    )


def loader(batches: list[Batch]) -> Any:
    return torch.utils.data.DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def fit(model: EmotionModel, batches: list[Batch], epochs: int, **options: Any) -> lightning.Trainer:
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        **options,
    )
    trainer.fit(model, loader(batches), loader(batches))
    return trainer


BATCHES = [make_batch(12, 0), make_batch(12, 12), make_batch(5, 24)]


# Training


def test_training_lowers_the_loss() -> None:
    model = make_model(dropout=0.0)
    before = model.predict(BATCHES)
    fit(model, BATCHES, epochs=15)
    after = model.predict(BATCHES)
    assert after.scores["loss"] < 0.5 * before.scores["loss"]
    assert after.scores["accuracy"] > 0.9


def test_training_logs_the_losses_and_the_metrics_of_validation() -> None:
    model = make_model()
    metrics = fit(model, BATCHES, epochs=1).callback_metrics
    assert {"train/loss", "val/loss", "val/weighted_f1", "val/macro_f1", "val/uar", "val/accuracy"} <= metrics.keys()
    expected = model.predict(BATCHES).scores
    assert {name: float(metrics[f"val/{name}"]) for name in expected} == pytest.approx(expected, abs=1e-5)


def test_a_frozen_parameter_is_not_given_to_the_optimizer() -> None:
    model = make_model()
    frozen = list(model.projection["audio"].parameters())
    for parameter in frozen:
        parameter.requires_grad_(False)
    given = [item for group in model.configure_optimizers().param_groups for item in group["params"]]
    assert not {id(item) for item in frozen} & {id(item) for item in given}
    trained = {id(item) for item in model.parameters() if item.requires_grad}
    assert {id(item) for item in given} == trained
    before = [parameter.clone() for parameter in frozen]
    fit(model, BATCHES, epochs=2)
    assert all(torch.equal(now, then) for now, then in zip(frozen, before, strict=True))


def test_training_changes_every_trained_weight_and_no_statistic() -> None:
    model = make_model(dropout=0.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, BATCHES, epochs=2)
    trained = dict(model.named_parameters())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == trained.keys()


def test_the_schedule_knows_all_steps_of_the_training() -> None:
    made: list[tuple[int, int]] = []

    def schedule(optimizer: Optimizer, total_steps: int, epoch_batches: int) -> dict[str, Any]:
        made.append((total_steps, epoch_batches))
        return {"scheduler": WarmupCosine(optimizer, total_steps=total_steps, warmup=0.5), "interval": "step"}

    trainer = fit(make_model(make_scheduler=schedule), BATCHES, epochs=4)
    assert made == [(4 * len(BATCHES), len(BATCHES))]
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)


class WithLoss(Concat):
    """A fusion with a loss of its own."""

    def fuse(self, vectors: dict[str, Tensor], present: Tensor) -> FusionOutput:
        return replace(super().fuse(vectors, present), losses={"balance": torch.tensor(10.0)})


@pytest.mark.parametrize(("weights", "added"), [(None, 10.0), ({"fusion/balance": 0.1}, 1.0)])
def test_the_fusions_own_loss_is_added_once_with_its_weight(weights: dict[str, float] | None, added: float) -> None:
    plain = make_model(seed=1)
    fusion = WithLoss(dims=dict.fromkeys(DIMS, HIDDEN), hidden=HIDDEN)
    model = make_model(seed=1, fusion=fusion, weights=weights)
    model.load_state_dict(plain.state_dict())
    difference = model.predict(BATCHES).scores["loss"] - plain.predict(BATCHES).scores["loss"]
    assert difference == pytest.approx(added, abs=1e-4)


# Prediction


def test_predictions_keep_the_order_of_the_batches() -> None:
    model = make_model()
    predictions = model.predict(BATCHES)
    assert predictions.id == tuple(f"u{number}" for number in range(29))
    assert predictions.target.tolist() == [number % CLASSES for number in range(29)]
    backwards = model.predict(BATCHES[::-1])
    rows = [backwards.id.index(name) for name in predictions.id]
    torch.testing.assert_close(backwards.logits[rows], predictions.logits)


@pytest.mark.parametrize("training", [True, False])
def test_predicting_is_done_in_eval_and_restores_the_mode(training: bool) -> None:
    model = make_model(dropout=0.5).train(training)
    first, second = model.predict(BATCHES), model.predict(BATCHES)
    assert torch.equal(first.logits, second.logits)
    assert all(module.training == training for module in model.modules())


def test_predicting_changes_no_weight_and_leaves_no_gradient() -> None:
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    predictions = model.predict(BATCHES)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not predictions.logits.requires_grad


def test_the_size_of_the_batches_does_not_change_predictions() -> None:
    model = make_model()
    whole = BATCHES[0]
    halves = [
        Batch(
            id=whole.id[part],
            features={name: value[part] for name, value in whole.features.items()},
            mask={name: value[part] for name, value in whole.mask.items()},
            present={name: value[part] for name, value in whole.present.items()},
            targets={name: value[part] for name, value in whole.targets.items()},
            target_mask={name: value[part] for name, value in whole.target_mask.items()},
            speaker=whole.speaker[part],
            dialogue=whole.dialogue[part],
            turn=whole.turn[part],
        )
        for part in (slice(0, 3), slice(3, 12))
    ]
    together, apart = model.predict([whole]), model.predict(halves)
    torch.testing.assert_close(apart.logits, together.logits)
    assert apart.scores == pytest.approx(together.scores, rel=1e-5)


def test_half_precision_predictions_are_near_and_float32() -> None:
    model = make_model()
    exact, narrow = model.predict(BATCHES), model.predict(BATCHES, precision="bf16-mixed")
    assert narrow.logits.dtype == torch.float32
    assert not torch.equal(narrow.logits, exact.logits)
    torch.testing.assert_close(narrow.logits, exact.logits, rtol=0.1, atol=0.1)


def test_scores_are_of_the_predicted_classes() -> None:
    model = make_model()
    predictions = model.predict(BATCHES)
    predicted = predictions.logits.argmax(1).numpy()
    target = predictions.target.numpy()
    loss = torch.nn.functional.cross_entropy(predictions.logits, predictions.target)
    assert predictions.scores == pytest.approx(
        {
            "loss": float(loss),
            "accuracy": accuracy_score(target, predicted),
            "uar": balanced_accuracy_score(target, predicted),
            "macro_f1": f1_score(target, predicted, average="macro"),
            "weighted_f1": f1_score(target, predicted, average="weighted"),
        },
        rel=1e-5,
    )


def test_scores_of_four_utterances_by_hand() -> None:
    logits = torch.tensor([[2.0, 1.0, -9.0], [0.0, 1.0, -9.0], [3.0, 0.0, -9.0], [0.0, 5.0, -9.0]])

    class Fixed(EmotionModel):
        def forward(self, batch: Batch) -> ModelOutput:
            fused = torch.zeros(4, HIDDEN)
            return ModelOutput(logits={TASK: logits}, fusion=FusionOutput(fused=fused, vectors={}))

    batch = replace(make_batch(4), targets={TASK: torch.tensor([0, 1, 1, 1])})
    model = make_model()
    model.__class__ = Fixed
    scores = model.predict([batch]).scores
    assert scores["loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, batch.targets[TASK])))
    assert scores["accuracy"] == pytest.approx(0.75)
    assert scores["uar"] == pytest.approx((1.0 + 2 / 3) / 2)


def test_predictions_that_are_not_finite_are_no_class_and_have_no_score() -> None:
    metrics = {**make_metrics(), "f1": MulticlassF1Score(CLASSES), "no": MulticlassAccuracy(CLASSES)}  # these take NaN
    model = make_model(metrics=metrics)
    spoiled = replace(BATCHES[1], features={**BATCHES[1].features, "text": BATCHES[1].features["text"].clone()})
    spoiled.features["text"][3] = float("nan")
    predictions = model.predict([BATCHES[0], spoiled, BATCHES[2]])
    assert predictions.scores.keys() == {"loss", *metrics}
    assert all(math.isnan(value) for value in predictions.scores.values())
    assert predictions.not_finite() == [spoiled.id[3]]
    assert model.predict(BATCHES).not_finite() == []


def test_a_loss_that_is_not_finite_is_not_left_out_of_the_mean() -> None:
    model = make_model()

    class Spoiled(EmotionModel):
        def _total_loss(self, output: ModelOutput, batch: Batch) -> Tensor:
            loss = super()._total_loss(output, batch)
            return loss * float("nan") if batch.id == BATCHES[1].id else loss

    model.__class__ = Spoiled
    assert all(math.isnan(value) for value in model.predict(BATCHES).scores.values())
    assert math.isfinite(model.predict(BATCHES[:1]).scores["loss"])


def test_metrics_of_one_prediction_do_not_count_in_the_next() -> None:
    model = make_model()
    alone = model.predict(BATCHES[:1]).scores
    model.predict(BATCHES)
    assert model.predict(BATCHES[:1]).scores == alone


def test_without_metrics_the_loss_is_the_only_score() -> None:
    assert make_model(metrics={}).predict(BATCHES).scores.keys() == {"loss"}


def test_an_utterance_without_a_target_does_not_count_in_the_scores() -> None:
    model = make_model()
    batch = BATCHES[0]
    target = batch.targets[TASK].clone()
    target[9:] = IGNORED
    partly = replace(batch, targets={TASK: target}, target_mask={TASK: target != IGNORED})
    known = model.predict([batch])
    predicted, expected = known.logits[:9].argmax(1).numpy(), known.target[:9].numpy()
    scores = model.predict([partly]).scores
    assert scores["accuracy"] == pytest.approx(accuracy_score(expected, predicted))
    assert scores["uar"] == pytest.approx(balanced_accuracy_score(expected, predicted))
    assert scores["weighted_f1"] == pytest.approx(f1_score(expected, predicted, average="weighted"))


# Weights


def test_components_are_the_child_modules_with_weights() -> None:
    components = make_model().components()
    assert components.keys() == COMPONENTS
    model = make_model()
    flat = {f"{name}.{key}": value for name, part in model.components().items() for key, value in part.items()}
    assert flat.keys() == model.state_dict().keys()
    assert all(value.is_contiguous() and not value.requires_grad for value in flat.values())


def test_components_make_another_model_equal() -> None:
    model, other = make_model(0), make_model(1)
    expected = model.predict(BATCHES)
    assert not torch.allclose(other.predict(BATCHES).logits, expected.logits)
    other.load_components(model.components())
    assert torch.equal(other.predict(BATCHES).logits, expected.logits)


def test_a_missing_component_is_refused() -> None:
    components = make_model().components()
    del components["head"]
    with pytest.raises(UserError, match=r"Missing key.*head\.layers"):
        make_model().load_components(components)


def test_a_missing_weight_is_refused() -> None:
    components = make_model().components()
    del components["normalisation"]["audio.mean"]
    with pytest.raises(UserError, match=r"Missing key.*normalisation\.audio\.mean"):
        make_model().load_components(components)


def test_a_weight_too_many_is_refused() -> None:
    components = make_model().components()
    components["fusion"]["extra"] = torch.zeros(1)
    with pytest.raises(UserError, match=r"Unexpected key.*fusion\.extra"):
        make_model().load_components(components)


def test_a_weight_of_another_shape_is_refused() -> None:
    components = make_model().components()
    components["head"]["layers.1.bias"] = torch.zeros(CLASSES + 1)
    with pytest.raises(UserError, match="size mismatch"):
        make_model().load_components(components)


def test_a_trained_projector_of_a_loss_is_stored_and_trained() -> None:
    model = make_model(make_optimizer=lambda model: SGD(model.parameters(), lr=0.1))
    model.loss.projector = nn.Linear(HIDDEN, HIDDEN)
    assert "loss" in model.components()
    given = {id(item) for group in model.configure_optimizers().param_groups for item in group["params"]}
    assert {id(item) for item in model.loss.projector.parameters()} <= given
