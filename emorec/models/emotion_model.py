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
from emorec.training.collectives import on_all_ranks

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
Part = tuple[tuple[str, ...], Tensor, Tensor, Tensor]  # ids, logits, targets and mean loss of a batch
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
        self._validated: list[Part] = []

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
        self.log("train/loss", torch.stack(self._train_loss).mean(), sync_dist=True)
        self._train_loss.clear()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["train_loss"] = torch.stack(self._train_loss) if self._train_loss else torch.zeros(0)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._train_loss = list(checkpoint["train_loss"].to(self.device))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._validated.append(self._part(batch))

    def on_validation_epoch_end(self) -> None:
        scores = self._joined([part for parts in on_all_ranks(self._validated) for part in parts]).scores()
        self._validated = []
        self.log_dict({f"val/{name}": value for name, value in scores.items()})

    def _part(self, batch: Batch) -> Part:
        """What is kept of a batch, on the CPU."""
        output = self(batch)
        loss = self._losses(output, batch)
        task = self.task.name
        return batch.id, output.logits[task].float().cpu(), batch.targets[task].cpu(), loss.detach().float().cpu()

    def _joined(self, parts: list[Part]) -> Predictions:
        names, logits, targets, losses = zip(*parts, strict=True)
        sizes = torch.tensor([float(len(part)) for part in names])
        return Predictions(
            task=self.task,
            id=tuple(name for part in names for name in part),
            logits=torch.cat(logits),
            target=torch.cat(targets),
            loss=float((torch.stack(losses) * sizes).sum() / sizes.sum()),
        )

    def predict(self, batches: Iterable[Batch], *, precision: str = "32") -> Predictions:
        """Applies the model in `eval()`, with the autocast of the given precision, to all batches."""
        was_training = self.training
        self.eval()
        narrow = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
        try:
            with torch.inference_mode(), torch.autocast(self.device.type, dtype=narrow, enabled=narrow is not None):
                parts = [self._part(batch.to(self.device)) for batch in batches]
        finally:
            self.train(was_training)
        return self._joined(parts)

    def configure_model(self) -> None:
        """Shares the weights out over the ranks where the strategy asks for it."""
        if self.device_mesh is None:
            return
        from torch.distributed.fsdp import fully_shard

        mesh = self.device_mesh["data_parallel"]
        for part in (*self.projection.values(), self.fusion, self.head, self):
            fully_shard(part, mesh=mesh)

    def configure_optimizers(self) -> Any:
        assert self._make_optimizer is not None
        optimizer = self._make_optimizer(parameter for parameter in self.parameters() if parameter.requires_grad)
        if self._make_scheduler is None:
            return optimizer
        schedule = self._make_scheduler(optimizer, self._total_steps())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _total_steps(self) -> int:
        # `estimated_stepping_batches` would set the training loader up before its saved state is known
        data, epochs = getattr(self.trainer, "datamodule", None), self.trainer.max_epochs
        if data is None or epochs is None:
            return int(self.trainer.estimated_stepping_batches)
        return len(data.train_dataloader()) * epochs

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
