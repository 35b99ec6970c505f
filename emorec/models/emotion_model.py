"""The one model: normalise, project, fuse, classify."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from operator import add
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torchmetrics import MeanMetric, Metric, MetricCollection

from emorec.augmentation.mixup import Mixing
from emorec.augmentation.modalities import drop_modalities
from emorec.batch import Batch, FusionOutput, ModelOutput
from emorec.datamodules.loaders import BatchLoader
from emorec.datasets.utterance import Task
from emorec.errors import UserError
from emorec.layers import counted
from emorec.losses.loss import Loss
from emorec.models.calibration import TemperatureScaling
from emorec.models.lightning_overhead import FastModule
from emorec.models.other_tasks import OtherTasks, TaskResult, joined
from emorec.models.speaker_standardisation import SpeakerStandardisation

MakeOptimizer = Callable[[nn.Module], Optimizer]
MakeScheduler = Callable[[Optimizer, int, int], dict[str, Any]]
TRAIN_LOSS = "train/loss"
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class BatchResult:
    """Logits (B, C), targets (B,) and mean loss () of one batch, on the model's device; and those of other tasks."""

    logits: Tensor
    target: Tensor
    loss: Tensor
    others: dict[str, TaskResult] = field(default_factory=dict)


@dataclass(frozen=True)
class Waiting:
    """A batch whose fused vectors are standardised once all those of its speakers are there."""

    batch: Batch  # without features and inputs
    fusion: FusionOutput


@dataclass(frozen=True)
class Predictions:
    """What a model predicts for N utterances."""

    id: tuple[str, ...]
    logits: Tensor  # (N, C) float32; for regression the predicted values (N, 1)
    target: Tensor  # (N,) class numbers; for regression values, NaN where there is none
    others: dict[str, TaskResult] = field(default_factory=dict, kw_only=True)  # {task: the same of another one}
    scores: dict[str, float]  # `loss` (mean over the utterances) and the metrics; all NaN where a logit is not finite

    def not_finite(self) -> list[str]:
        """The ids of the utterances with a logit that is not finite."""
        rows = (~self.logits.isfinite().all(1)).nonzero().flatten().tolist()
        return [self.id[row] for row in rows]


