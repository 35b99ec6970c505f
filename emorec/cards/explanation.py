"""The explanation card: which modality, which time and which words carry decisions, and a page of examples."""

import csv
import io
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emorec.cards import attribution, words
from emorec.cards.attribution import Attribution, Attributor, shortened
from emorec.cards.card import COLOURS, Card, finite_predictions, heading, png_of, split_utterances
from emorec.cards.examples import Example, chosen_examples
from emorec.cards.page import page_of
from emorec.cards.shapley import Contributions, contributions
from emorec.config.cards import CardConfig
from emorec.datasets.utterance import Task
from emorec.escaping import for_csv, for_figure
from emorec.inference.loaded_run import LoadedRun
from emorec.inference.member import Member
from emorec.markdown import markdown_table
from emorec.runs.stored_predictions import StoredPredictions

if TYPE_CHECKING:
    from emorec.training.evaluation import Evaluation

MOST_POINTS = 120  # of a curve on the page
CONTRIBUTIONS = "contributions.csv"


def explanation_card(evaluation: "Evaluation", settings: CardConfig) -> Card:
    """Shapley values of the modalities of every utterance; frames and words of examples.

    Raises:
        UserError: captum is not installed, or a prediction is not finite.
    """
    no_time = attribution.why_not(evaluation.model)
    if no_time is None:
        attribution.check_captum()
    task = evaluation.data.task
    predictions = finite_predictions(evaluation, "explanation")
    shares = contributions(evaluation)
    examples = chosen_examples(predictions, task, settings.examples)
    member = Member(LoadedRun(evaluation.record, evaluation.folder, evaluation.models), evaluation.config.extraction)
    no_words = words.why_not(member)
    curves = _curves(evaluation, examples, predictions) if no_time is None else {}
    texts = _words(evaluation, member, examples, predictions) if no_words is None else {}
    table = _table(shares, predictions, task)
    parts = [
        heading(evaluation, "What decisions rest on"),
        "## Modalities",
        table,
        f"Exact Shapley values, in {_unit(task)}: what each modality adds, on average over the orders in which they "
        f"can be added, to the output of the predicted class. They start at {shares.prior_is} and add up to the output "
        f"with all modalities. `{CONTRIBUTIONS}` has those of every utterance.",
        "![modalities](explanation.png)",
        "## Time",
        _time_text(no_time, curves),
        "## Words",
        _word_text(no_words, texts),
        "## Examples",
        "`explanation.html` shows them: of each class the most confident right one and the most confident wrong one. "
        "They show how the model decides, and not how often it is right.",
    ]
    page = page_of(evaluation, [_shown(item, evaluation, shares, curves, texts) for item in examples], task)
    return Card(
        markdown="\n\n".join(parts) + "\n",
        values={
            "prior": dict(zip(task.labels, shares.prior.tolist(), strict=True)),
            "prior_is": shares.prior_is,
            "modalities": _rows(shares, predictions, task),
            "time": {"reason": no_time, "utterances": {name: _plain(item) for name, item in curves.items()}},
            "words": {
                "reason": no_words,
                "utterances": {name: list(map(asdict, item)) for name, item in texts.items()},
            },
        },
        summary=f"what decisions rest on\n{table}",
        files={
            "explanation.html": page.encode(),
            "explanation.png": png_of(_figure(shares, predictions, task)),
            CONTRIBUTIONS: _csv(shares, predictions, task),
        },
    )


def _unit(task: Task) -> str:
    return "probability" if task.kind == "classification" else "the unit of the target"


def _decided(shares: Contributions, predictions: StoredPredictions) -> NDArray[np.int64]:
    """(N,) the class whose output is explained: the predicted one; 0 for regression."""
    if not predictions.is_classification:
        return np.zeros(len(shares.id), dtype=np.int64)
    of = dict(zip(predictions.id.tolist(), predictions.predicted.tolist(), strict=True))
    return np.array([of[name] for name in shares.id], dtype=np.int64)


def _rows(shares: Contributions, predictions: StoredPredictions, task: Task) -> list[dict[str, Any]]:
    """A row for each predicted class, and one for all."""
    decided = _decided(shares, predictions)
    own, number = shares.of_class(decided), np.arange(len(shares.id))
    groups = [(label, decided == row) for row, label in enumerate(task.labels) if bool((decided == row).any())]
    groups = [*(groups if task.kind == "classification" else []), ("all", np.ones(len(decided), dtype=bool))]
    return [
        {
            "predicted": name,
            "utterances": int(rows.sum()),
            "start": float(shares.prior[decided[rows]].mean()),
            "shares": {modality: float(values[rows].mean()) for modality, values in own.items()},
            "largest": {
                modality: float((np.stack(list(own.values()))[:, rows].argmax(0) == index).mean())
                for index, modality in enumerate(own)
            },
            "output": float(shares.outputs[number, decided][rows].mean()),
        }
        for name, rows in groups
    ]


def _table(shares: Contributions, predictions: StoredPredictions, task: Task) -> str:
    rows = _rows(shares, predictions, task)
    names = shares.modalities
    lines = [
        [
            row["predicted"],
            str(row["utterances"]),
            f"{row['start']:.3f}",
            *(f"{row['shares'][name]:+.3f}" for name in names),
            f"{row['output']:.3f}",
            *(f"{100 * row['largest'][name]:.0f} %" for name in names if len(names) > 1),
        ]
        for row in rows
    ]
    most = [f"{name} adds most" for name in names if len(names) > 1]
    return markdown_table(["predicted", "utterances", "start", *names, "output", *most], lines)


