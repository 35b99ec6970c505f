"""`emorec evaluate`: applies a finished run to a split of its corpus, or of another with the same classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emorec.commands.composition import Composed, compose_once
from emorec.commands.logs import start_logging
from emorec.datasets.utterance import SPLITS
from emorec.errors import UserError

if TYPE_CHECKING:
    from emorec.runs.checkpoint_store import CheckpointStore, RunRecord

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
    if composed.config["split"] not in SPLITS:
        raise UserError(f"expected split in {SPLITS}, got {composed.config['split']!r}")
    print(evaluate(composed, store, record))
    return 0


def evaluate(composed: Composed, store: "CheckpointStore", record: "RunRecord") -> str:
    """Evaluates a run as asked for, and returns the line that sums it up."""
    from omegaconf import OmegaConf

    from emorec.commands.build import build_model
    from emorec.commands.fitting import load_weights
    from emorec.commands.job import now
    from emorec.commands.results import write_results
    from emorec.commands.workbench import workbench_for
    from emorec.storage.digests import digest_of

    asked, split = composed.config, composed.config["split"]
    stored = OmegaConf.to_container(OmegaConf.load(store.folder(record.run_id) / "config.yaml"))
    assert isinstance(stored, dict)
    config: dict[str, Any] = {str(key): value for key, value in stored.items()}
    config |= {key: asked[key] for key in OPERATIONAL}
    config["dataset"] = _dataset(config["dataset"], composed)
    data = workbench_for(asked).data(config)
    if list(data.task.labels) != record.task["labels"]:
        raise UserError(
            f"expected classes {record.task['labels']}, got {list(data.task.labels)} of {data.manifest.dataset}"
        )
    module = data.module(config)
    model = build_model(config, module, fit_normalisation=False)
    load_weights(model, store.load(record), record.run_id)
    if split == "test":
        record.test_reads.append({"time": now(), "why": f"evaluate dataset={data.manifest.dataset}"})
        store.write(record)
    predictions = model.predict(module.loader(split), precision=str(config["trainer"]["precision"]))
    sources = {modality: item.sources for modality, item in data.features.items()}
    name = digest_of({"dataset": data.manifest.digest, "split": split, "sources": sources, "config": config["dataset"]})
    folder = store.folder(record.run_id) / "evaluations" / name[:12]
    metrics = write_results(folder, {split: predictions}, data.task)
    values = [f"{split}/{key}={metrics[f'{split}/{key}']:.4f}" for key in ("weighted_f1", "uar", "accuracy")]
    return "  ".join([f"run {record.run_id}", f"dataset={data.manifest.dataset}", *values, str(folder)])


def _dataset(own: dict[str, Any], composed: Composed) -> dict[str, Any]:
    """The corpus to evaluate on: the run's own, wherever it lies now, with the run's own fold; or another."""
    asked = composed.config.get("dataset")
    if asked is None or asked["_target_"] != own["_target_"]:
        return own if asked is None else dict(asked)
    places = ("dataset.root", "dataset.table")
    others = [word for word in composed.overrides if word.startswith("dataset.") and word.split("=")[0] not in places]
    if others:
        raise UserError(f"expected only {' or '.join(places)}, for a run is tested on its own fold, got {others}")
    return {**own, "root": asked["root"]}
