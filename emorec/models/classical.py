"""Classical heads: scikit-learn fits them to pooled features, and a few lines of torch apply them.

A model with such a head has no projection and no fusion that trains: `SideBySide` pools the normalised features over
time and puts the modalities side by side. What is fitted is kept in buffers, so that the run's weights, evaluation,
prediction and export are those of any other model.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from emorec.annotations import Positive, PositiveCount
from emorec.batch import FusionOutput
from emorec.config.schema import TrainConfig
from emorec.datasets.utterance import Task
from emorec.errors import UserError, raise_problems
from emorec.fusion.fusion import Fusion

ABSENT = -1e3  # logit of a class that the training split lacks
MOST_ITERATIONS = 1000


class SideBySide(Fusion):
    """The means over time of the modalities' features side by side, zero for a missing one.

    Standardised features are zero at the mean of the training split, which so stands for what is missing.

    Args:
        modalities: in their order; how wide their features are is known once they are read.
    """

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__(dims=dict.fromkeys(modalities, 0), hidden=0)
        for name in modalities:
            self.register_buffer(f"width_{name}", torch.zeros(1, dtype=torch.int64))

    def read(self, widths: Mapping[str, int]) -> None:
        """Takes {modality: D}."""
        self.dims = {name: widths[name] for name in self.dims}
        self.hidden = sum(self.dims.values())
        for name, width in self.dims.items():
            self.get_buffer(f"width_{name}").fill_(width)

    def fuse(self, vectors: dict[str, Tensor], present: dict[str, Tensor]) -> FusionOutput:
        return FusionOutput(fused=torch.cat(list(vectors.values()), dim=1), vectors=vectors)


def stored_widths(fusion: Mapping[str, Tensor]) -> dict[str, int]:
    """{modality: D} of the weights of a `SideBySide`."""
    return {name.removeprefix("width_"): int(value) for name, value in fusion.items()}


class ClassicalHead(nn.Module, ABC):
    """From the vector of an utterance (B, D) to logits (B, C), or to values (B, 1) of a regression.

    Args:
        outputs: C.
        task_kind: of the task, "classification" or "regression".
        grid: the values of the parameter that are tried.
    """

    parameter: ClassVar[str]  # the name of what is chosen on validation
    of_grid: ClassVar[str]  # what its values are, for errors
    kinds: ClassVar[tuple[str, ...]] = ("classification", "regression")

    def __init__(self, *, outputs: int, task_kind: str, grid: Sequence[float]) -> None:
        super().__init__()
        if task_kind not in self.kinds:
            raise UserError(
                f"head: expected linear_svm or knn for a task of {task_kind}, got {type(self).__name__}, which is for "
                f"{' and '.join(self.kinds)}"
            )
        if not grid:
            raise UserError(f"head.{self.parameter}: expected at least one {self.of_grid}, got none")
        self.outputs, self.task_kind, self.grid = outputs, task_kind, tuple(grid)

    @abstractmethod
    def fit(self, features: Tensor, target: Tensor, value: float, *, seed: int) -> None:
        """Fits the head with one value of the parameter.

        Args:
            features: (N, D).
            target: (N,) class numbers, or values.
            value: of `grid`.
            seed: of what is drawn.
        """

    @abstractmethod
    def forward(self, vectors: Tensor) -> Tensor: ...

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        """Takes the shapes of what is loaded: they are those of the data that the head was fitted to."""
        for name, buffer in self.named_buffers():
            loaded = state_dict.get(prefix + name)
            if loaded is not None and loaded.dim() == buffer.dim():
                setattr(self, name, torch.empty_like(loaded, device=buffer.device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)  # type: ignore[no-untyped-call]


class _Linear(ClassicalHead):
    """A linear function of the vector."""

    parameter, of_grid = "C", "value"
    coefficients: Tensor
    intercepts: Tensor

    def __init__(
        self,
        *,
        outputs: int,
        task_kind: str,
        C: list[Positive],  # noqa: N803  (its name in scikit-learn and in the field)
        class_weight: Literal["balanced"] | None = None,
    ) -> None:
        super().__init__(outputs=outputs, task_kind=task_kind, grid=C)
        self.class_weight = class_weight
        self.register_buffer("coefficients", torch.zeros(outputs, 0))
        self.register_buffer("intercepts", torch.zeros(outputs))

    @abstractmethod
    def estimator(self, value: float, seed: int, *, dual: bool) -> Any:
        """The estimator of scikit-learn; `dual`: whether there are no more utterances than features."""

    def fit(self, features: Tensor, target: Tensor, value: float, *, seed: int) -> None:
        rows, basis = features.double(), None
        if features.shape[1] > len(features):  # the best coefficients lie in the span of the rows: few dimensions
            basis, upper = torch.linalg.qr(rows.T)  # (D, N), (N, N)
            rows = upper.T
        estimator = self.estimator(value, seed, dual=len(rows) <= rows.shape[1])
        estimator.fit(rows.numpy(), target.numpy())
        weights = torch.tensor(estimator.coef_).reshape(-1, rows.shape[1])
        weights = (weights if basis is None else weights @ basis.T).float()  # (C, D)
        intercepts = torch.tensor(estimator.intercept_).reshape(-1).float()
        if self.task_kind == "classification":
            if len(weights) == 1:  # of the second of two classes
                weights, intercepts = torch.cat([-weights, weights]) / 2, torch.cat([-intercepts, intercepts]) / 2
            classes = torch.tensor(estimator.classes_)
            weights = torch.zeros(self.outputs, features.shape[1]).index_copy(0, classes, weights)
            intercepts = torch.full((self.outputs,), ABSENT).index_copy(0, classes, intercepts)
        self.coefficients, self.intercepts = weights, intercepts

    def forward(self, vectors: Tensor) -> Tensor:
        return nn.functional.linear(vectors, self.coefficients, self.intercepts)


class LinearSVM(_Linear):
    """A linear support vector machine, one class against the others (`sklearn.svm.LinearSVC`; Fan et al. 2008,
    "LIBLINEAR"), whose margins are the logits; for values a support vector regression (`sklearn.svm.SVR`).

    Args:
        outputs: C.
        task_kind: of the task.
        C: inverse strengths of the regularisation, of which one is chosen.
        class_weight: "balanced" for weights inverse to the classes' numbers of utterances; not for a regression.
    """

    def estimator(self, value: float, seed: int, *, dual: bool) -> Any:
        from sklearn.svm import SVR, LinearSVC

        if self.task_kind == "regression":
            return SVR(kernel="linear", C=value, epsilon=0.01)
        options = {"class_weight": self.class_weight, "random_state": seed, "max_iter": MOST_ITERATIONS}
        return LinearSVC(C=value, dual=dual, **options)


class LogisticRegression(_Linear):
    """Multinomial logistic regression (`sklearn.linear_model.LogisticRegression`).

    Args:
        outputs: C.
        task_kind: of the task.
        C: inverse strengths of the regularisation, of which one is chosen.
        class_weight: "balanced" for weights inverse to the classes' numbers of utterances.
    """

    kinds = ("classification",)

    def estimator(self, value: float, seed: int, *, dual: bool) -> Any:
        from sklearn.linear_model import LogisticRegression as Estimator

        return Estimator(C=value, class_weight=self.class_weight, random_state=seed, max_iter=MOST_ITERATIONS)


class NearestNeighbours(ClassicalHead):
    """The votes of the k nearest utterances of the training split, by Euclidean distance (Cover & Hart 1967), or the
    mean of their values.

    The logits are the logarithms of the shares of the votes, with one vote more that all classes share.

    Args:
        outputs: C.
        task_kind: of the task.
        k: numbers of neighbours, of which one is chosen.
        weights: "uniform", or "distance" for votes inverse to the distance.
    """

    parameter, of_grid = "k", "number"
    vectors: Tensor
    values: Tensor
    neighbours: Tensor

    def __init__(
        self,
        *,
        outputs: int,
        task_kind: str,
        k: list[PositiveCount],
        weights: Literal["uniform", "distance"] = "uniform",
    ) -> None:
        super().__init__(outputs=outputs, task_kind=task_kind, grid=k)
        self.weights, self.k = weights, 0
        self.register_buffer("vectors", torch.zeros(0, 0))
        self.register_buffer("values", torch.zeros(0, outputs))  # (N, C) one-hot classes, or (N, 1)
        self.register_buffer("neighbours", torch.zeros(1, dtype=torch.int64))

    def fit(self, features: Tensor, target: Tensor, value: float, *, seed: int) -> None:
        is_class = self.task_kind == "classification"
        self.vectors = features.float().contiguous()
        self.values = nn.functional.one_hot(target, self.outputs).float() if is_class else target[:, None].float()
        self.k = min(int(value), len(features))
        self.neighbours.fill_(self.k)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *arguments)
        self.k = int(self.neighbours)

    def forward(self, vectors: Tensor) -> Tensor:
        distances = torch.cdist(vectors, self.vectors, compute_mode="donot_use_mm_for_euclid_dist")  # (B, N)
        nearest, numbers = distances.topk(self.k, dim=1, largest=False)  # (B, k)
        weights = torch.ones_like(nearest) if self.weights == "uniform" else 1 / nearest.clamp_min(1e-6)
        shares = weights / weights.sum(1, keepdim=True)
        found = torch.einsum("bk,bkc->bc", shares, self.values[numbers])
        if self.task_kind == "regression":
            return found
        return ((found * self.k + 1 / self.outputs) / (self.k + 1)).log()


def check_classical(config: TrainConfig, task: Task, trained: Sequence[str], others: Sequence[Task]) -> None:
    """Raises a `UserError` with all that a config asks for and that a classical head does not do.

    Args:
        config: with a `head`.
        task: what is predicted.
        trained: modalities whose encoder trains.
        others: tasks that are learned beside it.
    """
    raise_problems("the head", [*_problems(config, task, trained, others)])


def _problems(config: TrainConfig, task: Task, trained: Sequence[str], others: Sequence[Task]) -> Iterator[str]:
    assert config.head is not None
    name, settings = config.head.target.__name__, config.model
    for modality in trained:
        yield f"encoder.{modality}.training: expected frozen for head={name}, which reads stored features"
    for modality, component in config.encoder.used().items():
        if views := component.arguments.get("views"):
            yield f"encoder.{modality}.views: expected 0 for head={name}, which is fitted once, got {views}"
    if task.kind == "self_supervised":
        yield f"loss: expected one that reads labels for head={name}, got {config.loss.target.__name__}"
    if others:
        yield f"tasks: expected one for head={name}, got {[task.name, *(item.name for item in others)]}"
    if config.context is not None:
        yield f"context: expected none for head={name}, got {config.context.target.__name__}"
    unused = {
        "model.mixup": (settings.mixup, 0.0),
        "model.modality_dropout": (settings.modality_dropout, 0.0),
        "model.fused_normalisation": (settings.fused_normalisation, "none"),
        "distillation.teacher": (config.distillation.teacher, None),
        "init_from": (config.init_from, None),
        "trainer.devices": (config.trainer.devices, 1),
        "trainer.num_nodes": (config.trainer.num_nodes, 1),
        "trainer.precision": (str(config.trainer.precision), "32"),
        "trainer.ema": (config.trainer.ema, None),
    }
    for key, (value, expected) in unused.items():
        if value != expected:
            shown = "null" if expected is None else expected
            yield f"{key}: expected {shown} for head={name}, which is not trained by gradients, got {value}"
