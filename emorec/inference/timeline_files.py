"""Timelines of recordings as subtitles and as pictures."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from emorec.datasets.utterance import Task
from emorec.errors import UserError, raise_problems
from emorec.escaping import for_figure
from emorec.inference.prediction import Prediction
from emorec.inference.timeline import Timeline
from emorec.storage.atomic import replacing, write_text

Cue = tuple[float, float, str]  # start and end in seconds, and what is shown
SUBTITLES, PICTURES = (".vtt",), (".png", ".pdf", ".svg")
DOTS_PER_INCH = 120
# Colour-blind safe, of Okabe & Ito 2008; the second round of lines is dashed.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#000000")


def destination(place: str, suffixes: Sequence[str], names: Sequence[str], key: str) -> "Destination":
    """Where the timelines of recordings are written.

    Args:
        place: a file of one of the suffixes, for a single recording, or a folder.
        suffixes: of the files; the first is that of files in a folder.
        names: ids of the recordings.
        key: of the config, for errors.

    Raises:
        UserError: a file is named for several recordings, or has another suffix.
    """
    path = Path(place).expanduser()
    if path.suffix.lower() in suffixes:
        if len(names) > 1:
            raise UserError(f"{key}: expected a folder for {len(names)} recordings, got the file {place}")
        return Destination(file=path)
    if path.suffix and not path.is_dir():
        raise UserError(f"{key}: expected a folder, or a file that ends in {', '.join(suffixes)}, got {place}")
    target = Destination(folder=path, suffix=suffixes[0])
    twice = [str(file) for file, count in Counter(target.of(name) for name in names).items() if count > 1]
    raise_problems(key, [f"expected a file for each recording, got several for {file}" for file in twice])
    return target


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A file, or a folder with a file for each recording."""

    file: Path | None = None
    folder: Path = Path()
    suffix: str = ""

    def of(self, name: str) -> Path:
        """The file of a recording; in a folder below its own path, which never leads out of the folder."""
        if self.file is not None:
            return self.file
        path = Path(name)
        parts = [part for part in path.parts if part not in (path.anchor, "..")] or ["recording"]
        below = self.folder.joinpath(*parts)
        return below.with_name(below.name + self.suffix)


def cues(timeline: Timeline) -> list[Cue]:
    """One cue for each stretch of the same class, or for each value.

    Where segments overlap, the next cue begins in the middle of what they share.
    """
    rows: list[Cue] = []
    known = [item for item in timeline.predictions if item.predicted is not None]
    starts, ends = [item.start or 0.0 for item in known], [item.end or 0.0 for item in known]
    for number in range(1, len(known)):
        if starts[number] < ends[number - 1]:
            starts[number] = ends[number - 1] = (starts[number] + ends[number - 1]) / 2
    for item, start, end in zip(known, starts, ends, strict=True):
        label = item.predicted if isinstance(item.predicted, str) else f"{item.predicted:.2f}"
        if rows and rows[-1][2] == label and start <= rows[-1][1]:
            rows[-1] = (rows[-1][0], end, label)
        else:
            rows.append((start, end, label))
    return rows


def write_subtitles(timeline: Timeline, task: Task, path: Path) -> None:
    """Writes the cues as WebVTT, which players show over the recording."""
    blocks = [f"{_clock(start)} --> {_clock(end)}\n{_plain(label)}" for start, end, label in cues(timeline)]
    write_text(path, "\n\n".join(["WEBVTT", *blocks]) + "\n")


def _clock(seconds: float) -> str:
    """Such as 01:02:03.450."""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}.{rest % 1000:03d}"


def _plain(label: str) -> str:
    """A label without what WebVTT reads as a tag or as the end of a cue."""
    return label.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")


def write_plot(timeline: Timeline, task: Task, path: Path) -> None:
    """Draws the probability of each class, or the value, over time; there are gaps where nothing is known."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6))
    axes = figure.subplots()
    names = ["value"] if task.kind == "regression" else list(task.labels)
    for number, name in enumerate(names):
        style = "-" if number < len(COLOURS) else "--"
        for known, stretch in groupby(timeline.predictions, key=lambda item: item.predicted is not None):
            if known:
                items = list(stretch)
                axes.plot(
                    [_middle(item) for item in items],
                    [item.values(task)[number] for item in items],
                    style,
                    color=COLOURS[number % len(COLOURS)],
                    label=for_figure(name),
                    marker="." if len(items) == 1 else "",
                )
    axes.set(xlabel="seconds", ylabel="value" if task.kind == "regression" else "probability")
    if task.kind != "regression":
        axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.set_title(for_figure(Path(timeline.id).name), fontsize=10)
    labels = {label: line for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if labels and task.kind != "regression":
        axes.legend(labels.values(), labels, frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=DOTS_PER_INCH, bbox_inches="tight")


def _middle(item: Prediction) -> float:
    return ((item.start or 0.0) + (item.end or 0.0)) / 2
