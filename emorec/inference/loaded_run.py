"""The Python API of runs: `load_run` and `runs`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emorec.config.keys import flat
from emorec.config.locations import root_folder
from emorec.config.schema import TrainConfig
from emorec.config.validation import validated
from emorec.errors import UserError
from emorec.runs.checkpoint_store import CheckpointStore, RunRecord, stored_config, stored_task
from emorec.runs.results import read_metrics, scalar_metrics
from emorec.runs.weights import load_components
from emorec.storage.digests import FileDigests

if TYPE_CHECKING:
    import pandas
    from torch import Tensor

    from emorec.datasets.utterance import Task
    from emorec.encoders.encoder import Encoder
    from emorec.inference.prediction import Prediction
    from emorec.inference.predictor import Predictor
    from emorec.inference.segments import Window
    from emorec.inference.timeline import Smoother
    from emorec.models.emotion_model import EmotionModel


@dataclass(frozen=True)
class LoadedRun:
    """A finished run."""

    record: RunRecord  # `run.json`: the task, the data, timings, provenance
    folder: Path  # the run's directory
    models: Mapping[str, str] = field(default_factory=dict)  # {modality: its checkpoint}, where it lies elsewhere now

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config as nested dicts."""
        return stored_config(self.folder)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """`metrics.json`, such as {"test/uar": 0.71, …}."""
        return read_metrics(self.folder)

    @property
    def history(self) -> "pandas.DataFrame":
        """A row for each epoch."""
        import pandas

        return pandas.read_csv(self.folder / "history.csv")

    @property
    def predictions(self) -> "pandas.DataFrame":
        """A row for each utterance of val and test: id, split, speaker, dialogue, target, predicted, and a probability
        for each class; older runs have neither speaker nor dialogue."""
        import pandas

        return pandas.read_parquet(self.folder / "predictions.parquet")

    @cached_property
    def model(self) -> "EmotionModel":
        """The trained model in `eval()` on the CPU; its `forward` takes a `Batch` and returns logits.

        Batches carry features and inputs as they are stored: the model normalises them. With
        `model.normalisation=speaker` it takes the speakers' mean and standard deviation from `Batch.statistics`, and
        those of the training split for rows, or batches, without them.
        A model with a context needs `Batch.layout`, which says whose turns the rows are.

        Raises:
            UserError: a weight file is missing or damaged, or does not fit the model.
        """
        from emorec.models.builder import build_model, layer_counts, make_parts
        from emorec.runs.backbones import check_checkpoint

        others = [stored_task(item) for item in self.record.other_tasks]
        for encoder in self.encoders.values():
            if encoder.mode != "frozen":
                check_checkpoint(self.record, encoder)
        parts = make_parts(self.train_config, self.task, self.encoders, others)
        layers = layer_counts(self._components, self.widths)
        model = build_model(parts, self.train_config.model, self.task, widths=self.widths, layers=layers)
        model.load_components(self._components)
        return model.eval()

    @property
    def task(self) -> "Task":
        """What it predicts."""
        return stored_task(self.record.task)

    @cached_property
    def train_config(self) -> TrainConfig:
        """The config that it was trained with, less what applying it does not need, and with encoders where they lie
        now."""
        from emorec.runs.backbones import with_present_models

        values = {**self.config, "logger": {}, "metric": {}, "tags": []}
        values["encoder"] = with_present_models(values["encoder"], self.record, self.folder, self.models)
        return validated(TrainConfig, values, heading=str(self.folder / "config.yaml"))

    @cached_property
    def encoders(self) -> "dict[str, Encoder]":
        """{modality: its encoder}, with the state that it has learned."""
        from emorec.datamodules.preparer import make_encoder
        from emorec.models.builder import restore_encoders

        digests, used = FileDigests(), self.train_config.encoder.used()
        encoders = {name: make_encoder(node, name, digests) for name, node in used.items()}
        restore_encoders(encoders, self._components)
        return encoders

    @cached_property
    def widths(self) -> dict[str, int]:
        """{modality: width of the features that the model reads, of all layers side by side}."""
        from emorec.models.builder import feature_widths

        return feature_widths(self._components)

    @cached_property
    def _components(self) -> "dict[str, dict[str, Tensor]]":
        return load_components(self.folder, self.record.weights)

    @cached_property
    def _predictor(self) -> "Predictor":
        from emorec.inference.predictor import Predictor

        return Predictor(self)

    def predict(
        self,
        source: str | Path,
        *,
        window: "Window | None" = None,
        hop: float | None = None,
        smoother: "Smoother" = "none",
        seconds: float = 2.0,
    ) -> "list[Prediction]":
        """Predicts a file, the clips of a folder, or the rows of a table, for which no labels are needed.

        `emorec.Predictor` predicts with several runs, many clips one after the other, and clips without a text.

        Args:
            source: see `emorec.inference.clips.read_clips`. Any subset of the run's modalities will do.
            window: seconds of the segments that are predicted instead of whole clips, or "speech" for each stretch of
                speech.
            hop: seconds from one window to the next; `None` for the window.
            smoother: "ema" or "hmm", see `emorec.inference.timeline`.
            seconds: over which it smooths.

        Raises:
            UserError: there is no such file or folder, or the run predicts nothing.

        Example:
            >>> (prediction,) = load_run("3a2afb35c1c5").predict("clip.mp4")
            >>> prediction.predicted, prediction.confidence, prediction.modalities
        """
        from emorec.inference.clips import read_clips

        clips = read_clips(source)
        if window is None:
            return list(self._predictor.predict(clips))
        timelines = self._predictor.timelines(clips, window=window, hop=hop, smoother=smoother, seconds=seconds)
        return [prediction for timeline in timelines for prediction in timeline.predictions]


