"""Classical heads say what the estimators of scikit-learn say, and are what they were once they are loaded again."""

from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.svm import LinearSVC
from torch import Tensor

from emorec.errors import UserError
from emorec.models.classical import ClassicalHead, LinearSVM, LogisticRegression, NearestNeighbours, SideBySide

C, K = 0.1, 5


def data(classes: int, count: int = 90, width: int = 20) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(classes)
    target = torch.arange(count) % classes
    centres = 0.7 * torch.randn(classes, width, generator=generator)
    return centres[target] + torch.randn(count, width, generator=generator), target


def fitted(head: ClassicalHead, features: Tensor, target: Tensor, value: float) -> ClassicalHead:
    head.fit(features, target, value, seed=0)
    return head


def heads(classes: int, **options: Any) -> list[tuple[ClassicalHead, Any, float]]:
    own: dict[str, Any] = {"outputs": classes, "task_kind": "classification"}
    return [
        (LinearSVM(**own, C=[C], **options), LinearSVC(C=C, random_state=0, **options), C),
        (LogisticRegression(**own, C=[C], **options), SklearnLogisticRegression(C=C, **options), C),
    ]


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("width", [20, 200], ids=["narrow", "wider than the number of utterances"])
def test_linear_heads_decide_as_the_estimators_do(classes: int, class_weight: str | None, width: int) -> None:
    features, target = data(classes, width=width)
    keep = torch.arange(len(target)) % (classes * 3) != 0  # classes of unequal size
    new, _ = data(classes, count=60, width=width)
    for head, estimator, value in heads(classes, class_weight=class_weight):
        fitted(head, features[keep], target[keep], value)
        estimator.fit(features[keep].numpy(), target[keep].numpy())
        expected = torch.from_numpy(estimator.decision_function(new.numpy())).float()
        logits = head(new)
        if classes == 2:
            logits = logits[:, 1] - logits[:, 0]
        torch.testing.assert_close(logits, expected, atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_neighbours_vote_as_in_scikit_learn(weights: Any) -> None:
    features, target = data(4)
    new, _ = data(4, count=60)
    head = NearestNeighbours(outputs=4, task_kind="classification", k=[K], weights=weights)
    fitted(head, features, target, K)
    estimator = KNeighborsClassifier(K, weights=weights).fit(features.numpy(), target.numpy())
    shares = (head(new).exp() * (K + 1) - 1 / 4) / K
    torch.testing.assert_close(
        shares, torch.from_numpy(estimator.predict_proba(new.numpy())).float(), atol=1e-5, rtol=0
    )


def test_neighbours_of_values_give_their_mean() -> None:
    features, target = data(4)
    values = target + 0.5
    head = fitted(NearestNeighbours(outputs=1, task_kind="regression", k=[K]), features, values, K)
    expected = KNeighborsRegressor(K).fit(features.numpy(), values.numpy()).predict(features.numpy())
    torch.testing.assert_close(head(features)[:, 0], torch.from_numpy(expected).float())


def test_values_of_a_line_are_found() -> None:
    features, _ = data(2)
    values = features[:, 0] * 2 + 1
    head = fitted(LinearSVM(outputs=1, task_kind="regression", C=[10.0]), features, values, 10.0)
    assert head(features).shape == (len(features), 1)
    assert (head(features)[:, 0] - values).abs().max() < 0.05


def test_a_class_that_train_lacks_is_never_predicted() -> None:
    features, target = data(4)
    keep = target != 1
    linear = [(head, value) for head, _, value in heads(4)]
    for head, value in [*linear, (NearestNeighbours(outputs=4, task_kind="classification", k=[K]), K)]:
        fitted(head, features[keep], target[keep], value)
        assert 1 not in head(features).argmax(1).tolist()


def test_loaded_heads_are_those_that_were_stored_and_rows_do_not_depend_on_their_batch() -> None:
    features, target = data(4)
    made = [head for head, _, _ in heads(4)] + [NearestNeighbours(outputs=4, task_kind="classification", k=[1, K])]
    for head in made:
        fitted(head, features, target, head.grid[-1])
        options = {head.parameter: list(head.grid)}
        other = type(head)(outputs=4, task_kind="classification", **options)  # type: ignore[arg-type]
        other.load_state_dict(head.state_dict())
        assert torch.equal(other(features), head(features))
        torch.testing.assert_close(head(features[:1]), head(features)[:1])


def test_what_does_not_fit_the_model_is_refused() -> None:
    head = LinearSVM(outputs=4, task_kind="classification", C=[C])
    with pytest.raises(RuntimeError, match="Missing key"):
        head.load_state_dict({"coefficients": torch.zeros(4, 3)})
    with pytest.raises(UserError, match="expected linear_svm or knn for a task of regression, got LogisticRegression"):
        LogisticRegression(outputs=1, task_kind="regression", C=[C])
    with pytest.raises(UserError, match=r"head\.C: expected at least one value"):
        LinearSVM(outputs=4, task_kind="classification", C=[])
    with pytest.raises(UserError, match=r"head\.k: expected at least one number"):
        NearestNeighbours(outputs=4, task_kind="classification", k=[])


def test_modalities_lie_side_by_side_with_zeros_for_a_missing_one() -> None:
    fusion = SideBySide(["text", "audio"])
    fusion.read({"text": 2, "audio": 3})
    features = {"text": torch.ones(2, 1, 2), "audio": torch.full((2, 4, 3), 2.0)}
    mask = {"text": torch.ones(2, 1, dtype=torch.bool), "audio": torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]).bool()}
    present = {"text": torch.tensor([True, False]), "audio": torch.tensor([True, True])}
    fused = fusion(features, mask, present).fused
    assert fused.tolist() == [[1, 1, 2, 2, 2], [0, 0, 2, 2, 2]]
    assert fusion.hidden == 5


def test_heads_are_exported_for_any_number_of_rows() -> None:
    features, target = data(4)
    made = [head for head, _, _ in heads(4)] + [NearestNeighbours(outputs=4, task_kind="classification", k=[K])]
    for head in made:
        fitted(head, features, target, head.grid[0])
        shapes = ({0: torch.export.Dim("batch")},)
        exported = torch.export.export(head, (features[:3],), dynamic_shapes=shapes)
        # without guards, which are not what is tested
        torch.testing.assert_close(exported.module(check_guards=False)(features), head(features))
