"""Writes the report of a store's runs: Markdown, CSV and figures."""

import csv
import io
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean

from emorec.escaping import for_csv, for_markdown
from emorec.markdown import markdown_table, with_deviation
from emorec.reporting.aggregate import (
    FUSED_NORMALISATION,
    NORMALISATION,
    SUMMARY_METRICS,
    Contest,
    Group,
    distinction,
    distinctions,
    headings,
    missing_scores,
)
from emorec.runs.results import SHOWN, SPEAKER_NOTE
from emorec.storage.atomic import write_bytes, write_text
from emorec.storage.folders import check_real_folder, list_folder

BEST = "**best**"
SPEAKERS = (
    f"`{NORMALISATION}=speaker`, `{FUSED_NORMALISATION}=speaker`: {SPEAKER_NOTE}, by each speaker's own unlabelled "
    "utterances, those of test included."
)
FIGURES = ("confusion_", "curves_")  # beginnings of the names of figures


def _numbers(values: Sequence[int]) -> str:
    """`0–3` for consecutive numbers, else `0, 2, 5`."""
    if len(values) > 2 and list(values) == list(range(values[0], values[-1] + 1)):
        return f"{values[0]}–{values[-1]}"
    return ", ".join(map(str, values)) or "–"


def group_table(groups: Sequence[Group]) -> str:
    """A Markdown table of the groups of one contest; the first, which is best on validation, is marked."""
    keys, contest = distinctions(groups), groups[0].contest
    metrics = [f"val/{contest.monitor}", *(f"test/{name}" for name in SHOWN.get(contest.kind, ()))]
    rows = []
    for index, group in enumerate(groups):
        scores = [group.score(metric) for metric in metrics]
        # losses of views differ with their temperature and augmentation: the lowest is not the best
        is_best = index == 0 and len(groups) > 1 and scores[0] is not None and contest.kind in SHOWN
        row = [group.group_id, *(distinction(group, key) for key in keys), str(len(group.runs))]
        row += [_numbers(group.seeds), _numbers(group.folds)]
        row += ["–" if score is None else with_deviation(*score) for score in scores]
        rows.append([*row, BEST if is_best else ""])
    table = markdown_table(["group", *keys, "n", "seeds", "folds", *metrics, "by validation"], rows)
    return f"{table}\n\n{SPEAKERS}" if any(group.runs[0].normalises_speakers for group in groups) else table


def missing_table(groups: Sequence[Group]) -> str:
    """A Markdown table of what is left of the monitor on test without some modalities, for groups that know it."""
    scores = [(group, found) for group in groups if (found := missing_scores(group))]
    if not scores:
        return ""
    names = list(dict.fromkeys(name for _, found in scores for name in found))
    keys = distinctions(groups)
    rows = [
        [
            group.group_id,
            *(distinction(group, key) for key in keys),
            str(len(group.runs)),
            *(f"{found[name]:.3f}" if name in found else "–" for name in names),
            f"{fmean(found.values()):.3f}",
        ]
        for group, found in scores
    ]
    table = markdown_table(["group", *keys, "n", *names, "mean"], rows)
    return f"### test/{groups[0].contest.monitor} with some modalities alone\n\n{table}\n"


def tables_of(groups: Sequence[Group]) -> str:
    """A heading and the tables of each contest."""
    texts = headings(group.contest for group in groups)
    parts = []
    for contest, members in groupby(groups, key=lambda group: group.contest):
        own = list(members)
        parts.append(f"## {for_markdown(texts[contest])}\n\n{group_table(own)}\n")
        parts += [table for table in [missing_table(own)] if table]
    return "\n".join(parts)


def _csv(*rows: Sequence[object]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([for_csv(cell) for cell in row] for row in rows)
    return stream.getvalue()


def groups_csv(groups: Sequence[Group]) -> str:
    """A table of groups as CSV: mean and standard deviation of each metric on validation and test."""
    metrics, keys = _all_metrics(groups), distinctions(groups)
    headers = ["group_id", *Contest._fields[:4], *keys, "n", "seeds", "folds"]
    headers += [f"{metric}/{part}" for metric in metrics for part in ("mean", "std")]
    rows: list[list[object]] = []
    for group in groups:
        row: list[object] = [group.group_id, *group.contest[:4], *(distinction(group, key) for key in keys)]
        row += [len(group.runs), " ".join(map(str, group.seeds)), " ".join(map(str, group.folds))]
        for metric in metrics:
            score = group.score(metric)
            row += ["", ""] if score is None else [score[0], "" if score[1] is None else score[1]]
        rows.append(row)
    return _csv(headers, *rows)


def _all_metrics(groups: Sequence[Group]) -> list[str]:
    kinds = {group.contest.kind for group in groups}
    names = [name for kind in sorted(kinds & SUMMARY_METRICS.keys()) for name in SUMMARY_METRICS[kind]]
    return [f"{split}/{name}" for split in ("val", "test") for name in names]


def runs_csv(groups: Sequence[Group]) -> str:
    """A table of runs as CSV."""
    metrics = _all_metrics(groups)
    fields = ("run_id", "group_id", "seed", "fold", "best_epoch", "epochs")
    rows = [
        [
            *(getattr(run.record, name) for name in fields),
            run.config.get(NORMALISATION, ""),
            *(run.numbers.get(metric, "") for metric in metrics),
        ]
        for group in groups
        for run in group.runs
    ]
    return _csv([*fields, NORMALISATION, *metrics], *rows)


def write_report(folder: Path, groups: Sequence[Group]) -> str:
    """Writes `report.md`, `groups.csv`, `runs.csv` and `figures/` into a folder and returns the tables as Markdown.

    All of it is made before the first file is written. Files are replaced one by one, and figures of an earlier report
    are removed last: after an error or a kill, every figure that `report.md` links to still exists.

    Raises:
        OSError: `figures` is a link, whose figures are not this report's to remove.
    """
    figures = folder / "figures"
    check_real_folder(figures)
    tables, keys = tables_of(groups), distinctions(groups)
    sections = ["# Report\n", tables, "## Figures\n"]
    pictures: dict[str, bytes] = {}
    for group in groups:
        names = " ".join(distinction(group, key) for key in keys) or group.first.choices.get("dataset", "")
        title = f"{group.contest.dataset} {names} ({group.group_id}, n = {len(group.runs)})"
        sections.append(f"### {for_markdown(title)}\n")
        for name, (what, picture) in _figures(group, title).items():
            sections.append(f"![{what}](figures/{name})\n")
            pictures[name] = picture
    files = {"report.md": "\n".join(sections), "groups.csv": groups_csv(groups), "runs.csv": runs_csv(groups)}
    for name, picture in pictures.items():
        write_bytes(figures / name, picture)
    for name, text in files.items():
        write_text(folder / name, text)
    for path in list_folder(figures, "*.png"):
        if path.name not in pictures and path.name.startswith(FIGURES):
            path.unlink(missing_ok=True)
    return tables


def _figures(group: Group, title: str) -> dict[str, tuple[str, bytes]]:
    """{name of the file: (what it shows, the picture)}."""
    from emorec.reporting.figures import confusion_png, curves_png

    split = "test" if all("test/loss" in run.numbers for run in group.runs) else "val"
    confusion = confusion_png(group, split=split, title=f"{title}\n{split}")
    shown = {} if confusion is None else {"confusion": (f"confusion matrix on {split}", confusion)}
    shown["curves"] = ("training curves", curves_png(group, title=title))
    return {f"{kind}_{group.group_id}.png": figure for kind, figure in shown.items()}