class EmotionModel(FastModule):
    """Trains and applies ready-built parts; each child module with weights is one component of the stored weights.

    Args:
        task: what is predicted.
        encoders: {modality: `TrainedPart`} of encoders that train.
        normalisations: {modality: `Normalisation`}.
        encoded: {modality: `Normalisation`} of the features of encoders that train.
        layer_sums: {modality: `LayerSum`} of modalities with the features of several layers.
        projections: {modality: `Projection`}.
        fusion: a `Fusion` over the projections' outputs.
        context: a `Context` over the turns of a dialogue; `None` where utterances stand alone.
        head: a `Head` on the fused vector, or an `EmbeddingHead` for a loss of views; `None` where the fusion gives the
            logits.
        loss: a `Loss`.
        metrics: {name: metric of logits (N, C), or values (N, 1), and targets (N,)}.
        make_optimizer: model -> optimizer of the parameters that train.
        mixup: draws (B,) -> how a batch is mixed in training; `None` for not at all.
        make_scheduler: (optimizer, total steps, batches of an epoch) -> Lightning's `lr_scheduler`; `None` for a
            constant rate.
        modality_dropout: probability that an utterance lacks a modality in training; one of them always stays.
        standardisation: of the fused vectors, by those of the same speaker; `None` to leave them as they are.
        others: heads, losses and metrics of other tasks.
        calibration: is applied to the logits of the main task in evaluation; `None` for not at all.
    """

    def __init__(
        self,
        *,
        task: Task,
        encoders: dict[str, nn.Module] | None = None,
        normalisations: dict[str, nn.Module],
        encoded: dict[str, nn.Module] | None = None,
        layer_sums: dict[str, nn.Module] | None = None,
        projections: dict[str, nn.Module],
        fusion: nn.Module,
        head: nn.Module | None,
        loss: Loss,
        metrics: Mapping[str, Metric] | None = None,
        make_optimizer: MakeOptimizer | None = None,
        make_scheduler: MakeScheduler | None = None,
        mixup: nn.Module | None = None,
        modality_dropout: float = 0.0,
        context: nn.Module | None = None,
        standardisation: SpeakerStandardisation | None = None,
        others: OtherTasks | None = None,
        calibration: TemperatureScaling | None = None,
    ) -> None:
        super().__init__()
        self.task = task
        self.encoder = nn.ModuleDict(encoders or {})
        self.normalisation = nn.ModuleDict(normalisations)
        self.encoded = nn.ModuleDict(encoded or {})
        self.layer_sum = nn.ModuleDict(layer_sums or {})
        self.projection = nn.ModuleDict(projections)
        self.fusion = fusion
        self.context = context
        self.standardisation = standardisation
        self.head = head
        self.loss = loss
        self.others = others
        self.calibration = calibration
        self.metrics = MetricCollection(dict(metrics or {}))
        self._make_optimizer = make_optimizer
        self._make_scheduler = make_scheduler
        self.mixup = mixup
        self.modality_dropout = modality_dropout
        self._train_losses: dict[str, list[Tensor]] = {}  # {name: value of each batch of the epoch}
        self._validated: list[BatchResult | Waiting] = []

    def forward(self, batch: Batch, mixing: Mixing | None = None) -> ModelOutput:
        """Logits {task: (B, C)} of a batch, or of mixtures of its utterances.

        With `model.normalisation=speaker` the batch carries its speakers' statistics. With a standardisation of the
        fused vectors, in evaluation each utterance stands alone; `predict` compares it with the others of its speaker.
        """
        fusion = self.fusion_of(batch, mixing)
        if self.standardisation is not None:
            fusion = replace(fusion, fused=self.standardisation(fusion.fused, batch.speaker))
        return self._output(fusion)

    def fusion_of(self, batch: Batch, mixing: Mixing | None = None) -> FusionOutput:
        """The output of the fusion for a batch, before the fused vectors are standardised."""
        features, masks, present = {}, dict(batch.mask), dict(batch.present)
        for modality in self.projection:
            if modality in self.encoder:
                inputs = self._encoded(modality, batch, mixing)
            else:
                values = self.normalisation[modality](batch.features[modality].float(), batch.statistics.get(modality))
                inputs = _mixed(mixing, values, batch.mask[modality], batch.present[modality])
            values, masks[modality], present[modality] = inputs
            features[modality] = self.projected(modality, values)
        if self.training and self.modality_dropout and batch.draw is not None:
            present = drop_modalities(present, self.modality_dropout, batch.draw)
        return self.fused(features, masks, present, batch.layout, batch.speaker)

    def _output(self, fusion: FusionOutput) -> ModelOutput:
        others = {} if self.others is None else self.others(fusion.fused)
        return ModelOutput(logits={self.task.name: self.decided(fusion), **others}, fusion=fusion)

    def projected(self, modality: str, features: Tensor) -> Tensor:
        """Frames (B, T, H) of a modality's features (B, T, D), or (B, T, L · D) of several layers."""
        if modality in self.layer_sum:
            features = self.layer_sum[modality](features)
        return cast(Tensor, self.projection[modality](features))

    def decided(self, fusion: FusionOutput) -> Tensor:
        """Logits (B, C) of the main task."""
        fused = fusion.fused.detach() if self.loss.detaches_head else fusion.fused
        logits = self.head(fused) if self.head is not None else fusion.decided
        assert logits is not None
        if self.calibration is not None and not self.training:
            logits = self.calibration(logits)
        return cast(Tensor, logits)

    def fused(
        self,
        features: dict[str, Tensor],
        mask: dict[str, Tensor],
        present: dict[str, Tensor],
        layout: Tensor | None,
        speaker: Tensor | None,
    ) -> FusionOutput:
        """The output of the fusion; with a context that of each turn in its dialogue, in the order of the layout.

        A turn without any modality is a vector of zeros.

        Args:
            features: {modality: (B, T, H)} as `projected` gives them.
            mask: {modality: (B, T)}, true where there is data.
            present: {modality: (B,)}, true where the utterance has the modality.
            layout: see `Batch`; not used without a context.
            speaker: (B,); likewise.
        """
        if self.context is None:
            return cast(FusionOutput, self.fusion(features, mask, present))
        if layout is None or speaker is None:
            raise ValueError("expected Batch.layout for a model with a context, got None")
        first = next(iter(present))
        absent = ~torch.stack(list(present.values())).any(0)  # (B,)
        beginning = counted(mask[first].shape[1], absent.device) == 0  # (T,)
        mask = {**mask, first: mask[first] | (absent[:, None] & beginning)}
        fusion = cast(FusionOutput, self.fusion(features, mask, {**present, first: present[first] | absent}))
        fused = fusion.fused.masked_fill(absent[:, None], 0)
        known, rows = layout >= 0, layout.clamp_min(0)  # (D, U)
        turns = self.context(fused[rows], known, speaker[rows])  # (D, U, H)
        return replace(fusion, fused=turns[known])

    def _encoded(self, modality: str, batch: Batch, mixing: Mixing | None) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B, T, D), mask (B, T) and presence (B,) of the inputs of an encoder that trains."""
        part: Any = self.encoder[modality]
        values, mask, present = batch.inputs[modality], batch.mask[modality], batch.present[modality]
        if part.front is not None:
            values, mask = part.front(values, mask, batch.draw)
        if part.standardised:
            values = self.normalisation[modality](values.float(), batch.statistics.get(modality))
        if not part.reads_ids:
            values, mask, present = _mixed(mixing, values, mask, present)
        features, mask = part(values, mask, present, batch.draw)
        if modality in self.encoded:
            features = self.encoded[modality](features)
        return _mixed(mixing, features, mask, present) if part.reads_ids else (features, mask, present)

    def _total_loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        losses = self.loss(output, batch)
        losses |= {f"fusion/{name}": value for name, value in output.fusion.losses.items()}
        others = {} if self.others is None else self.others.weighted_losses(output, batch)
        total = reduce(add, others.values(), self.loss.total(losses))
        losses |= others
        if self.training and len(losses) > 1:
            for name, value in losses.items():
                self._note(f"{TRAIN_LOSS}/{name}", value)
        return total

    def _note(self, name: str, value: Tensor) -> None:
        self._train_losses.setdefault(name, []).append(value.detach())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        batch = self.loss.views(batch)
        if self.mixup is None:
            loss = self._total_loss(self(batch), batch)
        else:
            mixing = self.mixup(batch.draw)
            output = self(batch, mixing)
            loss = mixing.loss(partial(self._total_loss, output), batch, self.task.name)
        self._note(TRAIN_LOSS, loss)
        return loss * self._share(batch_idx)

    def _share(self, number: int) -> float:
        """The factor of a batch's loss where the gradients of several batches are added."""
        window = 1 if self._trainer is None else self._trainer.accumulate_grad_batches
        if self._trainer is None or (window == 1 and self.context is None):
            return 1.0
        loader = self.trainer.train_dataloader
        if not isinstance(loader, BatchLoader) or (window == 1 and loader.is_even):
            return 1.0
        return loader.share(number, window)

    def on_train_epoch_end(self) -> None:
        for name, values in self._train_losses.items():
            self.log(name, torch.stack(values).mean(), sync_dist=True)
        self._train_losses.clear()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        losses = {name: torch.stack(values) for name, values in self._train_losses.items()}
        checkpoint["train_losses"] = losses
        if distributed.is_initialized():  # what differs between the ranks
            statistics = {name: item.cpu() for name, item in self._own_buffers().items()}
            own = {"train_losses": {name: values.cpu() for name, values in losses.items()}, "statistics": statistics}
            checkpoint["of_ranks"] = [None] * distributed.get_world_size()
            distributed.all_gather_object(checkpoint["of_ranks"], own)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        own = checkpoint["of_ranks"][self.global_rank] if "of_ranks" in checkpoint else {}
        self._train_losses = {
            name: list(values.to(self.device)) for name, values in _train_losses(own or checkpoint).items()
        }
        statistics = own.get("statistics", {})
        for name, item in self._own_buffers().items():  # a strategy that shards has loaded the weights by now
            if name in statistics:
                item.copy_(statistics[name])
        # else they are loaded from here; beside a moving average, the weights themselves have a name of their own
        checkpoint.get("current_model_state", checkpoint.get("state_dict", {})).update(statistics)

    def _own_buffers(self) -> dict[str, Tensor]:
        """{name: tensor} of the buffers that each rank has of its own: statistics of batches, memories of the loss."""
        kept = self.loss.state_dict().keys()
        memories = {f"loss.{name}": item for name, item in self.loss.named_buffers() if name in kept}
        return {**self._batch_statistics(), **memories}

    def _batch_statistics(self) -> dict[str, Tensor]:
        """{name: tensor} of the running statistics of batch normalisation that each rank has of its own."""
        return {
            f"{name}.{kind}": item
            for name, part in self.named_modules()
            if isinstance(part, _BatchNorm)
            for kind in ("running_mean", "running_var")
            if (item := getattr(part, kind)) is not None
        }

    def on_validation_epoch_start(self) -> None:
        """All ranks, and the weights that are kept, have the same statistics of batch normalisation: their mean."""
        if not distributed.is_initialized():
            return
        for item in self._batch_statistics().values():
            distributed.all_reduce(item)
            item.div_(distributed.get_world_size())

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._validated.append(self._evaluate(self.loss.views(batch)))
        # after the last batch, since at the end of the epoch a moving average has left the model
        if self._trainer is not None and batch_idx + 1 == sum(map(int, self.trainer.num_val_batches)):
            self._validated = [*self._results(self._validated)]

    def on_validation_epoch_end(self) -> None:
        scores = self._score(self._results(self._validated), across_ranks=True)
        self._validated = []
        self.log_dict({f"val/{name}": value for name, value in scores.items()})

    def _evaluate(self, batch: Batch) -> BatchResult | Waiting:
        if self.standardisation is None:
            return self._result(self(batch), batch)
        return Waiting(replace(batch, features={}, inputs={}), self.fusion_of(batch))

    def _results(self, evaluated: list[BatchResult | Waiting]) -> list[BatchResult]:
        """The results of all batches of a split: those that waited are standardised together, in float32."""
        waiting = [item for item in evaluated if isinstance(item, Waiting)]
        results = [item for item in evaluated if isinstance(item, BatchResult)]
        if self.standardisation is None or not waiting:
            return results
        fusions = self._standardised([(item.fusion, item.batch.speaker) for item in waiting])
        with torch.autocast(self.device.type, enabled=False):
            for item, fusion in zip(waiting, fusions, strict=True):
                results.append(self._result(self._output(fusion), item.batch))
        return results

    def _result(self, output: ModelOutput, batch: Batch) -> BatchResult:
        loss = self._total_loss(output, batch).detach().float()
        logits, target = output.logits[self.task.name].float(), batch.targets[self.task.name]
        others = {} if self.others is None else self.others.results(output, batch)
        if batch.layout is not None:  # some turns are context alone
            known = batch.target_mask[self.task.name]
            logits, target = logits[known], target[known]
            others = {name: item.taken(known) for name, item in others.items()}
        return BatchResult(logits, target, loss, others)

    def _score(self, results: list[BatchResult], *, across_ranks: bool) -> dict[str, float]:
        """`loss` and all metrics of some batches; with several ranks the metrics' states are reduced over them.

        All are NaN where a loss or a logit on any rank is not finite: some metrics of other packages would count a NaN
        as a class, and such a model is never taken for the best.
        """
        device = results[0].loss.device
        sizes = torch.tensor([len(result.target) for result in results], device=device)
        losses = torch.stack([result.loss.where(result.logits.isfinite().all(), torch.nan) for result in results])
        are_distributed = distributed.is_initialized if across_ranks else lambda: False
        loss = MeanMetric(nan_strategy=math.nan, distributed_available_fn=are_distributed).to(device)
        loss.update(losses, sizes)
        for metric in self.metrics.values(copy_state=False):
            metric.distributed_available_fn = are_distributed
        self.metrics.reset()
        if self.metrics:
            logits, target = (torch.cat([getattr(result, name) for result in results]) for name in ("logits", "target"))
            self.metrics.update(logits, target)
        computed = {"loss": loss.compute(), **self.metrics.compute()}
        if self.others is not None:
            computed |= self.others.score([result.others for result in results], are_distributed)
        scores = {name: float(value) for name, value in computed.items()}
        return scores if math.isfinite(scores["loss"]) else dict.fromkeys(scores, math.nan)

    @contextmanager
    def _applied(self, precision: str) -> Iterator[None]:
        """In `eval()` and without gradients, with the autocast of a precision."""
        was_training = self.training
        self.eval()
        narrow = AUTOCAST.get(precision)
        try:
            with torch.inference_mode(), torch.autocast(self.device.type, dtype=narrow, enabled=narrow is not None):
                yield
        finally:
            self.train(was_training)

    def logits(self, batches: Iterable[Batch], *, precision: str = "32") -> Tensor:
        """(N, C) logits, or (N, 1) values, of all rows of the batches, as `predict` has them; float32, on the CPU.

        With a standardisation of the fused vectors each is compared with the others of its speaker in all batches.
        """
        found = [torch.zeros(0, len(self.task.labels))]
        with self._applied(precision):
            found += [self.decided(fusion).float().cpu() for fusion in self._fusions(batches)]
        return torch.cat(found)

    def fused_vectors(self, batches: Iterable[Batch], *, precision: str = "32") -> Tensor:
        """(N, H) what the heads read, of all rows of the batches, otherwise as `logits`."""
        with self._applied(precision):
            return torch.cat([fusion.fused.float().cpu() for fusion in self._fusions(batches)])

    def _fusions(self, batches: Iterable[Batch]) -> list[FusionOutput]:
        on_device = (batch.to(self.device) for batch in batches)
        return self._standardised([(self.fusion_of(batch), batch.speaker) for batch in on_device])

    def _standardised(self, fusions: Sequence[tuple[FusionOutput, Tensor]]) -> list[FusionOutput]:
        """Outputs of the fusion, with the speakers (B,) of their rows, standardised together, in float32."""
        if self.standardisation is None or not fusions:
            return [fusion for fusion, _ in fusions]
        vectors = torch.cat([fusion.fused.float() for fusion, _ in fusions])  # (N, H)
        standardised = self.standardisation.among(vectors, torch.cat([speakers for _, speakers in fusions]))
        parts = torch.split(standardised, [len(speakers) for _, speakers in fusions])
        return [replace(fusion, fused=part) for (fusion, _), part in zip(fusions, parts, strict=True)]

    def predict(self, batches: Iterable[Batch], *, precision: str = "32") -> Predictions:
        """Applies the model in `eval()`, with the autocast of the given precision, to all batches."""
        names: list[str] = []
        evaluated: list[BatchResult | Waiting] = []
        with self._applied(precision):
            for batch in batches:
                views = self.loss.views(batch.to(self.device))
                names += views.scored(self.task.name)
                evaluated.append(self._evaluate(views))
            results = self._results(evaluated)
        return Predictions(
            id=tuple(names),
            logits=torch.cat([result.logits for result in results]).cpu(),
            target=torch.cat([result.target for result in results]).cpu(),
            scores=self._score(results, across_ranks=False),
            others={name: joined([result.others[name] for result in results]) for name in results[0].others},
        )

    def configure_model(self) -> None:
        """Shards the weights over the ranks where the strategy asks for it."""
        if self.device_mesh is None:
            return
        from torch.distributed.fsdp import fully_shard

        mesh = self.device_mesh["data_parallel"]
        for part in (*self.projection.values(), self.fusion, self.context, self.head, self):
            if part is not None:
                fully_shard(part, mesh=mesh)

    def configure_optimizers(self) -> Any:
        assert self._make_optimizer is not None
        optimizer = self._make_optimizer(self)
        if self._make_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self._make_scheduler(optimizer, *self._steps_and_batches())}

    def _steps_and_batches(self) -> tuple[int, int]:
        """The steps of the whole training, and the batches of an epoch."""
        # `estimated_stepping_batches` would set the training loader up before its saved state is known
        data, epochs = getattr(self.trainer, "datamodule", None), self.trainer.max_epochs
        if data is None or epochs is None:
            return int(self.trainer.estimated_stepping_batches), int(self.trainer.num_training_batches)
        batches = len(data.train_dataloader())
        return math.ceil(batches / self.trainer.accumulate_grad_batches) * epochs, batches

    def components(self) -> dict[str, dict[str, Tensor]]:
        """{component: its weights} of each child module that has any, and of each encoder; contiguous, on the CPU."""
        weights = {
            name: {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
            for name, module in self._components()
        }
        return {name: tensors for name, tensors in weights.items() if tensors}

    def _components(self) -> Iterator[tuple[str, nn.Module]]:
        yield from (item for item in self.named_children() if item[0] != "encoder")
        yield from ((f"encoder.{modality}", part) for modality, part in self.encoder.items())

    def load_components(self, components: dict[str, dict[str, Tensor]]) -> None:
        """Takes the weights that `components` gave.

        Raises:
            UserError: a component or a weight is missing, is too many, or has another shape.
        """
        weights = {f"{name}.{key}": value for name, part in components.items() for key, value in part.items()}
        try:
            self.load_state_dict(cast(dict[str, Any], weights), strict=True)
        except RuntimeError as error:
            raise UserError(f"expected weights that fit the model of the run: {error}") from error

    def parameter_counts(self) -> dict[str, tuple[int, int]]:
        """{component: (number of parameters that train, number of all)} of those with parameters."""
        sizes = {
            name: [(item.numel(), item.requires_grad) for item in part.parameters()]
            for name, part in self._components()
        }
        return {
            name: (sum(size for size, trains in items if trains), sum(size for size, _ in items))
            for name, items in sizes.items()
            if items
        }


def _train_losses(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """{name: values of the batches of the epoch so far} in a saved state; older ones have one loss alone."""
    losses: dict[str, Tensor] = state["train_losses"] if "train_losses" in state else {TRAIN_LOSS: state["train_loss"]}
    return losses


def _mixed(mixing: Mixing | None, values: Tensor, mask: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return (values, mask, present) if mixing is None else mixing.inputs(values, mask, present)