def load_run(
    run: str | Path, *, checkpoints: str | Path | None = None, models: Mapping[str, str | Path] | None = None
) -> LoadedRun:
    """A finished run.

    Args:
        run: its id, the first digits of its id, or its directory, such as an exported one.
        checkpoints: the store; by default `checkpoints/` below `EMOREC_ROOT`, the checkout or the working directory.
        models: {modality: folder of the checkpoint of its encoder}, where it lies elsewhere than when the run trained.

    Raises:
        UserError: there is no such run, or it is not finished.

    Example:
        >>> run = load_run("3a2afb35c1c5")
        >>> run.metrics["test/uar"], run.predictions.head()
    """
    places = {modality: str(Path(model).expanduser()) for modality, model in (models or {}).items()}
    return LoadedRun(*_store(checkpoints).locate(str(run)), places)


def runs(*, checkpoints: str | Path | None = None) -> "pandas.DataFrame":
    """All runs of a store, one row each, oldest first.

    The columns are `run_id`, `group_id`, `status`, `seed`, `fold`, `started`, `epochs` and `best_epoch`; what was
    composed (`dataset`, `encoder/text`, `fusion`, …); each value of the config under its dotted key; and the metrics
    under theirs (`val/uar`, `test/uar`, …). For `checkpoints` see `load_run`.
    """
    import pandas

    store = _store(checkpoints)
    names = ("run_id", "group_id", "status", "seed", "fold", "started", "epochs", "best_epoch")
    rows = []
    for record in store.records():
        folder = store.folder(record.run_id)
        own = {name: getattr(record, name) for name in names}
        try:
            config, metrics = flat(stored_config(folder)), scalar_metrics(read_metrics(folder))
        except (UserError, FileNotFoundError) as error:
            store.warn(folder, f"{folder.name} is left out: {error}")
            continue
        rows.append({**config, **own, **record.choices, **metrics})
    return pandas.DataFrame(rows, columns=list(dict.fromkeys([*names, *(key for row in rows for key in row)])))


def _store(checkpoints: str | Path | None) -> CheckpointStore:
    return CheckpointStore(root_folder() / "checkpoints" if checkpoints is None else Path(checkpoints).expanduser())
