"""The model card of a run, in the format of Hugging Face, filled from what its directory and this evaluation know."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from emorec import __version__
from emorec.cards.card import Card, clusters_of, draws_of, finite_predictions, is_lower_better, numbers_of, score_of
from emorec.config.cards import CardConfig
from emorec.datasets.utterance import Task
from emorec.errors import UserError
from emorec.escaping import for_markdown
from emorec.inference.loaded_run import LoadedRun
from emorec.inference.run_card import LICENCE, LIMITS, card_header, data_text, origin_text, results_text, without_paths
from emorec.markdown import markdown_table
from emorec.reporting.samples import cluster_sums
from emorec.reporting.statistics import Interval
from emorec.reporting.text_tables import interval_text
from emorec.runs.results import SHOWN
from emorec.storage.documents import read_object

if TYPE_CHECKING:
    from emorec.training.evaluation import Evaluation


def model_card(evaluation: "Evaluation", settings: CardConfig) -> Card:
    """The run, its data and protocol, its results with intervals, its known limits and its origin.

    What the robustness and fairness cards of the same evaluation found is among the limits, where they were written.
    """
    run = LoadedRun(evaluation.record, evaluation.folder, evaluation.models)
    task, modalities = evaluation.data.task, list(evaluation.config.encoder.used())
    intervals, over = _intervals(evaluation)
    rows = [[name, f"{value:.3f}", interval_text(interval)] for name, (value, interval) in intervals.items()]
    where = f"dataset={for_markdown(evaluation.data.manifest.dataset)}, split={evaluation.split}"
    table = markdown_table(["metric", where, "95 %"], rows)
    known = _known_limits(evaluation)
    labels = ", ".join(f"`{for_markdown(label)}`" for label in task.labels)
    parts = [
        f"# Emotion recognition: run {evaluation.record.run_id}",
        f"A model of emorec {__version__}. It predicts `{for_markdown(task.name)}` ({task.kind}) from "
        f"{' and '.join(modalities)}: {labels}.",
        "## Use",
        _use(evaluation.record.run_id),
        "## Parts",
        _parts(run),
        "## Training data",
        "\n".join([data_text(run), *_training_lines(evaluation)]),
        "## Results",
        f"Of the run itself:\n\n{results_text(run)}",
        f"Of this evaluation, with intervals over {over}:\n\n{table}",
        "## Limits",
        "\n\n".join([LIMITS, *known]),
        "## Licence",
        LICENCE,
        "## Origin",
        origin_text(run),
    ]
    return Card(
        markdown=card_header(run, modalities) + "\n\n".join(parts) + "\n",
        values={
            "metrics": {name: value for name, (value, _) in intervals.items()},
            "intervals": {name: None if item is None else list(item) for name, (_, item) in intervals.items()},
            "over": over,
        },
        summary=f"model card, intervals over {over}\n{table}",
    )


def _use(run_id: str) -> str:
    return (
        f"```bash\nemorec predict run={run_id} input=clip.mp4\n```\n\n"
        f'```python\nfrom emorec import load_run\n\nload_run("{run_id}").predict("clip.mp4")\n```'
    )


def _parts(run: LoadedRun) -> str:
    """The encoders with their pretrained checkpoints, and what joins them."""
    config, rows = run.config, []
    for modality, specs in run.record.feature_specs.items():
        node = config.get("encoder", {}).get(modality) or {}
        spec: dict[str, Any] = specs[-1] if specs else {}
        checkpoint = str(without_paths(str(spec.get("checkpoint") or "")))
        name = str(node.get("_target_", "")).rpartition(".")[2]
        rows.append([modality, name, checkpoint, str(spec.get("revision") or ""), str(node.get("training", "frozen"))])
    table = markdown_table(["modality", "encoder", "checkpoint", "revision", "training"], rows)
    others = [
        f"- {what}: {str(config[what]['_target_']).rpartition('.')[2]}"
        for what in ("fusion", "context")
        if isinstance(config.get(what), dict) and "_target_" in config[what]
    ]
    return "\n\n".join([table, "\n".join(others)])


def _training_lines(evaluation: "Evaluation") -> list[str]:
    """How many utterances and speakers of each class trained it; of its own corpus only."""
    if evaluation.data.manifest.digest != evaluation.record.data.get("corpus"):
        return []
    train, task = evaluation.data.splits["train"], evaluation.data.task
    lines = [f"- training utterances: {len(train)}"]
    if speakers := {item.speaker for item in train if item.speaker is not None}:
        lines.append(f"- training speakers: {len(speakers)}")
    if task.kind == "classification":
        counts = Counter(item.targets[task.name] for item in train)
        lines.append(f"- of each class: {_counted(counts, task)}")
    return lines


def _counted(counts: "Counter[Any]", task: Task) -> str:
    return ", ".join(f"{for_markdown(label)} {counts[number]}" for number, label in enumerate(task.labels))


def _intervals(evaluation: "Evaluation") -> tuple[dict[str, tuple[float, Interval | None]], str]:
    """{metric: (value, 95 % interval)} of the evaluation, and what is drawn."""
    task = evaluation.data.task
    predictions = finite_predictions(evaluation, "model")
    clusters, over = clusters_of(predictions)
    numbers, count = numbers_of(clusters)
    sums = cluster_sums(predictions, numbers, count)
    draws = draws_of(numbers, count)
    return {metric: score_of(task, metric, sums, draws) for metric in SHOWN[task.kind]}, f"{count} {over}"


def _known_limits(evaluation: "Evaluation") -> list[str]:
    """What other cards of the same evaluation have found."""
    found: list[str] = []
    for name, lines_of in (("fairness", _gaps), ("robustness", _changes)):
        path = evaluation.target / f"{name}.json"
        try:
            found += lines_of(read_object(path, f"a {name} card") or {})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"expected a {name} card of emorec in {path}, got {error!r}") from error
    return ["Measured:\n\n" + "\n".join(found)] if found else []


def _gaps(card: Mapping[str, Any]) -> Iterator[str]:
    """A line for each column of a fairness card."""
    for column in card.get("columns", ()):
        if (gap := column["gap"]) is not None:
            interval = "" if gap["interval"] is None else f" {interval_text(Interval(*gap['interval']))}"
            yield (
                f"- by {for_markdown(column['column'])}: {card['metric']} is worst for {for_markdown(gap['worst'])}, "
                f"{gap['value']:.3f}{interval} from {for_markdown(gap['best'])}"
            )


def _changes(card: Mapping[str, Any]) -> Iterator[str]:
    """A line on the worst condition of each modality of a robustness card."""
    sign, worst = (-1 if is_lower_better(card.get("metric", "")) else 1), dict[str, Any]()
    for row in card.get("rows", ()):
        last = worst.get(row["modality"])
        if row["change"] is not None and (last is None or sign * row["change"] < sign * last["change"]):
            worst[row["modality"]] = row
    for row in worst.values():
        if sign * row["change"] < 0:
            yield f"- {for_markdown(row['condition'])}: {card['metric']} changes by {100 * row['change']:+.0f} %"