def _curves(
    evaluation: "Evaluation", examples: Sequence[Example], predictions: StoredPredictions
) -> dict[str, Attribution]:
    """{utterance: what its frames add to the logit of the predicted class}."""
    wanted = {str(predictions.id[item.row]): item for item in examples}
    attributor = Attributor(evaluation.model, evaluation.batches)
    found: dict[str, Attribution] = {}
    for batch in evaluation.batches():
        for row, name in enumerate(batch.id):
            if name in wanted:
                one = batch.taken(_row(row))
                found[name] = attributor.attribute(one, wanted[name].number)
    return found


def _row(number: int) -> Any:
    import torch

    return torch.tensor([number])


def _words(
    evaluation: "Evaluation", member: Member, examples: Sequence[Example], predictions: StoredPredictions
) -> dict[str, list[words.Word]]:
    """{utterance: its words}."""
    utterances = {item.id: item for item in split_utterances(evaluation)}
    found = {}
    with tempfile.TemporaryDirectory(prefix="emorec_words_") as folder:
        for item in examples:
            clip = utterances[str(predictions.id[item.row])]
            if (clip.text or "").strip():
                corpus = evaluation.data.manifest.utterances
                found[clip.id] = words.weighted_words(member, clip, corpus, item.number, Path(folder))
    return found


def _time_text(reason: str | None, curves: dict[str, Attribution]) -> str:
    if reason is not None:
        return f"Not computed: {reason}."
    lengths = {
        name: {len(item.frames[name]) for item in curves.values() if name in item.frames} for name in _names(curves)
    }
    pooled = [name for name, sizes in lengths.items() if sizes == {1}]
    complete = sum(item.is_complete for item in curves.values())
    text = (
        "Integrated gradients of the logit of the predicted class of the examples, from an average frame of the split. "
        f"They add up to the logit's difference to 1 % in {complete} of {len(curves)} examples"
    )
    incomplete = sorted((item.error for item in curves.values() if not item.is_complete), reverse=True)
    text += f"; the largest error is {100 * incomplete[0]:.0f} %." if incomplete else "."
    if pooled:
        text += f" The features of {' and '.join(pooled)} are pooled over the clip: they have no time axis."
    return text


def _names(curves: dict[str, Attribution]) -> list[str]:
    return list(dict.fromkeys(name for item in curves.values() for name in item.frames))


def _word_text(reason: str | None, texts: dict[str, list[words.Word]]) -> str:
    if reason is not None:
        return f"Not computed: {reason}."
    return (
        f"What the output of the predicted class loses where a word is left out and the text is encoded again, for the "
        f"{len(texts)} examples with a text."
    )


def _shown(
    item: Example,
    evaluation: "Evaluation",
    shares: Contributions,
    curves: dict[str, Attribution],
    texts: dict[str, list[words.Word]],
) -> dict[str, Any]:
    """What the page shows of an example."""
    name = item.id
    row = shares.id.index(name)
    frames = {} if name not in curves else curves[name].frames
    utterance = next(own for own in split_utterances(evaluation) if own.id == name)
    return {
        "example": item,
        "text": utterance.text,
        "start": float(shares.prior[item.number]),
        "shares": {modality: float(share[row, item.number]) for modality, share in shares.shares.items()},
        "output": float(shares.outputs[row, item.number]),
        "curves": {modality: shortened(values, MOST_POINTS) for modality, values in frames.items() if len(values) > 1},
        "words": texts.get(name, []),
    }


def _plain(item: Attribution) -> dict[str, Any]:
    frames = {name: [round(value, 6) for value in values.tolist()] for name, values in item.frames.items()}
    return {"frames": frames, "difference": item.difference, "error": item.error, "steps": item.steps}


def _csv(shares: Contributions, predictions: StoredPredictions, task: Task) -> bytes:
    """A row for each utterance: the predicted class, where it starts, what each modality adds, and the output."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(["id", "predicted", "start", *shares.modalities, "output"])
    decided = _decided(shares, predictions)
    own = shares.of_class(decided)
    for row, (name, number) in enumerate(zip(shares.id, decided.tolist(), strict=True)):
        cells = [f"{own[modality][row]:.6f}" for modality in shares.modalities]
        ends = f"{shares.prior[number]:.6f}", f"{shares.outputs[row, number]:.6f}"
        writer.writerow([for_csv(name), for_csv(task.labels[number]), ends[0], *cells, ends[1]])
    return stream.getvalue().encode()


def _figure(shares: Contributions, predictions: StoredPredictions, task: Task) -> Any:
    """For each predicted class the mean share of each modality, side by side."""
    from matplotlib.figure import Figure

    rows, names = _rows(shares, predictions, task), shares.modalities
    figure = Figure(figsize=(6.5, 0.9 + 0.16 * len(rows) * (1 + len(names))), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(names)
    for index, name in enumerate(names):
        places = np.arange(len(rows)) + (index - (len(names) - 1) / 2) * height
        axes.barh(places, [row["shares"][name] for row in rows], height, color=COLOURS[name], label=name)
    axes.axvline(0, color="#444444", linewidth=0.8)
    labels = [for_figure(f"{row['predicted']} (n={row['utterances']})") for row in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(f"mean share of each modality in the output ({_unit(task)})")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(axis="x", alpha=0.3)
    return figure
