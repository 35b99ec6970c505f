"""What a trained model predicts where modalities are missing."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from emorec.augmentation.modalities import drop_modalities
from emorec.batch import IGNORED, Batch
from emorec.datasets.utterance import Task
from emorec.draws import keys_of, mixed
from emorec.markdown import markdown_table
from emorec.models.emotion_model import Predictions
from emorec.runs.results import SHOWN, scalar_metrics

Apply = Callable[[Iterable[Batch]], Predictions]


def subsets(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """All that can be there of some modalities: all of them, then each subset that is not empty, larger ones first."""
    return [chosen for size in range(len(modalities), 0, -1) for chosen in combinations(modalities, size)]


def with_modalities(batches: Iterable[Batch], chosen: Sequence[str]) -> Iterator[Batch]:
    """The batches as if no utterance had other modalities; utterances that have none of them are left out."""
    for batch in batches:
        present = {name: there & (name in chosen) for name, there in batch.present.items()}
        yield from _with_present(batch, present)


def at_rate(batches: Iterable[Batch], rate: float, seed: int) -> Iterator[Batch]:
    """The batches with modalities dropped, each with a probability; one of an utterance always stays.

    What is dropped is a function of the seed and the utterance's id.
    """
    for batch in batches:
        draw = mixed(keys_of(batch.id) ^ mixed(torch.tensor(seed)))
        yield from _with_present(batch, drop_modalities(batch.present, rate, draw))


def _with_present(batch: Batch, present: Mapping[str, Tensor]) -> Iterator[Batch]:
    changed = replace(batch, present=dict(present))
    known = torch.stack(list(present.values())).any(0)  # (B,)
    if batch.layout is not None:  # a turn without any modality is context alone
        targets = {
            name: values.masked_fill(~known, math.nan if values.is_floating_point() else IGNORED)
            for name, values in batch.targets.items()
        }
        masks = {name: has_target & known for name, has_target in batch.target_mask.items()}
        yield replace(changed, targets=targets, target_mask=masks)
    elif bool(known.all()):
        yield changed
    elif bool(known.any()):
        yield changed.taken(known.nonzero()[:, 0])


def grid(apply: Apply, batches: Callable[[], Iterable[Batch]], modalities: Sequence[str], task: Task) -> list[Any]:
    """A row of `modalities`, `utterances` and metrics for each subset of the modalities that any utterance has.

    Args:
        apply: the model.
        batches: reads the utterances anew.
        modalities: of the model.
        task: of the model.
    """
    rows = []
    for chosen in subsets(modalities):
        if any(bool(batch.present[name].any()) for batch in batches() for name in chosen):
            predictions = apply(with_modalities(batches(), chosen))
            scores = scalar_metrics({f"all/{name}": value for name, value in predictions.scores.items()})
            metrics = {name.partition("/")[2]: value for name, value in scores.items()}
            rows.append({"modalities": list(chosen), "utterances": len(predictions.id), "metrics": metrics})
    return rows


def grid_table(rows: Sequence[Mapping[str, Any]], task: Task) -> str:
    """The rows of `grid` as a table, with their mean, and the difference of each from all modalities."""
    names = SHOWN[task.kind]
    monitor = task.monitor if task.monitor in rows[0]["metrics"] else names[0]
    whole = rows[0]["metrics"][monitor]
    lines = [
        [
            "+".join(row["modalities"]),
            str(row["utterances"]),
            *(f"{row['metrics'].get(name, float('nan')):.4f}" for name in names),
            f"{row['metrics'].get(monitor, float('nan')) - whole:+.4f}",
        ]
        for row in rows
    ]
    means = [sum(row["metrics"].get(name, float("nan")) for row in rows) / len(rows) for name in names]
    lines.append(["mean", "", *(f"{mean:.4f}" for mean in means), ""])
    return markdown_table(["modalities", "utterances", *names, f"{monitor} lost"], lines)
