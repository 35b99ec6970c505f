"""The one model: normalise, project, fuse, put in context, classify."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import lightning.pytorch as lightning
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from emorec.batch import Batch, ModelOutput
from emorec.datasets.utterance import Task
from emorec.losses.loss import Loss
from emorec.metrics.classification import confusion_matrix, summary_scores
from emorec.metrics.regression import regression_scores

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
MakeScheduler = Callable[[Optimizer, int], Any]


@dataclass(frozen=True)
class Predictions:
    """What a model says of some utterances.

    Attributes:
        task: what is predicted.
        id: N names.
        logits: (N, C) float32; for regression the predicted values (N, 1).
        target: (N,) class numbers; for regression values, NaN where there is none.
        loss: mean loss over the utterances.
    """

    task: Task
    id: tuple[str, ...]
    logits: Tensor
    target: Tensor
    loss: float

    def scores(self) -> dict[str, float]:
        """`loss` and the summary metrics."""
        if self.task.kind == "regression":
            return {"loss": self.loss, **regression_scores(self.target, self.logits[:, 0], self.task.cuts)}
        confusion = confusion_matrix(self.target, self.logits.argmax(1), self.logits.shape[1])
        return {"loss": self.loss, **summary_scores(confusion)}


class EmotionModel(lightning.LightningModule):
    """Trains and applies ready-built parts; each child module is one component of the stored weights.

    Args:
        task: what is predicted.
        normalisations: {modality: `Normalisation`}.
        layer_sums: {modality: `LayerSum`} of modalities with the features of several layers.
        projections: {modality: `Projection`}.
        fusion: a `Fusion` over the projections' outputs.
        head: a `Head` on the fused vector.
        loss: a `Loss`.
        make_optimizer: parameters -> optimiser.
        make_scheduler: (optimiser, total steps) -> schedule by step; `None` for a constant rate.
    """

    def __init__(
        self,
        *,
        task: Task,
        normalisations: dict[str, nn.Module],
        layer_sums: dict[str, nn.Module] | None = None,
        projections: dict[str, nn.Module],
        fusion: nn.Module,
        head: nn.Module,
        loss: Loss,
        make_optimizer: MakeOptimizer | None = None,
        make_scheduler: MakeScheduler | None = None,
    ) -> None:
        super().__init__()
        self.task = task
        self.normalisation = nn.ModuleDict(normalisations)
        self.layer_sum = nn.ModuleDict(layer_sums or {})
        self.projection = nn.ModuleDict(projections)
        self.fusion = fusion
        self.head = head
        self.loss = loss
        self._make_optimizer = make_optimizer
        self._make_scheduler = make_scheduler
        self._train_loss: list[Tensor] = []
        self._validated: list[tuple[Batch, Tensor, Tensor]] = []

    # Lightning looks at every step for hooks around the move to the device; there are none, so it is moved at once.
    def _on_before_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:
        return batch

    def _apply_batch_transfer_handler(
        self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0
    ) -> Any:
        return batch.to(device or self.device)

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the running hook here dozens of times a step; no parameter, so torch need not look at it.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def forward(self, batch: Batch) -> ModelOutput:
        """Logits {task: (B, C)} of a batch."""
        features = {}
        for modality, projection in self.projection.items():
            values = self.normalisation[modality](batch.features[modality].float())
            if modality in self.layer_sum:
                values = self.layer_sum[modality](values)
            features[modality] = projection(values)
        fusion = self.fusion(features, batch.mask, batch.present)
        return ModelOutput(logits={self.task.name: self.head(fusion.fused)}, fusion=fusion)

    def _losses(self, output: ModelOutput, batch: Batch) -> Tensor:
        own = {f"fusion/{name}": value for name, value in output.fusion.losses.items()}
        return self.loss.total({**self.loss(output, batch), **own})

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self._losses(self(batch), batch)
        self._train_loss.append(loss.detach())
        return loss

    # Lightning reads the arguments' names at every step; so it need not take the function apart each time.
    training_step.__signature__ = inspect.signature(training_step)  # type: ignore[attr-defined]

    def on_train_epoch_end(self) -> None:
        self.log("train/loss", torch.stack(self._train_loss).mean())
        self._train_loss.clear()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        output = self(batch)
        self._validated.append((batch, output.logits[self.task.name].float(), self._losses(output, batch)))

    def on_validation_epoch_end(self) -> None:
        scores = self._joined(self._validated).scores()
        self._validated = []
        self.log_dict({f"val/{name}": value for name, value in scores.items()})

    def _joined(self, parts: list[tuple[Batch, Tensor, Tensor]]) -> Predictions:
        sizes = torch.tensor([float(len(batch)) for batch, _, _ in parts])
        losses = torch.stack([loss.float().cpu() for _, _, loss in parts])
        return Predictions(
            task=self.task,
            id=tuple(name for batch, _, _ in parts for name in batch.id),
            logits=torch.cat([logits for _, logits, _ in parts]).cpu(),
            target=torch.cat([batch.targets[self.task.name] for batch, _, _ in parts]).cpu(),
            loss=float((losses * sizes).sum() / sizes.sum()),
        )

    def predict(self, batches: Iterable[Batch], *, precision: str = "32") -> Predictions:
        """Applies the model in `eval()`, with the autocast of the given precision, to all batches."""
        was_training = self.training
        self.eval()
        narrow = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
        parts = []
        try:
            with torch.inference_mode(), torch.autocast(self.device.type, dtype=narrow, enabled=narrow is not None):
                for batch in batches:
                    moved = batch.to(self.device)
                    output = self(moved)
                    parts.append((moved, output.logits[self.task.name].float(), self._losses(output, moved)))
        finally:
            self.train(was_training)
        return self._joined(parts)

    def configure_optimizers(self) -> Any:
        assert self._make_optimizer is not None
        optimizer = self._make_optimizer(parameter for parameter in self.parameters() if parameter.requires_grad)
        if self._make_scheduler is None:
            return optimizer
        schedule = self._make_scheduler(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def components(self) -> dict[str, dict[str, Tensor]]:
        """{component: its weights}, of each child module that has any; contiguous, on the CPU."""
        found = {}
        for name, module in self.named_children():
            weights = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
            if weights:
                found[name] = weights
        return found

    def load_components(self, components: dict[str, dict[str, Tensor]]) -> None:
        """Takes the weights that `components` gave.

        Raises:
            RuntimeError: a component or a weight is missing, is too many, or has another shape.
        """
        weights = {f"{name}.{key}": value for name, part in components.items() for key, value in part.items()}
        self.load_state_dict(cast(dict[str, Any], weights), strict=True)
