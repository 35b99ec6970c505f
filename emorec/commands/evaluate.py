"""`emorec evaluate`: applies a finished run to a split of its corpus, or to another corpus."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emorec.config.composition import Composed, compose_once
from emorec.runs.logs import start_logging
from emorec.datasets.utterance import SPLITS
from emorec.errors import UserError
from emorec.runs.identity import PLACES

if TYPE_CHECKING:
    from emorec.runs.checkpoint_store import CheckpointStore, RunRecord

WHOLE = "all"  # splits of another corpus
OPERATIONAL = ("paths", "extraction", "features", "progress")


def main(words: Sequence[str]) -> int:
    """Evaluates, prints the metrics and keeps them under the run's `evaluations/`."""
    composed = compose_once("evaluate", words)
    if composed is None:
        return 0
    start_logging()
    from emorec.runs.checkpoint_store import CheckpointStore

    store = CheckpointStore(Path(composed.config["paths"]["checkpoints"]))
    record = store.find(str(composed.config["run"]))
    if record.status != "finished":
        raise UserError(f"expected a finished run, got {record.run_id}, which is {record.status}")
    if composed.config["split"] not in (*SPLITS, WHOLE):
        raise UserError(f"expected split in {(*SPLITS, WHOLE)}, got {composed.config['split']!r}")
    print(evaluate(composed, store, record))
    return 0


def evaluate(composed: Composed, store: "CheckpointStore", record: "RunRecord") -> str:
    """Evaluates a run as asked for, and returns the line that sums it up."""
    from omegaconf import OmegaConf

    from emorec.models.builder import build_model, feature_widths
    from emorec.training.fit import load_weights, predict
    from emorec.training.run_context import now
    from emorec.datamodules.leakage import refuse_trained
    from emorec.runs.results import write_results
    from emorec.datamodules.preparer import workbench_for
    from emorec.storage.digests import digest_of

    asked, split = composed.config, composed.config["split"]
    stored = OmegaConf.to_container(OmegaConf.load(store.folder(record.run_id) / "config.yaml"))
    assert isinstance(stored, dict)
    config: dict[str, Any] = {str(key): value for key, value in stored.items()}
    config |= {key: asked[key] for key in OPERATIONAL}
    config["dataset"] = _dataset(config["dataset"], composed)
    config["labels"] = _labels(config, asked, record)
    components = store.load(record)
    data = workbench_for(asked).data(config, whole=split == WHOLE, widths=feature_widths(components))
    if list(data.task.labels) != record.task["labels"]:
        what = "classes" if record.task["kind"] == "classification" else "the task"
        raise UserError(
            f"expected {what} {record.task['labels']}, got {list(data.task.labels)} of dataset={data.manifest.dataset}"
        )
    if split in ("test", WHOLE):
        refuse_trained(data, "test" if split == WHOLE else split, store.folder(record.run_id))
    module = data.module(config)
    model = build_model(config, module, fit_normalisation=False)
    load_weights(model, components, record.run_id)
    if split in ("test", WHOLE):
        record.test_reads.append({"time": now(), "why": f"evaluate dataset={data.manifest.dataset}"})
        store.write(record)
    loader = module.loader("test" if split == WHOLE else split)
    predictions = predict(model, loader, config)
    sources = {modality: item.sources for modality, item in data.features.items()}
    name = digest_of({"dataset": data.manifest.digest, "split": split, "sources": sources, "config": config["dataset"]})
    folder = store.folder(record.run_id) / "evaluations" / name[:12]
    metrics = write_results(folder, {split: predictions}, data.task)
    told = ("weighted_f1", "uar", "accuracy") if data.task.kind == "classification" else ("ccc", "mae", "pearson")
    values = [f"{split}/{key}={metrics[f'{split}/{key}']:.4f}" for key in told]
    count = f"utterances={len(predictions.id)}"
    if split == WHOLE:
        count += f" of {len(data.manifest.utterances)}"
    return "  ".join([f"run {record.run_id}", f"dataset={data.manifest.dataset}", count, *values, str(folder)])


def _labels(config: dict[str, Any], asked: dict[str, Any], record: "RunRecord") -> Any:
    """The label map to read the corpus with: the run's; without one, that of each of the run's classes to itself, so
    that another corpus may lack some of them or number them otherwise."""
    classes = record.task["labels"]
    if asked.get("labels") is not None:
        if list(asked["labels"]) != classes:
            raise UserError(f"expected labels that make the run's classes, {classes}, got {list(asked['labels'])}")
        return asked["labels"]
    if config.get("labels") is not None or record.task.get("kind") == "regression" or asked.get("dataset") is None:
        return config.get("labels")
    return {label: [label] for label in classes}


def _dataset(own: dict[str, Any], composed: Composed) -> dict[str, Any]:
    """The corpus to evaluate on: the run's own, wherever it lies now, with the run's own fold; or another."""
    asked = composed.config.get("dataset")
    if asked is None or asked["_target_"] != own["_target_"]:
        return own if asked is None else dict(asked)
    places = ("dataset.root", "dataset.table")
    others = [
        word
        for word in composed.overrides
        if word.startswith("dataset.") and word.split("=")[0].rpartition(".")[2] not in PLACES
    ]
    if others:
        raise UserError(f"expected only {' or '.join(places)}, for a run is tested on its own fold, got {others}")
    return _moved(own, asked)


def _moved(own: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """The run's own corpus with the places that are asked for."""

    def value(key: str) -> Any:
        mine, other = own[key], asked.get(key)
        if key in PLACES:
            return other
        return _moved(mine, other) if isinstance(mine, dict) and isinstance(other, dict) else mine

    return {key: value(key) for key in own}
