"""Tasks that a model learns beside the one by which its epoch is chosen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from emorec.batch import Batch, ModelOutput
from emorec.config.schema import TrainConfig
from emorec.datasets.manifest import Manifest
from emorec.datasets.utterance import UNLABELLED, Task
from emorec.errors import UserError
from emorec.losses.cross_entropy import CrossEntropy
from emorec.losses.loss import Loss
from emorec.losses.regression import Concordance, MeanAbsoluteError, MeanSquaredError
from emorec.models.automatic_loss import OTHERWISE, REGRESSION
from emorec.models.heads import Head

LOSSES: Mapping[str, type[Loss]] = {"ccc": Concordance, "mae": MeanAbsoluteError, "mse": MeanSquaredError}


@dataclass(frozen=True)
class OtherTask:
    """What a model needs for another task."""

    task: Task  # what is predicted
    loss: Loss  # of its logits
    weight: float = 1.0  # of its loss in the sum
    metrics: dict[str, Metric] = field(default_factory=dict)  # {name: metric}


@dataclass(frozen=True)
class TaskResult:
    """Logits (B, C) and targets (B,) of a task, with those (B,) that are known."""

    logits: Tensor
    target: Tensor
    known: Tensor

    def taken(self, rows: Tensor) -> "TaskResult":
        """Those of some rows, or where a mask (B,) is true."""
        return TaskResult(self.logits[rows], self.target[rows], self.known[rows])


def joined(results: Sequence[TaskResult]) -> TaskResult:
    """The results of several batches, on the CPU."""
    logits, target, known = (
        torch.cat([getattr(item, name) for item in results]).cpu() for name in ("logits", "target", "known")
    )
    return TaskResult(logits, target, known)


def others_of(config: TrainConfig, task: Task, manifest: Manifest) -> tuple[Task, ...]:
    """The tasks that a config names beside the one of its corpus.

    Raises:
        UserError: the corpus has no such task, or the main one is not among them.
    """
    if config.tasks is None:
        return ()
    if task == UNLABELLED:
        raise UserError(f"tasks: expected null for a loss that reads no labels, got {config.tasks}")
    if unknown := sorted(set(config.tasks) - manifest.tasks.keys()):
        raise UserError(
            f"tasks: expected tasks of dataset={manifest.dataset}, {sorted(manifest.tasks)}, got {', '.join(unknown)}"
        )
    if task.name not in config.tasks:
        raise UserError(f"tasks: expected dataset.task={task.name} among them, got {config.tasks}")
    return tuple(manifest.tasks[name] for name in config.tasks if name != task.name)


def default_loss(task: Task) -> Loss:
    """Cross-entropy for classes; for values the loss that its monitor asks for, as `loss=auto` does."""
    if task.kind == "classification":
        return CrossEntropy(task=task.name)
    return LOSSES[REGRESSION.get(task.monitor, OTHERWISE)](task=task.name)


class OtherTasks(nn.Module):
    """The heads, losses and metrics of other tasks.

    Args:
        tasks: the tasks.
        hidden: H of the fused vector.
        dropout: before the heads.
    """

    def __init__(self, tasks: Sequence[OtherTask], *, hidden: int, dropout: float) -> None:
        super().__init__()
        self.tasks = {item.task.name: item for item in tasks}
        self.heads = nn.ModuleDict(
            {
                name: Head(hidden=hidden, outputs=len(item.task.labels), dropout=dropout)
                for name, item in self.tasks.items()
            }
        )
        self.losses = nn.ModuleDict({name: item.loss for name, item in self.tasks.items()})
        self.metrics = nn.ModuleDict({name: MetricCollection(dict(item.metrics)) for name, item in self.tasks.items()})

    def forward(self, fused: Tensor) -> dict[str, Tensor]:
        """{task: logits (B, C)} of vectors (B, H)."""
        return {name: head(fused) for name, head in self.heads.items()}

    def weighted_losses(self, output: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        """{task: its loss () times its weight}."""
        losses = {}
        for name, item in self.tasks.items():
            losses[name] = item.weight * item.loss.total(item.loss(output, batch))
        return losses

    def results(self, output: ModelOutput, batch: Batch) -> dict[str, TaskResult]:
        """{task: what is predicted for a batch}."""
        return {
            name: TaskResult(output.logits[name].float(), batch.targets[name], batch.target_mask[name])
            for name in self.tasks
        }

    def score(self, results: Sequence[Mapping[str, TaskResult]], are_distributed: Callable[[], bool]) -> dict[str, Any]:
        """{`<task>_<metric>`: value} over some batches, of utterances that have the task's target."""
        scores: dict[str, Any] = {}
        for name, metrics in self.metrics.items():
            assert isinstance(metrics, MetricCollection)
            for metric in metrics.values(copy_state=False):
                metric.distributed_available_fn = are_distributed
            metrics.reset()
            logits = torch.cat([item[name].logits[item[name].known] for item in results])
            target = torch.cat([item[name].target[item[name].known] for item in results])
            if len(target) == 0 and not are_distributed():  # a corpus without this task
                continue
            metrics.update(logits, target)
            scores |= {f"{name}_{metric}": value for metric, value in metrics.compute().items()}
        return scores
